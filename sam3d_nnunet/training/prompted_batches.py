"""Prompts of a training batch: drawn in nnU-Net's data loader, corrected within a step."""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from sam3d_nnunet.prompts.prompt import BOX, KINDS, MASK, NOTHING, SCRIBBLE
from sam3d_nnunet.simulation.draw import correction_click
from sam3d_nnunet.simulation.simulator import DrawnPrompts, PromptSimulator


class DrawPrompts(BasicTransform):
    """Draws prompts on a patch's label map and keeps them until the batch is complete.

    The patch stays as it is, but for its label map, which becomes the target that the prompts ask for.
    """

    def __init__(self, simulator: PromptSimulator) -> None:
        super().__init__()
        self.simulator = simulator
        self.drawn: list[DrawnPrompts] = []

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Reads and replaces (1, D, H, W) 'segmentation', the label map with -1 outside the image."""
        # np.random is the one generator that differs between nnU-Net's worker processes
        rng = np.random.default_rng(np.random.randint(2**31))
        drawn = self.simulator(data_dict["segmentation"][0].numpy(), rng)
        self.drawn.append(drawn)
        return data_dict | {"segmentation": torch.from_numpy(drawn.target)[None]}


class PromptedDataLoader(nnUNetDataLoader):
    """Adds prompts to each batch.

    `points` (B, N, 3) float32 in voxels of the patch, `point_labels` (B, N) int64 and, if any are drawn, `maps`
    (B, 3, D, H, W) int16.
    """

    def __init__(self, *args: Any, simulator: PromptSimulator, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: as for nnU-Net's loader.
            simulator: draws the prompts of a patch.
        """
        super().__init__(*args, **kwargs)
        self.draw_prompts = DrawPrompts(simulator)
        # after all that moves voxels, but before the outside of the image (-1) becomes background
        steps = self.transforms.transforms
        steps.insert([type(step) for step in steps].index(RemoveLabelTansform), self.draw_prompts)

    def generate_train_batch(self) -> dict[str, Any]:
        """nnU-Net's batch with prompts."""
        drawn = self.draw_prompts.drawn
        drawn.clear()
        batch = super().generate_train_batch()
        batch["points"] = torch.from_numpy(np.stack([d.points for d in drawn]))
        batch["point_labels"] = torch.from_numpy(np.stack([d.labels for d in drawn]))
        if drawn[0].maps is not None:
            batch["maps"] = torch.from_numpy(np.stack([d.maps for d in drawn]))
        return batch


class Correction:
    """Adds to each sample a click on its largest error and its first mask as previous mask.

    With regions both masks are compared as label maps, made as nnU-Net makes them from the regions. Where the label is
    to be ignored, nothing is an error. Where prompts select, a sample without any gets no click: its target is all that
    there is, and a click would say otherwise.
    """

    def __init__(
        self,
        target: Tensor,
        region_labels: list[int] | None,
        ignore_label: int | None,
        rng: np.random.Generator,
        select: bool = False,
    ) -> None:
        """
        Args:
            target: nnU-Net's, (B, 1, D, H, W) label maps or (B, R, D, H, W) regions, the last being what is ignored if
                anything is.
            region_labels: the label that each region's voxels get, one after the other; None without regions.
            ignore_label: if there is one.
            rng: source of randomness.
            select: whether prompts select components (target policy `clicked`).
        """
        self.target = target
        self.region_labels = region_labels
        self.ignore_label = ignore_label
        self.rng = rng
        self.select = select

    @torch.compiler.disable
    def __call__(
        self, logits: Tensor, points: Tensor, labels: Tensor, maps: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, D, H, W) and the prompts they came from -> prompts with the correction.

        The last click of each sample must be padding: it becomes the correction, where there is an error.
        """
        prediction, wanted = self._prediction(logits), self._true_labels()
        shape = (len(prediction), KINDS, *prediction.shape[1:])
        maps = prediction.new_full(shape, NOTHING) if maps is None else maps.clone()
        found, prompted = prediction.cpu().numpy(), _prompted(labels, maps)
        points, labels = points.clone(), labels.clone()
        for i in range(len(found)):
            click = correction_click(found[i], wanted[i], self.rng) if prompted[i] or not self.select else None
            if click is not None:
                points[i, -1], labels[i, -1] = torch.from_numpy(click[0]), click[1]
        maps[:, MASK] = prediction
        return points, labels, maps

    def _prediction(self, logits: Tensor) -> Tensor:
        if self.region_labels is None:
            return logits.argmax(dim=1).to(torch.int16)
        return _label_map(logits > 0, self.region_labels)

    def _true_labels(self) -> np.ndarray:
        """(B, D, H, W), -1 where it is to be ignored."""
        target = self.target
        if self.region_labels is not None:
            labels = _label_map(target[:, : len(self.region_labels)] > 0, self.region_labels)
            ignored = target[:, -1] > 0 if self.ignore_label is not None else None
        else:
            labels = target[:, 0].to(torch.int16)
            ignored = labels == self.ignore_label if self.ignore_label is not None else None
        return (labels if ignored is None else labels.masked_fill(ignored, -1)).cpu().numpy()


def with_free_click(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Clicks (B, N, 3), (B, N) and one of padding after them."""
    count = len(points)
    return torch.cat([points, points.new_zeros(count, 1, 3)], dim=1), torch.cat(
        [labels, labels.new_full((count, 1), -1)], 1
    )


def _prompted(labels: Tensor, maps: Tensor) -> list[bool]:
    """Which samples have a click, a scribble or a box."""
    marked = (maps[:, [SCRIBBLE, BOX]] != NOTHING).flatten(1).any(dim=1)
    return ((labels >= 0).any(dim=1) | marked).tolist()


def _label_map(regions: Tensor, region_labels: list[int]) -> Tensor:
    """(B, R, D, H, W) bool -> (B, D, H, W) int16, later regions over earlier ones."""
    labels = torch.zeros_like(regions[:, 0], dtype=torch.int16)
    for region, label in zip(regions.unbind(dim=1), region_labels, strict=True):
        labels[region] = label
    return labels
