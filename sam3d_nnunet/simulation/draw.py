"""Drawing clicks in masks and label maps: at random, deep inside, on components, and on the errors of a prediction."""

import math
import zlib
from collections.abc import Callable, Sequence

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

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
    voxels = np.flatnonzero(mask)
    chosen = rng.choice(voxels, min(count, len(voxels)), replace=False)
    return np.stack(np.unravel_index(chosen, mask.shape), axis=-1).astype(np.float32)


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
    box = find_objects(mask.view(np.uint8))[0]
    step = thinning(mask[box])
    distance = distance_transform_edt(np.pad(mask[box][::step, ::step, ::step], 1))[1:-1, 1:-1, 1:-1]
    inner = np.flatnonzero(distance >= distance.max() * (1 if rng is None else 0.5))
    chosen = np.unravel_index(inner[0] if rng is None else rng.choice(inner), distance.shape)
    return np.array([s.start + step * int(i) for s, i in zip(box, chosen)])


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
    components = cc3d.connected_components(mask)
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
    errors = np.where(prediction != target, target + 1, 0)  # by true label, so that one click can correct all of it
    numbers = cc3d.connected_components(errors, connectivity=26)
    sizes = np.bincount(numbers.ravel())
    if len(sizes) == 1:
        return None
    largest = numbers == sizes[1:].argmax() + 1
    voxel = interior_point(largest, rng) if pick is None else pick(largest, 1, rng)[0]
    return voxel.astype(np.float32), int(target[largest][0])


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
        wanted = np.isin(segmentation, classes)
        self.numbers = cc3d.connected_components(wanted if together else segmentation * wanted, connectivity=26)
        self._voxels = np.flatnonzero(self.numbers)
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
