"""The prompts of a training batch: drawn by nnU-Net's data loader, and corrected within a training step."""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prompts.prompt import BOX, KINDS, MASK, NOTHING, SCRIBBLE, VoxelPrompts
from sam3d_nnunet.simulation.draw import correction_click
from sam3d_nnunet.simulation.simulator import PromptSimulator


class DrawPrompts(BasicTransform):
    """Draws prompts on the label map of a patch, and keeps them until the batch is complete.

    The label map of the patch becomes the target that the prompts ask for; nothing else changes.
    """

    def __init__(self, simulator: PromptSimulator) -> None:
        super().__init__()
        self.simulator = simulator
        self.drawn: list[VoxelPrompts] = []

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Reads and replaces 'segmentation', the label map (1, D, H, W) with -1 outside the image."""
        # np.random is the only generator that differs between nnU-Net's worker processes
        rng = np.random.default_rng(np.random.randint(2**31))
        prompts, target = self.simulator(data_dict["segmentation"][0].numpy(), rng)
        self.drawn.append(prompts)
        return data_dict | {"segmentation": torch.from_numpy(target)[None]}


class PromptedDataLoader(nnUNetDataLoader):
    """nnU-Net's loader, whose batches also have `Prompts` under the key `prompts`."""

    def __init__(self, *args: Any, simulator: PromptSimulator, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: as for nnU-Net's loader.
            simulator: draws the prompts of a patch.
        """
        super().__init__(*args, **kwargs)
        self.draw_prompts = DrawPrompts(simulator)
        # after all transforms that move voxels, but before the outside of the image (-1) becomes background
        steps = self.transforms.transforms
        steps.insert([type(step) for step in steps].index(RemoveLabelTansform), self.draw_prompts)

    def generate_train_batch(self) -> dict[str, Any]:
        """nnU-Net's batch with prompts."""
        self.draw_prompts.drawn.clear()
        batch = super().generate_train_batch()
        return batch | {"prompts": Prompts.from_voxels(self.draw_prompts.drawn)}


class Correction:
    """Adds to each sample a click on its largest error, and its first mask as previous mask.

    With regions, both masks are compared as label maps, which are made from the regions as nnU-Net does it. Voxels with
    the ignore label are no errors. If prompts select components, a sample without prompts gets no click: its target
    holds all components, and a click would select one.
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
            target: nnU-Net's: (B, 1, D, H, W) label maps, or (B, R, D, H, W) regions; with an ignore label the last
                region is what to ignore.
            region_labels: the label that the voxels of each region get, one region after the other; None without
                regions.
            ignore_label: None: there is none.
            rng: source of randomness.
            select: whether prompts select components (target policy `clicked`).
        """
        self.target = target
        self.region_labels = region_labels
        self.ignore_label = ignore_label
        self.rng = rng
        self.select = select

    @torch.compiler.disable
    def __call__(self, logits: Tensor, prompts: Prompts) -> Prompts:
        """Logits (B, K, D, H, W) and the prompts they came from -> prompts with the correction.

        The last click of each sample must be padding: it becomes the correction, if there is an error.
        """
        prediction, wanted = self._prediction(logits), self._true_labels()
        shape = (len(prediction), KINDS, *prediction.shape[1:])
        maps = prediction.new_full(shape, NOTHING) if prompts.maps is None else prompts.maps.clone()
        points, labels = prompts.points.clone(), prompts.labels.clone()
        found, prompted = prediction.cpu().numpy(), _prompted(labels, maps)
        for i in range(len(found)):
            click = correction_click(found[i], wanted[i], self.rng) if prompted[i] or not self.select else None
            if click is not None:
                points[i, -1], labels[i, -1] = torch.from_numpy(click[0]), click[1]
        maps[:, MASK] = prediction
        return Prompts(points, labels, maps)

    def _prediction(self, logits: Tensor) -> Tensor:
        if self.region_labels is None:
            return logits.argmax(dim=1).to(torch.int16)
        return _label_map(logits > 0, self.region_labels)

    def _true_labels(self) -> np.ndarray:
        """(B, D, H, W), -1 at voxels to ignore."""
        target = self.target
        if self.region_labels is not None:
            labels = _label_map(target[:, : len(self.region_labels)] > 0, self.region_labels)
            ignored = target[:, -1] > 0 if self.ignore_label is not None else None
        else:
            labels = target[:, 0].to(torch.int16)
            ignored = labels == self.ignore_label if self.ignore_label is not None else None
        return (labels if ignored is None else labels.masked_fill(ignored, -1)).cpu().numpy()


def _prompted(labels: Tensor, maps: Tensor) -> list[bool]:
    """For each sample, whether it has a click, a scribble or a box."""
    marked = (maps[:, [SCRIBBLE, BOX]] != NOTHING).flatten(1).any(dim=1)
    return ((labels >= 0).any(dim=1) | marked).tolist()


def _label_map(regions: Tensor, region_labels: list[int]) -> Tensor:
    """(B, R, D, H, W) bool -> (B, D, H, W) int16, later regions over earlier ones."""
    labels = torch.zeros_like(regions[:, 0], dtype=torch.int16)
    for region, label in zip(regions.unbind(dim=1), region_labels, strict=True):
        labels[region] = label
    return labels
