"""Metrics of a folder of predictions, computed in worker processes when there is something new to measure."""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError, reason
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.metrics import IGNORE, RULE, case_metrics, predicted_labels, targets_of, true_labels
from sam3d_nnunet.evaluation.results import METRICS, METRICS_JSON
from sam3d_nnunet.geometry.image_grid import read_grid
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.io import read_json, write_json, write_text
from sam3d_nnunet.nnunet.readers import find_reader
from sam3d_nnunet.processes import worker_pool

VERSION = 2
"""Of metrics.json. The first cut labels off instead of rounding them, and took the size of voxels from the truth."""


@dataclass(frozen=True)
class MeasureReport:
    """Metrics of a folder of predictions.

    Attributes:
        rows: one for each case and target, as in metrics.csv.
        failed: sentences by the names of the cases that failed.
        notes: sentences about the truth of other cases.
    """

    rows: pd.DataFrame
    failed: dict[str, str]
    notes: dict[str, str]


@dataclass(frozen=True)
class CaseFiles:
    """What is measured of a case.

    Attributes:
        case: its name.
        prediction, truth: label maps.
        image: first channel, whose header says where and how large the voxels are. None: that of the truth does.
    """

    case: str
    prediction: Path
    truth: Path
    image: Path | None = None


def measure_folder(
    predictions: str | Path,
    truth: str | Path,
    dataset_json: dict[str, Any],
    tolerances: Sequence[float] = (5.0,),
    cases: Sequence[str] | None = None,
    processes: int | None = None,
    images: Mapping[str, Path] | None = None,
) -> MeasureReport:
    """Measure predictions against the truth, and write metrics.csv and metrics.json beside them.

    Targets are the labels of the data set, or its regions if it has any. Voxels with the ignore label do not count.
    Predictions and truth are compared voxel by voxel, and predictions must lie where the image does.

    Args:
        predictions: folder of label maps CASE on the original grid, with the data set's file ending.
        truth: folder of label maps of the same names.
        dataset_json: nnU-Net's.
        tolerances: of the surface Dice, in mm.
        cases: names. None: all predictions that are there.
        processes: how many cases are measured at the same time. Default: nnUNet_def_n_proc, or 2.
        images: first channel by case. Where there is none, the header of the truth takes its place.

    Raises:
        SAM3DError: there is no prediction, or none could be measured.
    """
    predictions, ending = Path(predictions), dataset_json["file_ending"]
    if cases is None:
        cases = [file.name.removesuffix(ending) for file in predictions.glob(f"[!.]*{ending}")]
    if not cases:
        raise SAM3DError(f"{predictions} holds no prediction CASE{ending}.")
    truth, images = Path(truth), images or {}
    files = [
        CaseFiles(case, predictions / f"{case}{ending}", truth / f"{case}{ending}", images.get(case))
        for case in sorted(cases)
    ]
    report = _measure_files(files, predictions, dataset_json, tolerances, processes, images)
    if report.rows.empty:
        first = next(iter(report.failed.values()))
        raise SAM3DError(f"None of {len(cases)} case(s) in {predictions} could be measured. {first}")
    return report


def _measure_files(
    files: Sequence[CaseFiles],
    predictions: Path,
    dataset_json: dict[str, Any],
    tolerances: Sequence[float],
    processes: int | None,
    images: Mapping[str, Path],
) -> MeasureReport:
    """As `measure_folder`. Where no case could be measured, there are no metrics, also not those of an earlier run."""
    reader = find_reader(dataset_json, [*images.values(), *(of_case.truth for of_case in files)])
    measure = partial(_measure, reader(), dataset_json, tuple(tolerances))
    measured = dict(tqdm(_in_processes(measure, files, processes), total=len(files), desc="Measuring"))
    cases = sorted(measured)
    failed = {case: measured[case] for case in cases if isinstance(measured[case], str)}
    done = {case: measured[case].metrics for case in cases if case not in failed}
    notes = {case: measured[case].note for case in done if measured[case].note}
    if not done:
        for name in (METRICS, METRICS_JSON):
            (predictions / name).unlink(missing_ok=True)
        return MeasureReport(pd.DataFrame(), failed, notes)
    rows = pd.DataFrame(
        {"case": case, "target": target, **values}
        for case, of_case in done.items()
        for target, values in of_case.items()
    )
    content = {
        "format": "sam3d_metrics",
        "version": VERSION,
        "labels": dataset_json["labels"],
        "tolerances_mm": [float(t) for t in tolerances],
        "rule": RULE,
        "failed": failed,
        "cases": {case: {t: _plain(values) for t, values in of_case.items()} for case, of_case in done.items()},
    }
    write_text(predictions / METRICS, rows.to_csv(index=False, lineterminator="\n"))
    write_json(predictions / METRICS_JSON, content, ensure_ascii=False)
    return MeasureReport(rows, failed, notes)


