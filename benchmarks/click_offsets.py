"""Do masks follow the object, or the click on it? Slopes over all objects that were predicted from one click each.

A slope tells how far a mask's centre lies off the object's centre for each millimetre that the click lies off it: 0
if the mask is where the object is, 1 if it is where the click is. The axes L, P and S are those of the patient.
Brackets hold 95 % bootstrap intervals over cases. The files hold all masks of a case together, so a voxel belongs to
the object nearest to it, whichever click marked it; objects of which nothing is marked are left out.

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
from scipy.stats import bootstrap
from tqdm import tqdm

from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.report.statistics import RESAMPLES


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
        cases = [offsets(label_map, mask) for mask, label_map in tqdm(files)]
        slopes = [slope(cases, axis) for axis in (0, 1, 2, slice(None))]
        count = sum(case.shape[1] for case in cases)
        rows.append(f"| {pattern} | {count} | {' | '.join(slopes)} |")
    print("\n".join(["| | objects | L | P | S | all |", "| --- |" + 5 * " ---: |", *rows]))


def slope(cases: list[np.ndarray], axis: int | slice) -> str:
    """Of the line through the origin that fits the offsets along these axes best, and its interval."""
    products = [(clicks[:, axis] * masks[:, axis]).sum() for clicks, masks in cases]
    squares = [(clicks[:, axis] ** 2).sum() for clicks, _ in cases]
    found = f"{np.sum(products) / np.sum(squares):.2f}"
    if len(cases) < 2:
        return found
    drawn = bootstrap(
        (products, squares),
        lambda products, squares, axis: products.sum(axis) / squares.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    low, high = drawn.confidence_interval
    return f"{found} [{low:.2f}, {high:.2f}]"


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
