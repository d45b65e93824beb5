"""The network's rewritten parts as the paper states them: slow, and straight from the mathematics.

Nothing here is folded, split or cut into windows: volumes are enlarged, every slice is embedded, and attention is one
matrix over all tokens of the grid with an explicit bias and a Boolean mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3d_nnunet.network import SAM3D
from sam3d_nnunet.network.attention import WindowAttention
from sam3d_nnunet.network.mask_decoder import Fusion
from sam3d_nnunet.network.patch_embed import PatchEmbed

WINDOW = 8


def patch_embed(module: PatchEmbed, image: Tensor) -> Tensor:
    """Enlarge to 16 samples a token, mix to three channels, embed each slice, then convolve over 16 slices."""
    image = F.interpolate(image, scale_factor=16 / module.stride, mode="trilinear", align_corners=False)
    image = torch.einsum("rc,bcdhw->brdhw", module.channel_mix, image)
    slices = [F.conv2d(s, module.proj.weight, module.proj.bias, stride=16) for s in image.unbind(2)]
    depth_conv = module.slice_embed
    tokens = F.conv3d(
        torch.stack(slices, dim=2), depth_conv.weight, depth_conv.bias, stride=(16, 1, 1), groups=len(depth_conv.weight)
    )
    return tokens.permute(0, 2, 3, 4, 1)


def resampled(table: Tensor, length: int) -> Tensor:
    """Linear interpolation of the rows of a table; sample i lies at (i + 0.5) * old / new - 0.5, held at the ends."""
    position = ((torch.arange(length, dtype=table.dtype) + 0.5) * len(table) / length - 0.5).clamp(0, len(table) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(table) - 1)
    part = (position - below)[:, None]
    return (1 - part) * table[below] + part * table[above]


def window_of(size: int, shifted: bool) -> Tensor:
    """Number of the window that each token of an axis is in: windows start at 0, or at 4 if shifted.

    Shifting the grid cyclically and masking what comes round, as in Swin transformers, leaves half windows at the ends.
    """
    return (torch.arange(size) + (WINDOW // 2 if shifted and size > WINDOW else 0)) // WINDOW


def attention(module: WindowAttention, tokens: Tensor, shifted: bool) -> Tensor:
    """(B, D, H, W, C) -> the same: softmax over all tokens, where those of other windows are masked out."""
    batch, *grid, _ = tokens.shape
    place = torch.cartesian_prod(*[torch.arange(n) for n in grid])  # (T, 3)
    window = torch.cartesian_prod(*[window_of(n, shifted) for n in grid])
    visible = (window[:, None] == window[None]).all(-1)  # (T, T)
    distance = (place[:, None] - place[None]).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1

    q, k, v = module.qkv(tokens.flatten(1, 3)).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    for axis, table in enumerate((module.rel_pos_d, module.rel_pos_h, module.rel_pos_w)):
        to_all = q @ resampled(table, 2 * WINDOW - 1).T  # (B, heads, T, 15)
        index = distance[..., axis].expand(*to_all.shape[:2], -1, -1)
        logits = logits + module.rel_pos_gain * to_all.gather(-1, index)
    out = logits.masked_fill(~visible, -torch.inf).softmax(-1) @ v
    return module.proj(out.transpose(1, 2).flatten(2)).unflatten(1, grid)


def fusion(module: Fusion, levels: list[Tensor], image: Tensor) -> Tensor:
    """One convolution over everything."""
    return F.conv3d(torch.cat([*levels, image], dim=1), module.conv.weight, padding=1)


def segment(net: SAM3D, image: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """`net(image, points, labels)` by the parts above, for unlabelled prompts and a patch in whole tokens."""
    encoder, decoder = net.image_encoder, net.mask_decoder
    tokens = patch_embed(encoder.patch_embed, image)
    grid = tokens.shape[1:4]
    tokens = tokens + encoder.position_embedding(tuple(grid))
    levels = []
    for i, block in enumerate(encoder.blocks):
        tokens = block.adapter(tokens)
        tokens = tokens + attention(block.attn, block.norm1(tokens), shifted=i % 2 == 0)
        tokens = tokens + block.mlp(block.norm2(tokens))
        if i in encoder.global_blocks:
            levels.append(encoder.necks[len(levels)](tokens))
    faces = 2 * (points + 0.5) / torch.tensor(image.shape[2:]) - 1
    levels[-1] = net.prompt_encoder(levels[-1], faces, labels)

    size = [2 * n for n in grid]
    levels = [enlarged(head(x), size) for head, x in zip(decoder.heads, levels, strict=True)]
    small = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
    fused = F.relu(decoder.norm(fusion(decoder.fusion, levels, small)))
    return enlarged(decoder.seg_layers(fused), image.shape[2:])


def enlarged(x: Tensor, size: list[int] | torch.Size) -> Tensor:
    """Trilinear, corners aligned."""
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=True)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape
    return ((found - expected).norm() / expected.norm()).item()
