"""The image on the grid that the networks see: all of it in memory, or made where a window looks."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Protocol

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prediction.intensity import Intensity
from sam3d_nnunet.prediction.resampling import Resampling

SIDE = 32  # voxels of a block along each axis
MOST = 3e7  # voxels of the image that are resampled together: 0.24 GB in float64

Block = tuple[int, int, int]
"""Number of a block along each axis."""


class GridImage(Protocol):
    """A preprocessed image.

    Attributes:
        shape: voxels along (d, h, w).
    """

    shape: tuple[int, int, int]

    @property
    def is_finite(self) -> bool:
        """Whether all values are finite numbers."""

    def cut(self, box: Box) -> Tensor:
        """(C, *box.shape) float32, 0 beyond the border of the image."""


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

    def cut(self, box: Box) -> Tensor:
        """(C, *box.shape), 0 beyond the border of the image."""
        return crop_and_pad_nd(self._voxels, box.as_lists(), pad_value=0)


class LocalImage:
    """An image that is normalised and resampled block by block, where it is looked at. Blocks are kept."""

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
        self._blocks: dict[Block, np.ndarray] = {}

    @property
    def is_finite(self) -> bool:
        """Whether all values are finite numbers; none has to be made for this."""
        return bool(np.isfinite(self._ranges).all())

    def cut(self, box: Box) -> Tensor:
        """(C, *box.shape), 0 beyond the border of the image."""
        voxels = np.zeros((len(self._image), *box.shape), np.float32)
        inside = box.intersection(Box.of_shape(self.shape))
        if inside.is_empty:
            return torch.from_numpy(voxels)
        blocks = Box([n // SIDE for n in inside.start], [-(-n // SIDE) for n in inside.stop])
        self._make([block for block in _inside(blocks) if block not in self._blocks])
        for block in _inside(blocks):
            there = self._box_of(Box.of_shape((1, 1, 1), block))
            both = there.intersection(inside)
            seen = self._blocks[block][(slice(None), *both.within(there).slices)]
            voxels[(slice(None), *both.within(box).slices)] = seen
        return torch.from_numpy(voxels)

    def _make(self, missing: list[Block]) -> None:
        """Make blocks, neighbours together: each on its own would need the same voxels of the image around it."""
        if not missing:
            return
        around = Box(np.min(missing, axis=0), np.max(missing, axis=0) + 1)
        for part in self._parts(around):
            chosen = set(_inside(part)).intersection(missing)
            if chosen:
                whole = self._box_of(part)
                made = self._preprocess(whole)
                for block in chosen:
                    there = self._box_of(Box.of_shape((1, 1, 1), block)).within(whole)
                    self._blocks[block] = made[(slice(None), *there.slices)].copy()

    def _parts(self, blocks: Box) -> Iterator[Box]:
        """Blocks in parts that don't need too much of the image at a time."""
        longest = int(np.argmax(blocks.shape))
        if np.prod(self._resampling.source(self._box_of(blocks)).shape) <= MOST or blocks.shape[longest] == 1:
            yield blocks
            return
        middle = (blocks.start[longest] + blocks.stop[longest]) // 2
        for low, high in ((blocks.start[longest], middle), (middle, blocks.stop[longest])):
            ends = blocks.as_lists()
            ends[longest] = [low, high]
            yield from self._parts(Box.from_lists(ends))

    def _preprocess(self, box: Box) -> np.ndarray:
        """(C, *box.shape) of a box of the grid."""
        source, slices = self._resampling.source(box), self._resampling.slices
        seen = () if slices is None else source.slices[slices]
        made = []
        for voxels, intensity, ends in zip(self._image, self._intensities, self._ranges):
            normalised = intensity.run(voxels[source.slices], source.slices)
            made.append(self._resampling.run(normalised, source, box, *(end[seen] for end in ends)))
        return np.stack(made)

    def _box_of(self, blocks: Box) -> Box:
        """The voxels of some blocks."""
        whole = Box([SIDE * n for n in blocks.start], [SIDE * n for n in blocks.stop])
        return whole.intersection(Box.of_shape(self.shape))


def _inside(box: Box) -> list[Block]:
    return list(product(*map(range, box.start, box.stop)))
