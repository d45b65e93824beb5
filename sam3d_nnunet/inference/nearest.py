"""Label maps between an image and its preprocessed grid, by the nearest voxel."""

import numpy as np

from sam3d_nnunet.prompts.geometry import PreprocessedGrid


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
