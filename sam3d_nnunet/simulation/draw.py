"""Drawing clicks in masks and label maps: at random, deep inside, on components, and on the errors of a prediction."""

import math
import zlib
from collections.abc import Callable, Sequence

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prompts.prompt import VoxelPrompts

Picker = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""Chooses up to so many places in a mask; arguments and result are those of `draw_clicks`."""
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
    ends = np.cumsum([np.count_nonzero(part) for part in mask])
    chosen = rng.choice(ends[-1], min(count, ends[-1]), replace=False)
    return _voxels_at(mask, chosen, ends).astype(np.float32)


def _voxels_at(mask: np.ndarray, ranks: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The voxels at these places in the row of all voxels of a mask; no list of all voxels is made.

    Args:
        mask: (D, H, W) bool.
        ranks: (n,) int, counted from 0.
        ends: (D,) voxels of the mask up to and with each slice.

    Returns:
        (n, 3) int voxels.
    """
    voxels = np.zeros((len(ranks), 3), np.int64)
    voxels[:, 0] = np.searchsorted(ends, ranks, side="right")
    for d in np.unique(voxels[:, 0]):
        here = voxels[:, 0] == d
        in_slice = np.flatnonzero(mask[d])[ranks[here] - ends[d]]  # counted from the end of the slice
        voxels[here, 1:] = np.stack(np.unravel_index(in_slice, mask.shape[1:]), axis=-1)
    return voxels


