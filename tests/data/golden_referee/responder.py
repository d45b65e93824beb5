"""A stand-in for a model under the protocol of the CVPR 2025 interactive challenge, for golden cases.

`truth_and_first` makes a case from a seed, `respond` changes a segmentation by new clicks, as simply as possible.
Whoever implements the protocol drives this stand-in with it and must get the clicks and figures of `cvpr25.json`, which
the challenge's own functions gave.
"""

import numpy as np

RADIUS = 4  # voxels


def ball(shape, centre):
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((g - c) ** 2 for g, c in zip(grids, centre)) <= RADIUS**2


def respond(segmentation, new_clicks):
    """segmentation (z, y, x) uint8; new_clicks: list of (class, "fg" | "bg", (z, y, x)) in the order of classes."""
    out = segmentation.copy()
    for label, kind, voxel in new_clicks:
        near = ball(out.shape, voxel)
        if kind == "fg":
            out[near] = label
        else:
            out[near & (out == label)] = 0
    return out


def truth_and_first(seed):
    """Label map (z, y, x) uint8 of 1 to 3 classes, what a box gave, and the spacing in mm."""
    rng = np.random.RandomState(seed)
    shape = tuple(rng.randint(26, 44, 3))
    truth, first = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for label in range(1, 2 + seed % 3):
        for _ in range(rng.randint(1, 4)):
            centre, radii = [rng.uniform(4, n - 4) for n in shape], rng.uniform(2, 9, 3)
            grids = np.ogrid[tuple(slice(0, n) for n in shape)]
            truth[sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre, radii)) <= 1] = label
            moved = [c + rng.uniform(-3, 3) for c in centre]
            grown = radii * rng.uniform(0.5, 1.4, 3)
            first[sum(((g - c) / r) ** 2 for g, c, r in zip(grids, moved, grown)) <= 1] = label
    return truth, first, tuple(float(s) for s in np.round(rng.uniform(0.5, 3, 3), 2))
