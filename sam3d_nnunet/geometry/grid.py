"""The grid that nnU-Net trains on, and the mapping between its voxels and those of the image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.turn import NO_TURN, Turn

SMALLEST_PATCH = 8
"""Voxels a side of a patch of the grid."""


@dataclass(frozen=True)
class LinearWeights:
    """Linear interpolation along one axis, from voxels of a box to positions between them.

    Attributes:
        below, above: (n,) int64, the voxels of the box on both sides of each position.
        fraction: (n,) float32, the weight of `above`; that of `below` is the rest.
    """

    below: np.ndarray
    above: np.ndarray
    fraction: np.ndarray


@dataclass(frozen=True)
class AxisMap:
    """One axis of an image and of its grid: the crop of the image is resampled to another number of voxels.

    Voxel centres are at whole numbers, and the outer faces of crop and grid coincide. Points, nearest voxels, boxes and
    interpolation all use the same formula, `_rescaled`.

    Attributes:
        crop_start: first voxel of the image in the crop.
        crop: voxels of the crop.
        grid: voxels of the grid.
        flipped: whether the grid runs against the image.
    """

    crop_start: int
    crop: int
    grid: int
    flipped: bool = False

    def to_grid(self, voxels: np.ndarray) -> np.ndarray:
        """(N,) indices of the image -> (N,) float64 coordinates of the grid."""
        return _rescaled(self._along_grid(np.asarray(voxels, np.float64) - self.crop_start), self.crop, self.grid)

    def to_image(self, coordinates: np.ndarray) -> np.ndarray:
        """(N,) coordinates of the grid -> (N,) float64 indices of the image."""
        position = _rescaled(np.asarray(coordinates, np.float64), self.grid, self.crop)
        return self._along_grid(position) + self.crop_start

    def nearest_in_image(self, start: int, stop: int) -> np.ndarray:
        """For each voxel of the grid from `start` to before `stop`, the nearest voxel of the image in the crop."""
        position = _rescaled(np.arange(start, stop), self.grid, self.crop)
        return self.crop_start + self._along_grid(np.clip(np.rint(position).astype(int), 0, self.crop - 1))

    def nearest_on_grid(self) -> np.ndarray:
        """For each voxel of the crop, the nearest voxel of the grid."""
        return np.clip(np.rint(self._centres()).astype(int), 0, self.grid - 1)

    def voxels_in(self, start: int, stop: int) -> tuple[int, int]:
        """The voxels of the image whose centres lie in the voxels of the grid from `start` to before `stop`.

        Returns:
            the first of these voxels, and the one after the last.
        """
        rising = self._centres()[::-1] if self.flipped else self._centres()
        first, end = map(int, np.searchsorted(rising, [start - 0.5, stop - 0.5]))
        if self.flipped:
            first, end = self.crop - end, self.crop - first
        return self.crop_start + first, self.crop_start + end

    def linear_weights(self, start: int, stop: int) -> LinearWeights:
        """Interpolation from the voxels of the grid from `start` to before `stop` to the voxels of `voxels_in`.

        Voxels of the image beyond the outermost centres get the value of the outermost voxel.
        """
        first, end = self.voxels_in(start, stop)
        position = self._centres()[first - self.crop_start : end - self.crop_start]
        position = np.clip(position - start, 0, stop - start - 1)
        below = np.floor(position).astype(np.int64)
        above = np.minimum(below + 1, stop - start - 1)
        return LinearWeights(below, above, position.astype(np.float32) - below.astype(np.float32))

    def _centres(self) -> np.ndarray:
        """(crop,) coordinates on the grid of all voxels of the crop."""
        return _rescaled(self._along_grid(np.arange(self.crop)), self.crop, self.grid)

    def _along_grid(self, position: np.ndarray) -> np.ndarray:
        """Positions in the crop, counted in the direction of the image -> of the grid; and back, which is the same."""
        return self.crop - 1 - position if self.flipped else position


def _rescaled(position: np.ndarray, old: int, new: int) -> np.ndarray:
    """Positions among `old` voxels -> among `new` voxels along the same length."""
    return (position + 0.5) * new / old - 0.5


@dataclass(frozen=True)
class PreprocessedGrid:
    """The grid nnU-Net trains on: axes transposed, cropped to non-zero, resampled with voxel centres at integers.

    The grid knows how an image was turned to the orientation of the model: its axes may run against those of the image.
    Everything that is not on the grid lies as the reader has it.

    Attributes:
        transpose: axis of the image for each axis of the grid (the plan's `transpose_forward`, after a turn).
        crop_start: first voxel of the crop along each of these axes, in the direction of the image.
        crop_shape: voxels of the crop.
        shape: voxels of the grid.
        flipped: whether each axis of the grid runs against that of the image.
    """

    transpose: tuple[int, ...]
    crop_start: np.ndarray
    crop_shape: np.ndarray
    shape: np.ndarray
    flipped: tuple[bool, ...] = (False, False, False)

    @classmethod
    def from_properties(
        cls, properties: dict[str, Any], transpose: list[int], shape: tuple[int, ...], turn: Turn = NO_TURN
    ) -> "PreprocessedGrid":
        """From what nnU-Net's preprocessor tells of a case.

        Args:
            properties: of the preprocessed array.
            transpose: the plan's `transpose_forward`.
            shape: of the preprocessed array.
            turn: of the image before it was preprocessed.
        """
        flipped = tuple(turn.flipped[axis] for axis in transpose)
        sides = zip(properties["bbox_used_for_cropping"], properties["shape_before_cropping"], flipped)
        return cls(
            tuple(turn.axes[axis] for axis in transpose),
            np.array([size - stop if flip else start for (start, stop), size, flip in sides]),
            np.array(properties["shape_after_cropping_and_before_resampling"]),
            np.array(shape),
            flipped,
        )

    @property
    def axes(self) -> tuple[AxisMap, ...]:
        """One mapping for each axis of the grid."""
        numbers = zip(self.crop_start.tolist(), self.crop_shape.tolist(), self.shape.tolist(), self.flipped)
        return tuple(AxisMap(*of_axis) for of_axis in numbers)

    @property
    def box(self) -> Box:
        """All voxels of the grid."""
        return Box.of_shape(self.shape)

    @property
    def transpose_back(self) -> tuple[int, ...]:
        """Axis of the grid for each axis of the image."""
        return tuple(np.argsort(self.transpose).tolist())

    @property
    def crop(self) -> Box:
        """The part of the image that the grid shows, along the axes of the image."""
        return self._turned_back(Box.of_shape(self.crop_shape, self.crop_start))

    def from_image(self, voxels: np.ndarray) -> np.ndarray:
        """(N, 3) indices of the image -> (N, 3) float coordinates of the grid."""
        along = np.asarray(voxels)[:, self.transpose].T
        return np.stack([axis.to_grid(values) for axis, values in zip(self.axes, along)], axis=1)

    def to_image(self, coordinates: np.ndarray) -> np.ndarray:
        """(N, 3) coordinates of the grid -> (N, 3) float indices of the image."""
        along = np.asarray(coordinates).T
        return np.stack([axis.to_image(values) for axis, values in zip(self.axes, along)], axis=1)[
            :, self.transpose_back
        ]

    def clip(self, voxels: np.ndarray) -> np.ndarray:
        """(N, 3) indices of the image, with those outside the crop moved to its nearest voxel."""
        start = np.array(self.crop.start)
        return np.clip(np.asarray(voxels) - start, 0, np.array(self.crop.shape) - 1) + start

    def box_in_image(self, box: Box) -> Box:
        """The voxels of the image whose centres lie in a box of the grid."""
        ends = [axis.voxels_in(a, b) for axis, a, b in zip(self.axes, box.start, box.stop)]
        return self._turned_back(Box.from_lists(ends))

    def box_around(self, box: Box) -> Box:
        """A box of the grid that holds all voxels whose nearest voxel of the image is in a box of the image."""
        ends = self.from_image(np.array([box.start, np.array(box.stop) - 1]))
        reach = self.shape / self.crop_shape / 2  # half a voxel of the image
        low, high = np.floor(ends.min(axis=0) - reach), np.ceil(ends.max(axis=0) + reach)
        return Box(low, high + 1).intersection(self.box)

    def nearest_in_image(self, box: Box | None = None) -> list[np.ndarray]:
        """For each axis of the grid, the voxel of the (transposed) image that is nearest to each voxel of a box.

        Args:
            box: of the grid. None: all of it.
        """
        box = self.box if box is None else box
        return [axis.nearest_in_image(a, b) for axis, a, b in zip(self.axes, box.start, box.stop)]

    def _turned_back(self, box: Box) -> Box:
        """A box along the axes of the grid -> along those of the image."""
        return Box.from_lists([box.as_lists()[axis] for axis in self.transpose_back])


def to_grid(label_map: np.ndarray, grid: PreprocessedGrid, box: Box | None = None) -> np.ndarray:
    """Label map of an image -> of its grid, from the nearest voxels.

    Args:
        label_map: (D, H, W) of the image, its axes as the reader has them.
        grid: of the image.
        box: only this box of the grid.

    Returns:
        array of the shape of the grid or the box, of the same type.
    """
    return label_map.transpose(grid.transpose)[np.ix_(*grid.nearest_in_image(box))]


def to_image(label_map: np.ndarray, grid: PreprocessedGrid, image_shape: tuple[int, ...]) -> np.ndarray:
    """Label map of a grid -> (D, H, W) of its image, from the nearest voxels; 0 outside the crop."""
    image = np.zeros(image_shape, label_map.dtype)
    nearest = np.ix_(*(axis.nearest_on_grid() for axis in grid.axes))
    image[grid.crop.slices] = label_map[nearest].transpose(grid.transpose_back)
    return image
