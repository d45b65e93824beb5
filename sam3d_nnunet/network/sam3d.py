"""SAM3D, the promptable 3-D network: presets, the network made of its three parts, and how it is built."""

from collections.abc import Collection
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
from sam3d_nnunet.network.position_prompt import PositionPromptEncoder, SAMPromptEncoder
from sam3d_nnunet.network.prompt_encoder import CLICK_MAPS, DensePrompt, LevelPromptEncoder, NoTokens, PromptEncoder
from sam3d_nnunet.network.prompts import Correct, Prompts, corrected
from sam3d_nnunet.network.refinement import REFINEMENTS, Refinement

STRIDES = (2, 4, 8)
PUBLISHED_GRID = 32  # tokens a side of the published network
PROMPT_ENCODINGS = {
    "sampler": LevelPromptEncoder,
    "position": PositionPromptEncoder,
    "sam_position": SAMPromptEncoder,
    "none": NoTokens,
}


@dataclass(frozen=True)
class Preset:
    """Sizes of a network.

    Attributes:
        sam_model: the SAM model whose weights fit; None if none fit.
        embed_dim, depth, num_heads, global_blocks: of SAM's image encoder.
        feature_channels: channels of each level of features.
        decoder_channels: channels inside the mask decoder.
        prompt_heads, prompt_mlp_dim: sizes of the prompt encoder.
        labelled_prompts: whether clicks carry labels and are also drawn as dense prompts; not in the published network.
        start: of the image encoder, as for `ImageEncoder`.
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
    start: str = "sam"


PRESETS = {
    "vit_b": Preset("vit_b", 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Preset("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Preset("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    "paper": Preset("vit_b", 768, 12, 12, (2, 5, 8, 11), labelled_prompts=False, start="published"),
    "tiny": Preset(None, 48, 4, 3, (0, 1, 2, 3), 32, 24, prompt_heads=4, prompt_mlp_dim=64, start="published"),
}


def default_refinement(labelled_prompts: bool) -> str:
    """The stage at full resolution of networks whose clicks carry labels, or don't; see `REFINEMENTS`."""
    return "unet" if labelled_prompts else "none"


def default_stride(patch_size: tuple[int, ...]) -> int:
    """Voxels a token covers: the smallest stride with at most the published 32 tokens a side (128^3: 4, 256^3: 8)."""
    return next((s for s in STRIDES if max(patch_size) <= s * PUBLISHED_GRID), STRIDES[-1])


@dataclass
class Embedding:
    """What `SAM3D.encode` computes once for an image and `SAM3D.decode` needs for each set of prompts.

    Attributes:
        features: (B, C, d, h, w) each, in the type of the weights: the levels of features that prompts change, on the
            token grid, shallow to deep.
        image_share: (B, C', 2d, 2h, 2w) in the type of the arithmetic: the part of the decoder's fused map that does
            not depend on prompts.
        size: voxels of the image along (d, h, w).
        image: (B, C, D, H, W), where the decoding looks at it again (`Refinement`).
    """

    features: list[Tensor]
    image_share: Tensor
    size: tuple[int, int, int]
    image: Tensor | None = None


