"""Training as published: the augmentation of 3DSAM-adapter, and the trainers `_paper` and `_released`."""

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import nn

from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer


class ShiftIntensity(ImageOnlyTransform):
    """Adds the same random number to all voxels."""

    def __init__(self, largest: float) -> None:
        """
        Args:
            largest: the number is uniform between this and its negative.
        """
        super().__init__()
        self.largest = largest

    def get_parameters(self, **data_dict: object) -> dict[str, float]:
        return {"shift": np.random.uniform(-self.largest, self.largest)}

    def _apply_to_image(self, image: torch.Tensor, shift: float) -> torch.Tensor:
        return image + shift


def loaded_size(patch_size: tuple[int, ...], lowest_zoom: float, cut_from: float) -> list[int]:
    """Voxels to load, so that the augmentation never needs others; arguments as for `published_augmentation`."""
    return [int(np.ceil(n * (cut_from - 1 + 1 / lowest_zoom))) for n in patch_size]


def published_augmentation(
    patch_size: tuple[int, int, int], zoom: tuple[float, float], zoom_share: float, cut_from: float, shift: float
) -> list[BasicTransform]:
    """The published transforms, for a patch of `loaded_size`.

    Args:
        patch_size: voxels (d, h, w) of the augmented patch.
        zoom: smallest and largest factor; above 1 objects become larger.
        zoom_share: probability of a zoom.
        cut_from: the patch is cut at random from one that is so many times as large.
        shift: largest shift of the normalised intensities.
    """
    loaded = loaded_size(patch_size, zoom[0], cut_from)
    transforms: list[BasicTransform] = [
        SpatialTransform(
            patch_size,
            patch_center_dist_from_border=[m / 2 - (cut_from - 1) / 2 * n for m, n in zip(loaded, patch_size)],
            random_crop=cut_from > 1,
            p_scaling=zoom_share,
            scaling=(1 / zoom[1], 1 / zoom[0]),  # of the sampling grid
            p_synchronize_scaling_across_axes=1,
            border_mode_seg="constant",
            padding_value_seg=-1,
        )
    ]
    turning = {axis for axis, n in enumerate(patch_size) if patch_size.count(n) > 1}  # others would change the shape
    if turning:
        transforms.append(RandomTransform(Rot90Transform(1, allowed_axes=turning), 0.5))
    return [*transforms, MirrorTransform((0, 1, 2)), RandomTransform(ShiftIntensity(shift), 0.5)]


PUBLISHED = {
    "preset": "paper",
    "start": "published",
    "labelled_prompts": False,
    "prompt_encoding": "sampler",
    "deep_prompt_levels": [],
    "aggregate_levels": True,
    "batch_size": 1,
    "target_policy": "semantic",
}


class _PublishedTrainer(SAM3DAdapterTrainer):
    """The published network, loss and augmentation; an epoch has one step for each training case.

    nnU-Net draws the case of each step at random, so each case comes up once an epoch on average. There is no mirroring
    at test time.
    """

    zoom: tuple[float, float]
    zoom_share: float
    cut_from: float
    intensity_shift: float
    mirroring_axes = (0, 1, 2)
    """Spatial axes that training mirrors."""

    def on_train_start(self) -> None:
        """As many steps as there are training cases."""
        super().on_train_start()
        training_set, _ = self.get_tr_and_val_datasets()
        self.num_iterations_per_epoch = len(training_set.identifiers)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """No free rotation; the loaded patch is as large as zoom and cut require."""
        self.inference_allowed_mirroring_axes = None
        patch_size = tuple(self.configuration_manager.patch_size)
        return None, False, loaded_size(patch_size, self.zoom[0], self.cut_from), self.mirroring_axes

    def get_training_transforms(
        self,
        patch_size: tuple[int, int, int],
        rotation_for_DA: None,
        deep_supervision_scales: None,
        mirror_axes: tuple[int, ...],
        do_dummy_2d_data_aug: bool,
        use_mask_for_norm: list[bool] | None = None,
        **labels: object,
    ) -> BasicTransform:
        """The published augmentation, then nnU-Net's transforms of label maps."""
        augmentation = published_augmentation(
            tuple(patch_size), self.zoom, self.zoom_share, self.cut_from, self.intensity_shift
        )
        masked = [channel for channel, mask in enumerate(use_mask_for_norm or ()) if mask]
        if masked:  # voxels outside the mask of an image stay 0, whatever the shift
            augmentation.append(MaskImageTransform(masked, channel_idx_in_seg=0, set_outside_to=0))
        rest = self.get_validation_transforms(deep_supervision_scales, **labels)
        return ComposeTransforms([*augmentation, *rest.transforms])

    def _build_loss(self) -> nn.Module:
        """Half soft Dice, half cross-entropy (nnU-Net's loss is their sum)."""
        loss = super()._build_loss()
        loss.weight_dice = loss.weight_ce = 0.5
        return loss


