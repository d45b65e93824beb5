"""The grid that nnU-Net trains on, and the way between it and the image."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PreprocessedGrid:
    """The grid nnU-Net trains on: axes exchanged, cropped to non-zero, resampled with voxel centres at integers.

    Attributes:
        transpose: axis of the image for each axis of the grid (the plan's `transpose_forward`).
        crop_start: first voxel of the crop, after the exchange of axes.
        crop_shape: voxels of the crop.
        shape: voxels of the grid.
    """

    transpose: tuple[int, ...]
    crop_start: np.ndarray
    crop_shape: np.ndarray
    shape: np.ndarray

    @classmethod
    def from_properties(
        cls, properties: dict[str, Any], transpose: list[int], shape: tuple[int, ...]
    ) -> "PreprocessedGrid":
        """From the properties that nnU-Net's preprocessor stores with a case, and the shape of its array."""
        return cls(
            tuple(transpose),
            np.array([start for start, _ in properties["bbox_used_for_cropping"]]),
            np.array(properties["shape_after_cropping_and_before_resampling"]),
            np.array(shape),
        )

    def from_image(self, voxels: np.ndarray) -> np.ndarray:
        """(N, 3) indices of the image -> (N, 3) float coordinates of the grid."""
        cropped = np.asarray(voxels)[:, self.transpose] - self.crop_start
        return (cropped + 0.5) * self.shape / self.crop_shape - 0.5

    def clip(self, voxels: np.ndarray) -> np.ndarray:
        """(N, 3) indices of the image, those outside of the crop moved to the nearest voxel that is left of it."""
        cropped = np.asarray(voxels)[:, self.transpose] - self.crop_start
        kept = np.clip(cropped, 0, self.crop_shape - 1) + self.crop_start
        return kept[:, np.argsort(self.transpose)]

    def to_image(self, coordinates: np.ndarray) -> np.ndarray:
        """(N, 3) coordinates of the grid -> (N, 3) float indices of the image."""
        cropped = (np.asarray(coordinates) + 0.5) * self.crop_shape / self.shape - 0.5
        return (cropped + self.crop_start)[:, np.argsort(self.transpose)]


def nearest_voxels(grid: PreprocessedGrid, place: tuple[slice, ...] | None = None) -> list[np.ndarray]:
    """For each axis of a grid, the index of the image (its axes exchanged) nearest to each voxel of a box; of all."""
    place = place or tuple(slice(0, int(n)) for n in grid.shape)
    indices = []
    for box, start, crop, size in zip(place, grid.crop_start, grid.crop_shape, grid.shape):
        position = (np.arange(box.start, box.stop) + 0.5) * crop / size - 0.5
        indices.append(start + np.clip(np.rint(position).astype(int), 0, crop - 1))
    return indices


def to_grid(label_map: np.ndarray, grid: PreprocessedGrid, place: tuple[slice, ...] | None = None) -> np.ndarray:
    """Label map of an image -> of its grid.

    Args:
        label_map: (D, H, W) of the image, its axes as the reader has them.
        grid: of the image.
        place: only this box of the grid.

    Returns:
        array of the shape of the grid or the box, of the same type.
    """
    return label_map.transpose(grid.transpose)[np.ix_(*nearest_voxels(grid, place))]


def to_image(label_map: np.ndarray, grid: PreprocessedGrid, image_shape: tuple[int, ...]) -> np.ndarray:
    """Label map of a grid -> (D, H, W) of its image, 0 outside the crop."""
    nearest = [
        np.clip(np.rint((np.arange(crop) + 0.5) * n / crop - 0.5), 0, n - 1).astype(int)
        for n, crop in zip(grid.shape, grid.crop_shape)
    ]
    image = np.zeros([image_shape[axis] for axis in grid.transpose], label_map.dtype)
    crop = tuple(slice(start, start + n) for start, n in zip(grid.crop_start, grid.crop_shape))
    image[crop] = label_map[np.ix_(*nearest)]
    return image.transpose(np.argsort(grid.transpose))
