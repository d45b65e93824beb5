"""How well a mask agrees with the truth: the columns of metrics.csv, and their names in tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from surface_distance import (
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.simulation.draw import connected_components

RULE = (
    "Cases whose truth is empty are left out of the means of Dice, NSD, HD95, volume error and lesion detection; what "
    "is predicted in them is reported as false-positive volume. An empty prediction of a truth that is not empty "
    "counts as Dice 0 and NSD 0; its HD95 and the precision of its lesions are undefined."
)
"""How empty masks count, for the caption of a table."""

IGNORE = "ignore"
"""Name of the label whose voxels count for nothing."""
HD_PERCENT = 95


def targets_of(dataset_json: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Labels of each target that is measured, by its name in dataset.json: one label, or those of a region."""
    named = {name: tuple(int(k) for k in np.atleast_1d(value)) for name, value in dataset_json["labels"].items()}
    return {name: labels for name, labels in named.items() if name != IGNORE and labels != (0,)}


def predicted_labels(dataset_json: dict[str, Any]) -> set[int]:
    """Label values that a prediction can have, background included."""
    return {0, *(k for labels in targets_of(dataset_json).values() for k in labels)}


def true_labels(dataset_json: dict[str, Any]) -> set[int]:
    """Label values that the truth can have: those of predictions, and the ignore label."""
    named = dataset_json["labels"]
    return predicted_labels(dataset_json) | ({named[IGNORE]} if IGNORE in named else set())


def nsd_column(tolerance: float) -> str:
    """Name of the surface Dice at a tolerance in mm."""
    return f"nsd_{tolerance:g}mm"


def case_metrics(
    truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerances: Sequence[float] = (5.0,)
) -> dict[str, float]:
    """Metrics of one case and target; NaN where one is undefined, see `RULE`.

    NSD (normalised surface Dice) and HD95 are those of DeepMind's surface-distance.

    Args:
        truth, prediction: (D, H, W) bool.
        spacing: mm along (d, h, w).
        tolerances: of the surface Dice, in mm.

    Returns:
        values by the names of the columns of metrics.csv, in their order.
    """
    truth, prediction = _crop(truth, prediction)
    voxel_ml = float(np.prod(spacing)) / 1000
    wanted, found = int(truth.sum()), int(prediction.sum())
    volumes = {
        "truth_voxels": wanted,
        "prediction_voxels": found,
        "truth_ml": wanted * voxel_ml,
        "prediction_ml": found * voxel_ml,
    }
    return {
        **volumes,
        "dice": dice(truth, prediction),
        **surface_scores(truth, prediction, spacing, tolerances),
        "volume_error": (found - wanted) / wanted if wanted else np.nan,
        "false_positive_ml": np.nan if wanted else found * voxel_ml,
        **_lesions(truth, prediction),
    }


