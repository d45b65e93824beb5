"""SAM3DAdapterTrainer: nnU-Net's trainer for the promptable network."""

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sam3d_nnunet.network.sam3d import SAM3D
from sam3d_nnunet.planning.settings import BLOCK, parse_settings
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer
from sam3d_nnunet.training.sam_tuning import SAMTuning


class SAM3DAdapterTrainer(SAMTuning, PromptedTrainer):
    """Trains `SAM3D` with simulated prompts; preset, lengths and rates come from the plan's block "sam3d"."""

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of the plan's block, with random weights."""
        settings = parse_settings(configuration_manager.configuration.get(BLOCK, {}), "the plans")
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
            deep_prompt_levels=settings.deep_prompt_levels,
            aggregate_levels=settings.aggregate_levels,
        )