class SAM3D(nn.Module):
    """3DSAM-adapter (Gong et al. 2023, arXiv 2306.13465): image encoder, prompt encoder and mask decoder.

    `SAM3D.from_preset` builds one. Tuned are the parameters with `requires_grad`: the modules themselves set it to
    False for everything that comes frozen from SAM.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        precision: str = "fp32",
        refinement: Refinement | None = None,
    ) -> None:
        """
        Args:
            image_encoder: image -> levels of features.
            prompt_encoder: levels that prompts change and prompts -> prompted levels.
            mask_decoder: levels and image -> logits.
            precision: of matrix products and convolutions: "bf16", "fp32" or "auto" (bf16 where the device has
                arithmetic for it). Weights, norms of tokens and returned logits are float32 in any case. It can be set
                later.
            refinement: the stage at the resolution of the image; None: the published network.

        Raises:
            SAM3DError: there is no such precision.
        """
        super().__init__()
        if precision not in PRECISIONS:
            raise SAM3DError(f"precision {precision!r} is not possible; choose one of {', '.join(PRECISIONS)}.")
        # 0 until the initial weights are complete; in checkpoints, so that SAM's weights never replace loaded ones
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        self.image_encoder = image_encoder
        # the names that these parts have in checkpoints, in the order that states of optimizers refer to
        *deep, self.prompt_encoder = prompt_encoder.levels
        self.deep_prompt_encoders = nn.ModuleList(deep)
        self.dense_prompt = prompt_encoder.dense
        self.mask_decoder = mask_decoder
        self.refinement = refinement
        self.apply_prompts = prompt_encoder
        self.num_classes = mask_decoder.num_classes
        self.stride = image_encoder.stride
        self.takes_maps = prompt_encoder.takes_maps
        self.precision = precision

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
            patch_size: voxels along (d, h, w) of the patches it is meant for; chooses the stride where none is given.
            stride: voxels a token covers along each axis (2, 4 or 8).
            options: further arguments of `build_sam3d`.

        Raises:
            SAM3DError: there is no such preset, or an argument is not possible.
        """
        if name not in PRESETS:
            raise SAM3DError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return build_sam3d(PRESETS[name], input_channels, num_classes, patch_size, stride, **options)

    def forward(
        self, image: Tensor, prompts: Prompts | None = None, correct: Correct | None = None
    ) -> Tensor | list[Tensor]:
        """Segment an image from prompts, or automatically without any.

        Args:
            image: (B, C, D, H, W).
            prompts: in voxels of the image.
            correct: for training: makes the prompts of further decodings from the logits so far. Only the last decoding
                has gradients. All share one encoding.

        Returns:
            logits (B, K, D, H, W) float32. In training mode, where the refinement has several levels: those of all
            levels, for deep supervision; they count by `level_weights`.

        Raises:
            SAM3DError: a prompt has a label that the network does not know, or is of a kind that it does not take.
        """
        embedding = self.encode(image)
        if correct is not None:
            prompts = Prompts.none(len(image), image.device) if prompts is None else prompts
            prompts = corrected(partial(self.decode, embedding), prompts, correct)
        if not self.training:
            return self.decode(embedding, prompts)
        levels = self.decode_levels(embedding, prompts)
        return levels if len(levels) > 1 else levels[0]

    @property
    def level_weights(self) -> list[float]:
        """How much each level of logits counts in training: the inverse of the side of its voxels."""
        return [1.0] if self.refinement is None else self.refinement.level_weights

    def encode(self, image: Tensor) -> Embedding:
        """Everything that does not depend on prompts: image (B, C, D, H, W) -> embedding."""
        with self._autocast(image.device, tokens=-(-image.shape[2] // self.stride)):
            return self._encode(image.to(self.image_encoder.pos_embed.dtype))

    def _encode(self, image: Tensor) -> Embedding:
        size, original = tuple(image.shape[2:]), None if self.refinement is None else image
        d, h, w = (-n % self.stride for n in size)
        if max(size) <= self.stride:
            w += self.stride  # two tokens, because instance norm needs more than one
        if d or h or w:  # whole tokens; `decode` crops the logits again
            image = F.pad(image, (0, w, 0, h, 0, d), mode="replicate")
        decoder = self.mask_decoder
        levels = self.image_encoder(image)[-len(decoder.heads) :]
        fused_size = tuple(2 * n for n in levels[-1].shape[2:])
        if image.shape[2:] != fused_size:
            image = F.interpolate(image, size=fused_size, mode="trilinear", align_corners=False)
        features = [levels[i].to(image.dtype) for i in decoder.prompted]
        image_share = decoder.encode([levels[i] for i in decoder.unprompted], image)
        return Embedding(features, image_share, size, original)

    def decode(self, embedding: Embedding, prompts: Prompts | None = None) -> Tensor:
        """Logits (B, K, D, H, W) float32 for a set of prompts; errors as for `forward`.

        An embedding of one image (B = 1) also serves several sets of clicks at once (B of the points), with maps for
        each or one for all.
        """
        return self.decode_levels(embedding, prompts, all_levels=False)[0]

    def decode_levels(
        self, embedding: Embedding, prompts: Prompts | None = None, all_levels: bool = True
    ) -> list[Tensor]:
        """As `decode`, but logits of all levels, or of the finest alone. In training, they count by `level_weights`."""
        with self._autocast(embedding.image_share.device, tokens=embedding.features[-1].shape[2]):
            levels = self._decode(embedding, prompts, all_levels)
        return [level.to(embedding.features[-1].dtype) for level in levels]

    def _decode(self, embedding: Embedding, prompts: Prompts | None, all_levels: bool) -> list[Tensor]:
        last = embedding.features[-1]
        if prompts is None:
            prompts = Prompts.none(len(last), last.device)
        features = self.apply_prompts(embedding.features, prompts, embedding.size)
        fused = self.mask_decoder.fuse(embedding.image_share, *features)
        padded = tuple(n * self.stride for n in last.shape[2:])
        refined = []
        if self.refinement is not None:
            refined = self.refinement(fused, padded, embedding.image, prompts, all_levels)
            if not self.refinement.adds and not all_levels:
                return refined
        logits = self.mask_decoder.seg_layers(fused).to(last.dtype)
        if logits.shape[2:] != padded:
            logits = enlarge(logits, padded)
        d, h, w = embedding.size
        logits = logits[..., :d, :h, :w]
        if not refined:
            return [logits]
        return [logits + refined[0]] if self.refinement.adds else [*refined, logits]

    def _autocast(self, device: torch.device, tokens: int) -> torch.autocast:
        """Our own, for so many tokens along d. It replaces nnU-Net's, whose float16 would overflow."""
        return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(self.precision, device, tokens))


def build_sam3d(
    preset: Preset,
    input_channels: int,
    num_classes: int,
    patch_size: tuple[int, int, int],
    stride: int | None = None,
    *,
    num_click_labels: int | None = None,
    labelled_prompts: bool | None = None,
    takes_maps: bool | None = None,
    precision: str = "fp32",
    activation_checkpointing: bool | None = None,
    prompt_encoding: str = "sampler",
    click_map: str = "gaussian",
    deep_prompt_levels: Collection[int] = (),
    aggregate_levels: bool = True,
    start: str | None = None,
    refine: str | None = None,
) -> SAM3D:
    """Build the parts of a network with random weights, and put them together.

    Args:
        preset: sizes of the network.
        input_channels: channels of the image.
        num_classes: logits per voxel, background included.
        patch_size: voxels along (d, h, w) of the patches it is meant for; chooses the stride where none is given.
        stride: voxels a token covers along each axis (2, 4 or 8).
        num_click_labels: labels that a click may have, background included. Default: `num_classes`.
        labelled_prompts: overrides the preset's.
        takes_maps: whether the network takes previous masks, scribbles and boxes. Default: where prompts are labelled.
        precision: as for `SAM3D`.
        activation_checkpointing: compute each block of the encoder again in the backward pass instead of keeping its
            activations. Default: for encoders of SAM's size.
        prompt_encoding: what represents a click: "sampler" (the features under it), "position" (SAM's code),
            "sam_position" (SAM's code in SAM's layers, which code the image's tokens, too) or "none".
        click_map: how clicks are drawn as dense prompts: "gaussian", "distance" or "none", see `click_maps`.
        deep_prompt_levels: levels of features, counted from 1, that clicks change in addition to the last one. Each has
            a prompt encoder of its own, which reads that level. Dense prompts change the last level only.
        aggregate_levels: whether all levels are decoded, or the last one alone.
        start: of the image encoder: "sam" or "published". Default: the preset's. Weights belong to one of the two.
        refine: the stage at full resolution, one of `REFINEMENTS`, or "none". Default: `default_refinement`.

    Raises:
        SAM3DError: the stride, the precision, the prompt encoding, the refinement, the start or a level is not
            possible, clicks would change nothing, or maps or refinement are wanted without labelled prompts.
    """
    labelled = preset.labelled_prompts if labelled_prompts is None else labelled_prompts
    num_labels = num_click_labels or num_classes
    stride = default_stride(patch_size) if stride is None else stride
    if stride not in STRIDES:
        raise SAM3DError(f"stride {stride!r} is not possible; choose one of {', '.join(map(str, STRIDES))}.")
    num_levels = len(preset.global_blocks) if aggregate_levels else 1
    prompted = [*_deep_levels(deep_prompt_levels, num_levels), num_levels - 1]
    # the order in which the parts are created decides the random weights that a seed gives
    image_encoder = build_image_encoder(preset, input_channels, stride, activation_checkpointing, start)
    prompt_encoder = build_prompt_encoder(
        preset,
        num_labels,
        stride,
        num_levels=len(prompted),
        labelled=labelled,
        takes_maps=takes_maps,
        encoding=prompt_encoding,
        click_map=click_map,
    )
    mask_decoder = MaskDecoder(
        preset.feature_channels, preset.decoder_channels, num_levels, input_channels, num_classes, prompted
    )
    for i in range(len(preset.global_blocks) - num_levels):  # nothing is decoded from these
        image_encoder.necks[i] = nn.Identity()
    refinement = build_refinement(
        default_refinement(labelled) if refine is None else refine,
        labelled,
        num_classes=num_classes,
        channels=preset.decoder_channels,
        image_channels=input_channels,
        num_labels=num_labels,
        stride=stride,
        takes_maps=prompt_encoder.takes_maps,
        click_map=click_map,
    )
    return SAM3D(image_encoder, prompt_encoder, mask_decoder, precision, refinement)


def build_image_encoder(
    preset: Preset,
    input_channels: int,
    stride: int,
    activation_checkpointing: bool | None = None,
    start: str | None = None,
) -> ImageEncoder:
    """The image encoder of a preset; arguments as for `build_sam3d`."""
    if activation_checkpointing is None:
        activation_checkpointing = preset.sam_model is not None
    return ImageEncoder(
        input_channels,
        preset.embed_dim,
        preset.depth,
        preset.num_heads,
        preset.global_blocks,
        preset.feature_channels,
        stride,
        activation_checkpointing,
        preset.start if start is None else start,
    )


def build_prompt_encoder(
    preset: Preset,
    num_labels: int,
    stride: int,
    num_levels: int,
    labelled: bool,
    takes_maps: bool | None,
    encoding: str,
    click_map: str = "gaussian",
) -> PromptEncoder:
    """The prompt encoder of a preset.

    Args:
        preset: sizes of the network.
        num_labels: labels that a click may have, background included.
        stride: voxels a token covers along each axis.
        num_levels: how many levels prompts change; the deepest is created first.
        labelled: whether clicks carry labels and are also drawn as dense prompts.
        takes_maps: whether there are dense prompts other than clicks. Default: where prompts are labelled.
        encoding: one of `PROMPT_ENCODINGS`.
        click_map: how clicks are drawn as dense prompts, one of `CLICK_MAPS`, or "none".

    Raises:
        SAM3DError: there is no such encoding or click map, clicks have neither, or maps are wanted without labelled
            prompts.
    """
    if encoding not in PROMPT_ENCODINGS:
        raise SAM3DError(f"prompt encoding {encoding!r} is not possible; choose one of {', '.join(PROMPT_ENCODINGS)}.")
    if click_map not in ("none", *CLICK_MAPS):
        raise SAM3DError(f"click map {click_map!r} is not possible; choose one of none, {', '.join(CLICK_MAPS)}.")
    if encoding == "none" and (click_map == "none" or not labelled):
        raise SAM3DError("A network whose clicks have neither tokens nor a map can't follow them.")
    takes_maps = labelled if takes_maps is None else takes_maps
    if takes_maps and not labelled:
        raise SAM3DError(
            "A network with unlabelled clicks can't take masks, scribbles and boxes, because they carry labels."
        )
    channels = preset.feature_channels
    last, *deep = (
        PROMPT_ENCODINGS[encoding](
            channels, preset.prompt_heads, preset.prompt_mlp_dim, num_labels=num_labels if labelled else None
        )
        for _ in range(num_levels)
    )
    dense = DensePrompt(num_labels, channels, channels // 8, stride, takes_maps, click_map) if labelled else None
    return PromptEncoder([*deep, last], dense, stride)


def build_refinement(kind: str, labelled: bool, **arguments: Any) -> Refinement | None:
    """The stage at full resolution.

    Args:
        kind: one of `REFINEMENTS`, or "none".
        labelled: whether clicks carry labels.
        arguments: of the stage.

    Raises:
        SAM3DError: there is no such stage, or clicks without labels can't be drawn in it.
    """
    if kind == "none":
        return None
    if kind not in REFINEMENTS:
        raise SAM3DError(f"refine {kind!r} is not possible; choose one of none, {', '.join(REFINEMENTS)}.")
    if not labelled:
        raise SAM3DError("A network with unlabelled clicks can't refine its masks: clicks are drawn by label.")
    return REFINEMENTS[kind](**arguments)


def _deep_levels(numbers: Collection[int], num_levels: int) -> list[int]:
    """Numbers counted from 1 -> indices counted from 0, shallow to deep; the last level can't be one of them."""
    for number in numbers:
        if number not in range(1, num_levels):
            raise SAM3DError(
                f"Clicks can't change level {number} in addition to the last of {num_levels} decoded levels."
            )
    return sorted({number - 1 for number in numbers})
