"""Variants of SAM3DAdapterTrainer, and short versions of nnU-Net's trainer."""

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sam3d_nnunet.planning.settings import BLOCK, parse_settings, planned_block, trained_settings
from sam3d_nnunet.training.cores import limit_threads
from sam3d_nnunet.training.planned_trainer import PlannedTrainer
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

SMOKE = {"num_epochs": 2, "steps_per_epoch": 10, "validation_steps": 5}


class SAM3DAdapterTrainer_5epochs(SAM3DAdapterTrainer):
    """5 epochs, to check that everything works."""

    changes = {"num_epochs": 5}


class SAM3DAdapterTrainer_50epochs(SAM3DAdapterTrainer):
    """50 epochs, a quarter of the full length."""

    changes = {"num_epochs": 50}


class SAM3DAdapterTrainer_tiny(SAM3DAdapterTrainer):
    """A small network from random weights, 20 epochs of 50 steps, for a CPU."""

    changes = {
        "preset": "tiny",
        "stride": 4,
        "labelled_prompts": None,
        "optimizer": {"lr": 1e-3},
        "num_epochs": 20,
        "steps_per_epoch": 50,
        "validation_steps": 10,
    }


class SAM3DAdapterTrainer_clicked(SAM3DAdapterTrainer):
    """Clicks select: the target is the components that hold a click."""

    changes = {"target_policy": "clicked"}


class SAM3DAdapterTrainer_tiny_clicked(SAM3DAdapterTrainer_tiny):
    """Clicks select, with the small network for CPUs."""

    changes = SAM3DAdapterTrainer_tiny.changes | SAM3DAdapterTrainer_clicked.changes


class SAM3DAdapterTrainer_smoke(SAM3DAdapterTrainer_tiny):
    """2 epochs of 10 steps, for tests."""

    changes = SAM3DAdapterTrainer_tiny.changes | SMOKE


class _Demo:
    """No mirroring, neither in training nor (eightfold) at test time."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        rotation, dummy_2d, initial_patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, None


class SAM3DAdapterTrainer_demo(_Demo, SAM3DAdapterTrainer):
    """For `sam3d demo`, whose recipe sets preset and lengths."""


class _ShortNNUNetTrainer(nnUNetTrainer):
    """nnU-Net's trainer with fewer and shorter epochs."""

    lengths: dict[str, int]

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net reads this signature)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.lengths["num_epochs"]
        self.num_iterations_per_epoch = self.lengths["steps_per_epoch"]
        self.num_val_iterations_per_epoch = self.lengths["validation_steps"]

    def initialize(self) -> None:
        """As in nnU-Net, on the cores of this process."""
        limit_threads(self.device)
        super().initialize()


class nnUNetTrainer_smoke(_ShortNNUNetTrainer):
    """2 epochs of 10 steps, for tests."""

    lengths = SMOKE


class nnUNetTrainer_planned(PlannedTrainer):
    """nnU-Net's network, loss and optimizer, with lengths, batch size and share of foreground from the plan.

    As in nnU-Net, a fixed number of the patches of a batch is centred on foreground. It is rounded: with the default
    share of a half, it is one of two patches, and the only patch of a batch of 1. The other trainers draw for each.
    """

    draws_foreground = False

    def _set_batch_size_and_oversample(self) -> None:
        """nnU-Net's rule, which gives some GPUs foreground and others not, with the batch size of the block."""
        planned = self.configuration_manager.configuration
        own, planned["batch_size"] = planned["batch_size"], self.settings.batch_size
        try:
            nnUNetTrainer._set_batch_size_and_oversample(self)
        finally:
            planned["batch_size"] = own


class nnUNetTrainer_demo(_Demo, _ShortNNUNetTrainer):
    """For `sam3d demo`: the lengths of `SAM3DAdapterTrainer_demo`, and the plan's U-Net.

    The recipe gives it fewer features, in the block "sam3d" under networks.nnUNetTrainer_demo: a training step takes a
    sixth of the time with a quarter of the features.
    """

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plan's U-Net, with the arguments that the block gives."""
        planned = configuration_manager.network_arch_init_kwargs
        block = trained_settings(configuration_manager.configuration.get(BLOCK, {}), "the plans")
        return get_network_from_plans(
            configuration_manager.network_arch_class_name,
            planned | block.networks.get("nnUNetTrainer_demo", {}),
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
        )

    @property
    def lengths(self) -> dict[str, int]:
        block = parse_settings(planned_block(self.plans_manager.plans, self.configuration_name), "the plans")
        return block.model_dump(include=set(SMOKE))
