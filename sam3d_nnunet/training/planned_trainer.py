"""PlannedTrainer: nnU-Net's trainer with the lengths and the batch size of the plan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from sam3d_nnunet.datasets.splits import FILE, draw_splits, read_fold
from sam3d_nnunet.datasets.usable_files import refuse_unusable_files
from sam3d_nnunet.errors import SAM3DError, full_disk_told, show_as_sentence
from sam3d_nnunet.geometry.grid import SMALLEST_PATCH
from sam3d_nnunet.io import listing, read_json_object, whole_file
from sam3d_nnunet.network.checkpoint_files import read_as_data
from sam3d_nnunet.network.weights import refuse_broken_weights
from sam3d_nnunet.nnunet.folders import dataset_number
from sam3d_nnunet.nnunet.names import validation_folders
from sam3d_nnunet.planning.networks import planned_stride
from sam3d_nnunet.planning.settings import (
    BEFORE,
    BLOCK,
    SAM3DSettings,
    merge,
    parse_settings,
    planned_block,
    trained_settings,
)
from sam3d_nnunet.processes import forks_end_with_us
from sam3d_nnunet.training.cores import limit_threads
from sam3d_nnunet.training.exchanged import exchanged
from sam3d_nnunet.training.finite import (
    LONGEST_RUN,
    RunningStatistics,
    SkippedSteps,
    cases_with_broken_voxels,
    is_distributed,
    step_if_finite,
    with_finite_losses,
)
from sam3d_nnunet.training.fold_claim import claim_fold
from sam3d_nnunet.training.seeding import BATCHES, WEIGHTS, ordered_workers, seed_everything
from sam3d_nnunet.training.whole_outputs import (
    copy_whole_file,
    export_whole_case,
    measure_into_whole_file,
    save_whole_json,
)

show_as_sentence()

PATIENCE = timedelta(hours=12)
PLANS_COPY = "plans.json"  # which nnU-Net writes into the folder of a model
CONTINUE, VALIDATE_AGAIN = "continue with --c", "validate again with --val"
Answer = TypeVar("Answer")


class WholeProgress(MetaLogger):
    """nnU-Net's logger, whose figure appears complete or not at all."""

    def plot_progress_png(self, output_folder: str) -> None:
        """Write `progress.png`."""
        with whole_file(Path(output_folder) / "progress.png") as part:
            super().plot_progress_png(str(part.parent))


