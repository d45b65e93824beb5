"""An image encoder with SAM's weights and the aggregation decoder, without prompts, and its trainers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.slice_encoder import (
    SliceEncoder,
    check_neck,
    load_tensors,
    on_slices,
    read_sam,
    sams_neck,
    tensors_of_neck,
)
from sam3d_nnunet.baselines.wrappers import Size
from sam3d_nnunet.network.device import computes_in_bf16
from sam3d_nnunet.network.mask_decoder import MaskDecoder, enlarge
from sam3d_nnunet.network.sam3d import PRESETS, Preset, build_image_encoder, default_stride
from sam3d_nnunet.network.weights import lift_sam
from sam3d_nnunet.planning.settings import SAM3DSettings
from sam3d_nnunet.training.trainer import SAMTuning


class TunedSAM(nn.Module):
    """The network in which the paper compares ways of tuning SAM's encoder: the decoder gets all levels unprompted.

    Tuned are the parameters with `requires_grad`: the modules themselves set it to False for frozen ones.
    """

    def __init__(
        self,
        make_encoder: Callable[[Preset, int, int, bool], nn.Module],
        input_channels: int,
        num_classes: int,
        patch_size: tuple[int, int, int],
        preset: str = "vit_b",
        stride: int | None = None,
        precision: str = "fp32",
        activation_checkpointing: bool | None = None,
    ) -> None:
        """
        Args:
            make_encoder: from preset, input channels, stride and whether to checkpoint activations: a module that turns
                (B, C, D, H, W) into levels of (B, C', D/stride, H/stride, W/stride).
            input_channels: of the image.
            num_classes: logits per voxel, background included.
            patch_size: voxels along (d, h, w); chooses the stride where none is given.
            preset: one of `PRESETS`.
            stride: voxels a token covers along each axis (2, 4 or 8).
            precision: "bf16", "fp32" or "auto", as in `SAM3D`.
            activation_checkpointing: default: for encoders of SAM's size.
        """
        super().__init__()
        # 0 until the initial weights are complete; in checkpoints, so that SAM's weights never replace loaded ones
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        sizes = PRESETS[preset]
        self.stride = default_stride(patch_size) if stride is None else stride
        self.precision = precision
        if activation_checkpointing is None:
            activation_checkpointing = sizes.sam_model is not None
        self.image_encoder = make_encoder(sizes, input_channels, self.stride, activation_checkpointing)
        self.mask_decoder = MaskDecoder(
            sizes.feature_channels, sizes.decoder_channels, len(sizes.global_blocks), input_channels, num_classes
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) -> logits (B, K, D, H, W) float32."""
        # our own instead of nnU-Net's, whose float16 would overflow
        bf16 = computes_in_bf16(self.precision, image.device, depth=-(-image.shape[2] // self.stride))
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            return self._segment(image.float())

    def _segment(self, image: Tensor) -> Tensor:
        depth, height, width = image.shape[2:]
        d, h, w = (-n % self.stride for n in image.shape[2:])
        if d or h or w:  # whole tokens
            image = F.pad(image, (0, w, 0, h, 0, d), mode="replicate")
        padded = tuple(image.shape[2:])
        *levels, last = self.image_encoder(image)
        fused_size = tuple(2 * n for n in last.shape[2:])
        if padded != fused_size:
            image = F.interpolate(image, size=fused_size, mode="trilinear", align_corners=False)
        logits = self.mask_decoder(self.mask_decoder.encode(levels, image), last).float()
        if padded != fused_size:
            logits = enlarge(logits, padded)
        return logits[..., :depth, :height, :width]


class TunedSAMTrainer(SAMTuning, AutomaticTrainer):
    """Trains a `TunedSAM` as `SAM3DAdapterTrainer` trains `SAM3D`, with the optimizer and clipping of the plan.

    All methods start from the same weights and train alike; they only differ in what they tune.
    """

    paper_millions: float
    """Millions of parameters tuned in the encoder, as the paper counts them for ViT-B."""

    @classmethod
    def network_arguments(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """The plan's settings of SAM, and the arguments that it gives for this trainer's network.

        Raises:
            SAM3DError: the network has no such argument.
        """
        sam = settings.model_dump(include={"preset", "stride", "precision", "activation_checkpointing"})
        return sam | super().network_arguments(settings)

    def on_train_start(self) -> None:
        """As in `SAMTuning`; the log also shows the number of tuned parameters."""
        if not self.was_initialized:
            self.initialize()
        count = tuned_parameters(self.plain_network().image_encoder)
        paper = f"the paper counts {self.paper_millions:.2f} M for ViT-B"
        self.print_to_log_file(f"Tuned in the image encoder: {count / 1e6:.2f} M parameters; {paper}")
        super().on_train_start()

    def load_sam(self, encoder: nn.Module, path: Path) -> None:
        """Copy the weights of a SAM file into the encoder, in place."""
        encoder.load_sam(path)


def tuned_parameters(module: nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class SAM3DFullFineTuneTrainer(TunedSAMTrainer):
    """Tunes SAM's encoder as a whole, slice by slice: 89,670,912 parameters of ViT-B, the paper's 89.67 M."""

    paper_millions = 89.67

    @staticmethod
    def make_network(input_channels: int, num_classes: int, patch_size: Size, neck: str = "sam", **sam) -> TunedSAM:
        """SAM's encoder on slices; `sam` are arguments of `TunedSAM`."""
        encoder = partial(SliceEncoder, tuning=None, neck=neck)
        return TunedSAM(encoder, input_channels, num_classes, patch_size, **sam)


class SliceNeckEncoder(nn.Module):
    """Our image encoder with SAM's single 2-D neck, frozen, slice by slice, in place of its four tuned 3-D necks."""

    def __init__(
        self,
        preset: Preset,
        input_channels: int,
        stride: int,
        activation_checkpointing: bool,
        start: str | None,
    ) -> None:
        """Arguments of `build_image_encoder`."""
        super().__init__()
        self.tokens = build_image_encoder(preset, input_channels, stride, activation_checkpointing, start)
        self.tokens.necks = nn.ModuleList(nn.Identity() for _ in preset.global_blocks)
        self.neck = sams_neck(preset.embed_dim, preset.feature_channels).requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """As `ImageEncoder`."""
        return [on_slices(self.neck, tokens) for tokens in self.tokens(image)]

    def load_sam(self, path: str | Path) -> None:
        """Copy SAM's image encoder and its neck into this one, in place.

        Raises:
            SAM3DError: the file can't be read, or holds no SAM of this preset.
        """
        lift_sam(self.tokens, path)
        load_tensors(self.neck, tensors_of_neck(read_sam(path)), path)


class SAM3DAdapterAutoTrainer(TunedSAMTrainer):
    """Tunes `SAM3D` without its prompt encoder: 15,209,984 parameters of ViT-B in the encoder, the paper's 15.21 M.

    7,868,416 of them are its four 3-D necks. With the neck "sam" (see `SliceNeckEncoder`) they are 7,341,568.
    """

    paper_millions = 15.21

    def load_sam(self, encoder: nn.Module, path: Path) -> None:
        """Copy the weights of a SAM file into the encoder, in place."""
        if isinstance(encoder, SliceNeckEncoder):
            encoder.load_sam(path)
        else:
            lift_sam(encoder, path)

    @classmethod
    def left_open(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """The start of the preset."""
        return super().left_open(settings) | {"start": PRESETS[settings.preset].start}

    @classmethod
    def network_arguments(cls, settings: SAM3DSettings) -> dict[str, Any]:
        """As for the other methods, and the start of our encoder."""
        return {"start": settings.start} | super().network_arguments(settings)

    @staticmethod
    def make_network(
        input_channels: int, num_classes: int, patch_size: Size, start: str | None = None, neck: str = "3d", **sam
    ) -> TunedSAM:
        """Our encoder and decoder; `start` is that of `build_image_encoder`, `sam` are arguments of `TunedSAM`."""
        check_neck(neck)
        encoder = partial(build_image_encoder if neck == "3d" else SliceNeckEncoder, start=start)
        return TunedSAM(encoder, input_channels, num_classes, patch_size, **sam)
