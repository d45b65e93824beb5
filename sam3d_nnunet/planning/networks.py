"""The networks of our trainers with prompts, as plans describe them.

Trainers build their networks with these functions, and so do predictions: they import no trainer, which would take
seconds.
"""

from collections.abc import Callable
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.prompt_encoder import drawn_channels
from sam3d_nnunet.network.prompted_unet import PromptedUNet
from sam3d_nnunet.network.sam3d import SAM3D, default_stride
from sam3d_nnunet.nnunet.names import ABLATION, CONTROL, OURS, PUBLISHED, PUBLISHED_ABLATION, trainers_in
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings, trained_settings

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # of the first stages of nnU-Net's ResEnc presets; all further stages have 6


def sam3d(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """`SAM3D` with the settings of the plan's block, and random weights."""
    settings = trained_settings(configuration_manager.configuration.get(BLOCK, {}), "the plans")
    return SAM3D.from_preset(
        settings.preset,
        num_input_channels,
        num_output_channels,
        tuple(configuration_manager.patch_size),
        settings.stride,
        num_click_labels=settings.num_click_labels,
        labelled_prompts=settings.labelled_prompts,
        takes_maps=settings.shows_maps,
        precision=settings.precision,
        activation_checkpointing=settings.activation_checkpointing,
        prompt_encoding=settings.prompt_encoding,
        click_map=settings.click_map,
        deep_prompt_levels=settings.deep_prompt_levels,
        aggregate_levels=settings.aggregate_levels,
        refine=settings.refine,
        start=settings.start,
    )


def prompted_unet(
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


def residual_prompted_unet(
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


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(trainers_in(OURS, PUBLISHED, ABLATION, PUBLISHED_ABLATION), sam3d),
    **dict.fromkeys(trainers_in(CONTROL), prompted_unet),
    "PromptedResEncUNetTrainer": residual_prompted_unet,
}
"""What builds the network of each of our trainers with prompts, with the arguments of nnU-Net's trainers."""


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


def planned_stride(settings: SAM3DSettings, configuration: ConfigurationManager) -> int:
    """Voxels that a token covers along each axis: as set, or chosen from the patch size."""
    return settings.stride or default_stride(tuple(configuration.patch_size))


def _prompted(
    architecture: str,
    kwargs: dict[str, Any],
    configuration: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
) -> PromptedUNet:
    settings = trained_settings(configuration.configuration.get(BLOCK, {}), "the plans")
    if settings.click_map == "none":
        raise SAM3DError("The plans set click_map to 'none': a prompted U-Net would not know of clicks at all.")
    unet = get_network_from_plans(
        architecture,
        kwargs,
        configuration.network_arch_init_kwargs_req_import,
        num_input_channels + drawn_channels(settings.num_click_labels),
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    token = planned_stride(settings, configuration) if settings.click_unit == "token" else 1
    return PromptedUNet(
        unet, num_output_channels, settings.num_click_labels, settings.precision, settings.click_map, token
    )
