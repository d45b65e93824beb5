"""The clicks of a protocol, drawn from the true label map of a case."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.autopet_clicks import autopet_clicks
from sam3d_nnunet.simulation.draw import (
    Components,
    Picker,
    case_generator,
    clicks_on,
    clicks_per_class,
    draw_clicks,
)
from sam3d_nnunet.simulation.human import human_clicks, surroundings
from sam3d_nnunet.simulation.protocols import Protocol

THIRDS = 3
TRIES = 1000  # directions in which a place off target is looked for


@dataclass(frozen=True)
class Truth:
    """What clicks are drawn from.

    Attributes:
        segmentation: (D, H, W) label map; with regions, clicks carry its values all the same.
        classes: label values that are clicked.
        spacing: mm along (d, h, w).
        axial: the axis along which slices are taken.
        hand: chooses places in a region as a person does. None: they are chosen as the protocol says.
        uptake: gives the (D, H, W) image in which lesions are bright. Only some protocols look at it.
    """

    segmentation: np.ndarray
    classes: Sequence[int]
    spacing: Sequence[float]
    axial: int = 0
    hand: Picker | None = None
    uptake: Callable[[], np.ndarray] | None = None


def hand_of(protocol: Protocol, spacing: Sequence[float]) -> Picker | None:
    """What places the clicks of a protocol as a person does, if that is asked for; `spacing` is mm along (d, h, w)."""
    return partial(human_clicks, spacing=spacing) if protocol.human else None


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
    uptake: Callable[[], np.ndarray] | None = None,
) -> VoxelPrompts:
    """All clicks of a protocol that can be drawn beforehand; for iterated ones the first on each class.

    For cvpr25, these are the centres of the boxes.

    Absent classes get no clicks. Clicks that are moved off target keep their label and lie exactly as far off as asked,
    in a random direction, where the nearest voxel is inside the image and outside their class. If 1000 directions lead
    to no such place, they go to the voxel outside their class whose distance is closest to the one asked for.

    Args:
        protocol: which.
        segmentation, classes, spacing, axial, uptake: as in `Truth`.
        rng: source of randomness. Protocols that differ only in the clicks off target start from the same clicks.
    """
    truth = Truth(segmentation, classes, spacing, axial, hand_of(protocol, spacing), uptake)
    clicks = DRAWING[protocol.family.name](truth, protocol.clicks, rng)
    if protocol.off_share:
        clicks = _move_off_target(clicks, protocol, segmentation, np.array(spacing, float), rng)
    return clicks


def _no_clicks(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    return VoxelPrompts.none()


def _per_class(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    return clicks_per_class(truth.segmentation, truth.classes, count, rng, truth.hand or draw_clicks)


def _first_per_class(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    """Further clicks depend on predictions; `evaluation.protocol_prediction` draws them."""
    return _per_class(truth, 1, rng)


def _box_centres(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    """The centre of the box around each class."""
    boxes = {label: Box.from_mask(truth.segmentation == label) for label in truth.classes}
    centres = {label: np.add(box.start, box.stop) / 2 - 0.5 for label, box in boxes.items() if box is not None}
    points = np.array(list(centres.values()), np.float32).reshape(-1, 3)
    return VoxelPrompts(points, np.array(list(centres), np.int64))


def _lesions_and_look_alikes(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    """Those of all rounds."""
    (label,) = truth.classes
    return autopet_clicks(truth.segmentation, truth.uptake(), label, count, truth.spacing, rng, truth.hand)


def _per_lesion(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    components = Components(truth.segmentation, truth.classes)
    parts = []
    for number, slices in enumerate(find_objects(components.numbers.astype(np.int32, copy=False)), 1):
        box = Box([s.start for s in slices], [s.stop for s in slices])
        box = surroundings(box, truth.segmentation.shape, truth.spacing)
        lesion = components.numbers[box.slices] == number
        label = int(truth.segmentation[box.slices][lesion][0])
        parts.append(_in_box(truth, box, lesion, label, count, rng))
    return VoxelPrompts.concatenate(parts)


def _per_slice(truth: Truth, count: int, rng: np.random.Generator) -> VoxelPrompts:
    parts = []
    for label in truth.classes:
        mask = truth.segmentation == label
        for number in np.flatnonzero(np.moveaxis(mask, truth.axial, 0).any(axis=(1, 2))):
            start = [number if axis == truth.axial else 0 for axis in range(3)]
            shape = [1 if axis == truth.axial else n for axis, n in enumerate(mask.shape)]
            box = Box.of_shape(shape, start)
            parts.append(_in_box(truth, box, mask[box.slices], label, count, rng))
    return VoxelPrompts.concatenate(parts)


def _in_third(truth: Truth, count: int, rng: np.random.Generator, third: int) -> VoxelPrompts:
    """In one of `thirds_by_depth` of the largest lesion of each class."""
    parts = []
    for label in truth.classes:
        components = Components(truth.segmentation, [label])
        if not len(components):
            continue
        voxels = components.voxels_of(1 + int(components.sizes[1:].argmax()))
        voxels = thirds_by_depth(voxels, truth.spacing, rng)[third]
        chosen = voxels[rng.permutation(len(voxels))[:count]]
        parts.append(VoxelPrompts(chosen.astype(np.float32), np.full(len(chosen), label, np.int64)))
    return VoxelPrompts.concatenate(parts)


def thirds_by_depth(voxels: np.ndarray, spacing: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Voxels of a lesion in three equal parts by their distance to its boundary: centre, surrounding, margin.

    The border of the image counts as boundary. Voxels of the same depth are ordered at random. In a lesion of one or
    two voxels, every voxel belongs to all three parts.

    Args:
        voxels: (N, 3) int.
        spacing: mm along (d, h, w).
        rng: source of randomness.
    """
    if len(voxels) < THIRDS:
        return [voxels] * THIRDS
    start = voxels.min(0) - 1
    mask = np.zeros(voxels.max(0) - start + 2, bool)
    mask[tuple((voxels - start).T)] = True
    depth = distance_transform_edt(mask, sampling=spacing)[tuple((voxels - start).T)]
    return np.array_split(voxels[np.lexsort((rng.random(len(voxels)), -depth))], THIRDS)


