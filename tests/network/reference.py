"""The network's rewritten parts as published: slow, and straight from the mathematics.

Nothing here is folded or split: volumes are enlarged, every slice is embedded, attention adds a bias matrix for each
head and window and masks it by the numbers of regions, and the fusion convolves one concatenated map. The tests compare
values with it and `benchmarks/network.py` compares time and memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3d_nnunet.network import SAM3D, Prompts
from sam3d_nnunet.network.image_encoder import PatchEmbed
from sam3d_nnunet.network.mask_decoder import Fusion
from sam3d_nnunet.network.refinement import ConvRefinement, Refinement
from sam3d_nnunet.network.window_attention import WindowAttention

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
    samples = torch.arange(length, dtype=table.dtype, device=table.device)
    position = ((samples + 0.5) * len(table) / length - 0.5).clamp(0, len(table) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(table) - 1)
    part = (position - below)[:, None]
    return (1 - part) * table[below] + part * table[above]


def cut(tokens: Tensor, shift: list[int]) -> Tensor:
    """(B, D, H, W, C) in whole windows, rolled by -shift -> (B * windows, 512, C)."""
    tokens = tokens.roll([-s for s in shift], dims=(1, 2, 3))
    b, d, h, w, c = tokens.shape
    tokens = tokens.view(b, d // WINDOW, WINDOW, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return tokens.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, WINDOW**3, c)


def regions(grid: list[int], padded: list[int], shift: list[int]) -> Tensor:
    """(1, *padded, 1): tokens that see each other have one number, which is 0 in the padding.

    Windows are those of the grid that begin at 0, or half a window before it along an axis that is shifted.
    """
    number = torch.zeros(1, *padded, 1)
    d, h, w = grid
    windows = [(torch.arange(n) + s) // WINDOW for n, s in zip(padded, shift)]
    z, y, x = torch.meshgrid(*windows, indexing="ij")
    number[..., 0] = 1 + z + 100 * y + 10000 * x
    inside = torch.zeros_like(number)
    inside[:, :d, :h, :w] = 1
    return number * inside


def attention(module: WindowAttention, tokens: Tensor, shifted: bool) -> Tensor:
    """(B, D, H, W, C) -> the same: padded, rolled, cut, with bias and mask as matrices, and all the way back."""
    batch, *grid, channels = tokens.shape
    padding = [-n % WINDOW for n in grid]
    padded = [n + p for n, p in zip(grid, padding)]
    shift = [WINDOW // 2 if shifted and n > WINDOW else 0 for n in padded]
    windows = cut(F.pad(tokens, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0])), shift)

    q, k, v = module.qkv(windows).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = (q / q.shape[-1] ** 0.5) @ k.transpose(-1, -2)
    logits = logits + module.rel_pos_gain * position_bias(module, q)
    region = cut(regions(grid, padded, shift).to(tokens.device), shift)
    hidden = (region != region.transpose(1, 2)).repeat(batch, 1, 1)[:, None]
    out = logits.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    out = module.proj(out.transpose(1, 2).flatten(2))

    d, h, w = (n // WINDOW for n in padded)
    out = out.view(batch, d, h, w, WINDOW, WINDOW, WINDOW, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    out = out.reshape(batch, *padded, channels).roll(shift, dims=(1, 2, 3))
    return out[:, : grid[0], : grid[1], : grid[2]]


def position_bias(module: WindowAttention, q: Tensor) -> Tensor:
    """(windows, heads, 512, head_dim) -> (windows, heads, 512, 512): sum of three biases, one an axis."""
    q = q.unflatten(2, (WINDOW, WINDOW, WINDOW))
    place = torch.arange(WINDOW)
    tables = (module.rel_pos_d, module.rel_pos_h, module.rel_pos_w)
    rd, rh, rw = (resampled(t, 2 * WINDOW - 1)[place[:, None] - place + WINDOW - 1] for t in tables)
    towards_d = torch.einsum("nmdhwc,dkc->nmdhwk", q, rd)[..., :, None, None]
    towards_h = torch.einsum("nmdhwc,hkc->nmdhwk", q, rh)[..., None, :, None]
    towards_w = torch.einsum("nmdhwc,wkc->nmdhwk", q, rw)[..., None, None, :]
    return (towards_d + towards_h + towards_w).flatten(5).flatten(2, 4)


def fusion(module: Fusion, levels: list[Tensor], image: Tensor) -> Tensor:
    """One convolution over everything."""
    return F.conv3d(torch.cat([*levels, image], dim=1), module.conv.weight, padding=1)


def encode(net: SAM3D, image: Tensor) -> list[Tensor]:
    """(B, C, D, H, W) in whole tokens -> the four levels of features."""
    encoder = net.image_encoder
    tokens = patch_embed(encoder.patch_embed, image)
    tokens = tokens + encoder.position_embedding(tuple(tokens.shape[1:4]))
    levels = []
    for i, block in enumerate(encoder.blocks):
        tokens = block.adapter(tokens)
        tokens = tokens + attention(block.attn, block.norm1(tokens), shifted=i % 2 == 0)
        tokens = tokens + block.mlp(block.norm2(tokens))
        if i in encoder.global_blocks:
            levels.append(encoder.necks[len(levels)](tokens))
    return levels


def decode(net: SAM3D, levels: list[Tensor], image: Tensor, prompts: Prompts) -> Tensor:
    """Logits (B, K, D, H, W) from all levels, the image and the clicks."""
    points, labels, _ = prompts
    *levels, last = levels
    if net.dense_prompt is not None:
        tokens = Prompts((points + 0.5) / net.stride - 0.5, labels)
        last = last + net.dense_prompt(tokens, tuple(last.shape[2:]))
    faces = 2 * (points + 0.5) / points.new_tensor(image.shape[2:]) - 1
    levels.append(net.prompt_encoder(last, faces, labels))

    decoder, size = net.mask_decoder, [2 * n for n in last.shape[2:]]
    levels = [enlarged(head(x), size) for head, x in zip(decoder.heads, levels, strict=True)]
    small = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
    fused = F.relu(decoder.norm(fusion(decoder.fusion, levels, small)))
    if net.refinement is None:
        return enlarged(decoder.seg_layers(fused), image.shape[2:])
    refined = refine(net.refinement, fused, image, points, labels)
    return refined + enlarged(decoder.seg_layers(fused), image.shape[2:]) if net.refinement.adds else refined


def refine(stage: Refinement, fused: Tensor, image: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """What the stage makes of one convolution of everything that is known."""
    size = image.shape[2:]
    voxels = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), dim=-1).to(image)
    squares = ((voxels - points[:, :, None, None, None]) ** 2).sum(-1)
    balls = []
    for token in stage.draw.tokens:
        for label in range(stage.draw.num_labels):
            shown = (labels == label)[..., None, None, None]
            balls.append((shown * torch.exp(-squares / (2 * token**2))).sum(1).clamp(max=1))
    drawn = torch.stack(balls, dim=1)
    first = stage.draw.seg_layers.weight
    drawn = F.pad(drawn, (0,) * 7 + (first.shape[1] - drawn.shape[1],))  # there are no maps
    known = torch.cat([enlarged(stage.reduce(fused), size), image, drawn], dim=1)
    as_it_is = torch.zeros(*(2 * [len(first)]), 3, 3, 3).to(image)
    as_it_is[range(len(first)), range(len(first)), 1, 1, 1] = 1
    x = F.conv3d(known, torch.cat([as_it_is, stage.look.weight, first], dim=1), padding=1)
    x = F.relu(stage.norm1(x))
    if isinstance(stage, ConvRefinement):
        return stage.seg_layers(F.relu(stage.norm2(stage.conv(x))))
    return unet(dict(stage.unet.named_parameters()), x)


def unet(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Two convolutions at each resolution, down by a stride of 2, and up again with what was there on the way."""

    def convolve(x: Tensor, stage: str, stride: int = 1) -> Tensor:
        for i in range(2):
            conv = f"{stage}.convs.{i}"
            kernel, *norm = (weights[f"{conv}.{name}"] for name in ("conv.weight", "norm.weight", "norm.bias"))
            x = F.conv3d(x, kernel, stride=stride if i == 0 else 1, padding=1)
            x = F.leaky_relu(F.instance_norm(x, None, None, *norm))
        return x

    size = x.shape[2:]
    coarsest = 2 ** (sum(name.startswith("encoder.stages") for name in weights) // 6 - 1)  # 6 arrays a stage
    x = F.pad(x, [m for n in reversed(size) for m in (0, -n % coarsest)], mode="replicate")
    levels = [convolve(x, "encoder.stages.0.0")]
    while 2 ** (len(levels) - 1) < coarsest:
        levels.append(convolve(levels[-1], f"encoder.stages.{len(levels)}.0", stride=2))
    x = levels.pop()
    for i in range(len(levels)):
        x = F.conv_transpose3d(x, weights[f"decoder.transpconvs.{i}.weight"], stride=2)
        x = convolve(torch.cat([x, levels.pop()], dim=1), f"decoder.stages.{i}")
    last = f"decoder.seg_layers.{coarsest.bit_length() - 2}"
    x = F.conv3d(x, weights[f"{last}.weight"], weights[f"{last}.bias"])
    return x[..., : size[0], : size[1], : size[2]]


def segment(net: SAM3D, image: Tensor, prompts: Prompts) -> Tensor:
    """`net(image, prompts)` by the parts above, for clicks on a patch of whole tokens."""
    return decode(net, encode(net, image), image, prompts)


def enlarged(x: Tensor, size: list[int] | torch.Size) -> Tensor:
    """Trilinear, corners aligned."""
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=True)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape
    return ((found - expected).norm() / expected.norm()).item()
