"""Weights from other projects: SAM's files, found or downloaded and lifted to 3-D, and released checkpoints.

`sam_checkpoint` finds a file of SAM, `lift_sam` copies it into our image encoder. `load_released_checkpoint` turns a
checkpoint of the authors of 3DSAM-adapter into a `SAM3D`. `read_checkpoint` reads all files.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing
from sam3d_nnunet.network.checkpoint_files import read_checkpoint
from sam3d_nnunet.network.image_encoder import ImageEncoder, Neck3D
from sam3d_nnunet.network.sam3d import PRESETS, SAM3D

CHECKPOINT_VARIABLE = "SAM3D_CHECKPOINT"
BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class SamFile:
    """A public checkpoint of facebookresearch/segment-anything."""

    name: str
    sha256: str


SAM_FILES = {
    "vit_b": SamFile("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": SamFile("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": SamFile("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}

# Released name -> ours, applied in this order. Axes of convolutions also change from (h, w, d) to (d, h, w).
RELEASED_NAMES = {
    "encoder_dict": (
        "image_encoder.",
        [
            (r"^slice_embed\.", "patch_embed.slice_embed."),
            (r"\.attn\.lr$", ".attn.rel_pos_gain"),
            (r"\.adapter\.linear1\.", ".adapter.down."),
            (r"\.adapter\.linear2\.", ".adapter.up."),
            (r"^neck_3d\.(\d)\.0\.", r"necks.\1.reduce."),
            (r"^neck_3d\.(\d)\.1\.", r"necks.\1.norm1."),
            (r"^neck_3d\.(\d)\.2\.", r"necks.\1.conv."),
            (r"^neck_3d\.(\d)\.3\.", r"necks.\1.norm2."),
        ],
    ),
    "feature_dict": (
        "prompt_encoder.",
        [
            (r"^transformer\.", ""),
            (r"\.mlp\.lin1\.", ".mlp.0."),
            (r"\.mlp\.lin2\.", ".mlp.2."),
            (r"\.cross_attn_image_to_token\.", ".image_to_queries."),
        ],
    ),
    "decoder_dict": (
        "mask_decoder.",
        [
            (r"^mlahead\.head2\.", "heads.0."),
            (r"^mlahead\.head3\.", "heads.1."),
            (r"^mlahead\.head4\.", "heads.2."),
            (r"^mlahead\.head5\.", "heads.3."),
            (r"^cls\.0\.", "fusion.conv."),
            (r"^cls\.3\.", "seg_layers."),
        ],
    ),
}
# tensors of our image encoder that SAM's does not have
NOT_SAMS = re.compile(r"^depth_embed$|^necks\.|slice_embed\.|channel_mix$|\.adapter\.|rel_pos_gain$|rel_pos_d$")
# tensors of a released checkpoint that don't enter its forward pass
WITHOUT_EFFECT = re.compile(r"(^|\.)(attn_mask|cross_attn_token_to_image\..*|positional_encoding_gaussian_matrix)$")


def load_released_checkpoint(path: str | Path) -> SAM3D:
    """The authors' checkpoint as a `SAM3D` of preset `paper`, with the same outputs.

    Args:
        path: a file with `encoder_dict`, `feature_dict` (a list of four, the last one used) and `decoder_dict`.

    Raises:
        SAM3DError: the file can't be read, has another layout, or has missing or unexpected tensors.
    """
    checkpoint = read_checkpoint(path)
    weights = {}
    for part in RELEASED_NAMES:
        tensors = checkpoint.get(part)
        if part == "feature_dict":
            tensors = tensors[-1] if isinstance(tensors, list) and tensors else None
        if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
            raise SAM3DError(f"{path} is not a released 3DSAM-adapter checkpoint: {_lacks(part, checkpoint)}")
        weights |= translate_released(part, tensors)
    num_classes, image_channels = _released_sizes(weights, path)
    net = SAM3D.from_preset("paper", image_channels, num_classes, patch_size=(128, 128, 128), stride=4)
    # the released network has no channel mix: it copies its only channel, and so does the initial mix of ours
    ours = ("image_encoder.patch_embed.channel_mix", "initialized")
    _check_fit(weights, {name: t for name, t in net.state_dict().items() if name not in ours}, path)
    net.load_state_dict(weights, strict=False)
    net.initialized.fill_(1)
    return net


def translate_released(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part of a released checkpoint with our names and axes.

    Args:
        part: a key of `RELEASED_NAMES`.
        tensors: under their released names; those without effect are dropped.
    """
    prefix, renames = RELEASED_NAMES[part]
    ours = {}
    for name, tensor in tensors.items():
        if WITHOUT_EFFECT.search(name):
            continue
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        ours[prefix + name] = _depth_first(tensor)
    return ours


