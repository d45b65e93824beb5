"""Points deep inside a mask."""

import math

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

MOST_VOXELS = 64**3
"""Largest box in which distances are measured at every voxel; in larger ones at every second, third, ..."""


def interior_point(mask: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """The voxel of a mask that is furthest from its rim (the first of several), or with `rng` one roughly there.

    Args:
        mask: (D, H, W) bool, not empty; beyond the array there is rim.
        rng: None: always the same voxel; else a random one at least half as far from the rim.

    Returns:
        (3,) int voxel.
    """
    box = find_objects(mask.view(np.uint8))[0]
    step = math.ceil((mask[box].size / MOST_VOXELS) ** (1 / 3))
    while not mask[box][::step, ::step, ::step].any():  # ends at 1
        step -= 1
    distance = distance_transform_edt(np.pad(mask[box][::step, ::step, ::step], 1))[1:-1, 1:-1, 1:-1]
    inner = np.flatnonzero(distance >= distance.max() * (1 if rng is None else 0.5))
    chosen = np.unravel_index(inner[0] if rng is None else rng.choice(inner), distance.shape)
    return np.array([s.start + step * int(i) for s, i in zip(box, chosen)])


def interior_points(mask: np.ndarray, count: int | None = None) -> np.ndarray:
    """One point inside each connected component (26 neighbours), the largest components first.

    Args:
        mask: (D, H, W) bool.
        count: how many at most; default: all.

    Returns:
        (n, 3) int voxels.
    """
    components = cc3d.connected_components(mask)
    statistics = cc3d.statistics(components)
    sizes, boxes = statistics["voxel_counts"].astype(np.int64), statistics["bounding_boxes"]
    largest = 1 + np.argsort(-sizes[1:], kind="stable")[:count]
    points = [
        interior_point(components[boxes[c]] == c) + [place.start for place in boxes[c]] for c in largest if sizes[c]
    ]
    return np.array(points, int).reshape(-1, 3)
