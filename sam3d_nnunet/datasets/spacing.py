"""The voxels that images are resampled to."""

from collections.abc import Sequence

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import brief

DEFAULT = 1.0  # mm
COARSE = 2
"""Images get a finer spacing if the default is coarser than their voxels by more than this factor."""
SMALLEST, LARGEST = 0.001, 1000.0
"""Sides of voxels in mm, between which those of all medical images lie."""
MOST = 4096
"""Voxels of a resampled image along an axis. Planning alone would take minutes beyond that."""
FEWEST = 2
"""Voxels along an axis below which nnU-Net takes an image for 2-D, or resamples it to nothing."""


def isotropic_spacing(spacings: Sequence[Sequence[float]]) -> float:
    """Side of cubic voxels, in mm: 1, unless the images are more than twice as fine.

    The cube root of the median voxel's volume decides. If 1 mm is more than twice as coarse, it is the side, so that
    resampled images have as many voxels as the images themselves: 0.493 mm at 3 x 0.2 x 0.2 mm. Thick slices alone,
    such as 6 x 0.35 x 0.35 mm, keep 1 mm.

    Args:
        spacings: mm along (d, h, w) of each image.
    """
    side = float(f"{np.prod(np.median(spacings, axis=0)) ** (1 / 3):.3g}")
    return side if DEFAULT > COARSE * side else DEFAULT


def refuse_target_spacing(target: Sequence[float]) -> None:
    """Refuse a target spacing that no image has.

    Raises:
        SAM3DError: says what it must be.
    """
    if len(target) != 3 or not all(SMALLEST <= side <= LARGEST for side in target):
        raise SAM3DError(
            f"The target spacing {brief(list(target))} must be three numbers of mm from {SMALLEST:g} to {LARGEST:g}."
        )


def refuse_flat_images(
    cases: Sequence[str], shapes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]], target: Sequence[float]
) -> None:
    """Refuse images that become flat, or nothing at all, or huge, when they are resampled.

    Args:
        cases: names, for errors; of the same images, or none.
        shapes: voxels along (d, h, w) of each image.
        spacings: mm along (d, h, w) of each image.
        target: mm along (d, h, w) of the voxels to resample to.

    Raises:
        SAM3DError: an image has no voxel left along an axis, or thousands, or most images have less than two.
    """
    resampled = np.array([compute_new_shape(shape, old, target) for shape, old in zip(shapes, spacings)])

    def sizes(image: int) -> str:
        name = cases[image] if len(cases) == len(shapes) else f"image {image + 1} of the fingerprint"
        return (
            f"{name} has {_times(shapes[image])} voxels of {_mm(spacings[image])} and would have "
            f"{_times(resampled[image])}"
        )

    if (resampled > MOST).any():
        raise SAM3DError(
            f"Voxels of {_mm(target)} are too small: {sizes(int(resampled.max(axis=1).argmax()))}, but {MOST} along an "
            "axis are the most. Choose a coarser target spacing, or correct the spacing in the headers and delete "
            "dataset_fingerprint.json."
        )
    flat = np.median(resampled, axis=0) < FEWEST
    (nothing,) = np.nonzero((resampled < 1).any(axis=1))
    if not flat.any() and not len(nothing):
        return
    example = nothing[0] if len(nothing) else np.argmin(resampled.min(axis=1))
    finer = np.minimum(target, spacings[example])
    raise SAM3DError(
        f"Voxels of {_mm(target)} are too large: {sizes(int(example))}. Choose a finer target spacing, such as "
        f"--spacing {' '.join(f'{s:.3g}' for s in finer)} (for nnU-Net's own command, -overwrite_target_spacing), or "
        "remove the case and delete dataset_fingerprint.json."
    )


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _mm(spacing: Sequence[float]) -> str:
    return f"{_times(spacing)} mm"


def describe_finer(spacings: Sequence[Sequence[float]], side: float) -> str:
    """The sentence that tells users about a spacing other than the default."""
    return (
        f"Voxels of {DEFAULT:g} mm would be more than {COARSE} times as coarse as these images, whose median spacing "
        f"is {_mm(np.median(spacings, axis=0))}. The target spacing is {side:g} mm along every axis instead, the cube "
        "root of that voxel's volume; -overwrite_target_spacing sets another one."
    )
