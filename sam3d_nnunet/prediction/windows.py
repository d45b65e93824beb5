"""Where to look: windows of the training patch size that hold the clicks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1 / 8  # share of a window's side that is too near to a face to be trusted where the image goes on


@dataclass(frozen=True)
class Window:
    """A box of the image grid; it may reach over the border of an image that is smaller than itself.

    Attributes:
        start: first voxel along (d, h, w).
        size: voxels along (d, h, w).
    """

    start: tuple[int, int, int]
    size: tuple[int, int, int]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) coordinates -> (N,) bool."""
        relative = points - np.array(self.start)
        return ((relative >= -0.5) & (relative < np.array(self.size) - 0.5)).all(axis=1)

    def overlap(self, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part that lies inside an image: as slices of the image, and as slices of the window."""
        low = [max(0, s) for s in self.start]
        high = [min(n, s + size) for s, size, n in zip(self.start, self.size, shape)]
        image = tuple(slice(a, b) for a, b in zip(low, high))
        return image, tuple(slice(a - s, b - s) for a, b, s in zip(low, high, self.start))

    def cut(self, volume: Tensor, outside: float) -> Tensor:
        """(C, D, H, W) -> (C, *size), with a value where the window reaches over the border."""
        here, there = self.overlap(tuple(volume.shape[1:]))
        padding = [n for size, s in zip(self.size[::-1], there[::-1]) for n in (s.start, size - s.stop)]
        return F.pad(volume[(slice(None), *here)], padding, value=outside)

    def open_faces(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        """The outermost planes on each side where the image goes on, as slices of the image."""
        here, _ = self.overlap(shape)
        for axis, inside in enumerate(here):
            for plane, goes_on in ((inside.start, inside.start > 0), (inside.stop - 1, inside.stop < shape[axis])):
                if goes_on:
                    yield (*here[:axis], slice(plane, plane + 1), *here[axis + 1 :])

    def sees(self, points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Like `contains`, but away from the faces behind which the image goes on: with context on every side."""
        low = np.array([s + n * MARGIN if s > 0 else -np.inf for s, n in zip(self.start, self.size)])
        ends = [s + n for s, n in zip(self.start, self.size)]
        high = np.array([e - n * MARGIN if e < m else np.inf for e, n, m in zip(ends, self.size, shape)])
        return ((points >= low) & (points < high)).all(axis=1)


def in_any(windows: Iterable[Window], points: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates -> (N,) whether any window contains them."""
    return np.any([np.zeros(len(points), bool), *(window.contains(points) for window in windows)], axis=0)


def windows_around(points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int]) -> list[Window]:
    """One window around the centre of all clicks (the paper), more where they don't fit into one.

    Args:
        points: (N, 3) coordinates of the grid.
        shape: voxels of the image.
        size: voxels of a window.
    """
    windows, rest = [], points
    while len(rest):
        window, member = _around_first(rest, shape, size, np.array(size))
        windows.append(window)
        rest = rest[~(window.contains(rest) | member)]  # a click outside the image is in no window, but has got its own
    return windows


def window_seeing(points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int]) -> Window:
    """A window that sees the first of (N, 3) voxels of the image, and with it what others it can."""
    seen = np.array(size) - 2 * np.ceil(np.array(size) * MARGIN)
    return _around_first(points, shape, size, seen)[0]


def _around_first(
    points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int], within: np.ndarray
) -> tuple[Window, np.ndarray]:
    """A window around the first of (N, 3) points and others that fit with it into a box; and (N,) which they are."""
    low, high, member = points[0], points[0], np.zeros(len(points), bool)
    for i, point in enumerate(points):
        lower, higher = np.minimum(low, point), np.maximum(high, point)
        if i == 0 or (higher - lower < within - 1).all():
            low, high, member[i] = lower, higher, True
    return Window(_start((low + high) / 2, shape, size), size), member


def _start(centre: np.ndarray, shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, int, int]:
    """First voxel of a window around a point, moved into the image, or around an image that is smaller."""
    start = np.round(centre - (np.array(size) - 1) / 2).astype(int)
    room = np.array(shape) - np.array(size)
    return tuple(int(np.clip(s, 0, r)) if r >= 0 else r // 2 for s, r in zip(start, room.tolist()))
