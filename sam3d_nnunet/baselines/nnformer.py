"""nnFormer (Zhou et al., IEEE TIP 2023, arXiv 2109.03201) and its trainer."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.layers import DropPath
from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, window_partition, window_reverse
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.ux_net import ChannelNorm
from sam3d_nnunet.baselines.wrappers import Padded, Size, padded_size

TOKEN = (2, 4, 4)  # voxels along (d, h, w)


class NNFormer(nn.Module):
    """A U-shaped transformer: attention in windows, and attention in place of skip connections (Section 3, Figure 2).

    Windows, shifted in every other block, are MONAI's. The network works on images of one size only, because windows
    are clipped to the grid of their stage. The authors' code counts the rows of the position table wrongly, so that
    some relative positions share a bias; here each has its own.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        size: Size,
        embed_dim: int = 192,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (6, 12, 24, 48),
        windows: Sequence[int] = (8, 8, 6, 4),
        drop_path: float = 0.2,
        deep_supervision: bool = False,
    ) -> None:
        """
        Args:
            input_channels: of the image.
            num_classes: channels of the logits.
            size: of the images, (d, h, w): multiples of `TOKEN`, and of 2 more for each stage but the first.
            embed_dim: channels in the first stage; they double with each further stage.
            depths: blocks in each stage of the encoder; the decoder has as many.
            heads: of each stage's attention.
            windows: tokens along each side of a window.
            drop_path: probability of dropping the last blocks of encoder and decoder in training; it grows from 0.
            deep_supervision: whether training mode also gives outputs at the two next lower resolutions.
        """
        super().__init__()
        if len(depths) != 4:
            raise ValueError(f"there must be 4 stages, not {len(depths)}")
        features = [embed_dim * 2**stage for stage in range(len(depths))]
        grids = [[side // t // 2**stage for side, t in zip(size, TOKEN)] for stage in range(len(depths))]
        fitting = [tuple(min(window, side) for side in grid) for window, grid in zip(windows, grids, strict=True)]
        stages = list(zip(features, heads, fitting, strict=True))
        for width, count, _ in stages:
            if width % count:
                raise ValueError(f"{width} channels can't be split into {count} heads")
        self.embed = _embedding(input_channels, embed_dim)
        self.encoder = nn.ModuleList(
            BasicLayer(width, len(rates), count, window, rates, qkv_bias=True)
            for (width, count, window), rates in zip(stages, _rates(depths, drop_path))
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for width in features)
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.GELU(), ChannelNorm(width), nn.Conv3d(width, 2 * width, 3, 2, 1))
            for width in features[:-1]
        )
        self.decoder = nn.ModuleList(
            DecoderStage(*stage, rates) for stage, rates in zip(stages[-2::-1], _rates(depths[-2::-1], drop_path))
        )
        levels = features[:3] if deep_supervision else features[:1]
        self.seg_layers = nn.ModuleList(nn.ConvTranspose3d(width, num_classes, TOKEN, TOKEN) for width in levels)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, C, D, H, W) -> (B, K, D, H, W); with deep supervision in training mode a list, finest first."""
        x, skips = self.embed(image), []
        for stage, norm, reduce in zip(self.encoder, self.norms, [*self.reductions, nn.Identity()]):
            x = stage(x)
            skips.append(norm(x))
            x = reduce(x)
        x, levels = skips.pop(), []
        for stage in self.decoder:
            x = stage(x, skips.pop())
            levels.append(x)
        if len(self.seg_layers) == 1 or not self.training:
            return self.seg_layers[0](levels[-1])
        return [layer(level) for layer, level in zip(self.seg_layers, reversed(levels))]


class DecoderStage(nn.Module):
    """Enlarges the features from below, attends to the encoder's features, then to its own in shifted windows."""

    def __init__(self, width: int, heads: int, window: Size, rates: list[float]) -> None:
        """
        Args:
            width: channels; the features from below have twice as many.
            heads: of the attention.
            window: tokens along (d, h, w).
            rates: probability of dropping each block in training.
        """
        super().__init__()
        self.enlarge = nn.Sequential(ChannelNorm(2 * width), nn.ConvTranspose3d(2 * width, width, 2, 2))
        self.skip = SkipBlock(width, heads, window, rates[0])
        self.blocks = BasicLayer(width, len(rates) - 1, heads, window, rates[1:], qkv_bias=True)
        # MONAI shifts every second block, and the skip attention counts as the first
        for block in self.blocks.blocks:
            block.shift_size = self.blocks.shift_size

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, 2 C, D / 2, H / 2, W / 2) and (B, C, D, H, W) -> the latter's shape."""
        x = self.skip(self.enlarge(below).movedim(1, -1), skip.movedim(1, -1))
        return self.blocks(x.movedim(-1, 1))


