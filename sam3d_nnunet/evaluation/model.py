"""A trained model in an evaluation: any that nnU-Net has trained, with or without clicks."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.evaluation.results_folder import fingerprint
from sam3d_nnunet.evaluation.training_facts import training_facts
from sam3d_nnunet.network.checkpoint_files import read_as_data
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.nnunet.names import takes_prompts
from sam3d_nnunet.prediction.growth import MAX_WINDOWS
from sam3d_nnunet.prediction.model_folder import (
    FINAL,
    load_checkpoint,
    read_dataset,
    read_plans,
    refuse_configuration,
    trainer_of,
)
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.windows import FOLLOW, SINGLE


@dataclass(frozen=True)
class PredictionOptions:
    """Options of `sam3d predict` and of nnU-Net's predictor.

    Attributes:
        device: "cpu", "cuda", "mps", or "auto" for the GPU if there is one, else the CPU.
        checkpoint: file in each fold.
        mirroring: average over mirrored images, where training mirrored too.
        max_windows: the most windows of an image for one prompted prediction.
        per_lesion: predict each foreground click on its own.
        step: of nnU-Net's sliding window, as a share of the window; 1 - overlap.
        gaussian: weights of nnU-Net's sliding window, instead of constant ones.
        windows: of predictions from clicks, as in `SAM3DPredictor`.
    """

    device: str = AUTO
    checkpoint: str = FINAL
    mirroring: bool = True
    max_windows: int = MAX_WINDOWS
    per_lesion: bool = False
    step: float = 0.5
    gaussian: bool = True
    windows: str = FOLLOW.name

    def as_in_paper(self) -> "PredictionOptions":
        """With the windows of the paper.

        Without clicks, a sliding window that overlaps by 0.7, and constant weights (Section 4). With clicks, one window
        around their middle (released code).
        """
        return replace(self, step=0.3, gaussian=False, windows=SINGLE.name)


class EvaluatedModel:
    """Loads the parts of a model when they are needed."""

    def __init__(self, folder: Path, folds: Sequence[str], options: PredictionOptions) -> None:
        """
        Args:
            folder: TRAINER__PLANS__CONFIGURATION.
            folds: whose predictions are averaged.
            options: of the predictions.

        Raises:
            SAM3DError: the first fold holds no usable checkpoint, or its trainer is not installed.
        """
        self.folder, self.folds, self.options = folder, list(folds), options
        plans = read_plans(folder)
        self.plans: str = plans["plans_name"]
        read_dataset(folder)  # or says what is wrong with it
        fold = folder / f"fold_{folds[0]}"
        checkpoint = load_checkpoint(fold / options.checkpoint)
        trainer = trainer_of(checkpoint, folder)
        self.trainer: str = checkpoint["trainer_name"]
        self.takes_clicks = takes_prompts(trainer)
        self.configuration: str = checkpoint["init_args"]["configuration"]
        refuse_configuration(plans, self.configuration, folder)
        self._training = training_facts(checkpoint, trainer, fold)

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of the checkpoints of all folds."""
        return [fingerprint(self.folder / f"fold_{fold}" / self.options.checkpoint) for fold in self.folds]

    @cached_property
    def prompted(self) -> SAM3DPredictor:
        """Predicts from clicks."""
        options = self.options
        predictor = SAM3DPredictor(
            options.device,
            use_mirroring=options.mirroring,
            max_windows=options.max_windows,
            keep_in_crop=True,
            windows=options.windows,
        )
        predictor.initialize_from_trained_model_folder(self.folder, self.folds, options.checkpoint)
        return predictor

    @cached_property
    def automatic(self) -> nnUNetPredictor:
        """Predicts whole images."""
        return load_automatic(self.folder, self.folds, self.options)

    def facts(self, name: str) -> dict[str, Any]:
        """The content of method.json; the memory is the peak of all predictions so far."""
        network = self.prompted.model.networks[0] if self.takes_clicks else self.automatic.network
        device = usable_device(self.options.device)
        cuda = device.type == "cuda"
        return {
            "name": name,
            "trainer": self.trainer,
            "plans": self.plans,
            "configuration": self.configuration,
            "kind": "prompted" if self.takes_clicks else "automatic",
            "parameters": sum(p.numel() for p in network.parameters()),
            "tuned_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
            **self._training,
            "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
            "device": torch.cuda.get_device_name() if cuda else str(device),
        }


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
            with read_as_data(*(folder / f"fold_{fold}" / options.checkpoint for fold in folds)):
                predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), options.checkpoint)
    except SAM3DError:
        raise
    except Exception as e:  # plans can describe networks that can't be built in many ways
        raise SAM3DError(
            f"nnU-Net can't load the model {folder}: {last_line(e)[:500]} If its trainer is ours, sam3d doctor says "
            "whether nnU-Net finds it."
        ) from e
    if predictor.configuration_manager.previous_stage_name is not None:
        raise SAM3DError(
            f"{folder} is the second stage of a cascade. Predict with nnUNetv2_predict, then give the predictions to "
            "sam3d evaluate --predictions."
        )
    return predictor
