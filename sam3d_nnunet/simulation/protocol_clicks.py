"""The clicks of a protocol, drawn from the true label map of a case."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from sam3d_nnunet.simulation.components import Components
from sam3d_nnunet.simulation.draw import Clicks, case_generator, clicks_per_class, draw_clicks, join
from sam3d_nnunet.simulation.protocols import AUTOMATIC, ITERATED, Protocol

SHARES = ("center", "surrounding", "margin")
TRIES = 1000  # directions in which a place off target is looked for


def trial_generator(case: str, trial: int) -> np.random.Generator:
    """Randomness of a case and trial; that of trial 0 is `case_generator(case)`, as in a training's validation."""
    return case_generator(case, *([trial] if trial else []))


def draw_protocol(
    protocol: Protocol,
    segmentation: np.ndarray,
    classes: list[int],
    spacing: Sequence[float],
    rng: np.random.Generator,
    axial: int = 0,
) -> Clicks:
    """All clicks of a protocol that can be drawn beforehand; for iterated ones the first on each class.

    Classes that are not there get no clicks. Clicks moved off target lie exactly as far off as asked, in a random
    direction, where their nearest voxel is in the image and not of their class, and keep their label. Where 1000
    directions lead to no such place, it is the voxel outside the class whose distance is most like the one asked for.

    Args:
        protocol: which.
        segmentation: (D, H, W) label map; with regions, clicks carry its values all the same.
        classes: label values that are clicked.
        spacing: mm along (d, h, w).
        rng: source of randomness. Protocols that differ in the clicks off target only draw the same clicks first.
        axial: the axis along which slices are taken.
    """
    if protocol.kind == AUTOMATIC:
        return join([])
    count = 1 if protocol.kind == ITERATED else protocol.clicks
    if protocol.kind in ("volume", ITERATED):
        clicks = clicks_per_class(segmentation, classes, count, rng)
    elif protocol.kind == "lesion":
        clicks = _per_lesion(segmentation, classes, count, rng)
    elif protocol.kind == "slice":
        clicks = _per_slice(segmentation, classes, count, rng, axial)
    else:
        clicks = _in_share(segmentation, classes, count, rng, SHARES.index(protocol.kind), spacing)
    if protocol.off_share:
        clicks = _some_off_target(clicks, protocol, segmentation, np.array(spacing, float), rng)
    return clicks


def _per_lesion(segmentation: np.ndarray, classes: list[int], count: int, rng: np.random.Generator) -> Clicks:
    components = Components(segmentation, classes)
    boxes = find_objects(components.numbers.astype(np.int32, copy=False))
    masks = [(box, components.numbers[box] == number) for number, box in enumerate(boxes, 1)]
    return join([_in_box(segmentation, box, mask, count, rng) for box, mask in masks])


def _per_slice(segmentation: np.ndarray, classes: list[int], count: int, rng: np.random.Generator, axis: int) -> Clicks:
    parts = []
    for label in classes:
        mask = segmentation == label
        for number in np.flatnonzero(np.moveaxis(mask, axis, 0).any(axis=(1, 2))):
            box = tuple(slice(number, number + 1) if a == axis else slice(None) for a in range(3))
            parts.append(_in_box(segmentation, box, mask[box], count, rng))
    return join(parts)


def _in_share(
    segmentation: np.ndarray,
    classes: list[int],
    count: int,
    rng: np.random.Generator,
    share: int,
    spacing: Sequence[float],
) -> Clicks:
    parts = []
    for label in classes:
        components = Components(segmentation, [label])
        if not len(components):
            continue
        voxels = components.voxels_of(1 + int(components.sizes[1:].argmax()))
        voxels = thirds_by_depth(voxels, spacing, rng)[share]
        chosen = voxels[rng.permutation(len(voxels))[:count]]
        parts.append((chosen.astype(np.float32), np.full(len(chosen), label, np.int64)))
    return join(parts)


def thirds_by_depth(voxels: np.ndarray, spacing: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Voxels of a lesion in three equal shares by their distance to its boundary: centre, surrounding, margin.

    The border of the image counts as boundary. Of voxels of the same depth, chance decides. A lesion of one or two
    voxels is all of it centre, surrounding and margin.

    Args:
        voxels: (N, 3) int.
        spacing: mm along (d, h, w).
        rng: source of randomness.
    """
    if len(voxels) < len(SHARES):
        return [voxels] * len(SHARES)
    start = voxels.min(0) - 1
    mask = np.zeros(voxels.max(0) - start + 2, bool)
    mask[tuple((voxels - start).T)] = True
    depth = distance_transform_edt(mask, sampling=spacing)[tuple((voxels - start).T)]
    return np.array_split(voxels[np.lexsort((rng.random(len(voxels)), -depth))], len(SHARES))


def _in_box(
    segmentation: np.ndarray, box: tuple[slice, ...], mask: np.ndarray, count: int, rng: np.random.Generator
) -> Clicks:
    """Clicks in a mask that covers a part of the label map."""
    points = draw_clicks(mask, count, rng) + np.array([s.start or 0 for s in box], np.float32)
    return points, segmentation[tuple(points.astype(int).T)].astype(np.int64)


def _some_off_target(
    clicks: Clicks, protocol: Protocol, segmentation: np.ndarray, spacing: np.ndarray, rng: np.random.Generator
) -> Clicks:
    points, labels = clicks
    moved = rng.random(len(labels)) < protocol.off_share
    points = points.copy()
    for i in np.flatnonzero(moved):
        points[i] = _off_target(points[i], segmentation != labels[i], protocol.off_mm, spacing, rng)
    return points, labels


def _off_target(
    point: np.ndarray, outside: np.ndarray, mm: float, spacing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A place so far from a point that is outside its class; the point itself where the class fills the image."""
    directions = rng.normal(size=(TRIES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = (point + directions * mm / spacing).astype(np.float32)
    nearest = np.rint(places).astype(int)
    inside = ((nearest >= 0) & (nearest < outside.shape)).all(axis=1)
    usable = np.flatnonzero(inside)
    usable = usable[outside[tuple(nearest[usable].T)]]
    if len(usable):
        return places[usable[0]]
    if not outside.any():
        return point
    squares = [((np.arange(n, dtype=np.float32) - p) * s) ** 2 for n, p, s in zip(outside.shape, point, spacing)]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    wrong = np.where(outside, np.abs(distance - mm), np.inf)
    nearest = np.flatnonzero(wrong == wrong.min())
    return np.array(np.unravel_index(rng.choice(nearest), wrong.shape))
