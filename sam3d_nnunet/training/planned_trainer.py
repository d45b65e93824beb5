"""PlannedTrainer: nnU-Net's trainer with the lengths and the batch size of the plan."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._dynamo import OptimizedModule

from sam3d_nnunet.errors import SAM3DError, show_as_sentence
from sam3d_nnunet.io import whole_file
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings, merge, parse_settings, planned_block

show_as_sentence()

PATIENCE = timedelta(hours=12)


class PlannedTrainer(nnUNetTrainer):
    """Takes lengths, batch size and share of foreground from the plan's block "sam3d", the same for all methods."""

    changes: dict[str, Any] = {}
    """Settings of the plan's block that a variant replaces."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net reads this signature)
    ) -> None:
        """Arguments are those of nnU-Net's trainer.

        Raises:
            SAM3DError: the configuration is not 3-D, or its block "sam3d" is not usable. Nothing is written then.
        """
        self.settings = complete_settings(plans, configuration, dataset_json, self.changes, type(self).__name__)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.settings.num_epochs
        self.num_iterations_per_epoch = self.settings.steps_per_epoch
        self.num_val_iterations_per_epoch = self.settings.validation_steps
        # at random, because nnU-Net's rounding would make every patch of a batch of 1 foreground, or none
        self.oversample_foreground_percent = self.settings.foreground_share
        self.probabilistic_oversampling = True
        self.save_every = 1

    def save_checkpoint(self, filename: str) -> None:
        """As in nnU-Net, but a file appears complete or not at all."""
        # other ranks write nothing, and must not touch the file that the first may be writing
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with whole_file(Path(filename), only_writer=True) as part:
            super().save_checkpoint(str(part))

    def plain_network(self) -> nn.Module:
        """The network without the wrappers of torch.compile and DDP, which would wait for ranks with fewer calls."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    @contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Run the body on rank 0 first, so that the other ranks find what it has downloaded."""
        if self.is_ddp and self.local_rank != 0:
            wait_for_all_ranks()
        yield
        if self.is_ddp and self.local_rank == 0:
            wait_for_all_ranks()

    def _set_batch_size_and_oversample(self) -> None:
        """The block's batch size, distributed over the GPUs; the share of foreground is the same on each."""
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if self.is_ddp else (1, 0)
        each, rest = divmod(self.settings.batch_size, ranks)
        self.batch_size = each + (rank < rest)


def wait_for_all_ranks() -> None:
    """A barrier for which ranks may wait for hours; NCCL's would fail after ten minutes."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    dist.barrier(group)
    dist.destroy_process_group(group)


def complete_settings(
    plans: dict, configuration: str, dataset_json: dict, changes: dict[str, Any], trainer: str
) -> SAM3DSettings:
    """The settings of a training, written back into the plans, from which nnU-Net builds the network again.

    Args:
        plans: as nnU-Net reads them.
        configuration: name of one of their configurations.
        dataset_json: of the data set.
        changes: settings that the trainer replaces.
        trainer: name of the trainer, for messages.

    Raises:
        SAM3DError: the configuration is not 3-D, or its block is not usable.
    """
    where = f"{plans.get('plans_name')}, configuration {configuration}"
    manager = PlansManager({k: v for k, v in plans.items() if k != "continue_training"})
    if configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise SAM3DError(f"{plans.get('plans_name')} has no configuration {configuration!r}; it has {known}.")
    planned = manager.get_configuration(configuration)
    patch_size = planned.configuration.get("patch_size")
    sides = patch_size if isinstance(patch_size, (list, tuple)) else []
    if len(sides) == 2:
        raise SAM3DError(f"{trainer} needs volumes, but {where} is 2-D. Train 3d_fullres instead.")
    if len(sides) != 3 or not all(isinstance(n, int) and n >= 8 for n in sides):
        raise SAM3DError(f"{where} has the patch size {patch_size}; {trainer} needs three numbers of at least 8.")
    if planned.previous_stage_name is not None:
        raise SAM3DError(f"{trainer} takes no part in a cascade, which {where} is. Train 3d_fullres instead.")
    needed = int(max(manager.get_label_manager(dataset_json).all_labels)) + 1
    block = merge(planned_block(plans, configuration), changes)
    settings = parse_settings({"num_click_labels": needed, **_given(block)}, where)
    if settings.clicks_carry_labels and settings.num_click_labels < needed:
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} has num_click_labels {settings.num_click_labels}, but the labels of "
            f"this data set are 0 to {needed - 1}. Set it to {needed} or more, or leave it out."
        )
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if settings.batch_size < ranks:
        raise SAM3DError(
            f"{trainer} takes batches of {settings.batch_size} by the block '{BLOCK}' of {where}, fewer than the "
            f"{ranks} GPUs. {'Train' if 'batch_size' in changes else 'Raise batch_size there, or train'} on fewer GPUs."
        )
    plans["configurations"][configuration][BLOCK] = settings.model_dump()
    return settings


def _given(block: dict[str, Any]) -> dict[str, Any]:
    """The block without an open `num_click_labels`, which the data set decides."""
    return {key: value for key, value in block.items() if (key, value) != ("num_click_labels", None)}
