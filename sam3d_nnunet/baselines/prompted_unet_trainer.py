"""Trainers of the prompted nnU-Net control."""

from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sam3d_nnunet.baselines.prompted_unet import PromptedUNet, prompt_channels
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.settings import BLOCK, parse_settings
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # in the first stages of nnU-Net's ResEnc presets; as many as in the last from there on


class PromptedUNetTrainer(PromptedTrainer):
    """The plan's U-Net, trained as nnU-Net trains it (SGD, deep supervision), with prompts as input channels.

    Prompts, target policies, lengths and batch size are those of `SAM3DAdapterTrainer` from the same plan.
    """

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


class PromptedResEncUNetTrainer(PromptedUNetTrainer):
    """The same with nnU-Net's residual encoder, with as many blocks a stage as its ResEnc presets have."""

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
    """What nnU-Net's residual U-Net needs, from what a plan holds for either of its U-Nets.

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
    settings = parse_settings(configuration.configuration.get(BLOCK, {}), "the plans")
    unet = get_network_from_plans(
        architecture,
        kwargs,
        configuration.network_arch_init_kwargs_req_import,
        num_input_channels + prompt_channels(settings.num_click_labels),
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    return PromptedUNet(unet, num_output_channels, settings.num_click_labels, settings.precision)
