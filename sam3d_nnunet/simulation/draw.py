"""Points and clicks in a mask: random ones, those deep inside, and those that correct a prediction."""

import math
import zlib

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

Clicks = tuple[np.ndarray, np.ndarray]
"""Points (N, 3) float32 in voxels, centres at integers, and labels (N,) int64."""


def case_generator(case: str, *seeds: int) -> np.random.Generator:
    """A generator that depends on a case's name (and further seeds) alone, the same on every machine."""
    return np.random.default_rng([zlib.crc32(case.encode()), *seeds])


def draw_clicks(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` different voxels of a mask, uniformly.

    Args:
        mask: (D, H, W) bool.
        count: how many; all voxels where there are fewer.
        rng: source of randomness.

    Returns:
        (n, 3) float32 voxel coordinates (d, h, w).
    """
    voxels = np.flatnonzero(mask)
    chosen = rng.choice(voxels, min(count, len(voxels)), replace=False)
    return np.stack(np.unravel_index(chosen, mask.shape), axis=-1).astype(np.float32)


def draw_labelled(segmentation: np.ndarray, mask: np.ndarray, count: int, rng: np.random.Generator) -> Clicks:
    """Up to `count` clicks anywhere in a mask, each with the label that lies under it."""
    points = draw_clicks(mask, count, rng)
    return points, segmentation[tuple(points.astype(int).T)].astype(np.int64)


def clicks_per_class(segmentation: np.ndarray, classes: list[int], count: int, rng: np.random.Generator) -> Clicks:
    """`count` clicks on each class that is present in a volume (the paper's protocol).

    Args:
        segmentation: (D, H, W) label map; labels that are no class (background, ignore) are never clicked.
        classes: label values.
        count: clicks per class.
        rng: source of randomness.
    """
    return join([draw_labelled(segmentation, segmentation == c, count, rng) for c in classes])


def join(parts: list[Clicks]) -> Clicks:
    """Several sets of clicks as one."""
    points = [np.zeros((0, 3), np.float32), *(p for p, _ in parts)]
    labels = [np.zeros(0, np.int64), *(lab for _, lab in parts)]
    return np.concatenate(points), np.concatenate(labels)


def pad_clicks(clicks: Clicks, size: int, rng: np.random.Generator) -> Clicks:
    """Exactly `size` clicks: label -1 fills up, a random subset stays where there are more."""
    points, labels = clicks
    keep = rng.permutation(len(labels))[:size]
    padded = np.zeros((size, 3), np.float32), np.full(size, -1, np.int64)
    padded[0][: len(keep)], padded[1][: len(keep)] = points[keep], labels[keep]
    return padded


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


def correction_click(
    prediction: np.ndarray, target: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, int] | None:
    """A click on the largest connected error (26 neighbours), with the label that is true there.

    Args:
        prediction: (D, H, W) label map.
        target: (D, H, W) label map; negative voxels count neither as right nor as wrong.
        rng: None: the innermost voxel, always the same one; else a random one at least half as far from the rim.

    Returns:
        Voxel (3,) float32 and label (0 on a false positive), or None where nothing is wrong.
    """
    errors = np.where(prediction != target, target + 1, 0)  # by what is true there, so that one click can mend it
    numbers = cc3d.connected_components(errors, connectivity=26)
    sizes = np.bincount(numbers.ravel())
    if len(sizes) == 1:
        return None
    largest = numbers == sizes[1:].argmax() + 1
    voxel = interior_point(largest, rng)
    return voxel.astype(np.float32), int(target[tuple(voxel)])
