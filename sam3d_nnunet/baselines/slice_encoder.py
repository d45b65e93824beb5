"""SAM's 2-D image encoder on the slices of a volume, with hooks for tuning methods."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import ImageEncoderViT, window_partition, window_unpartition
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.checkpoint_files import read_checkpoint
from sam3d_nnunet.network.image_encoder import EPS, SAM_PATCH, SAM_WINDOW, Neck3D
from sam3d_nnunet.network.sam3d import Preset

PREFIX = "image_encoder."  # in SAM's files
NECK = "neck."
NECKS = ("sam", "3d")
"""What makes levels of features: SAM's single 2-D neck on each slice, or a tuned `Neck3D` for each level."""


class BlockTuning(nn.Module):
    """Changes that a method makes in one of SAM's blocks: here none. Tensors are (B, d, h, w, dim)."""

    def on_attention(self, update: Tensor) -> Tensor:
        """Changes what attention adds to the tokens."""
        return update

    def before_mlp(self, tokens: Tensor) -> Tensor:
        """Changes the tokens between attention and MLP."""
        return tokens

    def on_mlp(self, update: Tensor) -> Tensor:
        """Changes what the MLP adds to the tokens."""
        return update

    def after_block(self, tokens: Tensor) -> Tensor:
        """Changes the tokens behind the block."""
        return tokens


