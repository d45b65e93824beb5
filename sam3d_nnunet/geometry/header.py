"""Voxels of an image file in the world, as ITK reads its header."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sam3d_nnunet.errors import SAM3DError


@dataclass(frozen=True)
class Grid:
    """A header.

    Attributes:
        size: voxels along i, j, k and, where there are channels in one file, those.
        affine: (4, 4) index (i, j, k) -> LPS millimetres.
    """

    size: tuple[int, ...]
    affine: np.ndarray

    @classmethod
    def from_file(cls, file: Path) -> "Grid":
        """Read the header only.

        Raises:
            SAM3DError: the file is missing, no image to ITK, or not of three or four axes and one number a voxel.
        """
        if not file.is_file():
            raise SAM3DError(f"There is no file {file}.")
        header = sitk.ImageFileReader()
        header.SetFileName(str(file))
        try:
            header.ReadImageInformation()
        except RuntimeError as e:
            raise SAM3DError(f"The header of {file} can't be read: {_last_line(e)}") from e
        axes, numbers = header.GetDimension(), header.GetNumberOfComponents()
        if axes not in (3, 4):
            raise SAM3DError(f"{file} has {axes} axes; a volume has 3, and 4 with channels.")
        if numbers != 1:
            raise SAM3DError(f"{file} has {numbers} numbers a voxel; an intensity or a label is one.")
        affine = np.eye(4)
        directions = np.reshape(header.GetDirection(), (axes, axes))[:3, :3]
        affine[:3, :3] = directions * header.GetSpacing()[:3]
        affine[:3, 3] = header.GetOrigin()[:3]
        return cls(header.GetSize(), affine)

    @property
    def channels(self) -> int:
        """How many volumes the file holds."""
        return self.size[3] if len(self.size) == 4 else 1

    def is_default(self) -> bool:
        """Whether the header says what programs write that know nothing: 1 mm, no turn, no shift.

        NIfTI's axes are ITK's with the first two reversed.
        """
        return np.array_equal(np.abs(self.affine), np.eye(4))

    def shift(self, other: "Grid") -> float:
        """The farthest way, in mm, from a corner of this grid to the same corner of another one of its size."""
        corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in self.size[:3]))])
        return float(np.linalg.norm(corners @ (self.affine - other.affine).T, axis=1).max())

    def finest_spacing(self) -> float:
        """mm."""
        return float(np.linalg.norm(self.affine[:3, :3], axis=0).min())


def _last_line(error: RuntimeError) -> str:
    return (str(error).strip().splitlines() or [""])[-1]  # ITK's messages are pages long
