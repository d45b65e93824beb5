"""Logits in a box of the preprocessed grid: from there to the original image, and united from several lesions.

Several predictions of one image, each from one foreground click, become one segmentation and an instance map.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import LinearWeights, PreprocessedGrid
from sam3d_nnunet.prediction.windows import Window
from sam3d_nnunet.prompts.prompt import VoxelPrompts

BACKGROUND_LOGIT = -20.0  # of foreground where no window has been: probability 2e-9
NO_LESION = 0
MAX_LESIONS = 255  # one of nnU-Net's writers stores instance maps as bytes
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
    def box(self) -> Box:
        """Where the logits lie in the grid."""
        return Box.of_shape(self.logits.shape[1:], self.start)

    def on_grid(self) -> Tensor:
        """(K, *shape): logits of the whole grid."""
        logits = self.logits.new_zeros((len(self.logits), *self.shape))
        logits[0 if self.regions else 1 :] = BACKGROUND_LOGIT
        logits[(slice(None), *self.box.slices)] = self.logits
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
        return segmentation.transpose(grid.transpose_back)

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
        axes = list(zip(grid.axes, self.box.as_lists()))
        along_d, along_h, along_w = (axis.linear_weights(*ends) for axis, ends in axes)
        d, h, w = (slice(*axis.voxels_in(*ends)) for axis, ends in axes)
        for first in range(0, d.stop - d.start, SLAB):
            slab = _interpolate(self.logits, 1, along_d, slice(first, first + SLAB))
            slab = _interpolate(_interpolate(slab, 2, along_h), 3, along_w)
            yield (slice(d.start + first, d.start + first + slab.shape[1]), h, w), slab


def _interpolate(x: Tensor, axis: int, weights: LinearWeights, part: slice = slice(None)) -> Tensor:
    """`x` with one axis resampled to the positions of the weights, or to a part of them."""
    below, above = (x.index_select(axis, torch.from_numpy(index[part])) for index in (weights.below, weights.above))
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    return torch.lerp(below, above, torch.from_numpy(weights.fraction[part]).view(shape))


def predict_per_lesion(
    predict: Callable[[VoxelPrompts], BoxLogits], prompts: VoxelPrompts
) -> tuple[BoxLogits, np.ndarray]:
    """Predict each foreground click on its own, together with all background clicks.

    Args:
        predict: logits from prompts on the grid.
        prompts: on the grid, with at least one click on foreground.

    Returns:
        The union: each class (or region) has the highest of its odds against background, so that what is foreground in
        any is foreground in the union, and nothing else is. And for each voxel of the union's box (d, h, w), as int32,
        the foreground click with the highest odds of any class, counted from 1 in their order; NO_LESION where no
        prediction has looked.

    Raises:
        SAM3DError: there are too many clicks for an instance map.
    """
    background = prompts.labels == 0
    if (~background).sum() > MAX_LESIONS:
        raise SAM3DError(
            f"There are {(~background).sum()} foreground clicks; at most {MAX_LESIONS} can be predicted on their own."
        )
    lesions = []
    for click in np.flatnonzero(~background):
        chosen = background.copy()
        chosen[click] = True
        lesions.append(predict(prompts.with_clicks(chosen)))
    return merge(lesions)


def merge(lesions: list[BoxLogits]) -> tuple[BoxLogits, np.ndarray]:
    """The union of predictions on one grid, and the click that each voxel belongs to; see `predict_per_lesion`."""
    first = lesions[0]
    box = first.box.union(*(lesion.box for lesion in lesions))
    union = torch.zeros((len(first.logits), *box.shape))
    foreground = slice(0 if first.regions else 1, None)
    union[foreground] = BACKGROUND_LOGIT
    best = torch.full(box.shape, -torch.inf)
    owner = torch.full(box.shape, NO_LESION, dtype=torch.int32)
    for number, lesion in enumerate(lesions, 1):
        place = lesion.box.within(box).slices
        odds = lesion.logits if lesion.regions else lesion.logits[1:] - lesion.logits[0]
        union[(foreground, *place)] = torch.maximum(union[(foreground, *place)], odds)
        highest = odds.amax(0)
        better = highest > best[place]
        best[place] = torch.where(better, highest, best[place])
        owner[place] = torch.where(better, number, owner[place])
    windows = [window for lesion in lesions for window in lesion.windows]
    hit_cap = next((lesion.hit_cap for lesion in lesions if lesion.hit_cap), None)
    return BoxLogits(union, box.start, first.shape, first.regions, windows, hit_cap), owner.numpy()
