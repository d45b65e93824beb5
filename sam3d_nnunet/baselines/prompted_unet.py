"""The prompted control: nnU-Net's U-Net with prompts as further input channels, and its trainers."""

from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.device import computes_in_bf16
from sam3d_nnunet.network.prompt_encoder import click_maps, map_channels
from sam3d_nnunet.network.prompts import Correct, Prompts
from sam3d_nnunet.network.sam3d import default_stride
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings, trained_settings
from sam3d_nnunet.prompts.prompt import KINDS
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer


def prompt_channels(num_click_labels: int) -> int:
    """Input channels that prompts need: for each label, one for clicks and one for each kind of map."""
    return num_click_labels * (1 + KINDS)


class PromptedUNet(nn.Module):
    """A U-Net whose input is the image and the prompts: drawn clicks, masks, scribbles and boxes.

    Unlike `SAM3D` it computes everything again for each set of prompts.
    """

    def __init__(
        self,
        unet: nn.Module,
        num_classes: int,
        num_click_labels: int,
        precision: str = "fp32",
        click_map: str = "gaussian",
        token: int = 1,
    ) -> None:
        """
        Args:
            unet: takes the image's channels and `prompt_channels(num_click_labels)` more.
            num_classes: logits per voxel.
            num_click_labels: labels of prompts, background included.
            precision: "auto", "bf16" or "fp32", as for `SAM3D`.
            click_map: how clicks are drawn, see `click_maps`.
            token: voxels a drawn click is measured in, see `click_maps`.
        """
        super().__init__()
        self.unet = unet
        self.click_map = click_map
        self.token = token
        self.num_classes = num_classes
        self.num_click_labels = num_click_labels
        self.precision = precision
        self.takes_maps = True

    @property
    def decoder(self) -> nn.Module:
        """Where nnU-Net switches deep supervision on and off."""
        return self.unet.decoder

    def forward(
        self, image: Tensor, prompts: Prompts | None = None, correct: Correct | None = None
    ) -> Tensor | list[Tensor]:
        """Arguments as for `SAM3D.forward`; with deep supervision, the logits of all levels of the U-Net."""
        if correct is not None:
            prompts = Prompts.none(len(image), image.device) if prompts is None else prompts
            with torch.no_grad():
                first = self.decode(image, prompts)
            prompts = correct(first[0] if isinstance(first, list) else first, prompts)
        return self.decode(image, prompts)

    def encode(self, image: Tensor) -> Tensor:
        """The image itself: nothing can be computed before the prompts are known."""
        return image

    def decode(self, image: Tensor, prompts: Prompts | None = None) -> Tensor | list[Tensor]:
        """Logits (B, K, D, H, W) float32; an image for each set of prompts, or one for all."""
        drawn = self._draw(image, Prompts.none(len(image), image.device) if prompts is None else prompts)
        image = image.expand(len(drawn), -1, -1, -1, -1)
        # the input is what counts: nnU-Net's deepest levels have 4 voxels a side, more than their kernels of 3
        bf16 = computes_in_bf16(self.precision, image.device, depth=image.shape[2])
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            logits = self.unet(torch.cat([image, drawn], dim=1))
        return [level.float() for level in logits] if isinstance(logits, (list, tuple)) else logits.float()

    def _draw(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(B, `prompt_channels`, D, H, W) in [0, 1]."""
        size = tuple(image.shape[2:])
        points = prompts.points.masked_fill((prompts.labels < 0)[..., None], 0)  # whatever padding holds, NaN included
        points = points.to(image.dtype)
        clicks = click_maps(points, prompts.labels, self.num_click_labels, size, self.click_map, self.token)
        if prompts.maps is None:
            shares = clicks.new_zeros((1, KINDS * self.num_click_labels, *size))
        else:
            shares = map_channels(prompts.maps, self.num_click_labels, stride=1).to(clicks.dtype)
        count = max(len(clicks), len(shares))
        return torch.cat([drawn.expand(count, -1, -1, -1, -1) for drawn in (clicks, shares)], dim=1)


PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # of the first stages of nnU-Net's ResEnc presets; all further stages have 6


class PromptedUNetTrainer(PromptedTrainer):
    """The plan's U-Net, trained as nnU-Net trains it (SGD, deep supervision), with prompts as input channels.

    Prompts, target policies, lengths and batch size are those of `SAM3DAdapterTrainer` from the same plan. Clicks are
    drawn in the size of that network's tokens.
    """

    @classmethod
    def left_open(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """How clicks are drawn."""
        return super().left_open(settings) | {"click_map": "gaussian", "click_unit": "token"}

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plan's U-Net with channels for prompts."""
        architecture = configuration_manager.network_arch_class_name, configuration_manager.network_arch_init_kwargs
        return _prompted(
            *architecture, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )


class PromptedUNetTrainer_1000epochs(PromptedUNetTrainer):
    """`PromptedUNetTrainer` for as long and with as many patches in a step as nnU-Net trains itself.

    nnU-Net's 1000 epochs of 250 steps, and the plan's batch size, which `nnUNetTrainer` takes from the same plans.
    """

    changes = {"num_epochs": 1000, "steps_per_epoch": 250, "validation_steps": 50}

    @classmethod
    def replaced(cls, planned: ConfigurationManager) -> dict[str, Any]:
        """The lengths, and the batch size of the configuration."""
        return super().replaced(planned) | {"batch_size": planned.batch_size}


class PromptedResEncUNetTrainer(PromptedUNetTrainer):
    """`PromptedUNetTrainer` with nnU-Net's residual encoder and the numbers of blocks of its ResEnc presets."""

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plan's U-Net with a residual encoder, and channels for prompts.

        Raises:
            SAM3DError: the plan's architecture is neither nnU-Net's plain nor its residual U-Net.
        """
        kwargs = residual(configuration_manager.network_arch_class_name, configuration_manager.network_arch_init_kwargs)
        return _prompted(
            RESIDUAL, kwargs, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )


def residual(architecture: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of nnU-Net's residual U-Net, from those that a plan holds for either of nnU-Net's U-Nets.

    Raises:
        SAM3DError: the architecture is another one.
    """
    if architecture == RESIDUAL:
        return kwargs
    if architecture != PLAIN:
        raise SAM3DError(
            f"The plans' architecture is {architecture}; PromptedResEncUNetTrainer needs one of nnU-Net's U-Nets."
        )
    stages = kwargs["n_stages"]
    blocks = [RESIDUAL_BLOCKS[min(stage, len(RESIDUAL_BLOCKS) - 1)] for stage in range(stages)]
    same = {key: value for key, value in kwargs.items() if key != "n_conv_per_stage"}
    return same | {"n_blocks_per_stage": blocks, "n_conv_per_stage_decoder": [1] * (stages - 1)}


def _prompted(
    architecture: str,
    kwargs: dict[str, Any],
    configuration: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
) -> PromptedUNet:
    settings = trained_settings(configuration.configuration.get(BLOCK, {}), "the plans")
    unet = get_network_from_plans(
        architecture,
        kwargs,
        configuration.network_arch_init_kwargs_req_import,
        num_input_channels + prompt_channels(settings.num_click_labels),
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    stride = settings.stride or default_stride(tuple(configuration.patch_size))
    token = stride if settings.click_unit == "token" else 1
    return PromptedUNet(
        unet, num_output_channels, settings.num_click_labels, settings.precision, settings.click_map, token
    )
