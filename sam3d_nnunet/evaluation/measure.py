"""Metrics of a folder of predictions, computed in worker processes when there is something new to measure."""

import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.metrics import IGNORE, RULE, case_metrics, targets_of
from sam3d_nnunet.evaluation.results import METRICS, METRICS_JSON
from sam3d_nnunet.geometry.label_maps import LabelMap, read_label_map
from sam3d_nnunet.io import read_json, write_json, write_text

SAME = 1e-3
"""By how much spacing and origin (mm) and directions of prediction and truth may differ."""


@dataclass(frozen=True)
class MeasureReport:
    """Metrics of a folder of predictions.

    Attributes:
        rows: one for each case and target, as in metrics.csv.
        failed: sentences by the names of the cases that failed.
    """

    rows: pd.DataFrame
    failed: dict[str, str]


def measure_folder(
    predictions: str | Path,
    truth: str | Path,
    dataset_json: dict[str, Any],
    tolerances: Sequence[float] = (5.0,),
    cases: Sequence[str] | None = None,
    processes: int | None = None,
) -> MeasureReport:
    """Measure predictions against the truth, and write metrics.csv and metrics.json beside them.

    Targets are the labels of the data set, or its regions if it has any. Voxels with the ignore label do not count.

    Args:
        predictions: folder of label maps CASE on the original grid, with the data set's file ending.
        truth: folder of label maps of the same names.
        dataset_json: nnU-Net's.
        tolerances: of the surface Dice, in mm.
        cases: names. None: all predictions that are there.
        processes: how many cases are measured at the same time. Default: nnUNet_def_n_proc, or 2.

    Raises:
        SAM3DError: there is no prediction, or none could be measured.
    """
    predictions, ending = Path(predictions), dataset_json["file_ending"]
    if cases is None:
        cases = [file.name.removesuffix(ending) for file in predictions.glob(f"*{ending}")]
    if not cases:
        raise SAM3DError(f"{predictions} holds no prediction CASE{ending}.")
    measure = partial(_measure, predictions, Path(truth), dataset_json, tuple(tolerances))
    measured = dict(tqdm(_in_processes(measure, sorted(cases), processes), total=len(cases), desc="Measuring"))
    failed = {case: measured[case] for case in sorted(cases) if isinstance(measured[case], str)}
    done = {case: measured[case] for case in sorted(cases) if case not in failed}
    if not done:
        raise SAM3DError(
            f"None of {len(cases)} case(s) in {predictions} could be measured. " + next(iter(failed.values()))
        )
    rows = pd.DataFrame(
        {"case": case, "target": target, **values}
        for case, of_case in done.items()
        for target, values in of_case.items()
    )
    content = {
        "format": "sam3d_metrics",
        "version": 1,
        "labels": dataset_json["labels"],
        "tolerances_mm": [float(t) for t in tolerances],
        "rule": RULE,
        "failed": failed,
        "cases": {case: {t: _plain(values) for t, values in of_case.items()} for case, of_case in done.items()},
    }
    write_text(predictions / METRICS, rows.to_csv(index=False, lineterminator="\n"))
    write_json(predictions / METRICS_JSON, content, ensure_ascii=False)
    return MeasureReport(rows, failed)


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
    return measure_folder(folder, data.truth, data.dataset_json, tolerances, cases).failed


def print_failed(place: str, failed: Mapping[str, str]) -> list[str]:
    """Print what is wrong with the cases that failed.

    Returns:
        place and name of each.
    """
    for case, sentence in failed.items():
        print(f"{place}: {case} failed. {sentence}", file=sys.stderr)
    return [f"{place}: {case}" for case in failed]


