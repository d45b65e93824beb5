"""Do masks follow the object, or the click on it? Slopes over all objects that were predicted from one click each.

A slope tells how far a mask's centre lies off the object's centre for each millimetre that the click lies off it: 0 if
the mask is where the object is, 1 if it is where the click is. The axes L, P and S are those of the patient. A voxel of
a mask belongs to the object nearest to it; objects of which nothing is marked are left out.

Example:
    python benchmarks/click_offsets.py Dataset921_SpineMR/labelsTr "RESULTS/METHOD/each_1/fold_*/trial_0"
"""

import argparse
from pathlib import Path

import cc3d
import numpy as np
import SimpleITK as sitk
from outline_errors import masks_and_labels, read
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from sam3d_nnunet.prompts.files import read_prompt


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("A slope") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("labels", type=Path, help="label maps, one per case")
    parser.add_argument("predictions", nargs="+", help="folders of masks and clicks; quote patterns with *")
    arguments = parser.parse_args()
    rows = []
    for pattern in arguments.predictions:
        files = masks_and_labels(pattern, arguments.labels)
        clicks, masks = np.concatenate([offsets(label_map, mask) for mask, label_map in tqdm(files)], axis=1)
        slopes = [*slope(clicks, masks, axis=0), slope(clicks, masks)]
        rows.append(f"| {pattern} | {len(clicks)} | {' | '.join(f'{value:.2f}' for value in slopes)} |")
    print("\n".join(["| | objects | L | P | S | all |", "| --- |" + 5 * " ---: |", *rows]))


def slope(clicks: np.ndarray, masks: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Of the line through the origin that fits best."""
    return (clicks * masks).sum(axis) / (clicks**2).sum(axis)


def offsets(label_file: Path, mask_file: Path) -> np.ndarray:
    """(2, objects, 3): offsets of clicks, and of masks, from the centres of their objects in LPS millimetres."""
    image = sitk.ReadImage(str(label_file))
    spacing = image.GetSpacing()[::-1]
    objects = cc3d.connected_components(sitk.GetArrayFromImage(image) > 0)
    nearest = distance_transform_edt(objects == 0, spacing, return_distances=False, return_indices=True)
    marked = np.where(read(mask_file), objects[tuple(nearest)], 0)
    found = []
    for click in read_prompt(mask_file.with_name(mask_file.name.replace(".nii.gz", ".json"))).points:
        number = objects[image.TransformPhysicalPointToIndex(click.tolist())[::-1]]
        if number and (marked == number).any():
            middle = centre(image, objects == number)
            found.append([click - middle, centre(image, marked == number) - middle])
    return np.reshape(found, (-1, 2, 3)).swapaxes(0, 1)


def centre(image: sitk.Image, mask: np.ndarray) -> np.ndarray:
    """(3,) mean position of the voxels of a mask, in LPS millimetres."""
    index = np.argwhere(mask).mean(0)[::-1].tolist()
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index))


if __name__ == "__main__":
    main()
