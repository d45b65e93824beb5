"""Trainers of the prompted control, nnU-Net's U-Net with prompts as further input channels."""

from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from sam3d_nnunet.planning.networks import prompted_unet, residual_prompted_unet
from sam3d_nnunet.planning.settings import SAM3DSettings
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer
from sam3d_nnunet.training.trainer import PlannedAdamW


class PromptedUNetTrainer(PromptedTrainer):
    """The plan's U-Net, trained as nnU-Net trains it (SGD, deep supervision), with prompts as input channels.

    Prompts, target policies, lengths and batch size are those of `SAM3DAdapterTrainer` from the same plan. Clicks are
    drawn in the size of that network's tokens.
    """

    build_network_architecture = staticmethod(prompted_unet)

    @classmethod
    def left_open(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """How clicks are drawn."""
        return super().left_open(settings) | {"click_map": "gaussian", "click_unit": "token"}


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

    build_network_architecture = staticmethod(residual_prompted_unet)


class PromptedUNetTrainer_adamw(PlannedAdamW, PromptedUNetTrainer):
    """`PromptedUNetTrainer` with the optimizer of `SAM3DAdapterTrainer` from the same plan, in place of nnU-Net's SGD.

    SGD starts slowly. After few steps, two networks with different optimizers differ for that reason alone.
    """
