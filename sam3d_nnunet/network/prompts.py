"""The prompts of a batch, and what training and prediction expect of a network that takes them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.prompts.prompt import NOTHING, VoxelPrompts


class Prompts(NamedTuple):
    """All prompts of a batch of patches. A named tuple, so that DDP, torch.compile and pinning see its tensors.

    Attributes:
        points: (B, N, 3) float voxel coordinates (d, h, w) of the clicks in their patch, centres at integers.
        labels: (B, N) int: k >= 1 a click on class k, 0 a click on background, -1 padding.
        maps: (B, 3, D, H, W) int16 dense prompts: previous mask, scribbles and boxes as label maps, see
            `sam3d_nnunet.prompts.prompt`. None: there are none.
    """

    points: Tensor
    labels: Tensor
    maps: Tensor | None = None

    @classmethod
    def none(cls, count: int, device: torch.device | str = "cpu") -> "Prompts":
        """No prompts for so many patches: one padded click each, so that every tuned parameter takes part (DDP)."""
        points = torch.zeros((count, 1, 3), device=device)
        return cls(points, torch.full((count, 1), -1, device=device))

    @classmethod
    def from_voxels(cls, patches: Sequence[VoxelPrompts]) -> "Prompts":
        """Collate the prompts of several patches of one size; fewer clicks are filled up with padding."""
        most = max(len(patch.labels) for patch in patches)
        points, labels = torch.zeros(len(patches), most, 3), torch.full((len(patches), most), -1)
        for i, patch in enumerate(patches):
            points[i, : len(patch.points)] = torch.from_numpy(patch.points)
            labels[i, : len(patch.labels)] = torch.from_numpy(patch.labels)
        shape = next((patch.maps.shape for patch in patches if patch.maps is not None), None)
        if shape is None:
            return cls(points, labels)
        if len(patches) == 1:  # one window of a prediction, whose maps may be large
            return cls(points, labels, torch.from_numpy(patches[0].maps)[None])
        empty = np.full(shape, NOTHING, np.int16)
        maps = np.stack([empty if patch.maps is None else patch.maps for patch in patches])
        return cls(points, labels, torch.from_numpy(maps))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Prompts":
        """The same prompts on a device."""
        moved = (None if t is None else t.to(device, non_blocking=non_blocking) for t in self)
        return Prompts(*moved)

    def flip(self, axes: Sequence[int], size: Sequence[int]) -> "Prompts":
        """The same prompts on mirrored patches.

        Args:
            axes: those of (0, 1, 2) that are mirrored.
            size: voxels of a patch along (d, h, w).
        """
        points = self.points.clone()
        for axis in axes:
            points[..., axis] = size[axis] - 1 - points[..., axis]
        maps = None if self.maps is None else self.maps.flip([axis + 2 for axis in axes])
        return Prompts(points, self.labels, maps)

    def with_free_clicks(self, count: int = 1) -> "Prompts":
        """More clicks in each patch, which are padding: places for corrections, or for the only click."""
        points = torch.cat([self.points, self.points.new_zeros(len(self.points), count, 3)], dim=1)
        labels = torch.cat([self.labels, self.labels.new_full((len(self.labels), count), -1)], dim=1)
        return self._replace(points=points, labels=labels)


Correct = Callable[[Tensor, Prompts], Prompts]
"""Logits (B, K, D, H, W) and the prompts they came from -> the prompts of the next decoding.

It is asked once, or as often as its attribute `rounds` says if it has one.
"""


def corrected(decode: Callable[[Prompts], Tensor], prompts: Prompts, correct: Correct) -> Prompts:
    """The prompts after all rounds of corrections.

    Args:
        decode: prompts -> logits (B, K, D, H, W).
        prompts: of the first round.
        correct: makes the prompts of the next round.
    """
    with torch.no_grad():
        for _ in range(getattr(correct, "rounds", 1)):
            prompts = correct(decode(prompts), prompts)
    return prompts


class PromptableNetwork(Protocol):
    """A torch module that segments an image from prompts, or without any; `SAM3D` documents the tensors.

    Attributes:
        num_classes: logits per voxel.
        takes_maps: whether it takes previous masks, scribbles and boxes.
        precision: "auto", "bf16" or "fp32".
    """

    num_classes: int
    takes_maps: bool
    precision: str

    def forward(
        self, image: Tensor, prompts: Prompts | None = None, correct: Correct | None = None
    ) -> Tensor | list[Tensor]:
        """Logits; with `correct`, those of the last decoding, whose prompts it makes from the logits before.

        In training mode, networks with deep supervision return the logits of all levels, the finest first.
        """

    def encode(self, image: Tensor) -> Any:
        """What any number of decodings need of an image."""

    def decode(self, embedding: Any, prompts: Prompts | None = None) -> Tensor:
        """Logits from what `encode` returned."""
