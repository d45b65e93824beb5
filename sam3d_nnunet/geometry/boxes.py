"""Boxes of voxels."""

import numpy as np

Box = list[list[int]]
"""[[low, high], ...] for each axis of the image, `high` not included."""


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box that holds all of a mask, None for an empty one."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if len(filled) == 0:
            return None
        box.append([int(filled[0]), int(filled[-1]) + 1])
    return box


def cut(box: Box, other: Box) -> Box:
    """What two boxes have in common; an axis may be left with nothing."""
    return [[max(a, c), min(b, d)] for (a, b), (c, d) in zip(box, other)]


def as_slices(box: Box) -> tuple[slice, ...]:
    """A box as an index of arrays."""
    return tuple(slice(low, high) for low, high in box)