class PlannedTrainer(nnUNetTrainer):
    """Takes lengths, batch size and share of foreground from the plan's block "sam3d", the same for all methods."""

    changes: dict[str, Any] = {}
    """Settings of the plan's block that a variant replaces."""

    follows_block = True
    """`nnunet.names.follows_block` reads this."""

    draws_foreground = True
    """Each patch is centred on foreground by chance; False: a fixed number of each batch, by nnU-Net's rounding.

    That rounding would make every patch of a batch of 1 foreground, or none.
    """

    @classmethod
    def replaced(cls, planned: ConfigurationManager) -> dict[str, Any]:
        """Settings that this trainer replaces in the block of a configuration: `changes`, unless the plans decide."""
        return cls.changes

    @classmethod
    def left_open(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """What this trainer takes where the plan's block leaves a setting open (null)."""
        return {}

    @classmethod
    def completed(cls, settings: SAM3DSettings) -> SAM3DSettings:
        """The settings with what `left_open` gives."""
        taken = {key: value for key, value in cls.left_open(settings).items() if getattr(settings, key) is None}
        return settings.model_copy(update=taken)

    @classmethod
    def written_since(cls, settings: SAM3DSettings) -> set[str]:
        """Settings that decide what this trainer's network computes, and that older trainings did not write down."""
        return BEFORE.keys() & cls.left_open(settings).keys()

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
            SAM3DError: the configuration is not 3-D, or its block "sam3d" is not usable, or another process trains or
                validates the fold. Nothing is written then.
        """
        self.settings = complete_settings(plans, configuration, dataset_json, type(self))
        with full_disk_told("repeat the command"), exchanged(MetaLogger=WholeProgress):
            if not is_distributed() or dist.get_rank() == 0:
                names = (plans["dataset_name"], type(self).__name__, plans["plans_name"], configuration)
                self.claim = claim_fold(Path(get_output_folder(*names, fold=fold)))
            super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.settings.num_epochs
        self.num_iterations_per_epoch = self.settings.steps_per_epoch
        self.num_val_iterations_per_epoch = self.settings.validation_steps
        self.oversample_foreground_percent = self.settings.foreground_share
        self.probabilistic_oversampling = self.draws_foreground
        self.save_every = 1
        self.gradient_clip = 12.0  # nnU-Net's
        self.skipped = SkippedSteps()

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """As in nnU-Net, but a line that can't be written is not tried again for seconds."""
        if self.local_rank == 0:
            args = (f"{datetime.now()}:", *args) if add_timestamp else args
            try:
                with open(self.log_file, "a", encoding="utf-8") as log:
                    log.write(" ".join(map(str, args)) + " \n")
            except OSError as e:
                print(f"WARNING: {self.log_file}: {e.strerror}. The next line is not in it.")
        if also_print_to_console:
            print(*args)

    def run_training(self) -> None:
        """nnU-Net's training.

        Raises:
            SAM3DError: a disk is full. The last checkpoint is whole.
        """
        try:
            with full_disk_told(CONTINUE):
                super().run_training()
        except Exception:
            self._end_loaders()
            raise

    def _end_loaders(self) -> None:
        """Their threads would print tracebacks of their own when the process ends."""
        with redirect_stdout(None):  # as nnU-Net does
            for loader in (self.dataloader_train, self.dataloader_val):
                if hasattr(loader, "_finish"):
                    loader._finish()

    def initialize(self) -> None:
        """As in nnU-Net, on the cores of this process; the weights come from the seed of the plan's block, if any."""
        if not Path(self.preprocessed_dataset_folder).is_dir():
            number, plans = dataset_number(self.plans_manager.dataset_name), self.plans_manager.plans_name
            raise SAM3DError(
                f"There are no preprocessed data {self.preprocessed_dataset_folder}. Preprocess them first: "
                f"nnUNetv2_preprocess -d {number} -plans_name {plans} -c {self.configuration_name}"
            )
        limit_threads(self.device)
        self._seed(WEIGHTS)
        super().initialize()

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders; with a seed, they give the same batches in each run of as many worker processes.

        The processes end with this one; nnU-Net's own go on for ever if it is killed.
        """
        numbers = self._seed(BATCHES)
        with forks_end_with_us(), ordered_workers(*numbers) if numbers else nullcontext():
            return super().get_dataloaders()

    def _seed(self, what: int) -> tuple[int, ...]:
        """Seed what follows, and return the numbers that it was seeded with; nothing without a seed.

        A continued training goes on with other numbers than it started with. So does each rank.
        """
        if self.settings.seed is None:
            return ()
        numbers = (self.settings.seed, what, self.current_epoch, self.local_rank)
        seed_everything(*numbers)
        return numbers

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split: the names of the cases to train on, and of those to validate on.

        Raises:
            SAM3DError: splits_final.json can't be used or has no such fold, or the fold has no cases, fewer than the
                plan asks for, or cases that are not preprocessed.
        """
        train, val = self._split
        return list(train), list(val)  # nnU-Net sorts them in place

    @cached_property
    def _split(self) -> tuple[list[str], list[str]]:
        """Read once: nnU-Net asks several times, and logs its reading."""
        if self.fold != "all":
            file, folder = Path(self.preprocessed_dataset_folder_base) / FILE, self.preprocessed_dataset_folder
            self.dataset_class = self.dataset_class or infer_dataset_class(folder)
            there = self.dataset_class.get_identifiers(folder)
            if not file.is_file():
                draw_splits(there, file)
            read_fold(file, self.fold, there, folder)
        train, val = super().do_split()
        return self._few(train), val

    def _few(self, train: list[str]) -> list[str]:
        """As many training cases as the plan's block says, drawn by the fold: fewer are a part of more."""
        count = self.settings.training_cases
        if count is None:
            return train
        there = np.unique(train)
        if count > len(there):
            raise SAM3DError(
                f"training_cases is {count} in the block '{BLOCK}' of {self.plans_manager.plans_name}, but fold "
                f"{self.fold} has {len(there)} training cases. Set it to at most {len(there)}, or to null for all."
            )
        rng = np.random.default_rng(self.fold if isinstance(self.fold, int) else 0)
        chosen = sorted(rng.permutation(there)[:count].tolist())
        self.print_to_log_file(f"Training on {count} of {len(there)} cases: {', '.join(chosen)}")
        return chosen

    def on_train_start(self) -> None:
        """Refuse weights that are not finite and labels that nnU-Net misreads; name cases whose images aren't finite.

        Raises:
            SAM3DError: there are such weights or labels, no image of a training case is finite, or another fold of the
                model was trained for a network that computes something else.
        """
        if not self.was_initialized:
            self.initialize()
        refuse_broken_weights(self.plain_network().state_dict(), "The network", "Start from other weights.")
        self._refuse_folds_of_other_function()
        if self.current_epoch == 0:
            if self.local_rank == 0:
                self._name_broken_cases()
                self._refuse_misread_labels([case for part in self.do_split() for case in part])
            if self.is_ddp:
                wait_for_all_ranks()
        with exchanged(save_json=save_whole_json, shutil=SimpleNamespace(copyfile=copy_whole_file)):
            super().on_train_start()

    def on_train_end(self) -> None:
        """As in nnU-Net; what the final validation of earlier weights has measured goes before they do."""
        self._remove_summaries()
        super().on_train_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's final validation. Where it was not finished there is no summary, not even an earlier one.

        Raises:
            SAM3DError: nnU-Net would misread a true label map, and so measure nonsense; or a disk is full.
        """
        self._refuse_misread_labels(self.do_split()[1])
        self._remove_summaries()
        whole = {
            "export_prediction_from_logits": export_whole_case,
            "compute_metrics_on_folder": measure_into_whole_file,
        }
        with full_disk_told(VALIDATE_AGAIN), exchanged(**whole):
            super().perform_actual_validation(save_probabilities)

    def _remove_summaries(self) -> None:
        for name in validation_folders(type(self)) if self.local_rank == 0 else ():
            (Path(self.output_folder) / name / "summary.json").unlink(missing_ok=True)

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's training step. It changes nothing if the loss or the gradient is not finite.

        Raises:
            SAM3DError: many steps in a row were skipped for this reason.
        """
        self.optimizer.zero_grad(set_to_none=True)
        statistics = RunningStatistics(self.network)
        loss = self.training_loss(batch)
        outcome = step_if_finite(loss, self.clipped_parts(), self.optimizer, self.gradient_clip, self.grad_scaler)
        if outcome.stepped:
            self.skipped.in_a_row = 0
        else:
            statistics.restore()
        is_skipped = not outcome.stepped and not outcome.seeks_scale
        if is_skipped:
            self.skipped.add(batch)
            if self.skipped.in_a_row == LONGEST_RUN:
                self._stop(f"{LONGEST_RUN} steps in a row")
        return {"loss": loss.detach().cpu().numpy(), "skipped": is_skipped}

    def clipped_parts(self) -> tuple[nn.Module, ...]:
        """Parts of the network, each of whose gradients is clipped by its own norm; here the whole network."""
        return (self.network,)

    def training_loss(self, batch: dict) -> Tensor:
        """The loss of a training batch; where nnU-Net scales gradients, the network computes in float16."""
        with nullcontext() if self.grad_scaler is None else torch.autocast(self.device.type):
            output = self.network(batch["data"].to(self.device, non_blocking=True))
            return self.loss(output, self.on_device(batch["target"]))

    def on_device(self, target: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """A target of nnU-Net's; with deep supervision it is a list."""
        if isinstance(target, list):
            return [t.to(self.device, non_blocking=True) for t in target]
        return target.to(self.device, non_blocking=True)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Say how many steps were skipped. The loss of the epoch is the mean of the others.

        Raises:
            SAM3DError: all steps were skipped.
        """
        outputs = [{"loss": output["loss"]} for output in train_outputs if not output.get("skipped")]
        if not outputs:
            self._stop(f"All {len(train_outputs)} steps")
        if len(outputs) < len(train_outputs):
            self.skipped.gather()
            self.print_to_log_file(
                f"{len(train_outputs) - len(outputs)} of {len(train_outputs)} steps skipped: loss or gradient not "
                f"finite. {self.skipped.cause}"
            )
            self.skipped.cases.clear()
        super().on_train_epoch_end(outputs)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As in nnU-Net. Losses that are not finite don't count."""
        super().on_validation_epoch_end(with_finite_losses(val_outputs))

    def save_checkpoint(self, filename: str) -> None:
        """As in nnU-Net, but a file appears complete or not at all.

        Raises:
            SAM3DError: the weights are not finite. An earlier file stays as it is.
        """
        # other ranks write nothing, and must not touch the file that the first may be writing
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        refuse_broken_weights(
            self.plain_network().state_dict(),
            f"{filename} is not written: after epoch {self.current_epoch} the network",
            "Continue from the last checkpoint (--c) with a lower learning rate.",
        )
        with whole_file(Path(filename)) as part, part.open("wb") as stream:
            try:
                super().save_checkpoint(stream)
            except RuntimeError as e:  # torch's, and what has happened to Python's stream comes before it
                raise e.__context__ if isinstance(e.__context__, OSError) else e  # noqa: B904

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As in nnU-Net, but as data: see `network.checkpoint_files`.

        Raises:
            SAM3DError: the file is damaged or holds more than data, or its weights are not finite or belong to a
                network that computes something else.
        """
        try:
            with read_as_data(filename_or_checkpoint):
                super().load_checkpoint(filename_or_checkpoint)
        finally:  # also where weights don't fit; nnU-Net takes over the checkpoint's plans before its weights
            self._refuse_other_function(self.my_init_kwargs["plans"], str(filename_or_checkpoint))
        refuse_broken_weights(
            self.plain_network().state_dict(),
            str(filename_or_checkpoint),
            "Delete this file, so that --c takes an earlier checkpoint if there is one, or train the fold again.",
        )

    def _refuse_folds_of_other_function(self) -> None:
        """Predictions build all folds of a model from one copy of the plans, which a training replaces by its own."""
        folder = Path(self.output_folder_base)
        trained = sorted({file.parent.name for file in folder.glob("fold_*/checkpoint_*.pth")})
        others = [name for name in trained if name != Path(self.output_folder).name]
        if others and (folder / PLANS_COPY).is_file():
            plans = read_json_object(folder / PLANS_COPY, ("configurations",))
            self._refuse_other_function(plans, f"{folder} ({listing(others)})")

    def _refuse_other_function(self, plans: dict[str, Any], what: str) -> None:
        """Settings that decide what the same weights compute must be those with which `what` was trained."""
        if not (keys := self.written_since(self.settings)):
            return
        saved = trained_settings(planned_block(plans, self.configuration_name), f"the plans of {what}")
        planned = PlansManager(plans).get_configuration(self.configuration_name)
        trained, own = (
            {"stride": planned_stride(settings, configuration)} | {key: getattr(settings, key) for key in keys}
            for settings, configuration in ((saved, planned), (self.settings, self.configuration_manager))
        )
        for key, now in own.items():
            then = trained[key]
            if then != now:
                raise SAM3DError(
                    f"{what} was trained with {key} {then!r}, but now it is {now!r}. Set {key} to {then!r} in the "
                    f"block '{BLOCK}' of {self.plans_manager.plans_name}, configuration {self.configuration_name}."
                )

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

    def _name_broken_cases(self) -> None:
        training_set, validation_set = self.get_tr_and_val_datasets()
        # a set, since fold "all" validates on the training cases
        broken = cases_with_broken_voxels(training_set, {*training_set.identifiers, *validation_set.identifiers})
        train = [case for case in broken if case in training_set.identifiers]
        val = [case for case in broken if case not in train]
        hint = f"Correct their images and preprocess them again ({self.preprocessed_dataset_folder})."
        if len(train) == len(set(training_set.identifiers)):
            raise SAM3DError(f"All training cases of fold {self.fold} hold NaN or infinite voxels. {hint}")
        if train:
            self.print_to_log_file(
                f"WARNING: {len(train)} training case(s) hold NaN or infinite voxels: {listing(train)}. Steps with "
                f"such voxels in a patch are skipped. {hint}"
            )
        if val:
            self.print_to_log_file(
                f"WARNING: {len(val)} validation case(s) hold NaN or infinite voxels: {listing(val)}. What is measured "
                f"on them means nothing. {hint}"
            )

    def _refuse_misread_labels(self, cases: list[str]) -> None:
        """Check the copies of the true label maps that nnU-Net's preprocessing has made, and its validation reads."""
        folder = Path(self.preprocessed_dataset_folder_base) / "gt_segmentations"
        files = {case: folder / f"{case}{self.dataset_json['file_ending']}" for case in cases}
        there = {case: file for case, file in files.items() if file.is_file()}
        refuse_unusable_files(there, self.plans_manager.image_reader_writer_class())

    def _stop(self, steps: str) -> None:
        """End the training. All ranks skip the same steps, so all come here at the same one."""
        self.skipped.gather()
        raise SAM3DError(
            f"{steps} were skipped in epoch {self.current_epoch}: loss or gradient not finite. {self.skipped.cause} "
            f"{self.skipped.remedy} Then train again; --c continues from the last checkpoint."
        )

    def _set_batch_size_and_oversample(self) -> None:
        """The block's batch size, distributed over the GPUs; the share of foreground is the same on each."""
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if self.is_ddp else (1, 0)
        each, rest = divmod(self.settings.batch_size, ranks)
        self.batch_size = each + (rank < rest)


def wait_for_all_ranks() -> None:
    """A barrier for which ranks may wait for hours; NCCL's would fail after ten minutes."""
    with _patient_ranks() as group:
        dist.barrier(group)


def from_first_rank(ask: Callable[[], Answer]) -> Answer:
    """The answer of rank 0, for which the others may wait for hours; each rank must call this."""
    if not is_distributed():
        return ask()
    with _patient_ranks() as group:
        answer = [ask() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(answer, src=0, group=group)
    return answer[0]


@contextmanager
def _patient_ranks() -> Iterator[dist.ProcessGroup]:
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield group
    dist.destroy_process_group(group)


def complete_settings(
    plans: dict, configuration: str, dataset_json: dict, trainer_class: type[PlannedTrainer]
) -> SAM3DSettings:
    """The settings of a training, written back into the plans, from which nnU-Net builds the network again.

    Args:
        plans: as nnU-Net reads them.
        configuration: name of one of their configurations.
        dataset_json: of the data set.
        trainer_class: replaces some settings, and fills in others that the plans leave open.

    Raises:
        SAM3DError: the configuration is not 3-D, or its block is not usable.
    """
    trainer = trainer_class.__name__
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
    if len(sides) != 3 or not all(isinstance(n, int) and n >= SMALLEST_PATCH for n in sides):
        raise SAM3DError(
            f"{where} has the patch size {patch_size}; {trainer} needs three numbers of at least {SMALLEST_PATCH}."
        )
    if planned.previous_stage_name is not None:
        raise SAM3DError(f"{trainer} takes no part in a cascade, which {where} is. Train 3d_fullres instead.")
    needed = int(max(manager.get_label_manager(dataset_json).all_labels)) + 1
    changes = trainer_class.replaced(planned)
    block = merge(planned_block(plans, configuration), changes)
    settings = parse_settings({"num_click_labels": needed, **_given(block)}, where)
    if settings.clicks_carry_labels and settings.num_click_labels < needed:
        raise SAM3DError(
            f"The block '{BLOCK}' of {where} has num_click_labels {settings.num_click_labels}, but the labels of "
            f"this data set are 0 to {needed - 1}. Set it to {needed} or more, or leave it out."
        )
    ranks = dist.get_world_size() if is_distributed() else 1
    if settings.batch_size < ranks:
        raise SAM3DError(
            f"{trainer} takes batches of {settings.batch_size} by the block '{BLOCK}' of {where}, fewer than the "
            f"{ranks} GPUs. {'Train' if 'batch_size' in changes else 'Raise batch_size there, or train'} on fewer GPUs."
        )
    settings = trainer_class.completed(settings)
    plans["configurations"][configuration][BLOCK] = settings.model_dump()
    return settings


def _given(block: dict[str, Any]) -> dict[str, Any]:
    """The block without an open `num_click_labels`, which the data set decides."""
    return {key: value for key, value in block.items() if (key, value) != ("num_click_labels", None)}
