"""The promptable 3-D network: image encoder, prompt encoder, mask decoder."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.device import PRECISIONS, computes_in_bf16
from sam3d_nnunet.network.image_encoder import ImageEncoder
from sam3d_nnunet.network.mask_decoder import MaskDecoder, enlarge
from sam3d_nnunet.network.prompt_encoder import DensePrompt, PositionPromptEncoder, PromptEncoder
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prompts.prompt import KINDS, NOTHING

STRIDES = (2, 4, 8)
PUBLISHED_GRID = 32  # tokens a side of the published network
PROMPT_ENCODERS = {"sampler": PromptEncoder, "position": PositionPromptEncoder}


@dataclass(frozen=True)
class Preset:
    """Sizes of a network.

    Attributes:
        sam_model: which SAM weights fit, None if none do.
        embed_dim, depth, num_heads, global_blocks: SAM's image encoder.
        feature_channels: channels of each level of features.
        decoder_channels: channels inside the mask decoder.
        prompt_heads, prompt_mlp_dim: sizes of the prompt encoder.
        labelled_prompts: whether clicks carry labels and are also drawn as dense prompts; not in the published one.
    """

    sam_model: str | None
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    feature_channels: int = 256
    decoder_channels: int = 128
    prompt_heads: int = 8
    prompt_mlp_dim: int = 2048
    labelled_prompts: bool = True


PRESETS = {
    "vit_b": Preset("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Preset("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Preset("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    "paper": Preset("vit_b", 768, 12, 12, (2, 5, 8, 11), labelled_prompts=False),
    "tiny": Preset(None, 48, 4, 3, (0, 1, 2, 3), 32, 24, prompt_heads=4, prompt_mlp_dim=64),
}


@dataclass
class Embedding:
    """What `SAM3D.encode` finds in an image and `SAM3D.decode` needs for each set of clicks.

    Attributes:
        features: (B, C, d, h, w) each, in the type of the weights: the levels of the encoder that clicks change, on the
            token grid. The last level is the last of them.
        image_share: (B, C', 2d, 2h, 2w) in the type of the arithmetic, the part of the fused map that doesn't depend
            on clicks.
        size: voxels of the image along (d, h, w).
    """

    features: list[Tensor]
    image_share: Tensor
    size: tuple[int, int, int]


def default_stride(patch_size: tuple[int, ...]) -> int:
    """Voxels a token covers: as few as keep the token grid within the published 32 a side (128^3: 4, 256^3: 8)."""
    return next((s for s in STRIDES if max(patch_size) <= s * PUBLISHED_GRID), STRIDES[-1])


class SAM3D(nn.Module):
    """3DSAM-adapter (Gong et al. 2023, arXiv 2306.13465).

    Whether a parameter is tuned is decided by the modules themselves: `requires_grad` is False for all that is SAM's.
    """

    def __init__(
        self,
        preset: Preset,
        input_channels: int,
        num_classes: int,
        stride: int,
        num_click_labels: int | None = None,
        labelled_prompts: bool | None = None,
        takes_maps: bool | None = None,
        precision: str = "fp32",
        activation_checkpointing: bool | None = None,
        prompt_encoding: str = "sampler",
        deep_prompt_levels: Collection[int] = (),
        aggregate_levels: bool = True,
    ) -> None:
        """
        Args:
            preset: sizes of the network.
            input_channels: channels of the image.
            num_classes: logits per voxel, background included.
            stride: voxels a token covers along each axis (2, 4 or 8).
            num_click_labels: labels a click may have, background included. Default: `num_classes`.
            labelled_prompts: overrides the preset's.
            takes_maps: whether previous masks, scribbles and boxes mean something. Default: where prompts are labelled.
            precision: of matrix products and convolutions, "bf16", "fp32" or "auto" (bf16 where the device has
                arithmetic for it). Weights and norms of tokens are float32 in any case, and logits are returned so. Can
                be set later.
            activation_checkpointing: compute each block of the encoder again in the backward pass instead of keeping
                its activations. Default: for encoders of SAM's size.
            prompt_encoding: what stands for a click, "sampler" (the features under it) or "position" (SAM's code).
            deep_prompt_levels: levels of features, counted from 1, that clicks change beside the last one. Each has a
                prompt encoder of its own, which reads that level; dense prompts reach the last level only.
            aggregate_levels: whether all levels are decoded, or the last one alone.

        Raises:
            SAM3DError: the stride, the precision, the prompt encoding or a level is not possible, or maps are wanted
                without labelled prompts.
        """
        super().__init__()
        # 0 until weights have been chosen: travels with checkpoints, so that a loaded network is not started anew
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        if stride not in STRIDES:
            raise SAM3DError(f"stride {stride!r} is not possible; choose one of {', '.join(map(str, STRIDES))}.")
        if precision not in PRECISIONS:
            raise SAM3DError(f"precision {precision!r} is not possible; choose one of {', '.join(PRECISIONS)}.")
        if prompt_encoding not in PROMPT_ENCODERS:
            raise SAM3DError(
                f"prompt encoding {prompt_encoding!r} is not possible; choose one of {', '.join(PROMPT_ENCODERS)}."
            )
        self.num_classes = num_classes
        self.stride = stride
        self.precision = precision
        self.labelled_prompts = preset.labelled_prompts if labelled_prompts is None else labelled_prompts
        self.takes_maps = self.labelled_prompts if takes_maps is None else takes_maps
        if self.takes_maps and not self.labelled_prompts:
            raise SAM3DError(
                "A network with unlabelled clicks can't take masks, scribbles and boxes, which carry labels."
            )
        num_labels = num_click_labels or num_classes
        channels = preset.feature_channels
        self.image_encoder = ImageEncoder(
            input_channels,
            preset.embed_dim,
            preset.depth,
            preset.num_heads,
            preset.global_blocks,
            channels,
            stride,
            preset.sam_model is not None if activation_checkpointing is None else activation_checkpointing,
        )
        new_prompt_encoder = partial(
            PROMPT_ENCODERS[prompt_encoding],
            channels,
            preset.prompt_heads,
            preset.prompt_mlp_dim,
            num_labels=num_labels if self.labelled_prompts else None,
        )
        num_levels = len(preset.global_blocks) if aggregate_levels else 1
        prompted = [*_deep_levels(deep_prompt_levels, num_levels), num_levels - 1]
        self.prompt_encoder = new_prompt_encoder()
        self.deep_prompt_encoders = nn.ModuleList(new_prompt_encoder() for _ in prompted[:-1])
        self.dense_prompt = (
            DensePrompt(num_labels, channels, channels // 8, stride, self.takes_maps) if self.labelled_prompts else None
        )
        self.mask_decoder = MaskDecoder(
            channels, preset.decoder_channels, num_levels, input_channels, num_classes, prompted
        )
        for i in range(len(preset.global_blocks) - num_levels):  # nothing is decoded from these
            self.image_encoder.necks[i] = nn.Identity()

    @classmethod
    def from_preset(
        cls,
        name: str,
        input_channels: int,
        num_classes: int,
        patch_size: tuple[int, int, int],
        stride: int | None = None,
        **options: Any,
    ) -> "SAM3D":
        """A network with random weights.

        Args:
            name: one of `PRESETS`.
            input_channels: channels of the image.
            num_classes: logits per voxel, background included.
            patch_size: voxels along (d, h, w) it is meant for; chooses the stride where none is given.
            stride: voxels a token covers along each axis (2, 4 or 8).
            options: further arguments of `SAM3D`.

        Raises:
            SAM3DError: there is no such preset, or the stride is none of 2, 4, 8.
        """
        if name not in PRESETS:
            raise SAM3DError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls(
            PRESETS[name],
            input_channels,
            num_classes,
            default_stride(patch_size) if stride is None else stride,
            **options,
        )

    def forward(
        self,
        image: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        maps: Tensor | None = None,
        correct: Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None], Prompts] | None = None,
    ) -> Tensor:
        """Segment an image, prompted or (without prompts) automatically.

        Args:
            image: (B, C, D, H, W).
            points: (B, N, 3) clicks in voxels of the image, centres at integers.
            labels: (B, N) int: k >= 1 a click on class k, 0 on background, -1 padding.
            maps: (B, 3, D, H, W) int: previous mask, scribbles and boxes as label maps, see `prompts.prompt`.
            correct: in training, turns first logits and the prompts they came from (points, labels, maps) into the
                prompts of a second decoding, of which alone there are gradients. Both share one encoding.

        Returns:
            logits (B, K, D, H, W).

        Raises:
            SAM3DError: a prompt has a label that the network doesn't know, or is of a kind that it doesn't take.
        """
        embedding = self.encode(image)
        if correct is not None:
            with torch.no_grad():
                first = self.decode(embedding, points, labels, maps)
            points, labels, maps = correct(first, points, labels, maps)
        return self.decode(embedding, points, labels, maps)

    def encode(self, image: Tensor) -> Embedding:
        """All that doesn't depend on clicks: (B, C, D, H, W) -> embedding."""
        with self._autocast(image.device, tokens=-(-image.shape[2] // self.stride)):
            return self._encode(image.to(self.image_encoder.pos_embed.dtype))

    def _encode(self, image: Tensor) -> Embedding:
        size = tuple(image.shape[2:])
        d, h, w = (-n % self.stride for n in size)
        if d or h or w:  # whole tokens; what is added goes again in `decode`
            image = F.pad(image, (0, w, 0, h, 0, d), mode="replicate")
        decoder = self.mask_decoder
        levels = self.image_encoder(image)[-len(decoder.heads) :]
        fused_size = tuple(2 * n for n in levels[-1].shape[2:])
        if image.shape[2:] != fused_size:
            image = F.interpolate(image, size=fused_size, mode="trilinear", align_corners=False)
        features = [levels[i].to(image.dtype) for i in decoder.prompted]
        return Embedding(features, decoder.encode([levels[i] for i in decoder.unprompted], image), size)

    def decode(
        self,
        embedding: Embedding,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, K, D, H, W) float32 for a set of prompts; arguments as in `forward`.

        An embedding of one image (B = 1) also serves several sets of clicks (B of the points) at once, with maps for
        each or one for all.
        """
        with self._autocast(embedding.image_share.device, tokens=embedding.features[-1].shape[2]):
            return self._decode(embedding, points, labels, maps)

    def _decode(
        self, embedding: Embedding, points: Tensor | None, labels: Tensor | None, maps: Tensor | None
    ) -> Tensor:
        last = embedding.features[-1]
        if (points is None) != (labels is None):
            raise SAM3DError("Clicks need both points and labels.")
        if points is None:  # one padded click, so that every tuned parameter takes part (DDP)
            count = max(len(last), 1 if maps is None else len(maps))
            points = last.new_zeros((count, 1, 3))
            labels = torch.full((count, 1), -1, device=last.device)
        self._check_labels(labels)
        self._check_maps(maps, embedding.size)
        features = [level.expand(len(points), -1, -1, -1, -1) for level in embedding.features]
        points = points.masked_fill((labels < 0)[..., None], 0)  # whatever padding holds, NaN included
        grid = last.shape[2:]
        tokens = (points + 0.5) / self.stride  # from the faces of the grid
        if self.dense_prompt is not None:
            features[-1] = features[-1] + self.dense_prompt(tokens - 0.5, labels, tuple(grid), maps)
        faces = 2 * tokens / torch.tensor(grid, device=tokens.device) - 1
        encoders = [*self.deep_prompt_encoders, self.prompt_encoder]
        features = [encoder(level, faces, labels) for encoder, level in zip(encoders, features, strict=True)]
        logits = self.mask_decoder(embedding.image_share, *features).to(last.dtype)
        padded = tuple(n * self.stride for n in grid)
        if logits.shape[2:] != padded:
            logits = enlarge(logits, padded)
        d, h, w = embedding.size
        return logits[..., :d, :h, :w]

    def _autocast(self, device: torch.device, tokens: int) -> torch.autocast:
        """Our own, whatever autocast nnU-Net has around us: its float16 would overflow; for so many tokens along d."""
        return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(self.precision, device, tokens))

    def _check_labels(self, labels: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        lowest, highest = (0, self.dense_prompt.num_labels - 1) if self.labelled_prompts else (1, 1)
        wrong = (labels != -1) & ((labels < lowest) | (labels > highest))
        if not wrong.any():
            return
        label = labels[wrong][0].item()
        if self.labelled_prompts:
            raise SAM3DError(f"A click has label {label}; this network knows 0 (background) to {highest}.")
        raise SAM3DError(
            f"A click has label {label}; the published network takes unlabelled foreground clicks only (label 1). "
            "Background clicks and classes need a preset with labelled prompts, such as vit_b."
        )

    def _check_maps(self, maps: Tensor | None, size: tuple[int, int, int]) -> None:
        if maps is None:
            return
        if not self.takes_maps:
            raise SAM3DError(
                "This network was made without masks, scribbles and boxes as prompts; give it clicks only."
            )
        if tuple(maps.shape[1:]) != (KINDS, *size):
            wanted = ", ".join(map(str, (KINDS, *size)))
            raise SAM3DError(f"Maps of prompts have the shape {tuple(maps.shape)}, but (B, {wanted}) is needed.")
        if torch.compiler.is_compiling():
            return
        lowest, highest = (int(n) for n in maps.aminmax())
        if lowest < NOTHING or highest >= self.dense_prompt.num_labels:
            label = lowest if lowest < NOTHING else highest
            raise SAM3DError(
                f"A mask, scribble or box has label {label}; this network knows 0 (background) to "
                f"{self.dense_prompt.num_labels - 1}, and {NOTHING} for nothing."
            )


def _deep_levels(numbers: Collection[int], num_levels: int) -> list[int]:
    """Levels counted from 0, shallow to deep; the last one, which is always prompted, is none of them."""
    for number in numbers:
        if number not in range(1, num_levels):
            raise SAM3DError(f"Clicks can't change level {number} beside the last of {num_levels} decoded levels.")
    return sorted({number - 1 for number in numbers})
