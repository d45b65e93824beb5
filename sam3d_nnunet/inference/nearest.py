"""Label maps between an image and its preprocessed grid, by the nearest voxel."""

import numpy as np

from sam3d_nnunet.prompts.geometry import PreprocessedGrid


def to_grid(label_map: np.ndarray, grid: PreprocessedGrid) -> np.ndarray:
    """Label map of an image -> of its grid.

    Args:
        label_map: (D, H, W) of the image, its axes as the reader has them.
        grid: of the image.

    Returns:
        array of the shape `grid.shape`, of the same type.
    """
    nearest = [
        np.clip(np.rint((np.arange(n) + 0.5) * crop / n - 0.5), 0, crop - 1).astype(int) + start
        for n, crop, start in zip(grid.shape, grid.crop_shape, grid.crop_start)
    ]
    return label_map.transpose(grid.transpose)[np.ix_(*nearest)]


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
