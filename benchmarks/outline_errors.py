"""Where do masks and labels differ: along outlines, or in whole parts? Means over cases.

    Dice           of all foreground together
    missed, added  voxels, relative to those of the label map
    at outline     share of the wrong voxels that share a face with the true outline
    within 2       share of the wrong voxels at most two voxels from the true outline
    Dice inside    Dice if the voxels that share a face with the true outline don't count

The rows "one voxel more" and "one voxel less" are the label maps themselves, with each outline moved by one voxel.

Example:
    python benchmarks/outline_errors.py Dataset921_SpineMR/labelsTr "RESULTS/METHOD/each_1/fold_*/trial_0"
"""

import argparse
from glob import glob
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_cdt
from tqdm import tqdm

from sam3d_nnunet.evaluation.metrics import dice

COLUMNS = ("Dice", "missed", "added", "at outline", "within 2", "Dice inside")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("    Dice") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("labels", type=Path, help="label maps, one per case")
    parser.add_argument("predictions", nargs="+", help="folders of masks of one method; quote patterns with *")
    arguments = parser.parse_args()
    for pattern in arguments.predictions:
        files = masks_and_labels(pattern, arguments.labels)
        rows: dict[str, list[list[float]]] = {"masks": [], "one voxel more": [], "one voxel less": []}
        for mask, label_map in tqdm(files):
            truth, found = read(label_map), read(mask)
            rows["masks"].append(errors(truth, found))
            for row, labels in zip(("one voxel more", "one voxel less"), moved(truth)):
                rows[row].append(errors(truth, labels))
        print(f"\n{pattern}: {len(files)} cases\n\n| | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
        for row, values in rows.items():
            print(f"| {row} | {' | '.join(f'{value:.3f}' for value in np.nanmean(values, axis=0))} |")


def masks_and_labels(pattern: str, labels: Path) -> list[tuple[Path, Path]]:
    """Each mask in the folders of a pattern, and its label map.

    Raises:
        SystemExit: there are no masks, or one has no label map.
    """
    masks = sorted(map(Path, glob(f"{pattern}/*.nii.gz")), key=lambda mask: mask.name)
    if not masks:
        raise SystemExit(f"Error: there are no masks (*.nii.gz) in {pattern}.")
    missing = [mask.name for mask in masks if not (labels / mask.name).is_file()]
    if missing:
        raise SystemExit(f"Error: {labels} has no label map {missing[0]}.")
    return [(mask, labels / mask.name) for mask in masks]


def read(file: Path) -> np.ndarray:
    """(D, H, W) bool foreground of a label map."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0


def moved(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose outlines lie one voxel further outside, and inside. The border of the image is no outline."""
    return binary_dilation(truth), binary_erosion(truth, border_value=1)


def errors(truth: np.ndarray, found: np.ndarray) -> list[float]:
    """The columns of the table for one case, in their order."""
    # voxels to the nearest one of the other kind, by steps through faces; 1 beside the outline
    steps = np.where(
        truth, distance_transform_cdt(truth, metric="taxicab"), distance_transform_cdt(~truth, metric="taxicab")
    )
    wrong, inside, size = truth != found, steps > 1, truth.sum()
    near = [(wrong & (steps <= n)).sum() / max(1, wrong.sum()) for n in (1, 2)]
    return [
        dice(truth, found),
        (truth & ~found).sum() / size,
        (found & ~truth).sum() / size,
        *near,
        dice(truth & inside, found & inside),
    ]


if __name__ == "__main__":
    main()
