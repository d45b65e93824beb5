"""Predict many images into a folder. Reading and writing run in the background; a bad case stops no other case."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sam3d_nnunet.datasets.case_files import case_file
from sam3d_nnunet.errors import SAM3DError, reason
from sam3d_nnunet.geometry.world import ImageGeometry, read_header
from sam3d_nnunet.io import read_json
from sam3d_nnunet.nnunet.readers import WITHOUT_WORLD
from sam3d_nnunet.prediction.cases import ClickSource, ImageCase, find_cases, read_case
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.predictor import CasePrediction, SAM3DPredictor
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.files import to_json
from sam3d_nnunet.prompts.prompt import Prompt


@dataclass(frozen=True)
class PlannedCase:
    """A case to predict.

    Attributes:
        name: of the case.
        image_files: one for each channel.
        clicks: source of its clicks.
        refine_from: existing segmentation to refine, if any.
        error: a sentence if the case can't be predicted.
    """

    name: str
    image_files: list[Path]
    clicks: ClickSource
    refine_from: Path | None = None
    error: str | None = None

    @property
    def voxel_files(self) -> list[Path]:
        """All files with voxels: the image and the segmentation to refine."""
        return [*self.image_files, *([] if self.refine_from is None else [self.refine_from])]


@dataclass(frozen=True)
class CaseReport:
    """The outcome of a case.

    Attributes:
        name: of the case.
        error: a sentence that says why there is no prediction; None if there is one.
        clicks: number of clicks that were used.
        windows: number of windows that were predicted.
        seconds: for reading, predicting and writing.
        volume_ml: of the foreground.
        outside: number of clicks that lie in no window.
        hit_cap: whether a limit has stopped the growth.
        notes: further remarks for the user.
    """

    name: str
    error: str | None = None
    clicks: int = 0
    windows: int = 0
    seconds: float = 0.0
    volume_ml: float = 0.0
    outside: int = 0
    hit_cap: bool = False
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: failed. {self.error}"
        counts = f"{self.clicks} click(s), {self.windows} window(s), {self.seconds:.1f} s, {self.volume_ml:.3g} ml"
        return "; ".join([f"{self.name}: {counts}", *self.notes])


Note = Callable[[CaseReport], None]
"""Keeps the report of a case. It is called before the files of the case get their names."""


def plan_cases(
    predictor: SAM3DPredictor,
    images: str | Path,
    clicks: ClickSource,
    writer: CaseWriter,
    refine_from: str | Path | None = None,
    overwrite: bool = True,
) -> list[PlannedCase]:
    """Find the cases, and check what can be checked quickly: files, headers of images, clicks.

    A case is refused if its prediction would overwrite its own image, clicks or segmentation to refine.

    Args:
        predictor: with a loaded model.
        images: as `find_cases` takes them.
        clicks: source of the clicks.
        writer: of the predictions.
        refine_from: folder with a segmentation CASE to refine for each case, in any format that nnU-Net's reader opens.
        overwrite: predict finished cases again.

    Raises:
        SAM3DError: there are no images or no prompts. Errors of a single case are kept in its plan.
    """
    if not clicks and refine_from is None:
        raise SAM3DError(
            "There are no clicks. Give prompt files, clicks, or segmentations to refine. To segment whole images "
            "automatically, run nnUNetv2_predict with the same model."
        )
    if refine_from is not None and not Path(refine_from).is_dir():
        raise SAM3DError(f"There is no folder {refine_from} with segmentations to refine.")
    files = find_cases(images, predictor.model)
    clicks.check(list(files))
    return [
        _plan(predictor, name, channels, clicks, writer, refine_from)
        for name, channels in files.items()
        if overwrite or not writer.is_finished(name)
    ]


def predict_cases(
    predictor: SAM3DPredictor,
    cases: Sequence[PlannedCase],
    writer: CaseWriter,
    per_lesion: bool = False,
    note: Note | None = None,
) -> Iterator[CaseReport]:
    """Predict cases one after the other, and yield a report when all files of a case are written.

    Args:
        predictor: with a loaded model.
        cases: to predict; those with an error are reported at once.
        writer: of the predictions.
        per_lesion: as in `SAM3DPredictor.predict_case`.
        note: keeps the report of each case that is predicted.
    """
    yield from (CaseReport(case.name, case.error) for case in cases if case.error is not None)
    writer.prepare()
    # threads suffice: readers and writers release the GIL, and a thread can't be killed alone
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        written = None
        for case, read in _read_ahead(reading, predictor, [case for case in cases if case.error is None]):
            try:
                image, seconds = read.result()
                start = time.perf_counter()
                prompt = case.clicks.prompt(case.name, image.geometry)
                prediction = predictor.predict_read(image, prompt, per_lesion, case.refine_from)
                seconds += time.perf_counter() - start
            except Exception as e:
                yield CaseReport(case.name, reason(e))
                continue
            if written is not None:
                yield written.result()
            written = writing.submit(_write, writer, case.name, prediction, seconds, note)
            del image, prediction  # large: only the writer keeps them, until it has finished
        if written is not None:
            yield written.result()


def predict_from_files(
    predictor: SAM3DPredictor,
    images: str | Path,
    output_folder: str | Path,
    prompts: str | Path | None = None,
    refine_from: str | Path | None = None,
    per_lesion: bool = False,
    instances: bool = False,
    save_probabilities: bool = False,
    overwrite: bool = True,
) -> list[CaseReport]:
    """Predict images into a folder, as nnU-Net's method of this name does, from clicks.

    Args:
        predictor: with a loaded model.
        images: folder with CASE_0000 and so on, or the first channel of one image.
        output_folder: for CASE, with the data set's file ending.
        prompts: folder of prompt files named like the cases, or one file.
        refine_from: folder of segmentations to refine, named like the cases.
        per_lesion: as in `SAM3DPredictor.predict_case`.
        instances, save_probabilities: as in `CaseWriter`; instances need `per_lesion`.
        overwrite: predict finished cases again.

    Returns:
        A report for each case; those with an `error` have no prediction.

    Raises:
        SAM3DError: there are no images, no prompts, or instances without `per_lesion`.
    """
    if instances and not per_lesion:
        raise SAM3DError("An instance map needs a prediction for each lesion: set per_lesion, too.")
    writer = CaseWriter(output_folder, predictor.model, save_probabilities, instances)
    clicks = ClickSource(predictor.model.class_names, None if prompts is None else Path(prompts))
    cases = plan_cases(predictor, images, clicks, writer, refine_from, overwrite)
    return list(predict_cases(predictor, cases, writer, per_lesion))


def _plan(
    predictor: SAM3DPredictor,
    name: str,
    files: list[Path],
    clicks: ClickSource,
    writer: CaseWriter,
    refine_from: str | Path | None,
) -> PlannedCase:
    case = PlannedCase(name, files, clicks)
    try:
        if refine_from is not None:
            previous = case_file(Path(refine_from), name, predictor.model.file_ending)
            case = replace(case, refine_from=previous)
        for file in case.voxel_files:
            if not file.is_file():
                raise SAM3DError(f"There is no file {file}.")
        header, prompt = _header(files[0], predictor.model), None
        if header is not None and clicks:
            prompt = clicks.prompt(name, header[0])
            predictor.check_clicks(prompt, *header, complete=case.refine_from is None)
        click_file = clicks.file(name)
        writer.refuse_to_overwrite(name, case.voxel_files)
        if click_file is not None and not _stays_as_it_is(click_file, case, prompt):
            writer.refuse_to_overwrite(name, [click_file])
    except SAM3DError as e:
        return replace(case, error=str(e))
    return case


def _stays_as_it_is(click_file: Path, case: PlannedCase, prompt: Prompt | None) -> bool:
    """Whether a click file beside the prediction would be replaced by the same clicks."""
    known = prompt is not None and case.refine_from is None
    return known and click_file.suffix == ".json" and read_json(click_file) == json.loads(to_json(prompt))


def _header(file: Path, model: TrainedModel) -> tuple[ImageGeometry, tuple[int, int, int]] | None:
    """Geometry of an image and its (D, H, W), axes as in the file; None for formats whose header does not tell."""
    if issubclass(model.plans.image_reader_writer_class, WITHOUT_WORLD):
        return None
    try:
        header = read_header(file)
    except SAM3DError:
        return None
    return ImageGeometry.from_header(header), header.shape


def _read_ahead(
    reading: ThreadPoolExecutor, predictor: SAM3DPredictor, cases: list[PlannedCase]
) -> Iterator[tuple[PlannedCase, Future]]:
    """Yield each case with its image and the seconds that reading took, while the next case is read."""
    following = [reading.submit(_read, case, predictor.model) for case in cases[:1]]
    for number, case in enumerate(cases):
        current = following.pop()
        following = [reading.submit(_read, case, predictor.model) for case in cases[number + 1 : number + 2]]
        yield case, current


def _read(case: PlannedCase, model: TrainedModel) -> tuple[ImageCase, float]:
    start = time.perf_counter()
    return read_case(case.image_files, model), time.perf_counter() - start


def _write(writer: CaseWriter, name: str, prediction: CasePrediction, seconds: float, note: Note | None) -> CaseReport:
    start = time.perf_counter()
    try:
        with writer.writing(name, prediction) as segmentation:
            report = CaseReport(
                name,
                None,
                len(prediction.prompt.points),
                len(prediction.logits.windows),
                seconds + time.perf_counter() - start,
                float(np.count_nonzero(segmentation)) * prediction.case.voxel_ml,
                prediction.outside,
                prediction.logits.hit_cap is not None,
                tuple(prediction.notes),
            )
            if note is not None:
                note(report)
    except Exception as e:
        return CaseReport(name, reason(e))
    return report
