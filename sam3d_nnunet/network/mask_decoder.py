"""The mask decoder: multi-layer aggregation of levels of features and the image (paper, Section 3.4)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def enlarge(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Trilinear enlargement with aligned corners, as in the published decoder."""
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=True)


def conv_norm_relu(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    """3 x 3 x 3 convolution, instance norm, ReLU."""
    return [
        nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(out_channels),
        nn.ReLU(),
    ]


class Fusion(nn.Module):
    """3 x 3 x 3 convolution over all levels and the image, computed level by level.

    A convolution of concatenated maps is the sum of the convolutions of its parts. The share of everything that does
    not depend on prompts is therefore computed once per image, and the maps are never concatenated.
    """

    def __init__(self, level_channels: int, num_levels: int, image_channels: int) -> None:
        super().__init__()
        self.parts = [level_channels] * num_levels + [image_channels]
        self.conv = nn.Conv3d(sum(self.parts), level_channels, kernel_size=3, padding=1, bias=False)

    def share(self, part: int, x: Tensor) -> Tensor:
        """The share of level number `part`, or of the image (-1), in the fused map."""
        return F.conv3d(x, self.conv.weight.split(self.parts, dim=1)[part], padding=1)


class MaskDecoder(nn.Module):
    """Logits from levels of features and the image."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_levels: int,
        image_channels: int,
        num_classes: int,
        prompted: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            in_channels: channels of each level of features.
            channels: channels inside the decoder.
            num_levels: number of levels.
            image_channels: channels of the image.
            num_classes: logits per voxel, background included.
            prompted: the levels that prompts change, counted from 0. Default: the last one.
        """
        super().__init__()
        self.num_classes = num_classes
        self.prompted = [num_levels - 1] if prompted is None else list(prompted)
        self.unprompted = [i for i in range(num_levels) if i not in self.prompted]
        self.heads = nn.ModuleList(
            nn.Sequential(*conv_norm_relu(in_channels, channels), *conv_norm_relu(channels, channels))
            for _ in range(num_levels)
        )
        self.fusion = Fusion(channels, num_levels, image_channels)
        self.norm = nn.InstanceNorm3d(channels)
        self.seg_layers = nn.Conv3d(channels, num_classes, kernel_size=3, padding=1, bias=False)

    def encode(self, levels: Sequence[Tensor], image: Tensor) -> Tensor:
        """The share of the fused map that does not depend on prompts.

        Args:
            levels: those that prompts don't change, (B, in_channels, d, h, w) each.
            image: (B, C, 2d, 2h, 2w), the image at twice the resolution of the levels.

        Returns:
            (B, channels, 2d, 2h, 2w).
        """
        return self._add(self.fusion.share(-1, image), self.unprompted, levels)

    def fuse(self, image_share: Tensor, *levels: Tensor) -> Tensor:
        """The share from `encode` and the prompted levels (B, in_channels, d, h, w) -> (B, channels, 2d, 2h, 2w)."""
        return F.relu(self.norm(self._add(image_share, self.prompted, levels)), inplace=True)

    def forward(self, image_share: Tensor, *levels: Tensor) -> Tensor:
        """As `fuse`, but returns the logits (B, K, 2d, 2h, 2w)."""
        return self.seg_layers(self.fuse(image_share, *levels))

    def _add(self, fused: Tensor, numbers: list[int], levels: Sequence[Tensor]) -> Tensor:
        for i, level in zip(numbers, levels, strict=True):
            fused = fused + self.fusion.share(i, enlarge(self.heads[i](level), fused.shape[2:]))
        return fused
