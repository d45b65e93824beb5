"""Growth: predict windows around the prompts, then further windows as long as an object continues beyond a window."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prediction.box_logits import BACKGROUND_LOGIT, BoxLogits
from sam3d_nnunet.prediction.windows import Window, WindowPredictor, in_any, window_seeing, windows_around
from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import interior_points

MAX_WINDOWS = 32
CELLS = 16  # along a side of a window; one voxel represents all in its cell
SEEDS = 3  # clicks on each class that a further window gets from the mask so far


def predict_prompted(
    predictor: WindowPredictor,
    prompts: VoxelPrompts,
    windows: list[Window] | None = None,
    familiar: Sequence[Window] = (),
    max_windows: int = MAX_WINDOWS,
    max_voxels: int | None = None,
) -> BoxLogits:
    """Logits in windows around the clicks, and in further windows wherever the mask touches the face of a window.

    A further window gets the prompts and, as clicks, interior points of the mask that has been found in it so far. All
    windows are blended with nnU-Net's Gaussian weights.

    Args:
        predictor: networks and image.
        prompts: of the preprocessed image.
        windows: always predicted; only clicks outside all of them get windows of their own.
        familiar: windows that growth prefers, because they may have been encoded before.
        max_windows: growth stops at this number; windows of clicks are always predicted.
        max_voxels: growth stops when the mask has so many voxels.
    """
    windows = list(windows or [])
    windows += windows_around(prompts.points[~in_any(windows, prompts.points)], predictor.shape, predictor.patch_size)
    canvas, hit_cap = _Canvas(predictor), None
    for window in windows:
        canvas.add(window, predictor.predict(window, prompts))
    for window in _further(windows, canvas, familiar):
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
                while len(border := touched[~np.any([w.sees(touched, shape) for w in windows], axis=0)]):
                    known = (w for w in familiar if w.sees(border, shape).any())
                    yield next(known, None) or window_seeing(_thinned(border, patch_size), shape, patch_size)


def _thinned(voxels: np.ndarray, patch_size: tuple[int, ...]) -> np.ndarray:
    """One of (N, 3) voxels in each cell: a face may have thousands, and neighbours need the same window."""
    cells = voxels // np.maximum(1, np.array(patch_size) // CELLS)
    _, first = np.unique(cells, axis=0, return_index=True)
    return voxels[np.sort(first)]


class _Canvas:
    """Weighted sum of the logits of all windows so far, in a box that contains them."""

    def __init__(self, predictor: WindowPredictor) -> None:
        self.predictor = predictor
        self.gaussian = compute_gaussian(predictor.patch_size, 1 / 8, 10, torch.float32, torch.device("cpu"))
        self.box = Box.of_shape((0, 0, 0))
        self.total = torch.zeros((predictor.num_logits, 0, 0, 0))
        self.weights = torch.zeros((0, 0, 0))

    def add(self, window: Window, logits: Tensor) -> None:
        """Add the logits (K, *window.size) of a window."""
        here = window.in_image(self.predictor.shape)
        self._extend(here)
        place, there = here.within(self.box).slices, here.within(window.box).slices
        self.total[(slice(None), *place)] += logits[(slice(None), *there)] * self.gaussian[there]
        self.weights[place] += self.gaussian[there]

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
            mask = self.predictor.as_labels(self.logits(face)) > 0
            yield np.argwhere(mask) + face.start

    def seeds(self, window: Window) -> VoxelPrompts:
        """Clicks inside the largest components of each class found so far in a window."""
        known = window.in_image(self.predictor.shape).intersection(self.box)
        found = self.predictor.as_labels(self.logits(known))
        parts = []
        for label in np.unique(found[found > 0]):
            points = interior_points(found == label, SEEDS) + known.start
            parts.append(VoxelPrompts(points.astype(np.float32), np.full(len(points), label)))
        return VoxelPrompts.concatenate(parts)

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
