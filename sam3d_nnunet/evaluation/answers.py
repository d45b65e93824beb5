"""What answers prompts on a case, step by step: the interface that protocols know, and models of ours behind it.

Protocols that click step by step (`protocol_prediction`, `challenge_prediction`) decide where to click. What clicks
mean to a model is decided behind the interface, so that models of other programs get the same clicks.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sam3d_nnunet.evaluation.results_folder import note_cost
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prediction.cases import read_case
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.growth import merge
from sam3d_nnunet.prediction.predictor import CasePrediction, SAM3DPredictor
from sam3d_nnunet.prediction.session_image import box_points
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.prompt import BOX, Prompt


@dataclass(frozen=True)
class ClassBoxes:
    """Where a class is. Voxels are those of the file (`ImageGeometry.in_file_order`).

    Attributes:
        volume: the smallest box around the class.
        slice: the smallest box around it in the axial slice with most of its voxels (the first of several such slices).
    """

    volume: Box
    slice: Box

    @classmethod
    def of(cls, mask: np.ndarray, axial: int) -> "ClassBoxes":
        """
        Args:
            mask: (D, H, W), not empty.
            axial: the axis along which slices are taken.
        """
        areas = mask.sum(axis=tuple(axis for axis in range(3) if axis != axial))
        number = int(areas.argmax())
        flat = Box.from_mask(mask.take([number], axial))
        return cls(Box.from_mask(mask), flat.shifted([number if axis == axial else 0 for axis in range(3)]))


@dataclass(frozen=True)
class Correction:
    """A click on an error of one class.

    Attributes:
        point: (3,) LPS millimetres.
        label: of the class that is wrong there.
        missed: whether the class is there, so that this is a click on foreground; else it is a surplus.
        truth: what is there, as the click says: this class, or if it is a surplus, another one or 0 for background.
    """

    point: np.ndarray
    label: int
    missed: bool
    truth: int


class CaseAnswers(Protocol):
    """A case that a model segments. Earlier prompts are for the model to remember.

    Label maps are (D, H, W) and lie as the file of the image (`ImageGeometry.in_file_order`).
    """

    def from_clicks(self, prompt: Prompt) -> np.ndarray:
        """The label map after all these clicks, those of the last call first. Without any click: background."""

    def of_object(self, prompt: Prompt) -> np.ndarray:
        """The label map of one more object, from these clicks alone. What is written is the union of all of them."""

    def from_nothing(self) -> np.ndarray:
        """The label map without any prompt, where the model makes one, else background.

        Further prompts change it where the model looks for what they mean, and leave it elsewhere.
        """

    def from_boxes(self, boxes: Mapping[int, ClassBoxes], geometry: ImageGeometry) -> np.ndarray:
        """The label map from the boxes of all classes; `geometry` says where their voxels are."""

    def from_corrections(self, corrections: Sequence[Correction]) -> np.ndarray:
        """The label map after these further clicks. Without any, it stays as it is."""

    def write(self, folder: Path) -> CaseReport:
        """Write the label map and all prompts, and note what they cost.

        The report has the seconds since the last one, and all clicks.
        """


class AnsweringModel(Protocol):
    """A model that segments cases from prompts.

    Attributes:
        takes_background: whether background can be clicked.
    """

    takes_background: bool

    def prepare(self, folder: Path) -> None:
        """Create a folder for predictions, with the files that belong beside them."""

    def open(self, image_files: Sequence[Path], name: str) -> AbstractContextManager[CaseAnswers]:
        """Read a case.

        Raises:
            SAM3DError: it can't be read or segmented. So do the methods of `CaseAnswers`.
        """


class Stopwatch:
    """Adds up the seconds that parts of the work take."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the seconds of this block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    def take(self) -> float:
        """The seconds so far; it starts again from 0."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class PredictorModel:
    """A model of ours.

    Models without background clicks get clicks on missed foreground only. Those that take a previous mask get the
    prediction before, as in `SAM3DSession`.
    """

    def __init__(self, predictor: SAM3DPredictor, automatic: Callable[[], nnUNetPredictor]) -> None:
        """
        Args:
            predictor: with a loaded model.
            automatic: gives nnU-Net's predictor of the same model, for predictions without clicks.
        """
        self.predictor, self.automatic = predictor, automatic
        self.takes_background = predictor.model.clicks_carry_labels

    def prepare(self, folder: Path) -> None:
        CaseWriter(folder, self.predictor.model).prepare()

    @contextmanager
    def open(self, image_files: Sequence[Path], name: str) -> Iterator["PredictorAnswers"]:
        yield PredictorAnswers(self, image_files, name)


class PredictorAnswers:
    """A case that a model of ours segments.

    A box reaches the model as in a session (`SAM3DSession.add_bbox_interaction`): as a dense prompt with a click at its
    centre, or else as several clicks. A correction has the true label of its place.
    """

    def __init__(self, model: PredictorModel, image_files: Sequence[Path], name: str) -> None:
        self.model, self.predictor, self._watch = model, model.predictor, Stopwatch()
        with self._watch.running():
            self.image = read_case(image_files, self.predictor.model)
        self._clicks = Prompt(np.zeros((0, 3)), [], name)
        self._boxes: list[tuple[int, Box]] = []
        self._box_clicks = 0
        self._objects: list[CasePrediction] = []
        self._prediction: CasePrediction | None = None
        self._segmentation: np.ndarray | None = None
        self._initial: np.ndarray | None = None

    def from_clicks(self, prompt: Prompt) -> np.ndarray:
        self._clicks = prompt
        return self._predict()

    def of_object(self, prompt: Prompt) -> np.ndarray:
        self._clicks, self._segmentation = prompt, None
        found = self._predict()
        self._objects.append(self._prediction)
        return found

    def from_nothing(self) -> np.ndarray:
        """Predicted by nnU-Net's sliding window. Later predictions change it in their windows only, as in a session."""
        automatic = self.model.automatic()  # loading it takes no time of the case
        with self._watch.running():
            logits = automatic.predict_logits_from_preprocessed_data(self.image.on_grid.cut(self.image.grid.box))
            nothing = self.predictor.predict_nothing(self.image, self._clicks)
            self._prediction = replace(nothing, logits=replace(nothing.logits, logits=logits.float().cpu()))
            self._segmentation = self._initial = self._prediction.segmentation()
        return self._in_file()

    def from_boxes(self, boxes: Mapping[int, ClassBoxes], geometry: ImageGeometry) -> np.ndarray:
        count = 1 if self.predictor.model.takes_maps else None
        points = [(label, point) for label, box in boxes.items() for point in box_points(box.volume)[:count]]
        world = geometry.to_world(np.array([point for _, point in points]))
        self._clicks = Prompt(world, [label for label, _ in points], self._clicks.image)
        self._box_clicks = len(points)
        self._boxes = self._on_grid({label: box.volume for label, box in boxes.items()}, geometry)
        return self._predict()

    def from_corrections(self, corrections: Sequence[Correction]) -> np.ndarray:
        if not self.predictor.model.clicks_carry_labels:
            corrections = [click for click in corrections if click.missed]
        if not corrections:
            return self._in_file()
        points = np.concatenate([self._clicks.points, [click.point for click in corrections]])
        labels = np.append(self._clicks.labels, [click.truth for click in corrections])
        self._clicks = Prompt(points, labels, self._clicks.image)
        if not (labels > 0).any():  # the network needs to know what to look for
            return self._in_file()
        return self._predict()

    def write(self, folder: Path) -> CaseReport:
        with ExitStack() as stack:
            with self._watch.running():
                if self._objects:
                    self._unite()
                writer = CaseWriter(folder, self.predictor.model)
                stack.enter_context(writer.writing(self._clicks.image, self._prediction))
            clicks, windows = len(self._clicks.points) - self._box_clicks, len(self._prediction.logits.windows)
            seconds, outside = self._watch.take(), self._prediction.outside
            capped = self._prediction.logits.hit_cap is not None
            notes = () if self.image.note is None else (self.image.note,)
            report = CaseReport(
                self._clicks.image, None, clicks, windows, seconds, outside=outside, hit_cap=capped, notes=notes
            )
            note_cost(folder, report)
        return report

    def _unite(self) -> None:
        """Take all objects together, as a prediction per lesion does."""
        prompts = [found.prompt for found in self._objects]
        points, labels = np.concatenate([p.points for p in prompts]), np.concatenate([p.labels for p in prompts])
        self._clicks = Prompt(points, labels, self._clicks.image)
        logits, owners = merge([found.logits for found in self._objects])
        self._prediction = replace(self._prediction, prompt=self._clicks, logits=logits, owners=owners)

    def _predict(self) -> np.ndarray:
        with self._watch.running():
            if not len(self._clicks.points):
                self._prediction = self.predictor.predict_nothing(self.image, self._clicks)
            else:
                found = self.predictor.predict_read(self.image, self._clicks, maps=self._maps())
                self._prediction = replace(found, initial=self._initial)
            self._segmentation = self._prediction.segmentation()
        return self._in_file()

    def _maps(self) -> DensePrompts | None:
        """Dense prompts on the preprocessed grid: boxes and the last prediction, if any."""
        grid = self.image.grid
        if self._segmentation is not None:
            maps = DensePrompts.of_mask(self._segmentation, grid)
        elif self._boxes:
            maps = DensePrompts.none(grid.shape)
        else:
            return None
        for label, box in self._boxes:
            maps.draw(BOX, box, label)
        return maps

    def _in_file(self) -> np.ndarray:
        return self.image.geometry.in_file_order(self._segmentation)[0]

    def _on_grid(self, boxes: Mapping[int, Box], geometry: ImageGeometry) -> list[tuple[int, Box]]:
        """Boxes of the preprocessed grid with their labels, the smallest last, so that it is drawn over others."""
        on_grid = []
        for label, box in sorted(boxes.items(), key=lambda item: np.prod(item[1].shape), reverse=True):
            corners = geometry.to_world(np.array([box.start, np.array(box.stop) - 1]))
            ends = np.rint(self.image.grid.from_image(self.image.geometry.to_voxels(corners))).astype(int)
            seen = Box(ends.min(0), ends.max(0) + 1).intersection(self.image.grid.box)
            if not seen.is_empty:
                on_grid.append((label, seen))
        return on_grid
