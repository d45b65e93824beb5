"""Logits of whole objects: windows around the prompts, and further ones as long as an object continues (growth).

The logits of all windows are blended in one box of the preprocessed grid. `BoxLogits` resamples them to the original
image. `predict_per_lesion` unites predictions from single clicks into one segmentation and an instance map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import LinearWeights, PreprocessedGrid
from sam3d_nnunet.prediction.windows import FOLLOW, Window, WindowPredictor, WindowRule, in_any, window_seeing
from sam3d_nnunet.prompts.prompt import BOX, SCRIBBLE, VoxelPrompts
from sam3d_nnunet.simulation.draw import Components, interior_points

MAX_WINDOWS = 32
CELLS = 16  # along a side of a window; one voxel represents all in its cell
SEEDS = 3  # clicks on each class that a further window gets from the mask so far
NEAR = 3  # voxels along each axis between a click and the object that it holds
BACKGROUND_LOGIT = -20.0  # of foreground where no window has been: probability 2e-9
NO_LESION = 0
MAX_LESIONS = 255  # one of nnU-Net's writers stores instance maps as bytes
SLAB = 16  # slices of the original image that are resampled at a time


@dataclass
class BoxLogits:
    """Logits in a box of the preprocessed grid; everything outside is background.

    Attributes:
        logits: (K, d, h, w) float32 on the CPU.
        start: first voxel of the box along (d, h, w).
        shape: voxels of the whole grid.
        regions: whether the logits are those of overlapping regions, without a logit for the background.
        windows: all windows that were predicted.
        hit_cap: the limit that stopped the growth, if any.
    """

    logits: Tensor
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    regions: bool
    windows: list[Window] = field(default_factory=list)
    hit_cap: str | None = None

    @property
    def box(self) -> Box:
        """The part of the grid that the logits cover."""
        return Box.of_shape(self.logits.shape[1:], self.start)

    def on_grid(self) -> Tensor:
        """(K, *shape): logits of the whole grid."""
        logits = self.logits.new_zeros((len(self.logits), *self.shape))
        logits[0 if self.regions else 1 :] = BACKGROUND_LOGIT
        logits[(slice(None), *self.box.slices)] = self.logits
        return logits

    def segmentation(self, grid: PreprocessedGrid, image_shape: tuple[int, ...], labels: LabelManager) -> np.ndarray:
        """Label map of the original image, its axes as nnU-Net's reader has them.

        Args:
            grid: of the logits.
            image_shape: voxels of the original image along (d, h, w).
            labels: of the model.
        """
        dtype = np.uint8 if max(labels.foreground_labels) < 256 else np.uint16
        segmentation = np.zeros([image_shape[axis] for axis in grid.transpose], dtype)
        for place, logits in self._slabs(grid):
            segmentation[place] = labels.convert_logits_to_segmentation(logits)
        return segmentation.transpose(grid.transpose_back)

    def write_probabilities(self, grid: PreprocessedGrid, labels: LabelManager, probabilities: np.ndarray) -> None:
        """Fill (K, D, H, W) of the original image: 1 for the background (0 for all regions) outside the box.

        Args:
            grid: of the logits.
            labels: of the model.
            probabilities: filled slab by slab; may be a memory-mapped file.
        """
        probabilities[:] = 0
        if not self.regions:
            probabilities[0] = 1
        turned = probabilities.transpose(0, *(1 + axis for axis in grid.transpose))
        for place, logits in self._slabs(grid):
            turned[(slice(None), *place)] = labels.apply_inference_nonlin(logits)

    def _slabs(self, grid: PreprocessedGrid) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """Logits (K, ...) resampled to the image slab by slab, with the place of each slab along the axes of the grid.

        The mapping of the whole grid tells where voxels of the image are. Resizing the box on its own would be off by
        up to a voxel.
        """
        axes = list(zip(grid.axes, self.box.as_lists()))
        along_d, along_h, along_w = (axis.linear_weights(*ends) for axis, ends in axes)
        d, h, w = (slice(*axis.voxels_in(*ends)) for axis, ends in axes)
        for first in range(0, d.stop - d.start, SLAB):
            slab = _interpolate(self.logits, 1, along_d, slice(first, first + SLAB))
            slab = _interpolate(_interpolate(slab, 2, along_h), 3, along_w)
            yield (slice(d.start + first, d.start + first + slab.shape[1]), h, w), slab


def _interpolate(x: Tensor, axis: int, weights: LinearWeights, part: slice = slice(None)) -> Tensor:
    """`x` with one axis resampled to the positions of the weights, or to a part of them."""
    below, above = (x.index_select(axis, torch.from_numpy(index[part])) for index in (weights.below, weights.above))
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    return torch.lerp(below, above, torch.from_numpy(weights.fraction[part]).view(shape))


def compose(initial: np.ndarray, found: np.ndarray, box: Box, parts: Sequence[Box]) -> np.ndarray:
    """`found` in some parts of a box, `initial` elsewhere; both are label maps that cover the box."""
    labels = initial.astype(found.dtype)
    for part in parts:
        place = part.within(box).slices
        labels[place] = found[place]
    return labels


def predict_prompted(
    predictor: WindowPredictor,
    prompts: VoxelPrompts,
    windows: list[Window] | None = None,
    familiar: Sequence[Window] = (),
    max_windows: int = MAX_WINDOWS,
    max_voxels: int | None = None,
    rule: WindowRule = FOLLOW,
) -> BoxLogits:
    """Logits in windows around the clicks, and in further windows if the rule follows the mask.

    A further window gets the prompts and, as clicks, interior points of the mask that has been found in it so far. All
    windows are blended with nnU-Net's Gaussian weights.

    Where clicks select objects, growth follows only the objects that hold one. Otherwise a few voxels of a look-alike,
    marked by mistake, would get clicks of their own, and the look-alike would be marked as a whole.

    Args:
        predictor: networks and image.
        prompts: of the preprocessed image.
        windows: always predicted; only clicks outside all of them get windows of their own.
        familiar: windows that growth prefers, because they may have been encoded before.
        max_windows: growth stops at this number; windows of clicks are always predicted.
        max_voxels: growth stops when the mask has so many voxels.
        rule: places the windows of clicks, and says whether there is growth.
    """
    windows = list(windows or [])
    windows += rule.around(prompts.points[~in_any(windows, prompts.points)], predictor.shape, predictor.patch_size)
    canvas, hit_cap = _Canvas(predictor, prompts), None
    for window in windows:
        canvas.add(window, predictor.predict(window, prompts))
    for window in _further(windows, canvas, familiar) if rule.follows else ():
        if max_voxels is not None and canvas.mask_voxels() >= max_voxels:
            hit_cap = f"{max_voxels} voxels of the mask"
            break
        if len(windows) >= max_windows:
            hit_cap = f"{max_windows} windows"
            break
        with_seeds = VoxelPrompts.concatenate([prompts, canvas.seeds(window)])
        canvas.add(window, predictor.predict(window, with_seeds))
        windows.append(window)
    regions = predictor.region_order is not None
    return BoxLogits(canvas.logits(), canvas.box.start, predictor.shape, regions, windows, hit_cap)


def _further(windows: list[Window], canvas: "_Canvas", familiar: Sequence[Window]) -> Iterator[Window]:
    """Windows to predict next, one after another, until every place where the mask touches a face has been seen.

    Each is placed across one face. A window around voxels of opposite faces would be the window that they belong to.

    Args:
        windows: predicted so far. The caller appends each further window before it asks for the next one.
        canvas: their logits.
        familiar: windows to prefer.
    """
    shape, patch_size = canvas.predictor.shape, canvas.predictor.patch_size
    gone_through = 0
    while gone_through < len(windows):  # again, because the mask may touch more of a face by now
        gone_through = len(windows)
        for window in windows:
            for touched in sorted(canvas.touched(window), key=len, reverse=True):
                while len(border := _unseen(canvas.still_going_on(touched), windows, shape)):
                    known = (w for w in familiar if w.sees(border, shape).any())
                    yield next(known, None) or window_seeing(_thinned(border, patch_size), shape, patch_size)


def _unseen(voxels: np.ndarray, windows: list[Window], shape: tuple[int, ...]) -> np.ndarray:
    """Those of (N, 3) voxels that no window sees."""
    return voxels[~np.any([window.sees(voxels, shape) for window in windows], axis=0)]


def _thinned(voxels: np.ndarray, patch_size: tuple[int, ...]) -> np.ndarray:
    """One of (N, 3) voxels in each cell: a face may have thousands, and neighbours need the same window."""
    cells = voxels // np.maximum(1, np.array(patch_size) // CELLS)
    _, first = np.unique(cells, axis=0, return_index=True)
    return voxels[np.sort(first)]


class _Canvas:
    """Weighted sum of the logits of all windows so far, in a box that contains them."""

    def __init__(self, predictor: WindowPredictor, prompts: VoxelPrompts) -> None:
        self.predictor = predictor
        self.prompts = prompts
        self.gaussian = compute_gaussian(predictor.patch_size, 1 / 8, 10, torch.float32, torch.device("cpu"))
        self.box = Box.of_shape((0, 0, 0))
        self.total = torch.zeros((predictor.num_logits, 0, 0, 0))
        self.weights = torch.zeros((0, 0, 0))
        self._selected: np.ndarray | None = None

    def add(self, window: Window, logits: Tensor) -> None:
        """Add the logits (K, *window.size) of a window."""
        here = window.in_image(self.predictor.shape)
        self._extend(here)
        place, there = here.within(self.box).slices, here.within(window.box).slices
        self.total[(slice(None), *place)] += logits[(slice(None), *there)] * self.gaussian[there]
        self.weights[place] += self.gaussian[there]
        self._selected = None

    def logits(self, part: Box | None = None) -> Tensor:
        """(K, d, h, w) of the whole box, or of a part of it; background outside the windows."""
        place = (part or self.box).within(self.box).slices
        weights = self.weights[place]
        logits = self.total[(slice(None), *place)] / weights.clamp(min=1e-12)
        logits[0 if self.predictor.region_order is not None else 1 :, weights == 0] = BACKGROUND_LOGIT
        return logits

    def touched(self, window: Window) -> Iterator[np.ndarray]:
        """(N, 3) voxels of the mask in each outermost plane of a window behind which the image continues."""
        for face in window.open_faces(self.predictor.shape):
            yield np.argwhere(self._going_on(face) > 0) + face.start

    def still_going_on(self, touched: np.ndarray) -> np.ndarray:
        """Those of (N, 3) voxels that growth still follows: a further window can part them from the click."""
        if not self.predictor.clicks_select:
            return touched
        return touched[self._going_on(self.box)[tuple((touched - self.box.start).T)] > 0]

    def seeds(self, window: Window) -> VoxelPrompts:
        """Clicks inside the largest components of each class found so far in a window."""
        known = window.in_image(self.predictor.shape).intersection(self.box)
        return clicks_inside(self._going_on(known)).shifted(known.start)

    def _going_on(self, part: Box) -> np.ndarray:
        """The label map of a part of the box; where clicks select objects, of the objects that hold one."""
        found = self.predictor.as_labels(self.logits(part))
        if not self.predictor.clicks_select or not found.any():  # mostly no object touches a face of its window
            return found
        if self._selected is None:
            whole, regions = self.predictor.as_labels(self.logits()), self.predictor.region_order is not None
            self._selected = objects_prompted(whole, self.prompts.cut(self.box), regions)
        return self._selected[part.within(self.box).slices]

    def mask_voxels(self) -> int:
        return int((self.predictor.as_labels(self.logits()) > 0).sum())

    def _extend(self, here: Box) -> None:
        """Enlarge the box, so that it contains a part of the image."""
        old, total, weights = self.box, self.total, self.weights
        box = here if old.is_empty else old.union(here)
        if box == old:
            return
        self.box = box
        self.total, self.weights = torch.zeros((len(total), *box.shape)), torch.zeros(box.shape)
        if not old.is_empty:
            place = old.within(box).slices
            self.total[(slice(None), *place)], self.weights[place] = total, weights


def clicks_inside(found: np.ndarray) -> VoxelPrompts:
    """Clicks inside the largest components of each class of a label map, in its voxels."""
    parts = []
    for label in np.unique(found[found > 0]):
        points = interior_points(found == label, SEEDS)
        parts.append(VoxelPrompts(points.astype(np.float32), np.full(len(points), label)))
    return VoxelPrompts.concatenate(parts)


def objects_prompted(found: np.ndarray, prompts: VoxelPrompts, regions: bool) -> np.ndarray:
    """The connected components of a label map that hold a foreground click, or a voxel of a scribble or box.

    A click on a voxel that is not marked holds the nearest component at most `NEAR` voxels away.

    Args:
        found: (d, h, w) label map.
        prompts: in its voxels.
        regions: whether the labels are of nested regions, so that touching voxels of several labels are one object.
    """
    components = Components(found.astype(np.int32), np.unique(found[found > 0]).tolist(), together=regions)
    clicks = np.rint(prompts.points[prompts.labels > 0]).astype(int)
    kept = [np.array([_number_near(components.numbers, click) for click in clicks], int)]
    if prompts.maps is not None:
        kept.append(components.numbers[(prompts.maps[[SCRIBBLE, BOX]] > 0).any(axis=0)])
    return components.only(np.unique(np.concatenate(kept)))


def _number_near(numbers: np.ndarray, click: np.ndarray) -> int:
    """The component under a click, or the nearest one; 0 if there is none near."""
    start = np.maximum(click - NEAR, 0)
    around = numbers[tuple(slice(a, b) for a, b in zip(start, click + NEAR + 1))]
    marked = np.argwhere(around)
    if not len(marked):
        return 0
    nearest = marked[np.linalg.norm(marked + start - click, axis=1).argmin()]
    return int(around[tuple(nearest)])


# --- one lesion after the other ---


def predict_per_lesion(
    predict: Callable[[VoxelPrompts], BoxLogits], prompts: VoxelPrompts
) -> tuple[BoxLogits, np.ndarray]:
    """Predict each foreground click on its own, together with all background clicks.

    Args:
        predict: logits from prompts on the grid.
        prompts: on the grid, with at least one click on foreground.

    Returns:
        The union, in which each class (or region) has the highest of its odds against background: a voxel is foreground
        in the union if it is foreground in any prediction. And (d, h, w) int32 for the voxels of its box: the number of
        the foreground click with the highest odds of any class, counted from 1; NO_LESION outside all windows.

    Raises:
        SAM3DError: there are too many clicks for an instance map.
    """
    background = prompts.labels == 0
    if (~background).sum() > MAX_LESIONS:
        raise SAM3DError(
            f"There are {(~background).sum()} foreground clicks; at most {MAX_LESIONS} can be predicted on their own. "
            "Predict them together, without --per-lesion, or give some of them."
        )
    lesions = []
    for click in np.flatnonzero(~background):
        chosen = background.copy()
        chosen[click] = True
        lesions.append(predict(prompts.with_clicks(chosen)))
    return merge(lesions)


def merge(lesions: list[BoxLogits]) -> tuple[BoxLogits, np.ndarray]:
    """The union of predictions on one grid, and the click that each voxel belongs to; see `predict_per_lesion`."""
    first = lesions[0]
    box = first.box.union(*(lesion.box for lesion in lesions))
    union = torch.zeros((len(first.logits), *box.shape))
    foreground = slice(0 if first.regions else 1, None)
    union[foreground] = BACKGROUND_LOGIT
    best = torch.full(box.shape, -torch.inf)
    owner = torch.full(box.shape, NO_LESION, dtype=torch.int32)
    for number, lesion in enumerate(lesions, 1):
        place = lesion.box.within(box).slices
        odds = lesion.logits if lesion.regions else lesion.logits[1:] - lesion.logits[0]
        union[(foreground, *place)] = torch.maximum(union[(foreground, *place)], odds)
        highest = odds.amax(0)
        better = highest > best[place]
        best[place] = torch.where(better, highest, best[place])
        owner[place] = torch.where(better, number, owner[place])
    windows = [window for lesion in lesions for window in lesion.windows]
    hit_cap = next((lesion.hit_cap for lesion in lesions if lesion.hit_cap), None)
    return BoxLogits(union, box.start, first.shape, first.regions, windows, hit_cap), owner.numpy()
