"""Metrics of a folder of predictions, computed when there is something new to measure."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sam3d_nnunet.benchmark.dataset import EvaluationData
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.measure import METRICS_JSON, measure_folder
from sam3d_nnunet.evaluation.results import METRICS
from sam3d_nnunet.prompts.text_files import read_json


def measure(folder: Path, data: EvaluationData, cases: Sequence[str], tolerances: Sequence[float]) -> dict[str, str]:
    """Write metrics.csv and metrics.json of some cases into their folder, unless they are there and up to date.

    Args:
        folder: of the predictions.
        data: holds the truth.
        cases: names; those without prediction fail.
        tolerances: of the surface Dice, in mm.

    Returns:
        what is wrong with the cases that could not be measured, in sentences.
    """
    if up_to_date(folder, data, cases, tolerances):
        return {}
    return measure_folder(folder, data.truth, data.dataset_json, tolerances, cases).failed


def print_failed(place: str, failed: Mapping[str, str]) -> list[str]:
    """Say what is wrong with cases.

    Returns:
        place and name of each.
    """
    for case, sentence in failed.items():
        print(f"{place}: {case} failed. {sentence}", file=sys.stderr)
    return [f"{place}: {case}" for case in failed]


def up_to_date(folder: Path, data: EvaluationData, cases: Sequence[str], tolerances: Sequence[float]) -> bool:
    """Whether there is nothing new to measure: predictions, truth, its labels, cases and tolerances are as they were.

    Failed cases are measured again: what was wrong may be mended.
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
    except (SAM3DError, KeyError, TypeError):  # broken, or of another version
        return False
