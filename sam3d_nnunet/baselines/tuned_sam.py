"""An image encoder with SAM's weights and the aggregation decoder, without prompts."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.network.mask_decoder import MaskDecoder, enlarge
from sam3d_nnunet.network.precision import computes_in_bf16
from sam3d_nnunet.network.sam3d import PRESETS, Preset, default_stride


class TunedSAM(nn.Module):
    """The network in which the paper compares ways of tuning SAM's encoder: all levels go through the decoder.

    Whether a parameter is tuned is decided by the modules themselves: `requires_grad` is False for all that is frozen.
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
        # 0 until weights have been chosen: travels with checkpoints, so that a loaded network is not started anew
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
        # our own, whatever autocast nnU-Net has around us: its float16 would overflow
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
