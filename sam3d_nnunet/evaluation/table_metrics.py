"""Columns of metrics.csv that tables and plots show: what kind they are, and what people call them."""

import pandas as pd

FALSE_POSITIVES = "false_positive_ml"
LESION_SCORES = ("lesion_f1", "lesion_sensitivity", "lesion_precision", "lesion_dice")
OTHER_METRICS = ("hd95_mm", "volume_error")
NAMES = {
    "dice": "Dice",
    FALSE_POSITIVES: "false positives (ml)",
    "lesion_f1": "lesion F1",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "lesion_dice": "lesion Dice",
}


def is_score(metric: str) -> bool:
    """Whether a column of metrics.csv holds a share, the higher the better."""
    return metric == "dice" or metric.startswith("nsd_") or metric in LESION_SCORES


def metrics_of(table: pd.DataFrame) -> list[str]:
    """Columns that are averaged."""
    return [c for c in table if is_score(c) or c in OTHER_METRICS or c == FALSE_POSITIVES]


def metric_name(metric: str) -> str:
    """As people write it: "nsd_5mm" -> "NSD at 5 mm"."""
    return NAMES.get(metric) or f"NSD at {metric.removeprefix('nsd_').removesuffix('mm')} mm"
