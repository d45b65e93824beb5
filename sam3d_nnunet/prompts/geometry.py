"""World, image and preprocessed grid: where a click is in each.

Axis order is (d, h, w) in arrays, (x, y, z) in the world. World coordinates are LPS millimetres as ITK has them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ImageGeometry:
    """Voxels of an image as nnU-Net's reader returns it, in the world.

    Attributes:
        affine: (4, 4), homogeneous array index (d, h, w) -> world (x, y, z).
    """

    affine: np.ndarray

    @classmethod
    def from_properties(cls, properties: dict[str, Any]) -> "ImageGeometry":
        """From the properties that any of nnU-Net's readers returns with an image.

        Readers of formats without a position in the world (PNG, TIFF) give the origin and axes of the array.
        """
        if "sitk_stuff" in properties:
            itk = properties["sitk_stuff"]
            xyz = np.eye(4)
            xyz[:3, :3] = np.array(itk["direction"]).reshape(3, 3) * np.array(itk["spacing"])
            xyz[:3, 3] = itk["origin"]
        elif "nibabel_stuff" in properties:
            nibabel = properties["nibabel_stuff"]
            xyz = RAS_TO_LPS @ nibabel.get("reoriented_affine", nibabel["original_affine"])
        else:
            xyz = np.diag([*properties["spacing"][::-1], 1.0])
        return cls(xyz[:, [2, 1, 0, 3]])

    def to_world(self, voxels: np.ndarray) -> np.ndarray:
        """(N, 3) array indices (d, h, w) -> (N, 3) millimetres (x, y, z)."""
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxels(self, world: np.ndarray) -> np.ndarray:
        """(N, 3) millimetres (x, y, z) -> (N, 3) array indices (d, h, w)."""
        return np.linalg.solve(self.affine[:3, :3], (world - self.affine[:3, 3]).T).T


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

    def to_image(self, coordinates: np.ndarray) -> np.ndarray:
        """(N, 3) coordinates of the grid -> (N, 3) float indices of the image."""
        cropped = (np.asarray(coordinates) + 0.5) * self.crop_shape / self.shape - 0.5
        return (cropped + self.crop_start)[:, np.argsort(self.transpose)]
