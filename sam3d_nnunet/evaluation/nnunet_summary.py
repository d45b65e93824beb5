"""nnU-Net's summary.json, case by case."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.measure import targets_of


def read_summary(file: str | Path, dataset_json: dict[str, Any]) -> pd.DataFrame:
    """Dice of each case and target, undefined where the truth is empty (for which nnU-Net has 0 or NaN).

    Args:
        file: as nnU-Net's validation, nnUNetv2_evaluate_folder and nnUNetv2_evaluate_simple write it.
        dataset_json: of the data set, for the names of the targets.

    Returns:
        columns case, target, truth_voxels, prediction_voxels and dice.

    Raises:
        SAM3DError: the file can't be read, is something else, or has other labels.
    """
    file = Path(file)
    names = {labels: name for name, labels in targets_of(dataset_json).items()}
    try:
        cases = json.loads(file.read_text(encoding="utf-8"))["metric_per_case"]
        rows = [
            _row(Path(case["prediction_file"]).name.removesuffix(dataset_json["file_ending"]), names[_labels(key)], m)
            for case in cases
            for key, m in case["metrics"].items()
        ]
    except KeyError as e:
        raise SAM3DError(f"{file} is no summary of nnU-Net's for these labels: {e} is missing there.") from e
    except (OSError, ValueError, TypeError) as e:
        raise SAM3DError(f"The summary {file} can't be read: {e}.") from e
    return pd.DataFrame(rows).sort_values("case", kind="stable", ignore_index=True)


def _row(case: str, target: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "case": case,
        "target": target,
        "truth_voxels": int(metrics["n_ref"]),
        "prediction_voxels": int(metrics["n_pred"]),
        "dice": metrics["Dice"] if metrics["n_ref"] else np.nan,
    }


def _labels(key: str) -> tuple[int, ...]:
    """ "1" or, for a region, "(1, 2)"."""
    return tuple(int(part) for part in key.strip("()").split(",") if part.strip())
