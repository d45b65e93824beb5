"""Small stand-ins for SAM and its files."""

from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import nn

from sam3d_nnunet.network.image_encoder import ImageEncoder

GLOBAL_BLOCKS = (1, 3)


def stirred(module: nn.Module) -> nn.Module:
    """With nothing left at zero, as after training (SAM's position tables start there)."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return module.eval()


def small_sam() -> ImageEncoderViT:
    """segment_anything's image encoder, four blocks of width 32."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    blocks = {"depth": 4, "num_heads": 2, "window_size": 14, "global_attn_indexes": GLOBAL_BLOCKS}
    return stirred(ImageEncoderViT(embed_dim=32, use_rel_pos=True, norm_layer=norm, **blocks))


def small_encoder(stride: int = 4, width: int = 32) -> ImageEncoder:
    """Ours of the same sizes."""
    return ImageEncoder(1, width, depth=4, num_heads=2, global_blocks=GLOBAL_BLOCKS, out_channels=8, stride=stride)


def save_sam(sam: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """A file like SAM's public ones, its parts side by side; returns what it holds."""
    tensors = {f"image_encoder.{name}": t for name, t in sam.state_dict().items()}
    tensors |= {"prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 8), "mask_decoder.a.weight": torch.ones(2)}
    torch.save(tensors, path)
    return tensors
