"""Is our Dice that of nnU-Net's summary.json, case by case, on a real validation folder?

Example:
    python benchmarks/summary_dice.py nnUNet_results/Dataset004_Hippocampus/TRAINER__PLANS__3d_fullres/fold_0/validation
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sam3d_nnunet.datasets.raw_dataset import read_dataset_json
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.measure import measure_folder
from sam3d_nnunet.evaluation.metrics import targets_of
from sam3d_nnunet.io import read_json_object

COLUMNS = ["truth_voxels", "prediction_voxels", "dice"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Example") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("validation", type=Path, help="folder of predictions with nnU-Net's summary.json")
    parser.add_argument("--truth", type=Path, help="label maps; default: gt_segmentations in nnUNet_preprocessed")
    arguments = parser.parse_args()
    model_folder = arguments.validation.resolve().parents[1]
    dataset_json = read_dataset_json(model_folder / "dataset.json")
    theirs = read_summary(arguments.validation / "summary.json", dataset_json).set_index(["case", "target"])
    truth = arguments.truth or default_truth(model_folder.parent.name)
    with tempfile.TemporaryDirectory() as folder:  # where measuring may write beside the predictions
        for file in arguments.validation.glob(f"*{dataset_json['file_ending']}"):
            shutil.copy(file, folder)
        ours = measure_folder(folder, truth, dataset_json).rows.set_index(["case", "target"])
    if not ours.index.sort_values().equals(theirs.index.sort_values()):
        sys.exit("Cases or targets of summary.json are not those of the folder.")
    differences = (ours[COLUMNS] - theirs[COLUMNS].reindex(ours.index)).abs()
    print(f"{len(ours)} rows; largest difference in {differences.max().to_dict()}")


def default_truth(dataset: str) -> Path:
    from nnunetv2.paths import nnUNet_preprocessed

    return Path(nnUNet_preprocessed) / dataset / "gt_segmentations"


def read_summary(file: Path, dataset_json: dict[str, Any]) -> pd.DataFrame:
    """Dice of each case and target, undefined where the truth is empty (for which nnU-Net has 0 or NaN).

    Args:
        file: as nnU-Net's validation, nnUNetv2_evaluate_folder and nnUNetv2_evaluate_simple write it.
        dataset_json: of the data set, for the names of the targets.

    Returns:
        columns case, target, truth_voxels, prediction_voxels and dice.

    Raises:
        SAM3DError: the file can't be read, is something else, or has other labels.
    """
    names = {labels: name for name, labels in targets_of(dataset_json).items()}
    cases = read_json_object(file, ["metric_per_case"])["metric_per_case"]
    try:
        rows = [
            _row(Path(case["prediction_file"]).name.removesuffix(dataset_json["file_ending"]), names[_labels(key)], m)
            for case in cases
            for key, m in case["metrics"].items()
        ]
    except (KeyError, TypeError) as e:
        raise SAM3DError(f"{file} is no summary of nnU-Net's for these labels ({type(e).__name__}: {e}).") from e
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


if __name__ == "__main__":
    main()
