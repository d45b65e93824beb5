"""The image on the grid that the networks see: all of it in memory, or made where a window looks."""

from collections.abc import Sequence
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prediction.intensity import Intensity
from sam3d_nnunet.prediction.resampling import Resampling

SIDE = 32  # voxels of a block along each axis


class GridImage(Protocol):
    """A preprocessed image.

    Attributes:
        shape: voxels along (d, h, w).
        is_finite: whether all values are finite numbers.
    """

    shape: tuple[int, int, int]
    is_finite: bool

    def at(self, box: Box) -> Tensor:
        """(C, *shape) float32, in which the values in a box are right. Do not change them."""


class WholeImage:
    """An image that is preprocessed already."""

    def __init__(self, voxels: np.ndarray | Tensor) -> None:
        """
        Args:
            voxels: (C, d, h, w) float32.
        """
        self._voxels = torch.as_tensor(voxels)
        self.shape = tuple(self._voxels.shape[1:])

    @property
    def is_finite(self) -> bool:
        """Whether all values are finite numbers."""
        return bool(self._voxels.isfinite().all())

    def at(self, box: Box) -> Tensor:
        """All voxels."""
        return self._voxels


class LocalImage:
    """An image that is normalised and resampled block by block, where it is looked at. Blocks are kept.

    A block is the same whenever it is made, and alone or with others.
    """

    def __init__(self, image: np.ndarray, intensities: Sequence[Intensity], resampling: Resampling) -> None:
        """
        Args:
            image: (C, D, H, W) along the axes of the grid, as stored; cropped.
            intensities: of each channel.
            resampling: to the grid.
        """
        self.shape = resampling.shape
        self._image, self._intensities, self._resampling = image, intensities, resampling
        across = tuple(axis for axis in range(3) if axis != resampling.slices)
        self._ranges = [intensity.range(voxels, across) for intensity, voxels in zip(intensities, image)]
        self.is_finite = bool(np.isfinite(self._ranges).all())
        # NumPy asks the system for zeros, which take memory only where something is written
        self._voxels = np.zeros((len(image), *self.shape), np.float32)
        self._is_made = np.zeros([-(-n // SIDE) for n in self.shape], bool)

    def at(self, box: Box) -> Tensor:
        """All voxels, made in the box at least."""
        inside = box.intersection(Box.of_shape(self.shape))
        blocks = [range(a // SIDE, -(-b // SIDE)) for a, b in zip(inside.start, inside.stop)]
        for block in product(*blocks):
            if not self._is_made[block]:
                self._make(Box.of_shape([SIDE] * 3, [SIDE * n for n in block]).intersection(Box.of_shape(self.shape)))
                self._is_made[block] = True
        return torch.from_numpy(self._voxels)

    def _make(self, box: Box) -> None:
        source, slices = self._resampling.source(box), self._resampling.slices
        seen = () if slices is None else source.slices[slices]
        for channel, (intensity, ends) in enumerate(zip(self._intensities, self._ranges)):
            normalised = intensity.run(self._image[(channel, *source.slices)], source.slices)
            ends = (end[seen] for end in ends)
            self._voxels[(channel, *box.slices)] = self._resampling.run(normalised, source, box, *ends)
