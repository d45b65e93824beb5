"""Training as published: the trainers `_paper` and `_released`."""

from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from torch import nn

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.turn import patient_axes
from sam3d_nnunet.training.boxed_batches import BoxedDataLoader, boxes_above
from sam3d_nnunet.training.planned_trainer import from_first_rank
from sam3d_nnunet.training.published_augmentation import PublishedAugmentation
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

WAVES = 0.01
"""Share of the clip range. nnU-Net resamples after clipping, and its splines leave small waves beside edges."""

PUBLISHED = {
    "preset": "paper",
    "start": "published",
    "labelled_prompts": False,
    "prompt_encoding": "sampler",
    "deep_prompt_levels": [],
    "aggregate_levels": True,
    "refine": "none",
    "batch_size": 1,
    "target_policy": "semantic",
}


class _PublishedTrainer(SAM3DAdapterTrainer):
    """The published network, loss and augmentation; an epoch has one step for each training case.

    nnU-Net draws the case of each step at random, so each case comes up once an epoch on average. There is no mirroring
    at test time.
    """

    augmentation: PublishedAugmentation
    intensity_shift: float
    mirroring_axes = (0, 1, 2)
    """Spatial axes that training mirrors."""

    @property
    def axes(self) -> tuple[int, int, int]:
        """Of the preprocessed images, in the order z, y, x of the patient; (0, 1, 2) where the plans don't tell."""
        orientation = self.settings.orientation
        if orientation is None:
            return 0, 1, 2
        z, y, x = map(list(self.plans_manager.transpose_forward).index, patient_axes(orientation))
        return z, y, x

    def on_train_start(self) -> None:
        """As many steps as there are training cases."""
        super().on_train_start()
        training_set, _ = self.get_tr_and_val_datasets()
        self.num_iterations_per_epoch = len(training_set.identifiers)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """No rotation of nnU-Net's; the loaded patch is as large as the published augmentation requires."""
        self.inference_allowed_mirroring_axes = None
        patch_size = tuple(self.configuration_manager.patch_size)
        return None, False, self.augmentation.loaded_size(patch_size, self.axes), self.mirroring_axes

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
        augmentation = self.augmentation.transforms(tuple(patch_size), self.intensity_shift, self.axes)
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
    augmentation = PublishedAugmentation(zoom=(0.9, 1.1), zoom_share=0.3)
    intensity_shift = 0.1


class SAM3DAdapterTrainer_released(_PublishedTrainer):
    """As the authors' released code trains on kidney and liver; `_released_inplane` is for pancreas and colon.

    AdamW with learning rate 4e-4 falling to a hundredth and no weight decay; 500 passes over the cases, batch 1;
    gradients clipped at norm 1 in each of image encoder, prompt encoder and decoder; float32. Two of three patches are
    centred on foreground, the others lie in the box of all that is above the clip minimum; each is cut from a patch 1.2
    times as large. 10 clicks in the foreground and 20 anywhere; zoom 0.85 to 1.25 (probability 0.8), flips (0.5 an
    axis), turns by 90, 180 or 270 degrees in the sagittal plane (0.5), shift of up to 20 HU (0.5); half soft Dice
    without background, half cross-entropy. The depth table starts at ones.

    The released code keeps the checkpoint with the best validation. nnU-Net also keeps one, by its own measure:
    validate with `--val_best`, predict with `checkpoint_best.pth`. Our choices: for images other than CT, the paper's
    shift of 0.1 and background patches from anywhere; where plans note no orientation, slices follow each other along
    the first axis. The user sets patch size, spacing and clipping, as for `_paper`, and the split, which is the first
    of the published five.
    """

    changes = PUBLISHED | {
        "precision": "fp32",
        "foreground_share": 2 / 3,
        "clicks": {"policy": "released"},
        "optimizer": {"lr": 4e-4, "weight_decay": 0.0, "final_lr_share": 0.01, "gradient_clip": 1.0},
        "num_epochs": 500,
    }
    augmentation = PublishedAugmentation(zoom=(0.85, 1.25), zoom_share=0.8, cut_from=1.2, quarter_turns=(0, 1))
    loader_class = BoxedDataLoader

    @property
    def intensity_shift(self) -> float:
        """20 HU, divided by the standard deviation with which CT is normalised."""
        if not self._is_ct:
            return SAM3DAdapterTrainer_paper.intensity_shift
        return 20 / self._intensities["std"]

    @property
    def body_level(self) -> float | None:
        """Normalised intensity just above that to which CT is clipped from below; None for other images."""
        if not self._is_ct:
            return None
        low, high = self._intensities["percentile_00_5"], self._intensities["percentile_99_5"]
        return (low + WAVES * (high - low) - self._intensities["mean"]) / self._intensities["std"]

    def on_train_start(self) -> None:
        """Say where axial slices are taken to lie if the plans don't tell."""
        super().on_train_start()
        if self.settings.orientation is None:
            self.print_to_log_file(
                "The plans note no orientation, so slices along the first axis of preprocessed images count as axial: "
                "patches turn and zoom within them as in the released code."
            )

    def clipped_parts(self) -> tuple[nn.Module, ...]:
        """Image encoder, prompt encoder and decoder."""
        network = self.plain_network()
        return network.image_encoder, network.prompt_encoder, network.mask_decoder

    def loader_options(self) -> dict[str, Any]:
        """Also the box of each training case, for patches of the background."""
        return super().loader_options() | {
            "boxes": from_first_rank(self._boxes),
            "patch_share": self.augmentation.cut_from,
        }

    def _boxes(self) -> dict[str, Box | None]:
        if self.body_level is None:
            return {}
        training_set, _ = self.get_tr_and_val_datasets()
        return boxes_above(training_set, training_set.identifiers, self.body_level)

    def _load_sam_weights(self) -> None:
        """SAM's weights, and a depth table of ones, which SAM doesn't have."""
        network = self.plain_network()
        is_loaded = bool(network.initialized)
        super()._load_sam_weights()
        if not is_loaded:
            nn.init.ones_(network.image_encoder.depth_embed)

    @property
    def _is_ct(self) -> bool:
        return self.configuration_manager.normalization_schemes[0] == "CTNormalization"

    @property
    def _intensities(self) -> dict[str, float]:
        """Of the foreground of all training images, by which nnU-Net clips and normalises CT."""
        return self.plans_manager.foreground_intensity_properties_per_channel["0"]


class SAM3DAdapterTrainer_released_inplane(SAM3DAdapterTrainer_released):
    """As the authors' released code trains on pancreas and colon.

    As `_released`, but patches turn within axial slices by up to 30 degrees (probability 0.3) and zoom there by 0.9 to
    1.1, along each axis by another factor (0.3).
    """

    augmentation = PublishedAugmentation(
        zoom=(0.9, 1.1),
        zoom_share=0.3,
        in_plane=True,
        turn=30,
        turn_share=0.3,
        cut_from=1.2,
        quarter_turns=(0, 1),
    )
