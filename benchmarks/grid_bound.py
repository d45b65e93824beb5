"""What does a coarser grid cost? Dice of segmentations at some spacing that hold no other error.

Each object (connected component) of each label map is brought to a grid of that spacing and back, by nnU-Net's
resampling, and compared with the label map itself:

    labels         the labels on the grid, as a training shows them
    interpolated   the mask on the grid, interpolated linearly and not rounded, as probabilities are not

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

from sam3d_nnunet.evaluation.metrics import dice

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
    print("spacing  objects   labels (lowest)  interpolated (lowest)")
    for spacing, scores in found.items():
        columns = "  ".join(f"{np.mean(dices):.3f}  ({np.min(dices):.3f})" for dices in zip(*scores))
        print(f"{spacing:4g} mm  {len(scores):7}   {columns}")


def objects(labels: np.ndarray, smallest: int) -> Iterator[np.ndarray]:
    """Masks (d, h, w) of the components of a label map, with a margin of background."""
    numbers = cc3d.connected_components(np.pad(labels > 0, MARGIN), connectivity=26)
    for number, box in enumerate(cc3d.statistics(numbers)["bounding_boxes"][1:], start=1):
        around = tuple(slice(part.start - MARGIN, part.stop + MARGIN) for part in box)
        mask = numbers[around] == number
        if mask.sum() >= smallest:
            yield mask


def bounds(mask: np.ndarray, own: tuple[float, ...], spacing: list[float]) -> list[float]:
    """Dice of the mask with its labels on the grid and with its interpolation there, both brought back."""
    shape, voxels = compute_new_shape(mask.shape, own, spacing), mask[None].astype(np.float32)
    there = [
        resample_data_or_seg_to_shape(voxels, shape, own, spacing, is_seg=is_seg, order=1) for is_seg in (True, False)
    ]
    back = [resample_data_or_seg_to_shape(grid, mask.shape, spacing, own, order=1)[0] for grid in there]
    return [dice(mask, found > 0.5) for found in back]


if __name__ == "__main__":
    main()
