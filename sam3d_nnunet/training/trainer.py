"""SAM3DAdapterTrainer: nnU-Net's trainer for the promptable network."""

import os
from contextlib import contextmanager
from functools import partial
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as upstream
import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from sam3d_nnunet.errors import SAM3DError, show_as_sentence
from sam3d_nnunet.network.sam3d import PRESETS, SAM3D
from sam3d_nnunet.network.weights import lift_sam, sam_checkpoint
from sam3d_nnunet.planning.settings import BLOCK, merge, parse_settings, planned_block
from sam3d_nnunet.prompts.maps import MapSimulator
from sam3d_nnunet.prompts.policies import ClickSimulator
from sam3d_nnunet.prompts.simulator import PromptSimulator
from sam3d_nnunet.training.correction import Correction, with_free_click
from sam3d_nnunet.training.data_loader import PromptedDataLoader
from sam3d_nnunet.training.linear_decay import LinearDecay
from sam3d_nnunet.training.prompted_validation import validate_prompted

show_as_sentence()


class SAM3DAdapterTrainer(nnUNetTrainer):
    """Trains `SAM3D` with simulated clicks; preset, lengths and rates come from the plan's block "sam3d".

    nnU-Net's planning, augmentation, loss, folds and sliding-window validation stay as they are.
    """

    changes: dict[str, Any] = {}
    """What a variant changes in the plan's block."""

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
            SAM3DError: the configuration is not 3-D, or its block "sam3d" is not usable. Nothing has been written then.
        """
        self.settings = _settings(plans, configuration, dataset_json, self.changes, type(self).__name__)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.settings.optimizer.lr
        self.weight_decay = self.settings.optimizer.weight_decay
        self.num_epochs = self.settings.num_epochs
        self.num_iterations_per_epoch = self.settings.steps_per_epoch
        self.num_val_iterations_per_epoch = self.settings.validation_steps
        # by chance, since nnU-Net's rounding would make every patch of a batch of 1 foreground
        self.oversample_foreground_percent = self.settings.foreground_share
        self.probabilistic_oversampling = True
        self.enable_deep_supervision = False
        self.grad_scaler = None  # the network computes in bfloat16, which needs none, or in float32
        self.save_every = 1

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
        )

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LinearDecay]:
        """AdamW on what is tuned, linear decay (paper, Table 5)."""
        tuned = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned, self.initial_lr, weight_decay=self.weight_decay)
        share = self.settings.optimizer.final_lr_share
        return optimizer, LinearDecay(optimizer, self.initial_lr, share, self.num_epochs)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders, with prompts in each batch."""
        original = upstream.nnUNetDataLoader  # the method we call offers no other hook for the loader's class
        upstream.nnUNetDataLoader = partial(PromptedDataLoader, simulator=self._prompt_simulator())
        try:
            return super().get_dataloaders()
        finally:
            upstream.nnUNetDataLoader = original

    def on_train_start(self) -> None:
        """Load SAM's weights, unless the network has been loaded from a checkpoint."""
        if not self.was_initialized:
            self.initialize()
        self._refuse_empty_training_set()
        self._load_sam_weights()
        super().on_train_start()

    def train_step(self, batch: dict) -> dict:
        """One step of nnU-Net's training with prompts; in a share of the steps a click corrects the first mask."""
        target = batch["target"].to(self.device, non_blocking=True)
        prompts = self._prompts(batch)
        if np.random.random() < self.settings.iterated_share:
            prompts["correct"] = self._correction(batch["target"])
        self.optimizer.zero_grad(set_to_none=True)
        output = self.network(batch["data"].to(self.device, non_blocking=True), **prompts)
        loss = self.loss(output, target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.optimizer.gradient_clip)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step, with prompts."""
        network = self.network
        self.network = partial(network, **self._prompts(batch))
        try:
            return super().validation_step(batch)
        finally:
            self.network = network

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation without clicks in `validation/`, then the paper's protocol in `validation_1click/`."""
        super().perform_actual_validation(save_probabilities)
        validate_prompted(self, clicks_per_class=1, save_probabilities=save_probabilities)

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net's, but a file appears complete or not at all."""
        temporary = filename + ".part"
        super().save_checkpoint(temporary)
        # other ranks write nothing, and must not touch what the first may be writing right now
        if self.local_rank == 0 and not self.disable_checkpointing:
            os.replace(temporary, filename)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is none."""

    def plot_network_architecture(self) -> None:
        """Nothing to see: hiddenlayer can't draw attention."""

    def _prompt_simulator(self) -> PromptSimulator:
        clicks, classes = self.settings.clicks, list(self.label_manager.foreground_labels)
        shares = (clicks.mask_share, clicks.scribble_share, clicks.box_share)
        return PromptSimulator(
            ClickSimulator(clicks.policy, classes, self.settings.clicks_carry_labels, clicks.no_click_share),
            MapSimulator(classes, *shares) if self.settings.shows_maps else None,
            select=self.settings.target_policy == "clicked",
            together=self.label_manager.has_regions,
        )

    def _prompts(self, batch: dict) -> dict[str, Any]:
        points, labels = batch["points"], batch["point_labels"]
        if self.settings.iterated_share:  # in each step, since another shape costs a compilation
            points, labels = with_free_click(points, labels)
        prompts = {"points": points, "labels": labels}
        if "maps" in batch:
            prompts["maps"] = batch["maps"]
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in prompts.items()}

    def _correction(self, target: Tensor) -> Correction:
        labels = self.label_manager
        return Correction(
            target,
            list(labels.regions_class_order) if labels.has_regions else None,
            labels.ignore_label,
            np.random.default_rng(np.random.randint(2**31)),
            select=self.settings.target_policy == "clicked",
        )

    def _set_batch_size_and_oversample(self) -> None:
        """Our own batch size, shared out over the GPUs; the share of foreground is the same on each."""
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if self.is_ddp else (1, 0)
        each, rest = divmod(self.settings.batch_size, ranks)
        self.batch_size = each + (rank < rest)

    def plain_network(self) -> SAM3D:
        """The network without the wrappers of DDP, which would wait for ranks that call it less often, and compile."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def _load_sam_weights(self) -> None:
        network = self.plain_network()
        if network.initialized:  # set by --c or -pretrained_weights
            return
        model = PRESETS[self.settings.preset].sam_model
        if model is not None:
            with self._first_rank_first():
                path = sam_checkpoint(model, self.settings.sam_checkpoint)
            if path is not None:
                lift_sam(network.image_encoder, path)
            self.print_to_log_file(f"Image encoder starts from {path or 'random weights, as sam_checkpoint says'}")
        network.initialized.fill_(1)

    @contextmanager
    def _first_rank_first(self):
        """Rank 0 goes first, so that the others find what it has downloaded."""
        if self.is_ddp and self.local_rank != 0:
            dist.barrier()
        yield
        if self.is_ddp and self.local_rank == 0:
            dist.barrier()

    def _refuse_empty_training_set(self) -> None:
        training_set, _ = self.get_tr_and_val_datasets()
        for case in training_set.identifiers:
            locations = training_set.load_case(case)[3]["class_locations"]
            # with an ignore label, an entry with -1 in its key holds the background too
            if any(len(voxels) for key, voxels in locations.items() if -1 not in np.atleast_1d(key)):
                return
        raise SAM3DError(
            f"No training case of fold {self.fold} in {self.preprocessed_dataset_folder} holds any foreground voxel."
        )


def _settings(plans: dict, configuration: str, dataset_json: dict, changes: dict[str, Any], trainer: str):
    """Settings of a training, completed and written back into the plans, from which nnU-Net rebuilds the network."""
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
    labels = manager.get_label_manager(dataset_json).all_labels
    block = merge(planned_block(plans, configuration), changes)
    settings = parse_settings({"num_click_labels": int(max(labels)) + 1, **_given(block)}, where)
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if settings.batch_size < ranks:
        raise SAM3DError(
            f"{where} has batch size {settings.batch_size} in its block '{BLOCK}', fewer than the {ranks} GPUs. "
            "Raise it there, or train on fewer GPUs."
        )
    plans["configurations"][configuration][BLOCK] = settings.model_dump()
    return settings


def _given(block: dict[str, Any]) -> dict[str, Any]:
    """Without what the plan leaves open, for which the data set decides."""
    return {key: value for key, value in block.items() if (key, value) != ("num_click_labels", None)}