def up_to_date(folder: Path, data: EvaluationData, cases: Sequence[str], tolerances: Sequence[float]) -> bool:
    """Whether predictions, truth, labels, cases and tolerances are those of the last measurement.

    Failed cases are measured again, since their files may have been corrected.
    """
    file = folder / METRICS_JSON
    if not file.is_file() or not (folder / METRICS).is_file():
        return False
    since = file.stat().st_mtime_ns
    predictions = [folder / f"{case}{data.file_ending}" for case in cases]
    truths = [truth for truth in map(data.truth_file, cases) if truth.is_file()]
    try:
        known = read_json(file)
        return (
            set(known["cases"]) == set(cases)
            and list(known["tolerances_mm"]) == list(tolerances)
            and known["labels"] == data.dataset_json["labels"]
            and all(prediction.is_file() for prediction in predictions)
            and all(read.stat().st_mtime_ns < since for read in predictions + truths)
        )
    except (SAM3DError, KeyError, TypeError):  # damaged, or of another version
        return False


def _in_processes(measure: partial, cases: Sequence[str], processes: int | None) -> Iterator[tuple[str, dict | str]]:
    processes = min(processes or int(os.environ.get("nnUNet_def_n_proc", 2)), len(cases))
    if processes <= 1:
        yield from map(measure, cases)
        return
    # a fork would copy threads and a GPU's state
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(measure, case) for case in cases]):
            yield done.result()


def _measure(
    predictions: Path, truth: Path, dataset_json: dict[str, Any], tolerances: Sequence[float], case: str
) -> tuple[str, dict[str, dict[str, float]] | str]:
    """The name of a case, and its metrics by target or a sentence that says what is wrong with it."""
    try:
        return case, _metrics_of(predictions, truth, dataset_json, tolerances, case)
    except SAM3DError as e:
        return case, str(e)
    except Exception as e:  # go on with the other cases
        traceback.print_exception(e, file=sys.stderr)
        return case, f"{case} can't be measured: {type(e).__name__}: {e}"


def _metrics_of(
    predictions: Path, truth: Path, dataset_json: dict[str, Any], tolerances: Sequence[float], case: str
) -> dict[str, dict[str, float]]:
    name = f"{case}{dataset_json['file_ending']}"
    truth_map, prediction = (_read(folder / name, dataset_json) for folder in (truth, predictions))
    _refuse_other_grid(prediction, truth_map)
    targets = targets_of(dataset_json)
    prediction.check_labels(_labels(dataset_json))
    wanted, found, spacing = truth_map.array, prediction.array, truth_map.properties["spacing"]
    counted = wanted != dataset_json["labels"].get(IGNORE, -1)
    return {
        target: case_metrics(np.isin(wanted, labels) & counted, np.isin(found, labels) & counted, spacing, tolerances)
        for target, labels in targets.items()
    }


def _labels(dataset_json: dict[str, Any]) -> set[int]:
    """All label values, background included."""
    return {0, *(k for labels in targets_of(dataset_json).values() for k in labels)}


def _read(file: Path, dataset_json: dict[str, Any]) -> LabelMap:
    example = str(file) if file.is_file() else None
    try:
        reader = determine_reader_writer_from_dataset_json(dataset_json, example_file=example, verbose=False)()
    except Exception as e:  # each library of images has errors of its own
        raise SAM3DError(f"{file} can't be read: {last_line(e)}") from e
    return read_label_map(file, reader).astype(np.int64)


def _refuse_other_grid(prediction: LabelMap, truth: LabelMap) -> None:
    prediction.check_shape(truth.array.shape, f"the truth {truth.file}")
    own, other = _geometry(prediction.properties), _geometry(truth.properties)
    for what in own.keys() & other.keys():
        if not np.allclose(own[what], other[what], rtol=0, atol=SAME):
            raise SAM3DError(
                f"{prediction.file} lies elsewhere than the truth {truth.file}: its {what} is {_short(own[what])} "
                f"instead of {_short(other[what])}. Give predictions on the grid of the original image."
            )


def _geometry(properties: dict[str, Any]) -> dict[str, Any]:
    """What the reader tells about the places of the voxels."""
    told = {"spacing": properties["spacing"], **properties.get("sitk_stuff", {})}
    if "nibabel_stuff" in properties:
        told["affine"] = properties["nibabel_stuff"]["original_affine"]
    return told


def _short(values: Any) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in np.ravel(values)) + ")"


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}
