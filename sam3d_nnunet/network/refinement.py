"""The last stage, at the resolution of the image: image and prompts change the logits of the decoder (ours)."""

import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.network.mask_decoder import enlarge
from sam3d_nnunet.network.prompt_encoder import drawn_channels, drawn_prompts
from sam3d_nnunet.network.prompts import Prompts


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
    """Two convolutions with all that is known of a voxel: the decoder's map, the image, and the prompts.

    The published decoder ends at half the side of a token, and clicks reach it through the features of tokens alone.
    Small networks then often take long to begin to select what is clicked. The last layer starts at zero, so that the
    published function is unchanged at the start.
    """

    def __init__(
        self,
        channels: int,
        image_channels: int,
        num_labels: int,
        num_classes: int,
        stride: int,
        takes_maps: bool,
        click_map: str = "gaussian",
        width: int = 16,
    ) -> None:
        """
        Args:
            channels: of the decoder's map.
            image_channels: channels of the image.
            num_labels: labels of prompts, background included.
            num_classes: logits per voxel, background included.
            stride: voxels a token covers along each axis.
            takes_maps: whether there are prompts other than clicks.
            click_map: how clicks are drawn, one of `CLICK_MAPS`.
            width: channels of this stage.
        """
        super().__init__()
        self.reduce = nn.Conv3d(channels, width, kernel_size=1, bias=False)
        self.look = nn.Conv3d(image_channels, width, kernel_size=3, padding=1, bias=False)
        self.draw = DrawnInput(num_labels, width, stride, takes_maps, click_map)
        self.norm1 = nn.InstanceNorm3d(width, affine=True)
        self.conv = nn.Conv3d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.InstanceNorm3d(width, affine=True)
        self.seg_layers = nn.Conv3d(width, num_classes, kernel_size=3, padding=1, bias=False)
        nn.init.zeros_(self.seg_layers.weight)

    def forward(self, fused: Tensor, padded: tuple[int, ...], image: Tensor, prompts: Prompts) -> Tensor:
        """The change of the logits.

        Args:
            fused: (B, channels, d, h, w), the decoder's map, which covers whole tokens.
            padded: voxels of these tokens along (d, h, w).
            image: (B or 1, C, D, H, W), at most that large.
            prompts: in voxels of the image.

        Returns:
            (B, K, D, H, W).
        """
        d, h, w = image.shape[2:]
        known = enlarge(self.reduce(fused), padded)[..., :d, :h, :w]
        x = F.relu(self.norm1(known + self.look(image) + self.draw(prompts, image)))
        return self.seg_layers(F.relu(self.norm2(self.conv(x))))
