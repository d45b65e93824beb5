"""nnU-Net's data loader, with prompts drawn on the augmented patches."""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from sam3d_nnunet.prompts.simulator import DrawnPrompts, PromptSimulator


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
