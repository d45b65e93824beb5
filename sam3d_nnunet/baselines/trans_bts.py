"""TransBTS (Wang et al., MICCAI 2021, arXiv 2103.04430) and its trainer."""

from collections.abc import Sequence
from math import prod

import torch
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.blocks.selfattention import SABlock
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.wrappers import Padded, Size, padded_size

IMAGE_DROPOUT = 0.2  # of whole channels behind the first convolution
DROPOUT = 0.1  # in the transformer


class TransBTS(nn.Module):
    """A convolutional encoder and decoder with skips, and a transformer at the lowest resolution (Section 2, Figure 1).

    It works on images of one size only, because each token has a learned position embedding.

    The authors' implementation has two further layers without effect on its output: a linear projection to the tokens
    (66,048 parameters for one input channel), instead of which it uses a convolution, and a norm behind the transformer
    (1,024). It also applies the softmax, which is a part of the loss here, and drops channels behind the first
    convolution in prediction too.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        size: Size,
        features: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (1, 2, 2, 4),
        width: int = 512,
        layers: int = 4,
        heads: int = 8,
        hidden: int = 4096,
    ) -> None:
        """
        Args:
            input_channels: of the image.
            num_classes: channels of the logits.
            size: of the images, (d, h, w): multiples of 2 to the power of the number of stages minus 1 (8).
            features: channels in each stage of encoder and decoder, multiples of 8.
            blocks: residual blocks in each stage of the encoder.
            width: channels of a token.
            layers: of the transformer.
            heads: of its attention.
            hidden: channels between the two layers of its feed-forward networks.
        """
        super().__init__()
        first = nn.Sequential(_conv(input_channels, features[0]), nn.Dropout3d(IMAGE_DROPOUT))
        starts = [first, *(_conv(fewer, more, stride=2) for fewer, more in zip(features, features[1:]))]
        self.encoder = nn.ModuleList(
            nn.Sequential(start, *(_encoder_block(channels) for _ in range(count)))
            for start, channels, count in zip(starts, features, blocks, strict=True)
        )
        lowest = features[-1]
        self.to_tokens = nn.Sequential(nn.BatchNorm3d(lowest), nn.ReLU(), _conv(lowest, width))
        tokens = prod(side // 2 ** (len(features) - 1) for side in size)
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.dropout = nn.Dropout(DROPOUT)
        self.transformer = nn.Sequential(*(_transformer_layer(width, heads, hidden) for _ in range(layers)))
        self.from_tokens = nn.Sequential(
            *_normalized_convs(width, lowest), Residual(*_normalized_convs(lowest, lowest))
        )
        pairs = list(zip(features, features[1:]))[::-1]
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv3d(more, fewer, 1), nn.ConvTranspose3d(fewer, fewer, 2, 2)) for fewer, more in pairs
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv3d(2 * fewer, fewer, 1), Residual(*_normalized_convs(fewer, fewer)))
            for fewer, _ in pairs
        )
        self.seg_layers = nn.Conv3d(features[0], num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, K, D, H, W)."""
        x, skips = image, []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.to_tokens(skips.pop())
        tokens = x.flatten(2).transpose(1, 2) + self.positions
        tokens = self.transformer(self.dropout(tokens))
        x = self.from_tokens(tokens.transpose(1, 2).reshape(x.shape))
        for up, stage in zip(self.ups, self.decoder):
            x = stage(torch.cat((skips.pop(), up(x)), dim=1))
        return self.seg_layers(x)


class Residual(nn.Sequential):
    """Adds the output of the layers to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the layers don't change."""
        return x + super().forward(x)


def _conv(fewer: int, more: int, stride: int = 1) -> nn.Module:
    return nn.Conv3d(fewer, more, 3, stride, padding=1)


def _encoder_block(channels: int) -> nn.Module:
    before = [nn.Sequential(nn.GroupNorm(8, channels), nn.ReLU(), _conv(channels, channels)) for _ in range(2)]
    return Residual(*before)


def _normalized_convs(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Sequential(_conv(channels, after), nn.BatchNorm3d(after), nn.ReLU(inplace=True))
        for channels in (before, after)
    ]


def _transformer_layer(width: int, heads: int, hidden: int) -> nn.Module:
    # MONAI's flash attention would also drop weights in prediction
    attention = SABlock(width, heads, DROPOUT, qkv_bias=False)
    return nn.Sequential(
        Residual(nn.LayerNorm(width), attention, nn.Dropout(DROPOUT)),
        Residual(nn.LayerNorm(width), MLPBlock(width, hidden, DROPOUT)),
    )


class TransBTSTrainer(AutomaticTrainer):
    """Trains TransBTS. Patches of any size are padded to multiples of 8.

    Its authors also prescribe learning rate 4e-4, weight decay 1e-5 and the polynomial schedule (paper, Section 3), but
    with Adam instead of AdamW, so that the weight decay is a part of the gradient. Their code (train.py of
    Rubics-Xuan/TransBTS) adds AMSGrad, and its default learning rate is 2e-4.
    """

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: Size,
        features: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (1, 2, 2, 4),
        width: int = 512,
        layers: int = 4,
        heads: int = 8,
        hidden: int = 4096,
    ) -> nn.Module:
        """`TransBTS` behind a padding."""
        multiple = (2 ** (len(features) - 1),) * 3
        size = padded_size(patch_size, multiple)
        return Padded(
            TransBTS(input_channels, num_classes, size, features, blocks, width, layers, heads, hidden), multiple
        )

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """Adam with nnU-Net's schedule, which is the authors'."""
        optimizer = torch.optim.Adam(
            self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay, amsgrad=True
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
