"""The prompts of a training batch: drawn by nnU-Net's data loader, and corrected within a training step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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


class PackedPrompts(NamedTuple):
    """`Prompts` on their way from a worker to the training, without the maps that say nothing, which are most of them.

    Most of the time that prompts cost a worker would go into copying maps to the memory that both processes share.

    Attributes:
        points, labels: as in `Prompts`.
        maps: (M, D, H, W) int16, those that say something. None: the network takes none.
        places: (M, 2) int, the patch and the kind of each.
    """

    points: Tensor
    labels: Tensor
    maps: Tensor | None
    places: Tensor

    @classmethod
    def pack(cls, patches: Sequence[VoxelPrompts]) -> "PackedPrompts":
        """Collate the prompts of several patches of one size; all have maps, or none has."""
        points, labels, _ = Prompts.from_voxels([patch._replace(maps=None) for patch in patches])
        if patches[0].maps is None:
            return cls(points, labels, None, torch.zeros(0, 2, dtype=torch.long))
        places = [(number, kind) for number, patch in enumerate(patches) for kind in sorted(patch.maps.said)]
        maps = np.empty((len(places), *patches[0].maps.shape), np.int16)
        for i, (number, kind) in enumerate(places):
            maps[i] = patches[number].maps.said[kind]
        return cls(points, labels, torch.from_numpy(maps), torch.tensor(places, dtype=torch.long).view(-1, 2))

    def unpack(self, device: torch.device) -> Prompts:
        """The prompts on a device, with all maps."""
        points, labels, maps, places = (None if t is None else t.to(device, non_blocking=True) for t in self)
        if maps is None:
            return Prompts(points, labels)
        everything = maps.new_full((len(points), KINDS, *maps.shape[1:]), NOTHING)
        everything[places[:, 0], places[:, 1]] = maps
        return Prompts(points, labels, everything)


class PromptedDataLoader(nnUNetDataLoader):
    """nnU-Net's loader, whose batches also have `PackedPrompts` under the key `prompts`."""

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
        return batch | {"prompts": PackedPrompts.pack(self.draw_prompts.drawn)}


class Correction:
    """Adds to each sample a click on its largest error, and its mask as previous mask, round after round.

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
        rounds: int = 1,
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
            rounds: how many corrections follow one another.
        """
        self.target = target
        self.region_labels = region_labels
        self.ignore_label = ignore_label
        self.rng = rng
        self.select = select
        self.rounds = rounds
        self._done = 0

    @torch.compiler.disable
    def __call__(self, logits: Tensor, prompts: Prompts) -> Prompts:
        """Logits (B, K, D, H, W) and the prompts they came from -> prompts with the correction.

        The last clicks of each sample must be padding, one for each round: each becomes a correction, if there is an
        error.
        """
        prediction, wanted = self._prediction(logits), self._true_labels()
        shape = (len(prediction), KINDS, *prediction.shape[1:])
        maps = prediction.new_full(shape, NOTHING) if prompts.maps is None else prompts.maps.clone()
        points, labels = prompts.points.clone(), prompts.labels.clone()
        self._done += 1
        found = prediction.cpu().numpy()
        for i in range(len(found)):
            if self.select and not _is_prompted(labels[i], maps[i]):
                continue
            click = correction_click(found[i], wanted[i], self.rng)
            if click is not None:
                points[i, -self._done], labels[i, -self._done] = torch.from_numpy(click[0]), click[1]
        maps[:, MASK] = prediction
        return Prompts(points, labels, maps)

    def _prediction(self, logits: Tensor) -> Tensor:
        if self.region_labels is None:
            return _most_likely(logits)
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


def _is_prompted(labels: Tensor, maps: Tensor) -> bool:
    """Whether a sample with labels (N,) and maps (3, D, H, W) has a click, a scribble or a box."""
    return bool((labels >= 0).any()) or any(bool((maps[kind] != NOTHING).any()) for kind in (SCRIBBLE, BOX))


def _most_likely(logits: Tensor) -> Tensor:
    """(B, K, D, H, W) -> (B, D, H, W) int16, the first of equal ones: `argmax`, which takes far longer on a CPU."""
    best, labels = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.int16)
    for label, others in enumerate(logits[:, 1:].unbind(dim=1), 1):
        labels.masked_fill_(others > best, label)
        best = torch.maximum(best, others)
    return labels


def _label_map(regions: Tensor, region_labels: list[int]) -> Tensor:
    """(B, R, D, H, W) bool -> (B, D, H, W) int16, later regions over earlier ones."""
    labels = torch.zeros_like(regions[:, 0], dtype=torch.int16)
    for region, label in zip(regions.unbind(dim=1), region_labels, strict=True):
        labels[region] = label
    return labels