def _depth_first(tensor: Tensor) -> Tensor:
    """A released convolution weight (..., kh, kw, kd) -> (..., kd, kh, kw); 1 x 1 x 1 convolutions -> linear layers."""
    if not isinstance(tensor, Tensor) or tensor.ndim != 5:
        return tensor
    tensor = tensor.permute(0, 1, 4, 2, 3)
    return tensor.flatten(1) if tensor.shape[2:] == (1, 1, 1) else tensor


def _released_sizes(weights: dict[str, Tensor], path: str | Path) -> tuple[int, int]:
    """Numbers of classes and of image channels, from the shapes of the decoder's last two convolutions."""
    shapes = []
    for name in ("mask_decoder.seg_layers.weight", "mask_decoder.fusion.conv.weight"):
        shapes.append(getattr(weights.get(name), "shape", ()))
        if len(shapes[-1]) != 5:
            raise SAM3DError(f"{path} is not a released 3DSAM-adapter checkpoint: its decoder lacks {name}.")
    (num_classes, channels, *_), (_, fused, *_) = shapes
    return num_classes, max(1, fused - 4 * channels)  # impossible sizes are reported as wrong shapes


def _lacks(name: str, checkpoint: Mapping[str, Any]) -> str:
    if name in checkpoint:
        return f"its '{name}' does not hold the expected tensors ({type(checkpoint[name]).__name__})."
    return f"it has no '{name}', but {listing(map(str, checkpoint), 5) or 'nothing'}."


def _check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse missing and unexpected tensors and other shapes."""
    shapes = []
    for name in expected.keys() & weights.keys():
        shape = tuple(weights[name].shape) if isinstance(weights[name], Tensor) else type(weights[name]).__name__
        if shape != tuple(expected[name].shape):
            shapes.append(f"{name} {shape} instead of {tuple(expected[name].shape)}")
    problems = [
        f"{title}: {listing(names, 5)}"
        for title, names in (
            ("missing", expected.keys() - weights.keys()),
            ("unexpected", weights.keys() - expected.keys()),
            ("other shape", shapes),
        )
        if names
    ]
    if problems:
        raise SAM3DError(f"The tensors of {path} don't fit. " + "; ".join(problems) + ".")


def refuse_broken_weights(weights: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Refuse weights that are not finite, as a training leaves them that has gone wrong.

    Args:
        weights: a state dict.
        what: has them; the error begins with it.
        remedy: a sentence for the error that says what to do.

    Raises:
        SAM3DError: a tensor holds NaN or infinite numbers. It names the first.
    """
    broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        more = f" and {len(broken) - 1} more tensor(s)" if len(broken) > 1 else ""
        raise SAM3DError(f"{what} has weights that are NaN or infinite: {broken[0]}{more}. {remedy}")


