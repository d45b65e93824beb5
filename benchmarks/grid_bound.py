"""How good can a segmentation get on a coarser grid? An upper bound for networks that are trained at some spacing.

Each object (connected component) of each label map is brought to a grid of that spacing and back, by nnU-Net's
resampling. Two networks without any error are compared with the label map itself:

    labels   predicts the labels on the grid, as a training shows them
    shares   predicts which share of each voxel of the grid the object fills

Example:
    python benchmarks/grid_bound.py ../shared/data/Dataset921_SpineMR --spacing 2 2.5 3
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cc3d
import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape
from tqdm import tqdm

MARGIN = 4
"""Voxels around an object that are resampled with it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Each object") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, help="raw data set with one class")
    parser.add_argument("--spacing", type=float, nargs="+", default=[2.0, 3.0], help="mm, along all axes; 2 3")
    parser.add_argument("--smallest", type=int, default=50, help="voxels of the smallest object that counts; 50")
    arguments = parser.parse_args()
    found = {spacing: [] for spacing in arguments.spacing}
    for file in tqdm(sorted((arguments.dataset / "labelsTr").iterdir())):
        label_map = sitk.ReadImage(str(file))
        own = label_map.GetSpacing()[::-1]
        for mask in objects(sitk.GetArrayFromImage(label_map), arguments.smallest):
            for spacing, scores in found.items():
                scores.append(bounds(mask, own, [spacing] * 3))
    print("spacing  objects  Dice of labels (lowest)  Dice of shares (lowest)")
    for spacing, scores in found.items():
        (labels, shares), (worst_labels, worst_shares) = np.mean(scores, axis=0), np.min(scores, axis=0)
        print(
            f"{spacing:4g} mm  {len(scores):7}  {labels:14.3f}  ({worst_labels:.3f})"
            f"  {shares:14.3f}  ({worst_shares:.3f})"
        )


def objects(labels: np.ndarray, smallest: int) -> Iterator[np.ndarray]:
    """Masks (d, h, w) of the components of a label map, with a margin of background."""
    numbers = cc3d.connected_components(np.pad(labels > 0, MARGIN), connectivity=26)
    for number, box in enumerate(cc3d.statistics(numbers)["bounding_boxes"][1:], start=1):
        around = tuple(slice(part.start - MARGIN, part.stop + MARGIN) for part in box)
        mask = numbers[around] == number
        if mask.sum() >= smallest:
            yield mask


def bounds(mask: np.ndarray, own: tuple[float, ...], spacing: list[float]) -> tuple[float, float]:
    """Dice of the labels and of the shares on the grid, brought back, with the mask."""
    shape = compute_new_shape(mask.shape, own, spacing)
    labels = resample_data_or_seg_to_shape(mask[None].astype(np.float32), shape, own, spacing, is_seg=True, order=1)
    shares = resample_data_or_seg_to_shape(mask[None].astype(np.float32), shape, own, spacing, is_seg=False, order=1)
    return tuple(
        dice(resample_data_or_seg_to_shape(grid.astype(np.float32), mask.shape, spacing, own, order=1)[0] > 0.5, mask)
        for grid in (labels, shares)
    )


def dice(found: np.ndarray, true: np.ndarray) -> float:
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())


if __name__ == "__main__":
    main()