class SAM3DAdapterTrainer_paper(_PublishedTrainer):
    """As the paper says (Tables 4 and 5).

    AdamW with learning rate 1e-4 falling to a tenth and weight decay 1e-5; 200 passes over the cases, one patch each,
    batch 1; half of the patches centred on foreground; 40 clicks in the foreground, or without foreground 10 in the
    background; zoom 0.9 to 1.1 (probability 0.3), quarter turns (0.5), flips (0.5), intensity offset 0.1.

    Taken from the released code where the paper is silent: the loss (half soft Dice without background, half
    cross-entropy), flips with probability 0.5 for each axis, the probability of the offset (0.5), patches of 128^3
    throughout. Our choices where both are silent: gradients clipped at norm 1, quarter turns in any plane with equal
    sides, an offset of normalised intensities. The user sets patch size, spacing and clipping (the plan), and the split
    of 70, 10 and 20 % (`splits_final.json`).
    """

    changes = PUBLISHED | {
        "foreground_share": 0.5,
        "clicks": {"policy": "paper"},
        "optimizer": {"lr": 1e-4, "weight_decay": 1e-5, "final_lr_share": 0.1, "gradient_clip": 1.0},
        "num_epochs": 200,
    }
    zoom = (0.9, 1.1)
    zoom_share = 0.3
    cut_from = 1.0
    intensity_shift = 0.1


class SAM3DAdapterTrainer_released(_PublishedTrainer):
    """As the authors' released code does it.

    AdamW with learning rate 4e-4 falling to a hundredth and no weight decay; 500 passes over the cases, batch 1; two of
    three patches centred on foreground, each cut from a patch 1.2 times as large; 10 clicks in the foreground and 20
    anywhere; zoom 0.85 to 1.25 (probability 0.8), flips (0.5 an axis), quarter turns (0.5), shift of up to 20 HU (0.5);
    half soft Dice without background, half cross-entropy.

    The released code keeps the checkpoint with the best validation. nnU-Net also keeps one, by its own measure:
    validate with `--val_best`, predict with `checkpoint_best.pth`. Our choices: gradients clipped at norm 1, quarter
    turns in any plane with equal sides, and for images other than CT the paper's shift of 0.1. The user sets patch
    size, spacing and clipping, as for `_paper`, and the split, which is the first of the published five.
    """

    changes = PUBLISHED | {
        "foreground_share": 2 / 3,
        "clicks": {"policy": "released"},
        "optimizer": {"lr": 4e-4, "weight_decay": 0.0, "final_lr_share": 0.01, "gradient_clip": 1.0},
        "num_epochs": 500,
    }
    zoom = (0.85, 1.25)
    zoom_share = 0.8
    cut_from = 1.2

    @property
    def intensity_shift(self) -> float:
        """20 HU, divided by the standard deviation with which CT is normalised."""
        if self.configuration_manager.normalization_schemes[0] != "CTNormalization":
            return SAM3DAdapterTrainer_paper.intensity_shift
        return 20 / self.plans_manager.foreground_intensity_properties_per_channel["0"]["std"]
