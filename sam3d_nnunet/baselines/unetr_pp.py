"""UNETR++ (Shaker et al., IEEE TMI 2024, arXiv 2212.04497) and its trainer."""

from collections.abc import Sequence
from math import prod

import torch
from monai.networks.blocks import UnetOutBlock, UnetResBlock
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.wrappers import Padded, Size, padded_size

TOKEN = (2, 4, 4)  # voxels along (d, h, w)


class UNETRPP(nn.Module):
    """A hierarchical transformer with attention among tokens and among channels (Section 3, Figure 2).

    It works on images of one size only, because position embeddings and the projection of its spatial attention have a
    weight for each token.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        size: Size,
        depths: Sequence[int] = (3, 3, 3, 3),
        features: Sequence[int] = (32, 64, 128, 256),
        heads: int = 4,
        projections: Sequence[int] = (64, 64, 64, 32),
        deep_supervision: bool = False,
    ) -> None:
        """
        Args:
            input_channels: of the image.
            num_classes: channels of the logits.
            size: of the images, (d, h, w): multiples of `TOKEN`, and of 2 more for each stage but the first.
            depths: blocks in each stage of the encoder; the decoder has as many.
            features: channels in each stage.
            heads: of the attention.
            projections: number of tokens to which the spatial attention of each stage projects its keys and values.
            deep_supervision: whether training mode also gives outputs at the two next lower resolutions.
        """
        super().__init__()
        if len(features) != 4:
            raise ValueError(f"there must be 4 stages, not {len(features)}")
        grids = [tuple(side // t // 2**stage for side, t in zip(size, TOKEN)) for stage in range(len(features))]
        stages = list(zip(features, grids, projections, depths, strict=True))
        self.reductions = nn.ModuleList([_reduction(input_channels, features[0], TOKEN, groups=1)])
        for fewer, more in zip(features, features[1:]):
            self.reductions.append(_reduction(fewer, more, (2, 2, 2), groups=fewer))
        self.encoder = nn.ModuleList(_stage(*stage, heads) for stage in stages)
        self.enlargements = nn.ModuleList(
            nn.ConvTranspose3d(more, fewer, 2, 2, bias=False)
            for fewer, more in reversed(list(zip(features, features[1:])))
        )
        self.decoder = nn.ModuleList(_stage(*stage, heads) for stage in reversed(stages[:-1]))
        # only convolutions work at full resolution
        finest = features[0] // 2
        self.detail = _residual(input_channels, finest, "instance")
        self.last_enlargement = nn.ConvTranspose3d(features[0], finest, TOKEN, TOKEN, bias=False)
        self.last = _residual(finest, finest, "instance")
        levels = [finest, *features[:2]] if deep_supervision else [finest]
        self.seg_layers = nn.ModuleList(UnetOutBlock(3, width, num_classes) for width in levels)
        self.apply(_initialize)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, C, D, H, W) -> (B, K, D, H, W); with deep supervision in training mode a list, finest first."""
        x, skips = image, []
        for reduce, stage in zip(self.reductions, self.encoder):
            x = stage(reduce(x))
            skips.append(x)
        x, levels = skips.pop(), []
        for enlarge, stage in zip(self.enlargements, self.decoder):
            x = stage(enlarge(x) + skips.pop())
            levels.append(x)
        levels.append(self.last(self.last_enlargement(x) + self.detail(image)))
        if len(self.seg_layers) == 1 or not self.training:
            return self.seg_layers[0](levels[-1])
        return [layer(level) for layer, level in zip(self.seg_layers, reversed(levels))]


