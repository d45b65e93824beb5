"""Logits of a part of an image, and what they mean on the original image."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.prediction.windows import Window

SURE = 20.0  # logit of what was not looked at: probability 2e-9
SLAB = 16  # slices of the original image that are resampled at a time


@dataclass
class BoxLogits:
    """Logits in a box of the preprocessed grid; outside, all is background.

    Attributes:
        logits: (K, d, h, w) float32 on the CPU.
        start: first voxel of the box along (d, h, w).
        shape: voxels of the whole grid.
        regions: whether logits are those of overlapping regions, without one for the background.
        windows: what was looked at.
        hit_cap: which limit stopped the growth, if one did.
    """

    logits: Tensor
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    regions: bool
    windows: list[Window] = field(default_factory=list)
    hit_cap: str | None = None

    @property
    def box(self) -> tuple[slice, ...]:
        """Where the box lies in the grid."""
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.logits.shape[1:]))

    def on_grid(self) -> Tensor:
        """(K, *shape): logits of the whole grid."""
        logits = self.logits.new_zeros((len(self.logits), *self.shape))
        logits[0 if self.regions else 1 :] = -SURE
        logits[(slice(None), *self.box)] = self.logits
        return logits

    def segmentation(self, grid: PreprocessedGrid, image_shape: tuple[int, ...], labels: LabelManager) -> np.ndarray:
        """Label map of the original image, its axes as nnU-Net's reader has them.

        Args:
            grid: of the logits.
            image_shape: voxels of the original image along (d, h, w).
            labels: of the model.
        """
        dtype = np.uint8 if max(labels.foreground_labels) < 256 else np.uint16
        segmentation = np.zeros([image_shape[axis] for axis in grid.transpose], dtype)
        for place, logits in self._slabs(grid):
            segmentation[place] = labels.convert_logits_to_segmentation(logits)
        return segmentation.transpose(np.argsort(grid.transpose))

    def write_probabilities(self, grid: PreprocessedGrid, labels: LabelManager, probabilities: np.ndarray) -> None:
        """Fill (K, D, H, W) of the original image: 1 for the background (0 for all regions) outside the box.

        Args:
            grid: of the logits.
            labels: of the model.
            probabilities: to be filled slab by slab; may be a file in memory.
        """
        probabilities[:] = 0
        if not self.regions:
            probabilities[0] = 1
        turned = probabilities.transpose(0, *(1 + axis for axis in grid.transpose))
        for place, logits in self._slabs(grid):
            turned[(slice(None), *place)] = labels.apply_inference_nonlin(logits)

    def _slabs(self, grid: PreprocessedGrid) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """Resampled logits (K, ...) slab by slab, and where each belongs in the image with its axes exchanged.

        Voxels of the original are found in the grid by the one mapping of voxel centres, not by the box's own
        proportions, which would be off by up to a voxel.
        """
        along = [_Axis(*numbers) for numbers in zip(grid.crop_shape, grid.shape, self.start, self.logits.shape[1:])]
        d, h, w = (axis.place(start) for axis, start in zip(along, grid.crop_start))
        for first in range(0, d.stop - d.start, SLAB):
            slab = along[0].resample(self.logits, 1, slice(first, first + SLAB))
            slab = along[2].resample(along[1].resample(slab, 2), 3)
            yield (slice(d.start + first, d.start + first + slab.shape[1]), h, w), slab


class _Axis:
    """Linear interpolation along one axis, from a box of the grid to the voxels of the crop whose centres lie in it."""

    def __init__(self, crop: int, grid: int, start: int, size: int) -> None:
        """
        Args:
            crop: voxels of the crop.
            grid: voxels of the grid.
            start: first voxel of the box in the grid.
            size: voxels of the box.
        """
        position = (np.arange(crop) + 0.5) * grid / crop - 0.5
        inside = np.flatnonzero((position >= start - 0.5) & (position < start + size - 0.5))
        self.first, self.count = (inside[0], len(inside)) if len(inside) else (0, 0)
        position = np.clip(position[inside] - start, 0, size - 1)
        self.below = torch.from_numpy(np.floor(position).astype(np.int64))
        self.above = (self.below + 1).clamp(max=size - 1)
        self.part = torch.from_numpy(position).float() - self.below

    def place(self, crop_start: int) -> slice:
        """Where the resampled voxels belong, counted from `crop_start` before the crop."""
        first = int(crop_start + self.first)
        return slice(first, first + self.count)

    def resample(self, x: Tensor, axis: int, which: slice = slice(None)) -> Tensor:
        """`x` with its axis resampled, or only some of the new voxels."""
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        below, above = (x.index_select(axis, index[which]) for index in (self.below, self.above))
        return torch.lerp(below, above, self.part[which].view(shape))
