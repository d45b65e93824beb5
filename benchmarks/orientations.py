"""`sam3d predict` on held-back cases against the trainer's own validation from the same clicks, also with turned files.

Example: python benchmarks/orientations.py MODEL_FOLDER --data nnUNet_raw/Dataset004_Hippocampus
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

ORIENTATIONS = ("as it lies", "LPS", "RAI", "LAS", "PIR", "ASL")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Dice of sam3d predict and of the trainer's validation_1click on the validation cases of a fold, "
        "from the same clicks. The image files are given as they lie, and turned into other orientations.",
        epilog="Example: python benchmarks/orientations.py MODEL_FOLDER --data nnUNet_raw/Dataset004_Hippocampus",
    )
    parser.add_argument("model", type=Path, help="model folder, trained with a SAM3DAdapterTrainer")
    parser.add_argument("--data", type=Path, required=True, help="the raw data set, with imagesTr and labelsTr")
    parser.add_argument("--fold", default="0", help="default: 0")
    parser.add_argument("--cases", type=int, help="how many cases; default: all")
    arguments = parser.parse_args()
    validation = arguments.model / f"fold_{arguments.fold}" / "validation_1click"
    cases = sorted(file.stem for file in validation.glob("*.json") if file.stem not in ("summary", "dataset", "plans"))
    if not cases:
        parser.error(f"{validation} holds no clicks: let the training end with its validation first")
    cases = cases[: arguments.cases]
    data = json.loads((arguments.data / "dataset.json").read_text())
    labels = [k for name, k in data["labels"].items() if name != "background"]
    truths = [read(arguments.data / "labelsTr" / f"{case}{data['file_ending']}") for case in cases]
    own = [read(validation / f"{case}{data['file_ending']}") for case in cases]
    expected = [dice(*pair, labels) for pair in zip(truths, own)]
    print(f"{len(cases)} cases, fold {arguments.fold}. validation_1click: mean Dice {np.nanmean(expected):.6f}")
    for orientation in ORIENTATIONS:
        with tempfile.TemporaryDirectory() as folder:
            images, output = Path(folder) / "images", Path(folder) / "out"
            images.mkdir()
            for case in tqdm(cases, desc=orientation, leave=False):
                for channel in range(len(data["channel_names"])):
                    name = f"{case}_{channel:04}{data['file_ending']}"
                    write_turned(arguments.data / "imagesTr" / name, images / name, orientation)
            predict(arguments.model, arguments.fold, images, output, validation)
            found = [read(output / f"{case}{data['file_ending']}") for case in cases]
            # back to the voxels of the truth, without interpolation: a turn is an exchange of axes
            found = [
                sitk.Resample(image, truth, interpolator=sitk.sitkNearestNeighbor)
                for image, truth in zip(found, truths)
            ]
        scores = [dice(*pair, labels) for pair in zip(truths, found)]
        print(
            f"{orientation:<11} mean Dice {np.nanmean(scores):.6f}, largest difference of a case and label "
            f"{np.nanmax(np.abs(np.subtract(scores, expected))):.6f}",
            flush=True,
        )


def write_turned(source: Path, target: Path, orientation: str) -> None:
    """The same image in the world with its voxels in another order."""
    if orientation == ORIENTATIONS[0]:
        shutil.copy(source, target)
    else:
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(source)), orientation), str(target))


def predict(model: Path, fold: str, images: Path, output: Path, prompts: Path) -> None:
    program = Path(sys.executable).parent / "sam3d"
    command = [program, "predict", "-i", images, "-o", output, "-m", model, "-f", fold, "--device", "cpu"]
    done = subprocess.run([*map(str, command), "--prompts", str(prompts)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"sam3d predict failed:\n{done.stderr[-3000:]}")


def read(file: Path) -> sitk.Image:
    return sitk.ReadImage(str(file), sitk.sitkUInt8)


def dice(truth: sitk.Image, found: sitk.Image, labels: list[int]) -> list[float]:
    """Dice of each label; NaN where neither has it."""
    a, b = sitk.GetArrayViewFromImage(truth), sitk.GetArrayViewFromImage(found)
    sizes = [(((a == k) & (b == k)).sum(), (a == k).sum() + (b == k).sum()) for k in labels]
    return [2 * both / total if total else np.nan for both, total in sizes]


if __name__ == "__main__":
    main()
