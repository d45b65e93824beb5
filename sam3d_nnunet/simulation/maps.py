"""Drawing previous masks, scribbles and boxes from a label map."""

from collections.abc import Sequence

import numpy as np

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE, VoxelPrompts
from sam3d_nnunet.simulation.draw import Components, has_label

MARGIN = 6  # voxels around an object in which background scribbles lie and masks are distorted


class DrawnMaps:
    """The dense prompts of a patch by kind, see `sam3d_nnunet.prompts.prompt`. Kinds that say nothing take no memory.

    Attributes:
        shape: voxels of the patch along (d, h, w).
        said: (D, H, W) int16 by kind.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.said: dict[int, np.ndarray] = {}

    def __getitem__(self, kind: int) -> np.ndarray:
        """The map of a kind, to draw in; it says nothing at first."""
        if kind not in self.said:
            self.said[kind] = np.full(self.shape, NOTHING, np.int16)
        return self.said[kind]


class MapSimulator:
    """Draws the dense prompts of patches."""

    def __init__(self, classes: list[int], mask_share: float, scribble_share: float, box_share: float) -> None:
        """
        Args:
            classes: label values.
            mask_share, scribble_share, box_share: share of patches with a previous mask, scribbles or boxes.
        """
        self.classes = classes
        self.mask_share = mask_share
        self.scribble_share = scribble_share
        self.box_share = box_share

    def marks(self, segmentation: np.ndarray, rng: np.random.Generator) -> VoxelPrompts:
        """Maps that hold, by chance, scribbles and boxes on random classes among those present.

        Args:
            segmentation: (D, H, W) label map.
            rng: source of randomness.

        Returns:
            `DrawnMaps`, and for each scribble or box a click: a voxel of the component that it marks, with its class.
        """
        maps = DrawnMaps(segmentation.shape)
        marked = []
        for kind, share, draw in ((SCRIBBLE, self.scribble_share, _scribble), (BOX, self.box_share, _box)):
            if rng.random() >= share:
                continue
            for label in _random_labels([c for c in self.classes if (segmentation == c).any()], rng):
                components = Components(segmentation, [label])
                number = components.choose(1, rng)[0]
                draw(maps[kind], components, number, label, rng)
                marked.append(VoxelPrompts(components.voxels_of(number)[:1].astype(np.float32), np.array([label])))
        return VoxelPrompts.concatenate(marked)._replace(maps=maps)

    def add_mask(self, maps: DrawnMaps, target: np.ndarray, rng: np.random.Generator) -> None:
        """By chance, add a previous mask to the maps that is roughly the target."""
        if rng.random() < self.mask_share:
            maps.said[MASK] = distorted(target, self.classes, rng)


def draw_curve(voxels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voxels along a random parabola through three of the given voxels; in half of the cases within one slice.

    Args:
        voxels: (N, 3) int, at least one.
        rng: source of randomness.

    Returns:
        (M, 3) int; they may leave the given voxels and even the image.
    """
    voxels = _maybe_one_slice(voxels, rng)
    start, middle, end = voxels[rng.integers(len(voxels), size=3)]
    steps = 2 * np.abs([middle - start, end - middle]).max(axis=1).sum() + 1
    t = np.linspace(0, 1, steps)[:, None]
    curve = 2 * (t - 0.5) * (t - 1) * start + 4 * t * (1 - t) * middle + 2 * t * (t - 0.5) * end
    return np.rint(curve).astype(int)


def distorted(target: np.ndarray, classes: list[int], rng: np.random.Generator) -> np.ndarray:
    """A mask like that of a first prediction: shifted, grown or shrunk, with a missed or an additional object.

    Args:
        target: (D, H, W) label map.
        classes: label values; other labels become background in the mask.
        rng: source of randomness.

    Returns:
        (D, H, W) int16 label map.
    """
    mask = np.where(has_label(target, classes), target, 0).astype(np.int16, copy=False)
    inside = Box.from_mask(mask > 0)
    if inside is not None:
        if rng.random() < 0.2:
            components = Components(mask, classes)
            missed = components.choose(1, rng)
            mask[components.numbers == missed] = 0
        around = _grown(inside, mask.shape).slices
        if rng.random() < 0.5:
            mask[around] = _shifted(mask[around], rng.integers(-2, 3, size=3))
        if rng.random() < 0.7:
            change = np.maximum if rng.random() < 0.5 else np.minimum
            mask[around] = _filtered(mask[around], change, int(rng.integers(2, 5)))
    if rng.random() < 0.2:
        _add_ball(mask, int(rng.choice(classes)), rng)
    return mask


