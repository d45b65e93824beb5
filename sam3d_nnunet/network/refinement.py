"""The last stage, at the resolution of the image: image and prompts change the logits of the decoder (ours)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.network.mask_decoder import conv_norm_relu, enlarge
from sam3d_nnunet.network.prompt_encoder import drawn_channels, drawn_prompts
from sam3d_nnunet.network.prompts import Prompts

WIDTH = 16  # channels at the resolution of the image


class DrawnInput(nn.Module):
    """The share of drawn prompts in the first convolution. Without maps, it has a channel for clicks alone."""

    def __init__(self, num_labels: int, width: int, stride: int, takes_maps: bool, click_map: str) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.takes_maps = takes_maps
        self.click_map = click_map
        self.tokens = (stride, 1)  # a ball of a token says what is meant, one of a voxel where an error is
        channels = drawn_channels(num_labels, len(self.tokens), takes_maps)
        self.seg_layers = nn.Conv3d(channels, width, kernel_size=3, padding=1, bias=False)

    def forward(self, prompts: Prompts, image: Tensor) -> Tensor:
        """Prompts in voxels of (B or 1, C, D, H, W), for each patch or one for all -> (B, width, D, H, W)."""
        drawn = drawn_prompts(prompts, self.num_labels, image, self.click_map, self.tokens, self.takes_maps)
        return self.seg_layers(drawn)


class Refinement(nn.Module):
    """All that is known of a voxel: the decoder's map, the image, and the prompts. A subclass makes logits of it.

    The published decoder ends at half the side of a token, and clicks reach it through the features of tokens alone.
    Small networks then often take long to begin to select what is clicked. The last layer starts at zero, so that the
    published function is unchanged at the start.
    """

    def __init__(
        self,
        channels: int,
        image_channels: int,
        num_labels: int,
        stride: int,
        takes_maps: bool,
        click_map: str = "gaussian",
    ) -> None:
        """
        Args:
            channels: of the decoder's map.
            image_channels: channels of the image.
            num_labels: labels of prompts, background included.
            stride: voxels a token covers along each axis.
            takes_maps: whether there are prompts other than clicks.
            click_map: how clicks are drawn, one of `CLICK_MAPS`.
        """
        super().__init__()
        self.reduce = nn.Conv3d(channels, WIDTH, kernel_size=1, bias=False)
        self.look = nn.Conv3d(image_channels, WIDTH, kernel_size=3, padding=1, bias=False)
        self.draw = DrawnInput(num_labels, WIDTH, stride, takes_maps, click_map)
        self.norm1 = nn.InstanceNorm3d(WIDTH, affine=True)

    def forward(
        self, logits: Tensor, fused: Tensor, padded: tuple[int, ...], image: Tensor, prompts: Prompts
    ) -> Tensor:
        """The changed logits.

        Args:
            logits: (B, K, D, H, W), the decoder's.
            fused: (B, channels, d, h, w), the decoder's map, which covers whole tokens.
            padded: voxels of these tokens along (d, h, w).
            image: (B or 1, C, D, H, W), at most that large.
            prompts: in voxels of the image.

        Returns:
            (B, K, D, H, W).
        """
        d, h, w = image.shape[2:]
        known = enlarge(self.reduce(fused), padded)[..., :d, :h, :w]
        known = F.relu(self.norm1(known + self.look(image) + self.draw(prompts, image)))
        return logits + self.change(known, padded).to(logits.dtype)

    def change(self, known: Tensor, padded: tuple[int, ...]) -> Tensor:
        """What is known, (B, WIDTH, D, H, W) -> (B, K, D, H, W); `padded` is as for `forward`."""
        raise NotImplementedError


class ConvRefinement(Refinement):
    """Two convolutions. Logits see three voxels to each side, so a mask follows its click for a part of its way."""

    def __init__(self, num_classes: int, **known: object) -> None:
        """
        Args:
            num_classes: logits per voxel, background included.
            known: arguments of `Refinement`.
        """
        super().__init__(**known)
        self.conv = nn.Conv3d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm3d(WIDTH, affine=True)
        self.seg_layers = nn.Conv3d(WIDTH, num_classes, kernel_size=3, padding=1, bias=False)
        nn.init.zeros_(self.seg_layers.weight)

    def change(self, known: Tensor, padded: tuple[int, ...]) -> Tensor:
        return self.seg_layers(F.relu(self.norm2(self.conv(known))))


class UNetRefinement(Refinement):
    """A small U-Net from voxels down to tokens and back: it sees how far the object under a click goes."""

    def __init__(self, num_classes: int, stride: int, **known: object) -> None:
        """
        Args:
            num_classes: logits per voxel, background included.
            stride: voxels a token covers along each axis, a power of 2.
            known: further arguments of `Refinement`.
        """
        super().__init__(stride=stride, **known)
        widths = [WIDTH * 2**i for i in range(stride.bit_length())]
        steps = list(zip(widths, widths[1:]))
        self.down = nn.ModuleList(nn.Sequential(*conv_norm_relu(fine, coarse, stride=2)) for fine, coarse in steps)
        self.bottom = nn.Sequential(*conv_norm_relu(widths[-1], widths[-1]))
        self.up = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, 2, bias=False) for fine, coarse in steps)
        self.join = nn.ModuleList(nn.Sequential(*conv_norm_relu(2 * fine, fine)) for fine, _ in steps)
        self.seg_layers = nn.Conv3d(WIDTH, num_classes, kernel_size=3, padding=1, bias=False)
        nn.init.zeros_(self.seg_layers.weight)

    def change(self, known: Tensor, padded: tuple[int, ...]) -> Tensor:
        d, h, w = known.shape[2:]
        levels = [F.pad(known, (0, padded[2] - w, 0, padded[1] - h, 0, padded[0] - d))]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = self.bottom(levels.pop())
        for up, join, level in reversed(list(zip(self.up, self.join, levels))):
            x = join(torch.cat([up(x), level], dim=1))
        return self.seg_layers(x)[..., :d, :h, :w]


class UNetAlone(UNetRefinement):
    """Ablation: the small U-Net without SAM's encoder, from image and prompts alone. Tells what the encoder adds.

    The rest of the network is computed and counted among its parameters, but has no influence.
    """

    def forward(self, logits: Tensor, fused: Tensor, *known: object) -> Tensor:
        return super().forward(0 * logits, 0 * fused, *known)  # gradients of 0, as training on several GPUs needs some


REFINEMENTS = {"convolutions": ConvRefinement, "unet": UNetRefinement, "unet_alone": UNetAlone}
