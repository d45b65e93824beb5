"""Whole objects of a preprocessed image from clicks: windows around them, and on where an object goes on."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor

from sam3d_nnunet.prediction.box_logits import SURE, BoxLogits
from sam3d_nnunet.prediction.window_predictor import WindowPredictor
from sam3d_nnunet.prediction.windows import Window, in_any, window_seeing, windows_around
from sam3d_nnunet.simulation.draw import interior_points, join

MAX_WINDOWS = 32
CELLS = 16  # along a side of a window, in each of which one voxel stands for all
SEEDS = 3  # points of each class that a new window gets from what has been found


def predict_prompted(
    predictor: WindowPredictor,
    points: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray | None = None,
    windows: list[Window] | None = None,
    familiar: Sequence[Window] = (),
    max_windows: int = MAX_WINDOWS,
    max_voxels: int | None = None,
) -> BoxLogits:
    """Logits in windows around the clicks, and in further ones wherever the mask touches a window's face.

    Windows added so are prompted with interior points of what has been found there, beside the clicks. All are blended
    with nnU-Net's Gaussian weights.

    Args:
        predictor: networks and image.
        points: (N, 3) clicks in voxels of the image.
        labels: (N,) their labels.
        maps: (3, D, H, W) int16 dense prompts, as for `WindowPredictor.predict`.
        windows: to look at in any case; only clicks that lie in none of them get windows of their own.
        familiar: to be preferred in the growth, since they may have been encoded before.
        max_windows: the growth stops there; windows of clicks are always looked at.
        max_voxels: the growth stops when the mask has so many.
    """
    windows = list(windows or [])
    windows += windows_around(points[~in_any(windows, points)], predictor.shape, predictor.patch_size)
    canvas, hit_cap = _Canvas(predictor), None
    for window in windows:
        canvas.add(window, predictor.predict(window, points, labels, maps))
    for window in _further(windows, canvas, familiar):
        if max_voxels is not None and canvas.mask_voxels() >= max_voxels:
            hit_cap = f"{max_voxels} voxels of the mask"
            break
        if len(windows) >= max_windows:
            hit_cap = f"{max_windows} windows"
            break
        prompts = join([(points, labels), canvas.seeds(window)])
        canvas.add(window, predictor.predict(window, *prompts, maps))
        windows.append(window)
    regions = predictor.region_order is not None
    return BoxLogits(canvas.logits(), canvas.start, predictor.shape, regions, windows, hit_cap)


def _further(windows: list[Window], canvas: "_Canvas", familiar: Sequence[Window]) -> Iterator[Window]:
    """Windows to look at next, one after another, until each place where the mask touches a face has been seen.

    Each is put across one face: around the voxels of opposite faces it would lie where the window is that has them.

    Args:
        windows: those that have been looked at. The caller appends each further one before asking for the next.
        canvas: what has been found in them.
        familiar: to be preferred.
    """
    shape, patch_size = canvas.predictor.shape, canvas.predictor.patch_size
    gone_through = 0
    while gone_through < len(windows):  # again, since the mask may touch more of a face by now
        gone_through = len(windows)
        for window in windows:
            for touched in sorted(canvas.touched(window), key=len, reverse=True):
                while len(border := touched[~np.any([w.sees(touched, shape) for w in windows], axis=0)]):
                    known = (w for w in familiar if w.sees(border, shape).any())
                    yield next(known, None) or window_seeing(_thinned(border, patch_size), shape, patch_size)


def _thinned(voxels: np.ndarray, patch_size: tuple[int, ...]) -> np.ndarray:
    """Some of (N, 3) voxels: a face may have thousands, of which neighbours need the same window."""
    cells = voxels // np.maximum(1, np.array(patch_size) // CELLS)
    _, first = np.unique(cells, axis=0, return_index=True)
    return voxels[np.sort(first)]


class _Canvas:
    """Weighted sum of the logits of all windows so far, in a box that holds them all."""

    def __init__(self, predictor: WindowPredictor) -> None:
        self.predictor = predictor
        self.gaussian = compute_gaussian(predictor.patch_size, 1 / 8, 10, torch.float32, torch.device("cpu"))
        self.start = (0, 0, 0)
        self.total = torch.zeros((predictor.num_logits, 0, 0, 0))
        self.weights = torch.zeros((0, 0, 0))

    def add(self, window: Window, logits: Tensor) -> None:
        """(K, *window.size) logits of a window."""
        here, there = window.overlap(self.predictor.shape)
        self._extend(here)
        place = self._place(here)
        self.total[(slice(None), *place)] += logits[(slice(None), *there)] * self.gaussian[there]
        self.weights[place] += self.gaussian[there]

    def logits(self, here: tuple[slice, ...] | None = None) -> Tensor:
        """(K, d, h, w) of the whole box, or of a part of the image in it; background where no window has been."""
        place = self._place(here or self._box())
        weights = self.weights[place]
        logits = self.total[(slice(None), *place)] / weights.clamp(min=1e-12)
        logits[0 if self.predictor.region_order is not None else 1 :, weights == 0] = -SURE
        return logits

    def touched(self, window: Window) -> Iterator[np.ndarray]:
        """(N, 3) voxels of the mask in each of those outermost planes of a window behind which the image goes on."""
        for face in window.open_faces(self.predictor.shape):
            mask = self.predictor.as_labels(self.logits(face)) > 0
            yield np.argwhere(mask) + [s.start for s in face]

    def seeds(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Interior points of the largest components of each class found so far in a window, and their labels."""
        here, _ = window.overlap(self.predictor.shape)
        box = self._box()
        known = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(here, box))
        found = self.predictor.as_labels(self.logits(known))
        parts = []
        for label in np.unique(found[found > 0]):
            points = interior_points(found == label, SEEDS) + [s.start for s in known]
            parts.append((points.astype(np.float32), np.full(len(points), label)))
        return join(parts)

    def mask_voxels(self) -> int:
        return int((self.predictor.as_labels(self.logits()) > 0).sum())

    def _box(self) -> tuple[slice, ...]:
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.weights.shape))

    def _place(self, here: tuple[slice, ...]) -> tuple[slice, ...]:
        return tuple(slice(a.start - s, a.stop - s) for a, s in zip(here, self.start))

    def _extend(self, here: tuple[slice, ...]) -> None:
        """Make the box hold a part of the image."""
        old = self._box()
        box = old
        if self.weights.numel() == 0:
            box = here
        elif any(a.start < b.start or a.stop > b.stop for a, b in zip(here, old)):
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(here, old))
        if box == old:
            return
        total, weights, size = self.total, self.weights, [a.stop - a.start for a in box]
        self.start = tuple(a.start for a in box)
        self.total, self.weights = torch.zeros((len(total), *size)), torch.zeros(size)
        if weights.numel():
            place = self._place(old)
            self.total[(slice(None), *place)], self.weights[place] = total, weights
