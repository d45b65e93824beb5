"""Clicks as a person places them: scattered in the object, and now and then on the wrong side of its border.

Robots click by a rule. People click less exactly, and models do worse with their clicks than with ideal ones: studies
with annotators of lesions in PET (Marinov et al. 2024, arXiv 2404.01816), with clicks on bones in CT (Magg et al. 2026,
arXiv 2603.10541) and with 475 000 clicks on photographs (Antonov et al. 2024, arXiv 2410.11722) agree on this. The
numbers below are our assumptions, not results of these studies: take differences between clicks of a robot and of a
person as an order of magnitude.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.simulation.draw import distance_to_border, thinning

SCATTER_MM = 2.0
"""Standard deviation of a click around the place that was aimed at, along each axis: two or three voxels of a CT."""
WRONG_SIDE = 0.05
"""Share of the clicks that lie on the wrong side of the border."""
TRIES = 50  # of scattering a click without leaving the object
SIGMAS = 3  # how far behind the border clicks are looked for


def human_clicks(mask: np.ndarray, count: int, rng: np.random.Generator, spacing: Sequence[float]) -> np.ndarray:
    """Clicks on an object. Arguments and result as in `draw_clicks`, of which this is a version.

    A person aims at a voxel of the object, with a probability proportional to its distance from the border in
    millimetres. The click lies there plus a normal deviate of `SCATTER_MM` along each axis, but in the object. A share
    `WRONG_SIDE` of the clicks lies outside instead, with a probability that falls with the distance d from the object
    like exp(-d^2 / 2 `SCATTER_MM`^2). Clicks never leave the array, so that clicks in a slice stay in it.

    Args:
        mask: (D, H, W) bool, the object.
        count: how many; a smaller object gets one for each voxel.
        rng: source of randomness.
        spacing: mm along (d, h, w).

    Returns:
        (n, 3) float32 voxel coordinates (d, h, w) of whole voxels.
    """
    box = Box.from_mask(mask)
    if box is None:
        return np.zeros((0, 3), np.float32)
    box = surroundings(box, mask.shape, spacing)
    step = thinning(mask[box.slices])
    first, scale = _lattice(mask[box.slices], step, rng), step * np.array(spacing)
    part = mask[box.slices][tuple(slice(n, None, step) for n in first)]
    first = first + box.start
    inside, depth = np.argwhere(part), distance_to_border(part, scale)[part]
    wanted = min(count, int(mask.sum()))  # may be more than there are voxels in the thinned part
    aims = rng.choice(len(inside), wanted, replace=wanted > len(inside), p=depth / depth.sum())
    clicks = np.array([_scattered(aim, mask, spacing, rng) for aim in step * inside[aims] + first])
    wrong, outside = rng.random(len(clicks)) < WRONG_SIDE, np.argwhere(~part)
    if wrong.any() and len(outside):
        squares = distance_transform_edt(~part, sampling=scale)[~part] ** 2
        chances = np.exp((squares.min() - squares) / (2 * SCATTER_MM**2))
        chosen = rng.choice(len(outside), wrong.sum(), p=chances / chances.sum())
        clicks[wrong] = step * outside[chosen] + first
    return clicks.astype(np.float32)


def surroundings(box: Box, shape: Sequence[int], spacing: Sequence[float]) -> Box:
    """A box and what a click on the wrong side may hit around it, within an image of this shape."""
    return box.grown(math.ceil(SIGMAS * SCATTER_MM / min(spacing))).intersection(Box.of_shape(shape))


def _lattice(mask: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """The first of every `step`-th voxel along each axis: a random one, so that every voxel can be clicked."""
    first = rng.integers(0, np.minimum(step, mask.shape))
    return first if mask[tuple(slice(n, None, step) for n in first)].any() else np.zeros(3, int)


def _scattered(aim: np.ndarray, mask: np.ndarray, spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A voxel of the object near another one; that one itself if none of the tries stays in the object."""
    places = np.rint(aim + rng.normal(scale=SCATTER_MM / np.array(spacing), size=(TRIES, 3))).astype(int)
    places[:, np.array(mask.shape) == 1] = 0
    places = places[((places >= 0) & (places < mask.shape)).all(axis=1)]
    places = places[mask[tuple(places.T)]]
    return places[0] if len(places) else aim
