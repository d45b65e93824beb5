"""nnU-Net's data loader, with clicks drawn on the augmented patches."""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from sam3d_nnunet.prompts.draw import Clicks
from sam3d_nnunet.prompts.policies import ClickSimulator


class DrawClicks(BasicTransform):
    """Draws clicks on a patch's label map and keeps them until the batch is complete; the patch is left as it is."""

    def __init__(self, simulator: ClickSimulator) -> None:
        super().__init__()
        self.simulator = simulator
        self.drawn: list[Clicks] = []

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Reads (C, D, H, W) 'segmentation', whose first channel is the label map with -1 outside the image."""
        # np.random is the one generator that differs between nnU-Net's worker processes
        rng = np.random.default_rng(np.random.randint(2**31))
        self.drawn.append(self.simulator(data_dict["segmentation"][0].numpy(), rng))
        return data_dict


class PromptedDataLoader(nnUNetDataLoader):
    """Adds `points` (B, N, 3) float32 in voxels of the patch and `point_labels` (B, N) int64 to each batch."""

    def __init__(self, *args: Any, simulator: ClickSimulator, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: as for nnU-Net's loader.
            simulator: draws the clicks of a patch.
        """
        super().__init__(*args, **kwargs)
        self.draw_clicks = DrawClicks(simulator)
        # after all that moves voxels, but before the outside of the image (-1) becomes background
        steps = self.transforms.transforms
        steps.insert([type(step) for step in steps].index(RemoveLabelTansform), self.draw_clicks)

    def generate_train_batch(self) -> dict[str, Any]:
        """nnU-Net's batch with clicks."""
        self.draw_clicks.drawn.clear()
        batch = super().generate_train_batch()
        points, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*self.draw_clicks.drawn))
        return batch | {"points": points, "point_labels": labels}
