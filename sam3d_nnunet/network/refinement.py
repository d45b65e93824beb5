"""The last stage, at the resolution of the image: logits from the decoder's map, the image and the prompts (ours)."""

import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from sam3d_nnunet.network.mask_decoder import enlarge
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
        # so that maps which a training never shows change nothing
        nn.init.zeros_(self.seg_layers.weight[:, drawn_channels(num_labels, len(self.tokens), takes_maps=False) :])

    def forward(self, prompts: Prompts, image: Tensor) -> Tensor:
        """Prompts in voxels of (B or 1, C, D, H, W), for each patch or one for all -> (B, width, D, H, W)."""
        # without maps, most channels would be zeros, which cost the memory of many labels
        takes_maps = self.takes_maps and prompts.maps is not None
        size = tuple(image.shape[2:])
        drawn = drawn_prompts(prompts, self.num_labels, size, image.dtype, self.click_map, self.tokens, takes_maps)
        return F.conv3d(drawn, self.seg_layers.weight[:, : drawn.shape[1]], padding=1)


class Refinement(nn.Module):
    """All that is known of a voxel: the decoder's map, the image, and the prompts. A subclass makes logits of it.

    The published decoder ends at half the side of a token, and clicks reach it through the features of tokens alone.
    Small networks then often take long to begin to select what is clicked.

    Attributes:
        adds: whether its logits are added to the decoder's. If not, the decoder's serve in training alone.
        level_weights: how much each level of logits counts in training; the decoder's, if it is one, comes last.
    """

    adds: bool
    level_weights: list[float]

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
        self, fused: Tensor, padded: tuple[int, ...], image: Tensor, prompts: Prompts, all_levels: bool = False
    ) -> list[Tensor]:
        """Logits, or those of all levels.

        Args:
            fused: (B, channels, d, h, w), the decoder's map, which covers whole tokens.
            padded: voxels of these tokens along (d, h, w).
            image: (B or 1, C, D, H, W), at most that large.
            prompts: in voxels of the image.
            all_levels: whether logits of coarser levels follow, enlarged to the image.

        Returns:
            (B, K, D, H, W) each, fine to coarse.
        """
        d, h, w = image.shape[2:]
        known = enlarge(self.reduce(fused), padded)[..., :d, :h, :w]
        return self.segment(F.relu(self.norm1(known + self.look(image) + self.draw(prompts, image))), all_levels)

    def segment(self, known: Tensor, all_levels: bool) -> list[Tensor]:
        """What is known, (B, WIDTH, D, H, W) -> logits as `forward` returns them."""
        raise NotImplementedError


class ConvRefinement(Refinement):
    """Two convolutions. Logits see three voxels to each side, so a mask follows its click for a part of its way.

    The last layer starts at zero, so that the published function is unchanged at the start.
    """

    adds = True
    level_weights = [1.0]

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

    def segment(self, known: Tensor, all_levels: bool) -> list[Tensor]:
        return [self.seg_layers(F.relu(self.norm2(self.conv(known))))]


class UNetRefinement(Refinement):
    """nnU-Net's U-Net, from voxels down to twice a token and back: it sees how far the object under a click goes.

    It makes the logits alone, with deep supervision like nnU-Net's: all its levels have logits, and each counts by the
    inverse of the side of its voxels.
    """

    adds = False

    def __init__(self, num_classes: int, stride: int, **known: object) -> None:
        """
        Args:
            num_classes: logits per voxel, background included.
            stride: voxels a token covers along each axis, a power of 2.
            known: further arguments of `Refinement`.
        """
        super().__init__(stride=stride, **known)
        self.coarsest = 2 * stride  # voxels a side
        stages = self.coarsest.bit_length()
        self.level_weights = [*(1 / 2**i for i in range(stages - 1)), 2 / stride]
        self.unet = PlainConvUNet(
            WIDTH,
            stages,
            features_per_stage=[WIDTH * 2**i for i in range(stages)],
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (stages - 1),
            n_conv_per_stage=2,
            num_classes=num_classes,
            n_conv_per_stage_decoder=2,
            conv_bias=False,  # the norm would take it away
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        self.unet.apply(InitWeights_He(1e-2))

    def segment(self, known: Tensor, all_levels: bool) -> list[Tensor]:
        d, h, w = known.shape[2:]
        missing = [-n % self.coarsest for n in (d, h, w)]
        if d + missing[0] == h + missing[1] == w + missing[2] == self.coarsest:
            missing[2] += self.coarsest  # instance norm needs more than one voxel
        whole = F.pad(known, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")
        finest, *coarser = self.unet(whole)
        # in float32: the gradient of an enlargement adds up many small terms
        enlarged = [F.interpolate(x.float(), whole.shape[2:], mode="trilinear") for x in coarser if all_levels]
        return [level[..., :d, :h, :w] for level in [finest, *enlarged]]


class UNetAlone(UNetRefinement):
    """Ablation: the U-Net without SAM's encoder, from image and prompts alone. Tells what the encoder adds.

    The rest of the network is computed, trained and counted among its parameters, but predictions don't depend on it.
    """

    def forward(self, fused: Tensor, *known: object) -> list[Tensor]:
        return super().forward(0 * fused, *known)  # gradients of 0 for `reduce`: training on several GPUs needs some


REFINEMENTS = {"convolutions": ConvRefinement, "unet": UNetRefinement, "unet_alone": UNetAlone}