class SkipBlock(nn.Module):
    """A transformer's block whose queries are the decoder's tokens, keys and values the encoder's (Section 3.4)."""

    def __init__(self, width: int, heads: int, window: Size, drop_path: float) -> None:
        """
        Args:
            width: channels of a token.
            heads: of the attention.
            window: tokens along (d, h, w).
            drop_path: probability of dropping its residual branches in training.
        """
        super().__init__()
        self.window = tuple(window)
        self.norm1 = nn.LayerNorm(width)
        self.attention = SkipAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLPBlock(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:
        """(B, D, H, W, C) twice -> the same shape."""
        x = tokens + skip + self.drop_path(self._attend(self.norm1(tokens), self.norm1(skip)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, tokens: Tensor, skip: Tensor) -> Tensor:
        batch, *grid, width = tokens.shape
        whole = [side + -side % w for side, w in zip(grid, self.window)]
        d, h, w = (after - before for after, before in zip(whole, grid))
        padded = [pad(x, (0, 0, 0, w, 0, h, 0, d)) for x in (tokens, skip)]
        attended = self.attention(*(window_partition(x, self.window) for x in padded))
        attended = window_reverse(attended.unflatten(1, self.window), self.window, (batch, *whole))
        return attended[:, : grid[0], : grid[1], : grid[2]]


class SkipAttention(WindowAttention):
    """MONAI's attention in windows with relative positions, but with queries from outside, without a projection."""

    def __init__(self, width: int, heads: int, window: Size) -> None:
        """
        Args:
            width: channels of a token.
            heads: of the attention.
            window: tokens along (d, h, w).
        """
        super().__init__(width, heads, window)
        self.qkv = None
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        """(N, T, C) tokens of N windows, twice -> the same shape."""
        query = queries.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(others).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias[None].to(key.dtype))
        return self.proj(attended.transpose(1, 2).flatten(2))


def _embedding(input_channels: int, width: int) -> nn.Module:
    """Four convolutions of 3^3 that reduce each token's voxels to one (Section 3.2)."""
    half = width // 2
    return nn.Sequential(
        nn.Conv3d(input_channels, half, 3, (2, 2, 2), 1),
        nn.GELU(),
        ChannelNorm(half),
        nn.Conv3d(half, half, 3, 1, 1),
        nn.GELU(),
        ChannelNorm(half),
        nn.Conv3d(half, width, 3, (1, 2, 2), 1),
        nn.GELU(),
        ChannelNorm(width),
        nn.Conv3d(width, width, 3, 1, 1),
        ChannelNorm(width),
    )


def _rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Probability of dropping each block of each stage, growing evenly from 0."""
    rates = np.linspace(0, last, sum(depths)).tolist()
    return [rates[end - depth : end] for depth, end in zip(depths, accumulate(depths))]


class NNFormerTrainer(AutomaticTrainer):
    """Trains nnFormer. Patches of any size are padded to multiples of 16 x 32 x 32.

    As its authors prescribe (paper, Section 4; nnFormerTrainerV2_nnformer_synapse.py of 282857341/nnFormer): stochastic
    gradient descent with learning rate 0.01, Nesterov momentum 0.99 and weight decay 3e-5, and deep supervision on
    three resolutions with weights 1, 1/2 and 1/4. Their code starts from trained weights, ours from random ones. The
    comparison in 3DSAM-adapter's paper used AdamW with 4e-4 and 1e-5. It counts the network without the two heads of
    the lower resolutions, which have 36,866 parameters for each class.
    """

    learning_rate = 1e-2
    weight_decay = 3e-5
    deep_supervision_scales = [[1, 1, 1], [1 / 2, 1 / 2, 1 / 2], [1 / 4, 1 / 4, 1 / 4]]
    deep_supervision_weights = (4 / 7, 2 / 7, 1 / 7)
    configure_optimizers = nnUNetTrainer.configure_optimizers  # the same

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: Size,
        embed_dim: int = 192,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (6, 12, 24, 48),
        windows: Sequence[int] = (8, 8, 6, 4),
        drop_path: float = 0.2,
    ) -> nn.Module:
        """`NNFormer` behind a padding."""
        multiple = tuple(t * 2 ** (len(depths) - 1) for t in TOKEN)
        size = padded_size(patch_size, multiple)
        network = NNFormer(
            input_channels, num_classes, size, embed_dim, depths, heads, windows, drop_path, deep_supervision=True
        )
        return Padded(network, multiple)
