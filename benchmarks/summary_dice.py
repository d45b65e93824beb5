"""Is our Dice that of nnU-Net's summary.json, case by case, on a real validation folder?

Example:
    python benchmarks/summary_dice.py nnUNet_results/Dataset004_Hippocampus/TRAINER__PLANS__3d_fullres/fold_0/validation
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sam3d_nnunet.datasets.raw_dataset import read_dataset_json
from sam3d_nnunet.evaluation.measure import measure_folder
from sam3d_nnunet.evaluation.nnunet_summary import read_summary

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


if __name__ == "__main__":
    main()
