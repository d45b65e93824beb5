"""Predictions under a protocol: automatic, from drawn clicks, or click by click."""

import contextlib
import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError, reason
from sam3d_nnunet.evaluation.answers import AnsweringModel, CaseAnswers
from sam3d_nnunet.evaluation.data import EvaluationData, spacing_of
from sam3d_nnunet.evaluation.results_folder import note_cost
from sam3d_nnunet.geometry.images import check_axes, check_image_file
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.geometry.writing import refuse_cut_off
from sam3d_nnunet.io import whole_files
from sam3d_nnunet.nnunet.readers import TURNING, WITHOUT_WORLD
from sam3d_nnunet.planning.settings import noted_orientation
from sam3d_nnunet.prediction.batch import CaseReport, PlannedCase, predict_cases
from sam3d_nnunet.prediction.cases import ClickSource, read_case
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import case_generator, correction_click
from sam3d_nnunet.simulation.protocol_clicks import hand_of
from sam3d_nnunet.simulation.protocols import Protocol

NNUNETS_FILES = ("dataset.json", "plans.json", "predict_from_raw_data_args.json")
"""What nnU-Net writes beside a prediction; results don't need it."""


def predict_automatic(
    predictor: nnUNetPredictor, data: EvaluationData, cases: Sequence[str], folder: Path
) -> Iterator[CaseReport]:
    """Predict cases one after the other. Each file appears complete or not at all.

    Args:
        predictor: with a model.
        data: holds the images.
        cases: names.
        folder: for the predictions.
    """
    for case in cases:
        try:
            report = _predict(predictor, data, case, folder)
        except Exception as e:  # go on with the other cases
            report = CaseReport(case, reason(e))
        yield report


def _predict(predictor: nnUNetPredictor, data: EvaluationData, case: str, folder: Path) -> CaseReport:
    start = time.perf_counter()
    files = data.image_files(case)
    for file in files:
        check_image_file(file)  # nnU-Net reads it
        if not issubclass(predictor.plans_manager.image_reader_writer_class, WITHOUT_WORLD):
            check_axes(file, "image")
    _note_orientation(predictor, case, files[0])
    with whole_files(folder, last=f"{case}{data.file_ending}") as part:
        with contextlib.redirect_stdout(io.StringIO()):  # many lines for each case
            predictor.predict_from_files_sequential([[str(file) for file in files]], [str(part / case)])
        refuse_cut_off(part / f"{case}{data.file_ending}")
        for name in NNUNETS_FILES:
            (part / name).unlink(missing_ok=True)
        report = CaseReport(case, seconds=time.perf_counter() - start)
        note_cost(folder, report)
    return report


def _note_orientation(predictor: nnUNetPredictor, case: str, file: Path) -> None:
    """Say where an image lies otherwise than those of the training: nnU-Net's prediction does not turn it."""
    if issubclass(predictor.plans_manager.image_reader_writer_class, (*WITHOUT_WORLD, *TURNING)):
        return
    wanted = noted_orientation(predictor.configuration_manager.configuration)
    with contextlib.suppress(SAM3DError):  # axes that ITK refuses
        found = ImageGeometry.from_file(file).orientation
        if wanted not in (None, found):
            tqdm.write(
                f"{case}: {file} lies as {found}, but the training images as {wanted}. Prediction from clicks turns "
                "it, nnU-Net's automatic prediction does not. Turn the image to compare both.",
                file=sys.stderr,
            )


def predict_prompted_cases(
    predictor: SAM3DPredictor,
    data: EvaluationData,
    prompts: Mapping[str, Prompt],
    prompt_folder: Path,
    folder: Path,
    per_lesion: bool,
) -> Iterator[CaseReport]:
    """Predict cases one after the other. A case without clicks, since it has no class, becomes background.

    Args:
        predictor: with a loaded model.
        data: holds the images.
        prompts: the clicks on the cases to predict.
        prompt_folder: with the files of these clicks.
        folder: for the predictions.
        per_lesion: as in `SAM3DPredictor.predict_case`.
    """
    writer = CaseWriter(folder, predictor.model)
    writer.prepare()
    clicked = sorted(case for case, prompt in prompts.items() if len(prompt.points))
    clicks = ClickSource(predictor.model.class_names, prompt_folder)
    note = partial(note_cost, folder)
    yield from predict_cases(predictor, [_plan(data, case, clicks) for case in clicked], writer, per_lesion, note)
    for case in sorted(prompts.keys() - set(clicked)):
        yield _nothing(predictor, data, prompts[case], writer)