class SliceEncoder(nn.Module):
    """Features of a volume at four depths of SAM's own encoder (segment_anything), which processes slice by slice.

    Slices are enlarged in their plane, 16 / stride times, so that SAM's patches cover `stride` voxels a side. The
    encoder gets the mean of each `stride` slices, so the token grid is that of `network.ImageEncoder`. The paper does
    not say which slices these methods get.

    By default all levels pass through SAM's single neck. Full fine-tuning therefore tunes SAM's encoder and nothing
    else: 89,670,912 parameters of ViT-B, the paper's 89.67 M. Other methods freeze the neck and tune the norms of the
    blocks (36,864 parameters of ViT-B) in addition to their own parameters, as in our encoder and in Houlsby et al. The
    paper does not mention necks and norms; with this choice the counts of ST-Adapter and Pro-tuning agree.

    With the neck "3d" the levels have the four tuned 3-D necks of our encoder instead, 7,868,416 parameters of ViT-B.
    They start as SAM's neck, without neighbouring slices.
    """

    def __init__(
        self,
        preset: Preset,
        input_channels: int,
        stride: int,
        activation_checkpointing: bool,
        tuning: Callable[[int], BlockTuning] | None,
        neck: str = "sam",
    ) -> None:
        """
        Args:
            preset: sizes of the encoder.
            input_channels: of the image; more than one are mixed into SAM's three by tuned weights.
            stride: voxels a token covers along each axis.
            activation_checkpointing: keep only the inputs of blocks and 3-D necks for the backward pass.
            tuning: width of a token -> what a method tunes in a block. None: all of SAM's encoder is tuned.
            neck: one of `NECKS`.

        Raises:
            SAM3DError: there is no such neck.
        """
        super().__init__()
        check_neck(neck)
        self.stride = stride
        self.activation_checkpointing = activation_checkpointing
        self.global_blocks = preset.global_blocks
        self.sam = ImageEncoderViT(
            embed_dim=preset.embed_dim,
            depth=preset.depth,
            num_heads=preset.num_heads,
            out_chans=preset.feature_channels,
            norm_layer=partial(nn.LayerNorm, eps=EPS),
            use_rel_pos=True,
            window_size=SAM_WINDOW,
            global_attn_indexes=preset.global_blocks,
        )
        self.channel_mix = nn.Parameter(torch.full((3, input_channels), 1 / input_channels))
        self.channel_mix.requires_grad_(input_channels > 1)
        make_tuning = tuning or (lambda dim: BlockTuning())
        self.tunings = nn.ModuleList(make_tuning(preset.embed_dim) for _ in range(preset.depth))
        if tuning is not None:
            self.sam.requires_grad_(False)
            for block in self.sam.blocks:
                block.norm1.requires_grad_(True)
                block.norm2.requires_grad_(True)
        self.necks = None
        if neck == "3d":
            self.sam.neck = nn.Identity()
            self.necks = nn.ModuleList(Neck3D(preset.embed_dim, preset.feature_channels) for _ in preset.global_blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, D, H, W), sides multiples of stride -> levels (B, C', D/stride, H/stride, W/stride), shallow first."""
        return self.levels(self.embed(image))

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) -> tokens (B, d, h, w, dim) with their positions."""
        slices = F.avg_pool3d(image, (self.stride, 1, 1)).transpose(1, 2)
        batch_and_depth = slices.shape[:2]
        scale = SAM_PATCH / self.stride
        slices = F.interpolate(slices.flatten(0, 1), scale_factor=scale, mode="bilinear", align_corners=False)
        tokens = self.sam.patch_embed(torch.einsum("rc,nchw->nrhw", self.channel_mix, slices))
        positions = F.interpolate(
            self.sam.pos_embed.permute(0, 3, 1, 2), size=tokens.shape[1:3], mode="bilinear", align_corners=False
        )
        return (tokens + positions.permute(0, 2, 3, 1)).unflatten(0, batch_and_depth)

    def levels(self, tokens: Tensor) -> list[Tensor]:
        """(B, d, h, w, dim) -> levels of (B, C', d, h, w)."""
        levels = []
        for i in range(len(self.sam.blocks)):
            tokens = self.block(i, tokens)
            if i in self.global_blocks:
                levels.append(self.level(len(levels), tokens))
        return levels

    def block(self, i: int, tokens: Tensor) -> Tensor:
        """One of SAM's blocks with the method's changes, (B, d, h, w, dim) -> the same shape."""
        return self._run(self._block, i, tokens)

    def level(self, number: int, tokens: Tensor) -> Tensor:
        """Level 0, 1, ... of features from tokens (B, d, h, w, dim) -> (B, C', d, h, w)."""
        if self.necks is None:
            return on_slices(self.sam.neck, tokens)
        return self._run(self.necks[number], tokens)

    def load_sam(self, path: str | Path) -> None:
        """Copy SAM's image encoder into this one, in place. MedSAM's vit_b file also fits.

        Raises:
            SAM3DError: the file can't be read, or holds no SAM of this preset.
        """
        tensors = read_sam(path)
        if self.necks is None:
            load_tensors(self.sam, tensors, path)
            return
        load_tensors(self.sam, {name: t for name, t in tensors.items() if not name.startswith(NECK)}, path)
        sams = sams_neck(self.necks[0].reduce.in_features, self.necks[0].reduce.out_features)
        load_tensors(sams, tensors_of_neck(tensors), path)
        for neck in self.necks:
            neck.load_sam(sams.state_dict())

    def _run(self, part: Callable[..., Tensor], *inputs: object) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _block(self, i: int, tokens: Tensor) -> Tensor:
        block, tuning = self.sam.blocks[i], self.tunings[i]
        update = self._attention(i, block.norm1(tokens).flatten(0, 1)).view_as(tokens)
        tokens = tuning.before_mlp(tokens + tuning.on_attention(update))
        return tuning.after_block(tokens + tuning.on_mlp(block.mlp(block.norm2(tokens))))

    def _attention(self, i: int, slices: Tensor) -> Tensor:
        """SAM's attention, in windows or global, (slices, h, w, dim) -> the same shape."""
        block = self.sam.blocks[i]
        if block.window_size == 0:
            return block.attn(slices)
        windows, padded = window_partition(slices, block.window_size)
        return window_unpartition(block.attn(windows), block.window_size, padded, slices.shape[1:3])


def check_neck(neck: str) -> None:
    """
    Raises:
        SAM3DError: there is no such neck.
    """
    if neck not in NECKS:
        raise SAM3DError(f"neck {neck!r} is not possible; choose one of {', '.join(NECKS)}.")


def on_slices(neck: nn.Module, tokens: Tensor) -> Tensor:
    """SAM's neck on each slice, (B, d, h, w, dim) -> (B, C', d, h, w)."""
    features = neck(tokens.flatten(0, 1).permute(0, 3, 1, 2))
    return features.unflatten(0, tokens.shape[:2]).transpose(1, 2)


def read_sam(path: str | Path) -> dict[str, Tensor]:
    """The tensors of SAM's image encoder in a file, by their names in segment_anything's `ImageEncoderViT`.

    Raises:
        SAM3DError: the file can't be read, or is no SAM checkpoint.
    """
    tensors = {str(name): t for name, t in read_checkpoint(path).items()}
    tensors = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    if not tensors:
        raise SAM3DError(f"{path} is not a SAM checkpoint: it has no tensors with names {PREFIX}...")
    return tensors


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy all tensors of a part of SAM into a module, in place.

    Raises:
        SAM3DError: they don't fit; `path` says where they are from.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as e:
        reason = " ".join(line.strip() for line in str(e).splitlines()[1:3])
        raise SAM3DError(f"The tensors of {path} don't fit the preset's SAM model. {reason[:300]}") from e


def sams_neck(dim: int, channels: int) -> nn.Sequential:
    """SAM's 2-D neck as segment_anything builds it, with random weights: (N, dim, h, w) -> (N, channels, h, w)."""
    return ImageEncoderViT(embed_dim=dim, depth=0, out_chans=channels, use_abs_pos=False).neck


def tensors_of_neck(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of SAM's neck among the tensors of `read_sam`, with their names in `sams_neck`."""
    return {name.removeprefix(NECK): t for name, t in tensors.items() if name.startswith(NECK)}