def has_label(segmentation: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Where a label map has one of these labels: `np.isin` in a fraction of the time if most are consecutive."""
    found = np.zeros(segmentation.shape, bool)
    values = np.unique(np.asarray(labels, np.int64))
    for run in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1):
        if len(run):
            found |= (segmentation >= int(run[0])) & (segmentation <= int(run[-1]))
    return found


def draw_labelled(segmentation: np.ndarray, mask: np.ndarray, count: int, rng: np.random.Generator) -> VoxelPrompts:
    """Up to `count` clicks anywhere in a mask, each with the label under it."""
    points = draw_clicks(mask, count, rng)
    return VoxelPrompts(points, segmentation[tuple(points.astype(int).T)].astype(np.int64))


def clicks_per_class(
    segmentation: np.ndarray,
    classes: Sequence[int],
    count: int,
    rng: np.random.Generator,
    pick: Picker = draw_clicks,
) -> VoxelPrompts:
    """`count` clicks on each class that is present in a volume (the paper's protocol).

    Args:
        segmentation: (D, H, W) label map; other labels than classes (background, ignore) are never clicked.
        classes: label values.
        count: clicks per class.
        rng: source of randomness.
        pick: chooses the places.
    """
    return VoxelPrompts.concatenate(clicks_on(segmentation == c, c, count, rng, pick) for c in classes)


def clicks_on(
    mask: np.ndarray, label: int, count: int, rng: np.random.Generator, pick: Picker = draw_clicks
) -> VoxelPrompts:
    """Up to `count` clicks on a mask, all with one label, at places that `pick` chooses."""
    points = pick(mask, count, rng)
    return VoxelPrompts(points, np.full(len(points), label, np.int64))


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
    box = Box.from_mask(mask)
    step = thinning(mask[box.slices])
    squares = squared_depth(mask[box.slices][::step, ::step, ::step])
    inner = np.flatnonzero(squares >= squares.max() / (1 if rng is None else 4))
    chosen = np.unravel_index(inner[0] if rng is None else rng.choice(inner), squares.shape)
    return np.array([start + step * int(i) for start, i in zip(box.start, chosen)])


def connected_components(labels: np.ndarray, whole: np.ndarray | None = None) -> np.ndarray:
    """Numbers from 1 for the components (26 neighbours) of equal labels but 0, in the order of their first voxels.

    cc3d goes through memory as it lies, so a part of an array is first laid out as the `whole` array. In flat arrays of
    scattered voxels, cc3d (4.1) expects too few components and fails: always if they are bool, else unless it is told.
    """
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if whole is not None:
        labels = np.asarray(labels, order="F" if whole.flags.fnc else "C")
    return cc3d.connected_components(labels, connectivity=26, max_labels=labels.size + 1)


def squared_depth(mask: np.ndarray) -> np.ndarray:
    """Squared distance of each voxel of a mask from the nearest voxel outside, in voxels; 0 outside.

    What surrounds the array is outside. The least sum of squares is found along one axis after another (Felzenszwalb
    and Huttenlocher 2012, Eq. 2), here by trying all offsets. The numbers are exact. For masks that fit into the cache
    this takes a fifth of the time of SciPy's distance transform.

    Args:
        mask: (D, H, W) bool.

    Returns:
        (D, H, W) int16, or int32 for large masks.
    """
    padded = np.pad(mask, 1)
    most = min(padded.shape) // 2  # nothing lies deeper
    dtype = np.int16 if most <= 128 and max(padded.shape) < 2**15 else np.int32  # holds the sum of two squares
    places = np.arange(len(padded), dtype=dtype)[:, None, None]
    before = np.maximum.accumulate(np.where(padded, places[0], places), axis=0)
    after = np.minimum.accumulate(np.where(padded, places[-1], places)[::-1], axis=0)[::-1]
    squares = np.minimum(np.minimum(places - before, after - places), most) ** 2
    for axis in (1, 2):
        squares = _least_along(squares.swapaxes(0, axis).copy()).swapaxes(0, axis)
    return squares[1:-1, 1:-1, 1:-1]


def _least_along(squares: np.ndarray) -> np.ndarray:
    """The least sum of a square along the first axis and the squared offset to it."""
    found, shifted = squares.copy(), np.empty_like(squares)
    offset = 1
    while offset**2 < found.max():  # a larger offset can't give less
        np.add(squares, offset**2, out=shifted)
        np.minimum(found[offset:], shifted[:-offset], out=found[offset:])
        np.minimum(found[:-offset], shifted[offset:], out=found[:-offset])
        offset += 1
    return found


def thinning(mask: np.ndarray) -> int:
    """At every how many-th voxel distances in a mask (not empty) are measured, so that it doesn't take long."""
    step = math.ceil((mask.size / MOST_VOXELS) ** (1 / 3))
    while not mask[::step, ::step, ::step].any():  # ends at 1
        step -= 1
    return step


def distance_to_border(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """(D, H, W) distance of each voxel of a mask from the nearest place outside.

    The border of the array is part of the boundary, except along an axis with a single voxel.

    Args:
        mask: (D, H, W) bool.
        spacing: along (d, h, w).
    """
    padding = [int(n > 1) for n in mask.shape] if mask.size > 1 else [1, 1, 1]
    distance = distance_transform_edt(np.pad(mask, [(n, n) for n in padding]), sampling=spacing)
    return distance[tuple(slice(p, p + n) for p, n in zip(padding, mask.shape))]


def interior_points(mask: np.ndarray, count: int | None = None) -> np.ndarray:
    """One point inside each connected component (26 neighbours), the largest components first.

    Args:
        mask: (D, H, W) bool.
        count: how many at most; default: all.

    Returns:
        (n, 3) int voxels.
    """
    components = connected_components(mask)
    statistics = cc3d.statistics(components)
    sizes, boxes = statistics["voxel_counts"].astype(np.int64), statistics["bounding_boxes"]
    largest = 1 + np.argsort(-sizes[1:], kind="stable")[:count]
    points = [
        interior_point(components[boxes[c]] == c) + [place.start for place in boxes[c]] for c in largest if sizes[c]
    ]
    return np.array(points, int).reshape(-1, 3)


def correction_click(
    prediction: np.ndarray,
    target: np.ndarray,
    rng: np.random.Generator | None = None,
    pick: Picker | None = None,
) -> tuple[np.ndarray, int] | None:
    """A click on the largest connected error (26 neighbours), with the true label of that place.

    Args:
        prediction: (D, H, W) label map.
        target: (D, H, W) label map; voxels with negative labels are not compared.
        rng: as for `interior_point`.
        pick: chooses the place in the error. None: `interior_point` does.

    Returns:
        Voxel (3,) float32 and label (0 on a false positive), or None if there is no error.
    """
    wrong = (prediction != target) & (target >= 0)
    box = Box.from_mask(wrong)
    if box is None:
        return None
    truth = target[box.slices]
    errors = np.where(wrong[box.slices], truth + 1, 0)  # by true label, so that one click can correct all of it
    numbers = connected_components(errors, wrong)
    largest = numbers == np.bincount(numbers.ravel())[1:].argmax() + 1
    label = int(truth[largest][0])
    if pick is None:
        return (interior_point(largest, rng) + box.start).astype(np.float32), label
    everywhere = np.zeros(target.shape, bool)  # `pick` may leave the error
    everywhere[box.slices] = largest
    return pick(everywhere, 1, rng)[0].astype(np.float32), label


class Components:
    """The connected components (26 neighbours) of each class of a label map, numbered from 1."""

    def __init__(self, segmentation: np.ndarray, classes: list[int], together: bool = False) -> None:
        """
        Args:
            segmentation: (D, H, W) label map. Other labels than classes (background, ignored, outside the image) are
                never changed.
            classes: label values.
            together: for nested regions: touching voxels of different classes form one component, so that the core and
                the rim of a lesion are one lesion.
        """
        self.segmentation = segmentation
        wanted = has_label(segmentation, classes)
        self.numbers = np.zeros(segmentation.shape, np.uint32)
        box = Box.from_mask(wanted)
        if box is not None:
            within = wanted[box.slices] if together else segmentation[box.slices] * wanted[box.slices]
            self.numbers[box.slices] = connected_components(within, wanted)
        self._voxels = np.flatnonzero(wanted)
        self._number_at = self.numbers.ravel()[self._voxels]
        self.sizes = np.bincount(self._number_at, minlength=1)
        group = np.zeros(len(self.sizes), np.int64)
        group[self._number_at] = 1 if together else segmentation.ravel()[self._voxels]
        self._groups = [np.flatnonzero(group == value) for value in np.unique(group[1:])]

    def __len__(self) -> int:
        return len(self.sizes) - 1

    def voxels_of(self, number: int) -> np.ndarray:
        """(N, 3) int voxels of a component."""
        return np.stack(np.unravel_index(self._voxels[self._number_at == number], self.numbers.shape), axis=-1)

    def choose(self, count: int, rng: np.random.Generator, among: np.ndarray | None = None) -> np.ndarray:
        """Numbers of up to `count` components, with probabilities proportional to their diameters.

        Small components are then chosen often enough, and specks rarely.

        Args:
            count: how many.
            rng: source of randomness.
            among: numbers to choose from; default: all.
        """
        numbers = np.arange(1, len(self.sizes)) if among is None else among
        diameters = np.cbrt(self.sizes[numbers])
        return rng.choice(numbers, min(count, len(numbers)), replace=False, p=diameters / diameters.sum())

    def random_subset(self, rng: np.random.Generator) -> np.ndarray:
        """The label map with a random subset of each class's components, mostly one; the others become background."""
        kept = [
            self.choose(1 if rng.random() < 0.7 else int(rng.integers(1, len(numbers) + 1)), rng, numbers)
            for numbers in self._groups
        ]
        return self.only(np.concatenate([np.zeros(0, np.int64), *kept]))

    def holding(self, clicks: VoxelPrompts) -> np.ndarray:
        """The label map with the components that hold a click of their class; the others become background."""
        foreground = clicks.with_clicks(clicks.labels > 0)
        under = tuple(np.rint(foreground.points).astype(int).T)
        return self.only(self.numbers[under][self.segmentation[under] == foreground.labels])

    def only(self, kept: np.ndarray) -> np.ndarray:
        """The label map with the components of these numbers; the others become background."""
        keeps = np.zeros(len(self.sizes), bool)
        keeps[kept] = True
        left = self.segmentation.copy()
        left.ravel()[self._voxels[~keeps[self._number_at]]] = 0
        return left
