"""nnU-Net's normalisation of intensities, voxel by voxel, so that any part of an image can be normalised on its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from sam3d_nnunet.errors import SAM3DError

SMALLEST = 1e-8  # nnU-Net's lower limit of what is divided by


@dataclass(frozen=True)
class Intensity:
    """Normalisation of a channel: clipped, minus `zero`, divided by `unit`.

    Attributes:
        zero, unit: float32.
        clip: lowest and highest intensity, if any.
        mask: (d, h, w) bool of the image: only voxels in it are normalised. None: all.
    """

    zero: np.float32
    unit: np.float32
    clip: tuple[float, float] | None = None
    mask: np.ndarray | None = None

    def run(self, voxels: np.ndarray, place: tuple[slice, ...] = (...,)) -> np.ndarray:
        """Normalise a part of the image.

        Args:
            voxels: of any numeric type and shape.
            place: of the voxels in the image.

        Returns:
            array of the same shape, float32.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
            raw = voxels.astype(np.float32)
            done = (raw if self.clip is None else np.clip(raw, *self.clip)) - self.zero
            done /= self.unit
        return done if self.mask is None else np.where(self.mask[place], done, raw)

    def range(self, voxels: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest normalised intensity, over some axes of the image.

        Args:
            voxels: (d, h, w), the whole image.
            axes: over which to look; the result has the other ones.
        """
        if self.mask is not None:
            return self._range_in_mask(voxels, axes)
        return self.run(voxels.min(axes)), self.run(voxels.max(axes))  # normalisation keeps the order of intensities

    def _range_in_mask(self, voxels: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Slice by slice, because a normalised copy of the image would take twice the memory of the image."""
        across = next((axis for axis in range(3) if axis not in axes), 0)
        ends = []
        for number in range(voxels.shape[across]):
            place = (*[slice(None)] * across, number)
            done = self.run(voxels[place], place)
            ends.append((done.min(), done.max()))
        lowest, highest = np.array(ends).T
        return (lowest.min(), highest.max()) if len(axes) == 3 else (lowest, highest)


def intensities_of(
    configuration: ConfigurationManager, properties: dict[str, Any], image: np.ndarray
) -> list[Intensity]:
    """How a plan normalises each channel of an image.

    Args:
        configuration: of the plan; all its schemes are in `NORMALIZATIONS`.
        properties: the plan's intensities of the foreground, for each channel.
        image: (C, d, h, w) after cropping.

    Raises:
        SAM3DError: the image has intensities that the plan's normalisation does not take.
    """
    schemes, masked = configuration.normalization_schemes, configuration.use_mask_for_norm
    uses_mask = [use and scheme == "ZScoreNormalization" for scheme, use in zip(schemes, masked)]
    mask = create_nonzero_mask(image) if any(uses_mask) else None
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite
        return [
            NORMALIZATIONS[scheme](voxels, properties[str(channel)], mask if use else None)
            for channel, (voxels, scheme, use) in enumerate(zip(image, schemes, uses_mask))
        ]


def _ct(voxels: np.ndarray, foreground: dict[str, float], mask: None) -> Intensity:
    clip = foreground["percentile_00_5"], foreground["percentile_99_5"]
    return Intensity(np.float32(foreground["mean"]), np.float32(max(foreground["std"], SMALLEST)), clip)


def _z_score(voxels: np.ndarray, foreground: dict[str, float], mask: np.ndarray | None) -> Intensity:
    count = voxels.size if mask is None else np.count_nonzero(mask)
    mean = sum(slab.sum() for slab in _slabs(voxels, mask)) / count
    variance = sum(np.square(slab - mean).sum() for slab in _slabs(voxels, mask)) / count
    return Intensity(np.float32(mean), np.float32(max(np.sqrt(variance), SMALLEST)), mask=mask)


def _slabs(voxels: np.ndarray, mask: np.ndarray | None) -> Iterator[np.ndarray]:
    """The voxels (of a mask) as float64, a part at a time. Sums in float64 don't depend on how the file lies."""
    longest = int(np.argmax(np.abs(voxels.strides)))  # those of turned images may be negative
    slabs = np.moveaxis(voxels, longest, 0)
    masks = [...] * len(slabs) if mask is None else np.moveaxis(mask, longest, 0)
    for slab, inside in zip(slabs, masks):
        yield slab[inside].astype(np.float64)


def _zero_to_one(voxels: np.ndarray, foreground: dict[str, float], mask: None) -> Intensity:
    lowest, highest = np.float32(voxels.min()), np.float32(voxels.max())
    return Intensity(lowest, max(highest - lowest, np.float32(SMALLEST)))


def _bytes_to_one(voxels: np.ndarray, foreground: dict[str, float], mask: None) -> Intensity:
    if voxels.min() < 0 or voxels.max() > 255:
        raise SAM3DError("The model takes intensities from 0 to 255, but the image has others. Rescale it.")
    return Intensity(np.float32(0), np.float32(255))


def _none(voxels: np.ndarray, foreground: dict[str, float], mask: None) -> Intensity:
    return Intensity(np.float32(0), np.float32(1))


NORMALIZATIONS = {
    "CTNormalization": _ct,
    "ZScoreNormalization": _z_score,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _zero_to_one,
    "RGBTo01Normalization": _bytes_to_one,
}
"""nnU-Net's schemes that can be applied to a part of an image."""