def _plan(data: EvaluationData, case: str, clicks: ClickSource) -> PlannedCase:
    """Unlike `plan_cases`, which finds images in a folder, this takes images that dataset.json lists, too."""
    try:
        files = data.image_files(case)
    except SAM3DError as e:
        return PlannedCase(case, [], clicks, error=str(e))
    missing = [file for file in files if not file.is_file()]
    return PlannedCase(case, files, clicks, error=f"There is no image file {missing[0]}." if missing else None)


def _nothing(predictor: SAM3DPredictor, data: EvaluationData, prompt: Prompt, writer: CaseWriter) -> CaseReport:
    start = time.perf_counter()
    try:
        image = read_case(data.image_files(prompt.image), predictor.model)
        with writer.writing(prompt.image, predictor.predict_nothing(image, prompt)):
            report = CaseReport(prompt.image, seconds=time.perf_counter() - start)
            note_cost(writer.folder, report)
    except Exception as e:  # go on with the other cases
        return CaseReport(prompt.image, reason(e))
    return report


NO_ERROR = -1
"""Value of the truth where no click may correct."""


class IteratedPrediction:
    """Predicts each case click by click, and draws the next click from the truth.

    The first step uses the drawn clicks: one on each class that is there. Each later step adds a click on the original
    grid, in the largest component of the errors of all classes. A prediction without errors stays as it is. Models
    without background clicks get corrections of missed foreground only.
    """

    def __init__(
        self, model: AnsweringModel, data: EvaluationData, protocol: Protocol, trial: int, folders: Sequence[Path]
    ) -> None:
        """
        Args:
            model: answers the clicks.
            data: holds images and truth.
            protocol: of the clicks.
            trial: seeds the corrections, together with the name of the case and the step.
            folders: for the predictions, one for each step.
        """
        self.model = model
        self.data = data
        self.protocol = protocol
        self.trial = trial
        self.folders = folders

    def predict(self, prompts: Mapping[str, Prompt]) -> Iterator[tuple[Path, CaseReport]]:
        """Predict cases from the first clicks on them. Each report comes when its folder has the case."""
        for folder in self.folders:
            self.model.prepare(folder)
        for case, prompt in prompts.items():
            try:
                with self.model.open(self.data.image_files(case), case) as answers:
                    yield from self._steps(prompt, answers)
            except Exception as e:  # go on with the other cases
                yield self.folders[-1], CaseReport(case, reason(e))

    def _steps(self, prompt: Prompt, answers: CaseAnswers) -> Iterator[tuple[Path, CaseReport]]:
        so_far = answers.from_clicks(prompt)
        yield self.folders[0], answers.write(self.folders[0])
        if len(self.folders) > 1:
            truth, geometry = self._truth(prompt.image)
        for step, folder in enumerate(self.folders[1:], 1):
            corrected = self._corrected(prompt, so_far, truth, geometry, step)
            if corrected is not None:
                prompt, so_far = corrected, answers.from_clicks(corrected)
            yield folder, answers.write(folder)

    def _truth(self, case: str) -> tuple[np.ndarray, ImageGeometry]:
        """(D, H, W) label map with the axes of its file, NO_ERROR where no click may correct; where its voxels are."""
        labels, geometry = self.data.read_truth(case)
        truth = labels.astype(np.int16)
        if self.data.labels.ignore_label is not None:
            truth[truth == self.data.labels.ignore_label] = NO_ERROR
        if not self.model.takes_background:
            truth[truth == 0] = NO_ERROR
        return truth, geometry

    def _corrected(
        self, prompt: Prompt, so_far: np.ndarray, truth: np.ndarray, geometry: ImageGeometry, step: int
    ) -> Prompt | None:
        """The clicks so far and one more; None if there is no error."""
        hand = hand_of(self.protocol, spacing_of(geometry))
        correction = correction_click(so_far, truth, case_generator(prompt.image, self.trial, step), hand)
        if correction is None:
            return None
        voxel, label = correction
        point = geometry.to_world(voxel[None])
        return Prompt(np.concatenate([prompt.points, point]), np.append(prompt.labels, label), prompt.image)