def _shifted(mask: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """A mask moved by whole voxels; background moves in."""
    moved = np.zeros_like(mask)
    to = tuple(slice(max(n, 0), max(size + min(n, 0), 0)) for n, size in zip(by, mask.shape))
    of = tuple(slice(max(-n, 0), max(size + min(-n, 0), 0)) for n, size in zip(by, mask.shape))
    moved[to] = mask[of]
    return moved


def _filtered(mask: np.ndarray, change: np.ufunc, size: int) -> np.ndarray:
    """Largest or smallest label in a cube of `size` voxels a side around each voxel.

    As SciPy's filters, which take 30 times as long for such small cubes.
    """
    for axis in range(mask.ndim):
        found = mask.swapaxes(0, axis).copy()
        given = found.copy()
        for offset in range(1, size // 2 + 1):  # an even cube reaches one voxel further to lower indices
            change(found[offset:], given[:-offset], out=found[offset:])
        for offset in range(1, (size - 1) // 2 + 1):
            change(found[:-offset], given[offset:], out=found[:-offset])
        mask = found.swapaxes(0, axis)
    return mask


def _add_ball(mask: np.ndarray, label: int, rng: np.random.Generator) -> None:
    radius = rng.uniform(2, 6)
    centre = [rng.integers(n) for n in mask.shape]
    box = tuple(slice(max(0, int(c - radius)), int(c + radius) + 1) for c in centre)
    axes = np.ogrid[tuple(slice(s.start, min(s.stop, n)) for s, n in zip(box, mask.shape))]
    ball = sum((axis - c) ** 2 for axis, c in zip(axes, centre)) <= radius**2
    mask[box][ball & (mask[box] == 0)] = label


def _scribble(scribbles: np.ndarray, components: Components, number: int, label: int, rng: np.random.Generator) -> None:
    """A line within a component, and sometimes one on the background beside it."""
    voxels = components.voxels_of(number)
    _draw(scribbles, draw_curve(voxels, rng), components.numbers == number, label)
    if rng.random() < 0.3:
        beside = _grown(Box(voxels.min(0), voxels.max(0) + 1), scribbles.shape)
        free = np.argwhere(components.segmentation[beside.slices] == 0)
        if len(free):
            curve = draw_curve(free, rng) + beside.start
            _draw(scribbles, curve, components.segmentation == 0, 0)


def _draw(scribbles: np.ndarray, curve: np.ndarray, where: np.ndarray, label: int) -> None:
    """Write a label along the part of a curve that lies in a mask."""
    inside = curve[((curve >= 0) & (curve < where.shape)).all(axis=1)]
    inside = inside[where[tuple(inside.T)]]
    scribbles[tuple(inside.T)] = label


def _box(boxes: np.ndarray, components: Components, number: int, label: int, rng: np.random.Generator) -> None:
    """The filled bounding box of a component or of one slice of it, each face moved by up to a tenth of the side."""
    voxels = _maybe_one_slice(components.voxels_of(number), rng)
    lower, upper = voxels.min(axis=0), voxels.max(axis=0) + 1
    side = upper - lower
    lower = np.rint(lower + side * rng.uniform(-0.1, 0.1, size=3)).astype(int).clip(min=0)
    upper = np.rint(upper + side * rng.uniform(-0.1, 0.1, size=3)).astype(int)
    boxes[tuple(slice(a, max(a + 1, b)) for a, b in zip(lower, upper))] = label


def _maybe_one_slice(voxels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All voxels, or those of a random slice along a random axis, because people mostly draw in slices."""
    if rng.random() < 0.5:
        return voxels
    axis = rng.integers(3)
    return voxels[voxels[:, axis] == rng.choice(voxels)[axis]]


def _random_labels(labels: list[int], rng: np.random.Generator) -> list[int]:
    """About half of the labels, and at least one if there are any."""
    chosen = [c for c in labels if rng.random() < 0.5]
    return chosen if chosen or not labels else [labels[rng.integers(len(labels))]]


def _grown(box: Box, shape: tuple[int, ...]) -> Box:
    """A box with a margin, as far as the image has one."""
    return box.grown(MARGIN).intersection(Box.of_shape(shape))
