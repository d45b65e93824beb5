"""Drawing clicks in masks and label maps: at random, deep inside, and on the errors of a prediction."""

import math
import zlib

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from sam3d_nnunet.prompts.prompt import VoxelPrompts

MOST_VOXELS = 64**3
"""Largest box in which distances are measured at every voxel; in larger ones at every second, third, ..."""


def case_generator(case: str, *seeds: int) -> np.random.Generator:
    """A generator that depends only on the name of a case (and further seeds); the same on every machine."""
    return np.random.default_rng([zlib.crc32(case.encode()), *seeds])


def draw_clicks(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` different voxels of a mask, drawn uniformly.

    Args:
        mask: (D, H, W) bool.
        count: how many; a smaller mask gives all its voxels.
        rng: source of randomness.

    Returns:
        (n, 3) float32 voxel coordinates (d, h, w).
    """
    voxels = np.flatnonzero(mask)
    chosen = rng.choice(voxels, min(count, len(voxels)), replace=False)
    return np.stack(np.unravel_index(chosen, mask.shape), axis=-1).astype(np.float32)


def draw_labelled(segmentation: np.ndarray, mask: np.ndarray, count: int, rng: np.random.Generator) -> VoxelPrompts:
    """Up to `count` clicks anywhere in a mask, each with the label under it."""
    points = draw_clicks(mask, count, rng)
    return VoxelPrompts(points, segmentation[tuple(points.astype(int).T)].astype(np.int64))


def clicks_per_class(
    segmentation: np.ndarray, classes: list[int], count: int, rng: np.random.Generator
) -> VoxelPrompts:
    """`count` clicks on each class that is present in a volume (the paper's protocol).

    Args:
        segmentation: (D, H, W) label map; other labels than classes (background, ignore) are never clicked.
        classes: label values.
        count: clicks per class.
        rng: source of randomness.
    """
    return VoxelPrompts.concatenate(draw_labelled(segmentation, segmentation == c, count, rng) for c in classes)


def pad_clicks(clicks: VoxelPrompts, size: int, rng: np.random.Generator) -> VoxelPrompts:
    """Exactly `size` clicks in random order: fewer are followed by padding (label -1), more are cut to a subset."""
    keep = rng.permutation(len(clicks.labels))[:size]
    points, labels = np.zeros((size, 3), np.float32), np.full(size, -1, np.int64)
    points[: len(keep)], labels[: len(keep)] = clicks.points[keep], clicks.labels[keep]
    return VoxelPrompts(points, labels)


def interior_point(mask: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """The voxel of a mask that is furthest from its boundary, or a random voxel that is roughly as deep.

    Args:
        mask: (D, H, W) bool, not empty; the border of the array is part of the boundary.
        rng: None: always the same voxel, the first of several; else a random one at least half as deep.

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
    """A click on the largest connected error (26 neighbours), with the true label of that place.

    Args:
        prediction: (D, H, W) label map.
        target: (D, H, W) label map; voxels with negative labels are not compared.
        rng: as for `interior_point`.

    Returns:
        Voxel (3,) float32 and label (0 on a false positive), or None if there is no error.
    """
    errors = np.where(prediction != target, target + 1, 0)  # by true label, so that one click can correct all of it
    numbers = cc3d.connected_components(errors, connectivity=26)
    sizes = np.bincount(numbers.ravel())
    if len(sizes) == 1:
        return None
    largest = numbers == sizes[1:].argmax() + 1
    voxel = interior_point(largest, rng)
    return voxel.astype(np.float32), int(target[tuple(voxel)])
