"""3D UX-Net (Lee et al., ICLR 2023, arXiv 2209.15076) and its trainer."""

from collections.abc import Sequence

import torch
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.wrappers import Padded


class UXNet3D(nn.Module):
    """A hierarchy of large depth-wise convolutions with UNETR's convolutional decoder (Section 3, Figure 2).

    Sides must be multiples of 2 to the power of the number of stages (16).
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        depths: Sequence[int] = (2, 2, 2, 2),
        features: Sequence[int] = (48, 96, 192, 384),
    ) -> None:
        """
        Args:
            input_channels: of the image.
            num_classes: channels of the logits.
            depths: blocks in each stage.
            features: channels in each stage; the decoder starts below the last stage with twice as many.
        """
        super().__init__()
        # a plain 7^3 convolution starts the hierarchy; afterwards channels are normalised before sides are halved
        reductions = [nn.Sequential(nn.Conv3d(input_channels, features[0], 7, 2, 3), ChannelNorm(features[0]))]
        for fewer, more in zip(features, features[1:]):
            reductions.append(nn.Sequential(ChannelNorm(fewer), nn.Conv3d(fewer, more, 2, 2)))
        self.reductions = nn.ModuleList(reductions)
        self.stages = nn.ModuleList(
            nn.Sequential(*(UXBlock(width) for _ in range(depth)))
            for depth, width in zip(depths, features, strict=True)
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for width in features)
        widths = [input_channels, *features, 2 * features[-1]]
        residual = {"kernel_size": 3, "norm_name": "instance", "res_block": True}
        self.skips = nn.ModuleList(
            UnetrBasicBlock(3, fewer, more, stride=1, **residual) for fewer, more in zip(widths, widths[1:])
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(3, more, fewer, upsample_kernel_size=2, **residual)
            for fewer, more in reversed(list(zip(widths[1:], widths[2:])))
        )
        self.last = UnetrBasicBlock(3, features[0], features[0], stride=1, **residual)
        self.seg_layers = UnetOutBlock(3, features[0], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, K, D, H, W)."""
        x, levels = image, [image]
        for reduce, stage, norm in zip(self.reductions, self.stages, self.norms):
            x = stage(reduce(x))
            levels.append(norm(x))
        skips = [block(level) for block, level in zip(self.skips, levels)]
        x = skips.pop()
        for up in self.ups:
            x = up(x, skips.pop())
        return self.seg_layers(self.last(x))


class UXBlock(nn.Module):
    """Depth-wise 7^3 convolution; then each channel by itself is widened fourfold and narrowed again (Section 3.2).

    This "depth-wise convolution scaling" replaces the MLP of a transformer.
    """

    def __init__(self, width: int) -> None:
        """
        Args:
            width: channels.
        """
        super().__init__()
        self.spread = nn.Conv3d(width, width, 7, padding=3, groups=width)
        self.norm = ChannelNorm(width)
        self.widen = nn.Conv3d(width, 4 * width, 1, groups=width)
        self.narrow = nn.Conv3d(4 * width, width, 1, groups=width)
        self.gain = nn.Parameter(torch.full((width, 1, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W), the shape stays."""
        update = self.narrow(nn.functional.gelu(self.widen(self.norm(self.spread(x)))))
        return x + self.gain * update


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each voxel."""

    def __init__(self, width: int) -> None:
        """
        Args:
            width: channels.
        """
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W), the shape stays."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class UXNet3DTrainer(AutomaticTrainer):
    """Trains 3D UX-Net. Patches of any size are padded to multiples of 16.

    AdamW with learning rate 1e-4 and PyTorch's default weight decay, as its authors prescribe (TRAINING.md of
    MASILab/3DUX-Net). They keep the learning rate constant; here it falls, as for all methods. The comparison in
    3DSAM-adapter's paper used 4e-4 and 1e-5.
    """

    learning_rate = 1e-4
    weight_decay = 1e-2

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: tuple[int, int, int],
        depths: Sequence[int] = (2, 2, 2, 2),
        features: Sequence[int] = (48, 96, 192, 384),
    ) -> nn.Module:
        """`UXNet3D` behind a padding."""
        return Padded(UXNet3D(input_channels, num_classes, depths, features), (2 ** len(features),) * 3)