class TransformerBlock(nn.Module):
    """Paired attention on tokens with positions, then residual convolutions on their grid."""

    def __init__(self, width: int, grid: Size, projection: int, heads: int) -> None:
        """
        Args:
            width: channels of a token.
            grid: tokens along (d, h, w).
            projection: see `PairedAttention`.
            heads: of the attention.
        """
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, prod(grid), width))
        self.norm = nn.LayerNorm(width)
        self.attention = PairedAttention(width, prod(grid), projection, heads)
        self.gain = nn.Parameter(torch.full((width,), 1e-6))
        self.convolutions = nn.Sequential(
            _residual(width, width, "batch"), nn.Dropout3d(0.1), nn.Conv3d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W), the shape stays."""
        tokens = x.flatten(2).transpose(1, 2) + self.positions
        tokens = tokens + self.gain * self.attention(self.norm(tokens))
        x = tokens.transpose(1, 2).reshape(x.shape)
        return x + self.convolutions(x)


class PairedAttention(nn.Module):
    """Attention among channels and attention among tokens, with the same queries and keys (Section 3.2).

    For the second, keys and values of all tokens are projected to a few, which makes its cost linear. Each yields half
    of the output's channels. The authors' code mixes tokens with channels where it puts the heads of the second
    together again (a `permute` meant for the first); here each token keeps its own, as the paper's formulas say.
    """

    DROPOUT = 0.1

    def __init__(self, width: int, tokens: int, projection: int, heads: int) -> None:
        """
        Args:
            width: channels of a token.
            tokens: how many there are.
            projection: how many they are projected to.
            heads: of both attentions.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels can't be split into {heads} heads")
        self.heads = heads
        self.inputs = nn.Linear(width, 4 * width, bias=False)
        self.project = nn.Linear(tokens, projection)
        self.channel_gain = nn.Parameter(torch.ones(heads, 1, 1))
        self.spatial_gain = nn.Parameter(torch.ones(heads, 1, 1))
        self.dropout = nn.Dropout(self.DROPOUT)
        self.channel_output = nn.Linear(width, width // 2)
        self.spatial_output = nn.Linear(width, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C), the shape stays."""
        # each (B, heads, C / heads, N)
        query, key, channel_value, spatial_value = (
            self.inputs(x).unflatten(-1, (4, self.heads, -1)).permute(2, 0, 3, 4, 1)
        )
        few_keys, few_values = self.project(key), self.project(spatial_value)
        query, key = normalize(query, dim=-1), normalize(key, dim=-1)

        weights = (query @ key.transpose(-2, -1) * self.channel_gain).softmax(-1)
        by_channels = self.dropout(weights) @ channel_value
        by_tokens = scaled_dot_product_attention(
            (query * self.spatial_gain).transpose(-2, -1),
            few_keys.transpose(-2, -1),
            few_values.transpose(-2, -1),
            dropout_p=self.DROPOUT if self.training else 0.0,
            scale=1.0,
        )
        by_channels = by_channels.flatten(1, 2).transpose(1, 2)
        by_tokens = by_tokens.transpose(1, 2).flatten(2)
        return torch.cat((self.spatial_output(by_tokens), self.channel_output(by_channels)), dim=-1)


def _initialize(module: nn.Module) -> None:
    """Linear layers start as the authors' do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _reduction(fewer: int, more: int, stride: Size, groups: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(fewer, more, stride, stride, bias=False), nn.GroupNorm(groups, more))


def _stage(width: int, grid: Size, projection: int, depth: int, heads: int) -> nn.Module:
    return nn.Sequential(*(TransformerBlock(width, grid, projection, heads) for _ in range(depth)))


def _residual(fewer: int, more: int, norm: str) -> nn.Module:
    return UnetResBlock(3, fewer, more, kernel_size=3, stride=1, norm_name=norm)


class UNETRPPTrainer(AutomaticTrainer):
    """Trains UNETR++. Patches of any size are padded to multiples of 16 x 32 x 32.

    As its authors prescribe (paper, Section 4; unetr_pp_trainer_synapse.py of Amshaker/unetr_plus_plus): stochastic
    gradient descent with learning rate 0.01, Nesterov momentum 0.99 and weight decay 3e-5, and deep supervision on
    three resolutions with weights 1, 1/2 and 1/4. The comparison in 3DSAM-adapter's paper used AdamW with 4e-4 and
    1e-5, and a dropout of 0.15 in the attention, where the authors' code and ours have 0.1. It counts the network
    without the two heads of the lower resolutions, which have 98 parameters for each class.
    """

    learning_rate = 1e-2
    weight_decay = 3e-5
    deep_supervision_scales = [[1, 1, 1], [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 8, 1 / 8]]
    deep_supervision_weights = (4 / 7, 2 / 7, 1 / 7)
    configure_optimizers = nnUNetTrainer.configure_optimizers  # the same

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: Size,
        depths: Sequence[int] = (3, 3, 3, 3),
        features: Sequence[int] = (32, 64, 128, 256),
        heads: int = 4,
        projections: Sequence[int] = (64, 64, 64, 32),
    ) -> nn.Module:
        """`UNETRPP` behind a padding."""
        multiple = tuple(t * 2 ** (len(features) - 1) for t in TOKEN)
        size = padded_size(patch_size, multiple)
        network = UNETRPP(
            input_channels, num_classes, size, depths, features, heads, projections, deep_supervision=True
        )
        return Padded(network, multiple)
