"""A trained model as an evaluation sees it: whatever nnU-Net has trained, with or without clicks."""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.device import usable_device
from sam3d_nnunet.nnunet.names import find_trainer, takes_prompts
from sam3d_nnunet.prediction.growth import MAX_WINDOWS
from sam3d_nnunet.prediction.model_folder import FINAL
from sam3d_nnunet.prediction.predictor import SAM3DPredictor


@dataclass(frozen=True)
class PredictionOptions:
    """What `sam3d predict` and nnU-Net's predictor would be told.

    Attributes:
        device: "cpu", "cuda" or "mps".
        checkpoint: file in each fold.
        mirroring: average over mirrored images, where training mirrored too.
        max_windows: of an image, that are looked at for one prompted prediction.
        per_lesion: predict each foreground click on its own.
        step: of nnU-Net's sliding window, as a share of the window; 1 - overlap.
        gaussian: weights of nnU-Net's sliding window, instead of constant ones.
    """

    device: str = "cuda"
    checkpoint: str = FINAL
    mirroring: bool = True
    max_windows: int = MAX_WINDOWS
    per_lesion: bool = False
    step: float = 0.5
    gaussian: bool = True

    def as_in_paper(self) -> "PredictionOptions":
        """Automatic methods with a sliding window that overlaps by 0.7, and constant weights (paper, Section 4)."""
        return replace(self, step=0.3, gaussian=False)


def fingerprint(checkpoint: Path) -> str:
    """16 hexadecimal digits that change with the tensors in a checkpoint, and not with where and when it was copied.

    Nor when nnU-Net saves a finished training once more, on whatever device, before it validates it. Torch saves zip
    files, in whose directory each tensor has a checksum. Any other file is read as a whole.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            tensors = [entry for entry in archive.infolist() if Path(entry.filename).parent.name == "data"]
            content = repr(sorted((Path(tensor.filename).name, tensor.CRC) for tensor in tensors)).encode()
    except zipfile.BadZipFile:
        content = checkpoint.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


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
            return takes_prompts(find_trainer(self.trainer))
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


def load_automatic(folder: Path, folds: Sequence[str], options: PredictionOptions) -> nnUNetPredictor:
    """nnU-Net's predictor with a model; the predictions of several folds are averaged.

    Raises:
        SAM3DError: the model can't be loaded, or is the second stage of a cascade.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            predictor = nnUNetPredictor(
                options.step,
                options.gaussian,
                options.mirroring,
                device=usable_device(options.device),
                allow_tqdm=False,
            )
            predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), options.checkpoint)
    except (OSError, RuntimeError) as e:
        raise SAM3DError(
            f"nnU-Net can't load the model {folder}: {e} If its trainer is ours, sam3d doctor says whether nnU-Net "
            "finds it."
        ) from e
    if predictor.configuration_manager.previous_stage_name is not None:
        raise SAM3DError(
            f"{folder} is the second stage of a cascade. Predict with nnUNetv2_predict, then give the predictions to "
            "sam3d evaluate --predictions."
        )
    return predictor
