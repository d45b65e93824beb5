"""Drawing clicks from a label map."""

import zlib

import numpy as np

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