def _crop(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks in the box that holds them."""
    box = Box.from_mask(truth | prediction) or Box.of_shape([0] * truth.ndim)
    return truth[box.slices], prediction[box.slices]


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of two masks; NaN where the truth is empty."""
    wanted, both = truth.sum(), (truth & prediction).sum()
    return float(2 * both / (wanted + prediction.sum())) if wanted else np.nan


def surface_scores(
    truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerances: Sequence[float]
) -> dict[str, float]:
    """NSD at each tolerance, and HD95; arguments as in `case_metrics`."""
    if not truth.any() or not prediction.any():
        nsd = 0.0 if truth.any() else np.nan
        return {**{nsd_column(t): nsd for t in tolerances}, "hd95_mm": np.nan}
    distances = compute_surface_distances(truth, prediction, spacing)
    return {
        **{nsd_column(t): float(compute_surface_dice_at_tolerance(distances, t)) for t in tolerances},
        "hd95_mm": float(compute_robust_hausdorff(distances, HD_PERCENT)),
    }


def _lesions(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Detection by any overlap; the Dice of a lesion is that with all predicted lesions that overlap it."""
    wanted, found = connected_components(truth), connected_components(prediction)
    number, count = int(wanted.max(initial=0)), int(found.max(initial=0))
    overlap = np.zeros((number + 1, count + 1), np.int64)
    np.add.at(overlap, (wanted[truth | prediction], found[truth | prediction]), 1)
    sizes, predicted_sizes = overlap[1:].sum(1), overlap[:, 1:].sum(0)
    shared = overlap[1:, 1:]
    hit, right = int(shared.any(1).sum()), int(shared.any(0).sum())
    dice = 2 * shared.sum(1) / (sizes + (shared > 0) @ predicted_sizes) if number else np.array([])
    return {
        "lesions_truth": number,
        "lesions_predicted": count,
        "lesions_found": hit,
        "lesions_right": right,
        "lesion_sensitivity": hit / number if number else np.nan,
        "lesion_precision": right / count if number and count else np.nan,
        "lesion_f1": _f1(hit, right, number, count),
        "lesion_dice": float(dice.mean()) if number else np.nan,
    }


def _f1(hit: int, right: int, number: int, count: int) -> float:
    """Harmonic mean of sensitivity and precision; 0 where nothing was predicted, undefined where nothing was there."""
    if not number:
        return np.nan
    if not hit:
        return 0.0
    sensitivity, precision = hit / number, right / count
    return 2 * sensitivity * precision / (sensitivity + precision)


FALSE_POSITIVES = "false_positive_ml"
LESION_SCORES = ("lesion_f1", "lesion_sensitivity", "lesion_precision", "lesion_dice")
OTHER_METRICS = ("hd95_mm", "volume_error")
ALL_CLASSES = "all classes"
"""The target of scores that are means over the classes of a case."""
OBJECT_SCORES = {"object_dice": "Dice of the clicked", "instance_dice": "instance Dice"}
OTHERS_MARKED = "others_marked"
"""The share of each other lesion that a prediction of one lesion covers: the lower the better."""
CHALLENGE_SCORES = {
    "dsc_auc": "DSC_AUC",
    "nsd_auc": "NSD_AUC",
    "dsc_final": "DSC_Final",
    "nsd_final": "NSD_Final",
}
CHALLENGE_VOLUMES = {
    "fpv_auc": "FPV_AUC",
    "fnv_auc": "FNV_AUC",
    "fpv_final": "FPV_Final (ml)",
    "fnv_final": "FNV_Final (ml)",
}
"""Columns of scores.csv that tables show, and their names there. Volumes are wrong ones, and known for empty truth."""
OWN_SCORES = (*OBJECT_SCORES, OTHERS_MARKED, *CHALLENGE_SCORES, *CHALLENGE_VOLUMES)
"""Columns of scores.csv that tables show."""
VOLUMES = (FALSE_POSITIVES, *CHALLENGE_VOLUMES)
"""Metrics that are the lower the better, and that a case with an empty truth has."""
NAMES = {
    "dice": "Dice",
    FALSE_POSITIVES: "false positives (ml)",
    "lesion_f1": "lesion F1",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "lesion_dice": "lesion Dice",
    **OBJECT_SCORES,
    OTHERS_MARKED: "others marked",
    **CHALLENGE_SCORES,
    **CHALLENGE_VOLUMES,
}


def is_score(metric: str) -> bool:
    """Whether a metric is the higher the better."""
    named = (*LESION_SCORES, *OBJECT_SCORES, *CHALLENGE_SCORES)
    return metric == "dice" or metric.startswith("nsd_") or metric in named


def is_tested(metric: str) -> bool:
    """Whether methods are compared by a metric."""
    return is_score(metric) or metric == OTHERS_MARKED


def is_share(metric: str) -> bool:
    """Whether a metric is a share from 0 to 1."""
    return is_tested(metric) and not metric.endswith("_auc")


def metrics_of(table: pd.DataFrame) -> list[str]:
    """Columns of metrics.csv or scores.csv that are averaged."""
    return [c for c in table if is_tested(c) or c in OTHER_METRICS or c in VOLUMES]


def metric_name(metric: str) -> str:
    """As people write it: "nsd_5mm" -> "NSD at 5 mm"."""
    return NAMES.get(metric) or f"NSD at {metric.removeprefix('nsd_').removesuffix('mm')} mm"
