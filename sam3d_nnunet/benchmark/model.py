"""A trained model as an evaluation sees it: whatever nnU-Net has trained, with or without clicks."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from sam3d_nnunet.benchmark.automatic import load_automatic
from sam3d_nnunet.benchmark.fingerprint import fingerprint
from sam3d_nnunet.benchmark.options import PredictionOptions
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.inference.predictor import SAM3DPredictor
from sam3d_nnunet.nnunet_names import TRAINERS, class_lookup
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer


def choose_folds(folder: Path, folds: Sequence[str], checkpoint: str) -> list[str]:
    """The folds of a model folder that are asked for; without any, all numbered ones that hold a checkpoint.

    Raises:
        SAM3DError: one of them holds none.
    """
    there = {file.parent.name[5:] for file in folder.glob(f"fold_*/{checkpoint}")}
    chosen = list(dict.fromkeys(folds)) or sorted((fold for fold in there if fold.isdecimal()), key=int)
    missing = [fold for fold in chosen if fold not in there]
    if missing or not chosen:
        wanted = f"fold {', '.join(missing)}" if missing else "a numbered fold"
        raise SAM3DError(
            f"{folder} holds no {checkpoint} of {wanted}; it holds that of {', '.join(sorted(there)) or 'none'}."
        )
    return chosen


def dataset_of(folder: Path) -> str:
    """Name of the data set that a model was trained on.

    Raises:
        SAM3DError: this is no model folder.
    """
    return _plans(folder)["dataset_name"]


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """A trainer of ours, or whatever nnU-Net finds under a name.

    Raises:
        SAM3DError: there is no such trainer, or a package that it needs is missing.
    """
    try:
        return (class_lookup(__name__) if name in TRAINERS else recursive_find_trainer_class_by_name)(name)
    except (ImportError, RuntimeError) as e:
        raise SAM3DError(f"The trainer {name} can't be loaded: {e}") from e


def takes_clicks(trainer: str) -> bool:
    """Whether a trainer trains with clicks; errors are those of `trainer_class`."""
    return issubclass(trainer_class(trainer), PromptedTrainer)


class EvaluatedModel:
    """Loads a model as far as it is needed."""

    def __init__(self, folder: Path, folds: Sequence[str], options: PredictionOptions) -> None:
        """
        Args:
            folder: TRAINER__PLANS__CONFIGURATION.
            folds: whose predictions are averaged.
            options: of the predictions.

        Raises:
            SAM3DError: the first fold holds no usable checkpoint.
        """
        self.folder, self.folds, self.options = folder, list(folds), options
        self.plans = _plans(folder)["plans_name"]
        checkpoint = _load_checkpoint(folder / f"fold_{folds[0]}" / options.checkpoint)
        self.trainer: str = checkpoint["trainer_name"]
        self.configuration: str = checkpoint["init_args"]["configuration"]
        self._log: dict[str, list] = checkpoint.get("logging") or {}

    @property
    def takes_clicks(self) -> bool:
        """Whether the model was trained with clicks.

        Raises:
            SAM3DError: its trainer is not installed.
        """
        try:
            return takes_clicks(self.trainer)
        except SAM3DError as e:
            raise SAM3DError(f"{self.folder}: {e}") from e

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of the checkpoints of all folds."""
        return [fingerprint(self.folder / f"fold_{fold}" / self.options.checkpoint) for fold in self.folds]

    @cached_property
    def prompted(self) -> SAM3DPredictor:
        """Predicts from clicks."""
        options = self.options
        predictor = SAM3DPredictor(options.device, None, options.mirroring, options.max_windows, keep_in_crop=True)
        predictor.initialize_from_trained_model_folder(self.folder, self.folds, options.checkpoint)
        return predictor

    @cached_property
    def automatic(self) -> nnUNetPredictor:
        """Predicts whole images."""
        return load_automatic(self.folder, self.folds, self.options)

    def facts(self, name: str) -> dict[str, Any]:
        """What method.json says; the memory is that of all predictions so far."""
        network = self.prompted.model.networks[0] if self.takes_clicks else self.automatic.network
        cuda = torch.device(self.options.device).type == "cuda"
        return {
            "name": name,
            "trainer": self.trainer,
            "plans": self.plans,
            "configuration": self.configuration,
            "kind": "prompted" if self.takes_clicks else "automatic",
            "parameters": sum(p.numel() for p in network.parameters()),
            "tuned_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "training_hours": self.training_hours,
            "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
            "device": torch.cuda.get_device_name() if cuda else self.options.device,
        }

    @property
    def training_hours(self) -> float | None:
        """Of all epochs of the first fold, as far as nnU-Net has logged them."""
        starts, ends = (self._log.get(f"epoch_{event}_timestamps", []) for event in ("start", "end"))
        return sum(end - start for start, end in zip(starts, ends)) / 3600 if ends else None


def _plans(folder: Path) -> dict[str, Any]:
    file = folder / "plans.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise SAM3DError(
            f"{folder} is no model folder: there is no {file}. Give the folder TRAINER__PLANS__CONFIGURATION."
        ) from e
    except (OSError, ValueError) as e:
        raise SAM3DError(f"{file} can't be read: {e}.") from e


def _load_checkpoint(file: Path) -> dict[str, Any]:
    try:
        # as nnU-Net does: its checkpoints hold more than tensors
        checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as e:  # a missing or broken file fails in whatever it is taken for
        raise SAM3DError(f"The checkpoint {file} can't be read: {type(e).__name__}: {e}") from e
    if not isinstance(checkpoint, dict) or not {"trainer_name", "init_args"} <= checkpoint.keys():
        raise SAM3DError(f"{file} is no checkpoint of nnU-Net's.")
    return checkpoint
