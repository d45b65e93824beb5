"""PromptedTrainer: nnU-Net's trainer for networks that take prompts."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError, full_disk_told
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.planning.orientation import orientation_of_array
from sam3d_nnunet.planning.settings import BLOCK, planned_block
from sam3d_nnunet.simulation.maps import MapSimulator
from sam3d_nnunet.simulation.simulator import ClickSimulator, PromptSimulator
from sam3d_nnunet.training.exchanged import exchanged
from sam3d_nnunet.training.planned_trainer import VALIDATE_AGAIN, PlannedTrainer, from_first_rank
from sam3d_nnunet.training.preprocessed_cases import for_each_preprocessed, load_preprocessed
from sam3d_nnunet.training.prompted_batches import Correction, PackedPrompts, PromptedDataLoader
from sam3d_nnunet.training.prompted_validation import validate_prompted


class PromptedTrainer(PlannedTrainer):
    """Trains a `PromptableNetwork` with simulated prompts, and validates it without clicks and with one.

    Planning, augmentation, loss, folds and sliding-window validation are nnU-Net's.
    """

    takes_prompts = True
    """Prediction from clicks needs such a trainer; `load_model_folder` reads this."""

    validation_folders = ("validation", "validation_1click")
    """`nnunet.names.validation_folders` reads this."""

    loader_class: type[PromptedDataLoader] = PromptedDataLoader
    """What loads the batches of training and validation."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net reads this signature)
    ) -> None:
        """Arguments and errors are those of `PlannedTrainer`."""
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.grad_scaler = None  # the network computes in bfloat16, which needs none, or in float32

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders, with prompts in each batch."""
        with exchanged(nnUNetDataLoader=partial(self.loader_class, **self.loader_options())):
            return super().get_dataloaders()

    def loader_options(self) -> dict[str, Any]:
        """What the loader takes beside the arguments of nnU-Net's."""
        return {"simulator": self._prompt_simulator()}

    def on_train_start(self) -> None:
        """Refuse a fold without any foreground, and correct an orientation that is not that of the training images."""
        if not self.was_initialized:
            self.initialize()
        self._refuse_empty_training_set()
        self._correct_orientation()
        super().on_train_start()

    def training_loss(self, batch: dict) -> Tensor:
        """The loss of a training batch with prompts; in a share of the batches, clicks correct the first mask."""
        corrects = np.random.random() < self.settings.iterated_share
        correct = self._correction(_finest(batch["target"])) if corrects else None
        output = self.network(batch["data"].to(self.device, non_blocking=True), self._prompts(batch), correct)
        return self.loss(output, self.on_device(batch["target"]))

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step, with prompts."""
        network = self.network
        self.network = partial(network, prompts=self._prompts(batch))
        try:
            return super().validation_step(batch)
        finally:
            self.network = network

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation without clicks in `validation/`, then the paper's protocol in `validation_1click/`."""
        super().perform_actual_validation(save_probabilities)
        self.set_deep_supervision_enabled(False)
        with full_disk_told(VALIDATE_AGAIN):
            validate_prompted(self, 1, save_probabilities=save_probabilities)
        self.set_deep_supervision_enabled(True)

    def plot_network_architecture(self) -> None:
        """No plot: hiddenlayer can't give the network prompts."""

    def _prompt_simulator(self) -> PromptSimulator:
        clicks, classes = self.settings.clicks, list(self.label_manager.foreground_labels)
        shares = (clicks.mask_share, clicks.scribble_share, clicks.box_share)
        return PromptSimulator(
            ClickSimulator(
                clicks.policy, classes, self.settings.clicks_carry_labels, clicks.no_click_share, clicks.most_clicks
            ),
            MapSimulator(classes, *shares) if self.settings.shows_maps else None,
            select=self.settings.clicks_select,
            together=self.label_manager.has_regions,
        )

    def _prompts(self, batch: dict) -> Prompts:
        prompts = PackedPrompts(*batch["prompts"]).unpack(self.device)  # nnU-Net's pinning returns a plain tuple
        # in every step, because another shape would cost a compilation
        return prompts.with_free_clicks(self.settings.clicks.most_corrections if self.settings.iterated_share else 0)

    def _correction(self, target: Tensor) -> Correction:
        labels, most = self.label_manager, self.settings.clicks.most_corrections
        return Correction(
            target,
            list(labels.regions_class_order) if labels.has_regions else None,
            labels.ignore_label,
            np.random.default_rng(np.random.randint(2**31)),
            select=self.settings.clicks_select,
            rounds=1 if most == 1 else np.random.randint(1, most + 1),
        )

    def _refuse_empty_training_set(self) -> None:
        training_set, _ = self.get_tr_and_val_datasets()
        for case in training_set.identifiers:
            locations = load_preprocessed(training_set, case)[3]["class_locations"]
            # with an ignore label, an entry with -1 in its key holds the background too
            if any(len(voxels) for key, voxels in locations.items() if -1 not in np.atleast_1d(key)):
                return
        raise SAM3DError(
            f"No training case of fold {self.fold} in {self.preprocessed_dataset_folder} holds any foreground voxel. "
            "Check the labels of the data set and the fold."
        )

    def _correct_orientation(self) -> None:
        """The arrays decide, not the plans: nnU-Net can move plans to other data, and keeps arrays of earlier plans."""
        noted = self.settings.orientation
        if noted is None:
            return
        saved = planned_block(self.my_init_kwargs["plans"], self.configuration_name)  # --c takes the checkpoint's plans
        is_known = self.current_epoch > 0 and "orientation" in saved
        found = saved["orientation"] if is_known else from_first_rank(self._orientation_of_arrays)
        if found == noted:
            return
        self.print_to_log_file(
            f"WARNING: the plans say that images lie as {noted}, but the preprocessed images "
            f"{f'lie as {found}' if found else 'lie differently'}. The trained model will note that instead. If you "
            "have planned again since you preprocessed, preprocess again.",
            also_print_to_console=True,
        )
        self.settings = self.settings.model_copy(update={"orientation": found})
        for configuration in (
            self.plans_manager.plans["configurations"][self.configuration_name],
            self.configuration_manager.configuration,
        ):
            configuration[BLOCK]["orientation"] = found

    def _orientation_of_arrays(self) -> str | None:
        """How all preprocessed images lie; None if they lie differently."""
        dataset, validation_set = self.get_tr_and_val_datasets()
        cases = {*dataset.identifiers, *validation_set.identifiers}
        codes = for_each_preprocessed(
            lambda case: orientation_of_array(dataset.load_case(case)[3]), dataset, cases, "Comparing orientations"
        )
        found = set(codes.values())
        return found.pop() if len(found) == 1 else None


def _finest(target: Tensor | list[Tensor]) -> Tensor:
    """The target at full resolution; with deep supervision, coarser ones follow it."""
    return target[0] if isinstance(target, list) else target
