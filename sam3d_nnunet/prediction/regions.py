"""What is drawn on an image (scribbles, lassos, boxes), as regions and as points."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from sam3d_nnunet.geometry.boxes import Box, as_slices, bounding_box

MAX_POINTS = 5  # that stand for one region where a model takes clicks only
FLAT = 1 / 4  # share of the longest side below which a side doesn't count for the depth in a region


@dataclass(frozen=True)
class Region:
    """Voxels of an image.

    Attributes:
        mask: (d, h, w) bool, not empty.
        start: voxel of the image at which it begins.
    """

    mask: np.ndarray
    start: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """What stands for it, see `spread_points`, in voxels of the image."""
        return spread_points(self.mask) + self.start


def spread_points(mask: np.ndarray) -> np.ndarray:
    """Up to `MAX_POINTS` points well inside a mask and far from each other, always the same.

    The first is the deepest voxel; each further one is that furthest from all before it among those at least half as
    deep. In a mask that was drawn on one or a few slices, depth is that in the slices.

    Args:
        mask: (D, H, W) bool, not empty.

    Returns:
        (n, 3) int voxels.
    """
    box = bounding_box(mask)
    inside = mask[as_slices(box)]
    thick = np.array(inside.shape) > FLAT * max(inside.shape)
    depth = distance_transform_edt(np.pad(inside, [(int(t), int(t)) for t in thick]))
    depth = depth[tuple(slice(1, -1) if t else slice(None) for t in thick)]
    voxels = np.argwhere(depth >= depth.max() / 2)
    chosen = [np.array(np.unravel_index(depth.argmax(), depth.shape))]
    distance = np.full(len(voxels), np.inf)
    while len(chosen) < MAX_POINTS:
        distance = np.minimum(distance, np.linalg.norm(voxels - chosen[-1], axis=1))
        if distance.max() < 2:  # side by side
            break
        chosen.append(voxels[distance.argmax()])
    return np.array(chosen) + [low for low, _ in box]


def box_points(box: Box) -> np.ndarray:
    """The centre of a box, and points halfway to its faces along its two longest axes: (n, 3) float voxels.

    They lie in an ellipsoid that fills the box. Axes shorter than 4 voxels have none but the centre.
    """
    low, high = np.array(box).T
    centre, sides = (low + high - 1) / 2, high - low
    points = [centre]
    for axis in np.argsort(-sides, kind="stable")[:2]:
        if sides[axis] >= 4:
            step = np.eye(3)[axis] * sides[axis] / 4
            points += [centre - step, centre + step]
    return np.array(points)


def fill_contour(mask: np.ndarray) -> np.ndarray:
    """A closed contour with what it encloses, slice by slice across its thinnest side; a filled mask as it is."""
    box = bounding_box(mask)
    across = int(np.argmin([high - low for low, high in box]))
    filled = mask.copy()
    slices = np.moveaxis(filled, across, 0)
    for number in range(*box[across]):
        slices[number] = binary_fill_holes(slices[number])
    return filled