def measure(folder: Path, data: EvaluationData, cases: Sequence[str], tolerances: Sequence[float]) -> dict[str, str]:
    """Write metrics.csv and metrics.json of some cases into their folder, unless they are up to date.

    Args:
        folder: of the predictions.
        data: holds the truth.
        cases: names; cases without a prediction fail.
        tolerances: of the surface Dice, in mm.

    Returns:
        sentences by the names of the cases that failed.
    """
    if up_to_date(folder, data, cases, tolerances):
        return {}
    images, ending = {case: file for case in cases if (file := data.image_file(case))}, data.file_ending
    files = [CaseFiles(case, folder / f"{case}{ending}", data.truth_file(case), images.get(case)) for case in cases]
    report = _measure_files(files, folder, data.dataset_json, tolerances, None, images)
    for case, note in report.notes.items():
        data.note(case, note)
    return report.failed


def print_failed(place: str, failed: Mapping[str, str]) -> list[str]:
    """Print what is wrong with the cases that failed.

    Returns:
        place and name of each.
    """
    for case, sentence in failed.items():
        print(f"{place}: {case} failed. {sentence}", file=sys.stderr)
    return [f"{place}: {case}" for case in failed]


def up_to_date(folder: Path, data: EvaluationData, cases: Sequence[str], tolerances: Sequence[float]) -> bool:
    """Whether predictions, truth, images, labels, cases and tolerances are those of the last measurement, by our rules.

    Failed cases are measured again, since their files may have been corrected.
    """
    file = folder / METRICS_JSON
    if not file.is_file() or not (folder / METRICS).is_file():
        return False
    since = file.stat().st_mtime_ns
    predictions = [folder / f"{case}{data.file_ending}" for case in cases]
    others = [file for case in cases for file in data.files_that_tell(case)]
    try:
        known = read_json(file)
        return (
            known["version"] == VERSION
            and set(known["cases"]) == set(cases)
            and list(known["tolerances_mm"]) == list(tolerances)
            and known["labels"] == data.dataset_json["labels"]
            and all(prediction.is_file() for prediction in predictions)
            and all(_changed(read) < since for read in predictions + others)
        )
    except (SAM3DError, KeyError, TypeError):  # damaged, or of another version
        return False


def _changed(file: Path) -> int:
    """When a file was written, or put in place of another: an unpacked or copied file may keep an older date."""
    known = file.stat()
    return max(known.st_mtime_ns, known.st_ctime_ns)


@dataclass(frozen=True)
class _Measured:
    """Metrics of a case by target, and a sentence about its truth, if any."""

    metrics: dict[str, dict[str, float]]
    note: str | None


def _in_processes(
    measure: partial, files: Sequence[CaseFiles], processes: int | None
) -> Iterator[tuple[str, _Measured | str]]:
    processes = min(processes or int(os.environ.get("nnUNet_def_n_proc", 2)), len(files))
    if processes <= 1:
        yield from map(measure, files)
        return
    try:
        with worker_pool(processes) as pool:
            for done in as_completed([pool.submit(measure, of_case) for of_case in files]):
                yield done.result()
    except BrokenProcessPool as e:
        raise SAM3DError(
            f"One of the {processes} processes that measure {files[0].prediction.parent} was ended from outside, "
            "probably for lack of memory. Set nnUNet_def_n_proc=1, so that one case is measured at a time, and run the "
            "command again."
        ) from e


def _measure(
    reader: BaseReaderWriter, dataset_json: dict[str, Any], tolerances: Sequence[float], files: CaseFiles
) -> tuple[str, _Measured | str]:
    """The name of a case, and what was measured or a sentence that says what is wrong with it."""
    try:
        return files.case, _measured(reader, dataset_json, tolerances, files)
    except Exception as e:  # go on with the other cases
        return files.case, reason(e)


def _measured(
    reader: BaseReaderWriter, dataset_json: dict[str, Any], tolerances: Sequence[float], files: CaseFiles
) -> _Measured:
    truth, prediction = (read_label_map(file, reader) for file in (files.truth, files.prediction))
    image = truth.own_grid() if files.image is None else read_grid(files.image, reader, truth.properties)
    note = truth.place_note(image)
    prediction.check_on(image)
    prediction.check_labels(predicted_labels(dataset_json))
    truth.check_labels(true_labels(dataset_json))
    wanted, found, spacing = truth.array, prediction.array, image.spacing
    counted = wanted != dataset_json["labels"].get(IGNORE)
    metrics = {
        target: case_metrics(np.isin(wanted, labels) & counted, np.isin(found, labels) & counted, spacing, tolerances)
        for target, labels in targets_of(dataset_json).items()
    }
    return _Measured(metrics, note)


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}