def _in_box(truth: Truth, box: Box, mask: np.ndarray, label: int, count: int, rng: np.random.Generator) -> VoxelPrompts:
    """Clicks in a mask that covers a box of the label map."""
    clicks = clicks_on(mask, label, count, rng, truth.hand or draw_clicks)
    return clicks._replace(points=clicks.points + np.array(box.start, np.float32))


DRAWING: dict[str, Callable[[Truth, int, np.random.Generator], VoxelPrompts]] = {
    "automatic": _no_clicks,
    "volume": _per_class,
    "lesion": _per_lesion,
    "each": _per_lesion,
    "slice": _per_slice,
    "center": partial(_in_third, third=0),
    "surrounding": partial(_in_third, third=1),
    "margin": partial(_in_third, third=2),
    "iterated": _first_per_class,
    "cvpr25": _box_centres,
    "autopet": _lesions_and_look_alikes,
}
"""For each of `protocols.FAMILIES`, what draws its clicks, given their number."""


def _move_off_target(
    clicks: VoxelPrompts, protocol: Protocol, segmentation: np.ndarray, spacing: np.ndarray, rng: np.random.Generator
) -> VoxelPrompts:
    moved = rng.random(len(clicks.labels)) < protocol.off_share
    points = clicks.points.copy()
    for i in np.flatnonzero(moved):
        points[i] = _off_target(points[i], segmentation != clicks.labels[i], protocol.off_mm, spacing, rng)
    return clicks._replace(points=points)


def _off_target(
    point: np.ndarray, outside: np.ndarray, mm: float, spacing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A place outside the class of a click and `mm` away from it; the click itself if its class fills the image."""
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