def find_sam_checkpoint(model: str) -> Path | None:
    """SAM's weights on this machine: the file that SAM3D_CHECKPOINT names, else the one in the cache, else None.

    Raises:
        SAM3DError: SAM3D_CHECKPOINT names a file that does not exist.
    """
    named = os.environ.get(CHECKPOINT_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SAM3DError(f"{CHECKPOINT_VARIABLE} is set to {named}, which does not exist. Correct or unset it.")
        return Path(named)
    cached = cache_folder() / SAM_FILES[model].name
    return cached if cached.is_file() else None


def cache_folder() -> Path:
    """The folder for downloaded weights."""
    return Path(pooch.os_cache("sam3d_nnunet"))


def sam_checkpoint(model: str, planned: str = "auto") -> Path | None:
    """The file with SAM's weights, downloaded if it is not on this machine.

    Args:
        model: a key of `SAM_FILES`.
        planned: the plan's `sam_checkpoint`: a path, "auto" (SAM3D_CHECKPOINT, the cache, then a download) or "none".

    Returns:
        None if training from scratch was asked for ("none").

    Raises:
        SAM3DError: there is no such file, or it can't be downloaded.
    """
    if planned == "none":
        return None
    if planned != "auto":
        if not Path(planned).is_file():
            raise SAM3DError(
                f"The plan's sam_checkpoint names {planned}, which does not exist. Name a file of SAM's weights, "
                '"auto" (search, then download) or "none" (train from scratch).'
            )
        return Path(planned)
    return find_sam_checkpoint(model) or download_sam_checkpoint(model)


def download_sam_checkpoint(model: str, base_url: str = BASE_URL) -> Path:
    """Download one of SAM's public files into the cache; only a complete file with the right hash gets its name.

    Raises:
        SAM3DError: the download failed, or its hash is wrong.
    """
    file = SAM_FILES[model]
    try:
        return Path(
            pooch.retrieve(
                base_url + file.name,
                known_hash=f"sha256:{file.sha256}",
                fname=file.name,
                path=cache_folder(),
                progressbar=True,
            )
        )
    except (OSError, ValueError, requests.RequestException) as e:
        raise SAM3DError(
            f"SAM's {model} weights could not be downloaded from {base_url}{file.name}: {e}\n"
            f"Download that file yourself. Then put it into {cache_folder()}, name it in the variable "
            f"{CHECKPOINT_VARIABLE}, or name it as 'sam_checkpoint' in the plan's 'sam3d' block. "
            "To train from scratch instead, set 'sam_checkpoint' to \"none\"."
        ) from e


def lift_sam(encoder: ImageEncoder, path: str | Path) -> None:
    """Copy SAM's image encoder into ours, in place (paper, Section 3.2). MedSAM's vit_b file also fits.

    The depth table of relative positions becomes the mean of SAM's height and width tables. Tensors that SAM does not
    have (adapters, slice convolution, depth positions) stay unchanged. Where the encoder's `start` is "sam", each 3-D
    neck becomes SAM's neck, which treats slice by slice; otherwise necks stay unchanged too.

    Args:
        encoder: the image encoder of a preset for that SAM model.
        path: a checkpoint of facebookresearch/segment-anything.

    Raises:
        SAM3DError: the file can't be read, is not a SAM checkpoint, or belongs to another model.
    """
    checkpoint = read_checkpoint(path)
    prefix = "image_encoder."
    sam = {name.removeprefix(prefix): t for name, t in checkpoint.items() if str(name).startswith(prefix)}
    necks = [neck for neck in encoder.necks if isinstance(neck, Neck3D)] if encoder.start == "sam" else []
    if not necks:
        sam = {name: t for name, t in sam.items() if not name.startswith("neck.")}
    if not isinstance(sam.get("pos_embed"), Tensor):
        raise SAM3DError(f"{path} is not a SAM checkpoint: {_lacks(prefix + 'pos_embed', checkpoint)}")
    width, expected_width = sam["pos_embed"].shape[-1], encoder.pos_embed.shape[-1]
    if width != expected_width:
        models = {preset.embed_dim: preset.sam_model for preset in PRESETS.values() if preset.sam_model}
        found, wanted = (f"{models.get(w, 'unknown')} (tokens {w} wide)" for w in (width, expected_width))
        raise SAM3DError(f"{path} belongs to another SAM model: {found}; the preset needs {wanted}.")
    expected = {name: t for name, t in encoder.state_dict().items() if not NOT_SAMS.search(name)}
    for neck in necks:
        expected |= {f"neck.{name}": t for name, t in neck.sams_part().items()}
    _check_fit(sam, expected, path)
    for name in [name for name in sam if name.endswith("rel_pos_h")]:
        sam[name.replace("rel_pos_h", "rel_pos_d")] = (sam[name] + sam[name.replace("rel_pos_h", "rel_pos_w")]) / 2
    encoder.load_state_dict(sam, strict=False)
    for neck in necks:
        neck.load_sam({name.removeprefix("neck."): t for name, t in sam.items() if name.startswith("neck.")})
