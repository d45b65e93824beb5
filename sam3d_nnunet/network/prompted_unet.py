"""The prompted control: a U-Net with prompts as further input channels."""

import torch
from torch import Tensor, nn

from sam3d_nnunet.network.device import computes_in_bf16
from sam3d_nnunet.network.prompt_encoder import click_maps, map_channels
from sam3d_nnunet.network.prompts import Correct, Prompts
from sam3d_nnunet.prompts.prompt import KINDS


def prompt_channels(num_click_labels: int) -> int:
    """Input channels that prompts need: for each label, one for clicks and one for each kind of map."""
    return num_click_labels * (1 + KINDS)


class PromptedUNet(nn.Module):
    """A U-Net whose input is the image and the prompts: drawn clicks, masks, scribbles and boxes.

    Unlike `SAM3D` it computes everything again for each set of prompts.
    """

    def __init__(
        self,
        unet: nn.Module,
        num_classes: int,
        num_click_labels: int,
        precision: str = "fp32",
        click_map: str = "gaussian",
        token: int = 1,
    ) -> None:
        """
        Args:
            unet: takes the image's channels and `prompt_channels(num_click_labels)` more.
            num_classes: logits per voxel.
            num_click_labels: labels of prompts, background included.
            precision: "auto", "bf16" or "fp32", as for `SAM3D`.
            click_map: how clicks are drawn, see `click_maps`.
            token: voxels a drawn click is measured in, see `click_maps`.
        """
        super().__init__()
        self.unet = unet
        self.click_map = click_map
        self.token = token
        self.num_classes = num_classes
        self.num_click_labels = num_click_labels
        self.precision = precision
        self.takes_maps = True

    @property
    def decoder(self) -> nn.Module:
        """Where nnU-Net switches deep supervision on and off."""
        return self.unet.decoder

    def forward(
        self, image: Tensor, prompts: Prompts | None = None, correct: Correct | None = None
    ) -> Tensor | list[Tensor]:
        """Arguments as for `SAM3D.forward`; with deep supervision, the logits of all levels of the U-Net."""
        if correct is not None:
            prompts = Prompts.none(len(image), image.device) if prompts is None else prompts
            with torch.no_grad():
                first = self.decode(image, prompts)
            prompts = correct(first[0] if isinstance(first, list) else first, prompts)
        return self.decode(image, prompts)

    def encode(self, image: Tensor) -> Tensor:
        """The image itself: nothing can be computed before the prompts are known."""
        return image

    def decode(self, image: Tensor, prompts: Prompts | None = None) -> Tensor | list[Tensor]:
        """Logits (B, K, D, H, W) float32; an image for each set of prompts, or one for all."""
        drawn = self._draw(image, Prompts.none(len(image), image.device) if prompts is None else prompts)
        image = image.expand(len(drawn), -1, -1, -1, -1)
        # the input is what counts: nnU-Net's deepest levels have 4 voxels a side, more than their kernels of 3
        bf16 = computes_in_bf16(self.precision, image.device, depth=image.shape[2])
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            logits = self.unet(torch.cat([image, drawn], dim=1))
        return [level.float() for level in logits] if isinstance(logits, (list, tuple)) else logits.float()

    def _draw(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(B, `prompt_channels`, D, H, W) in [0, 1]."""
        size = tuple(image.shape[2:])
        points = prompts.points.masked_fill((prompts.labels < 0)[..., None], 0)  # whatever padding holds, NaN included
        points = points.to(image.dtype)
        clicks = click_maps(points, prompts.labels, self.num_click_labels, size, self.click_map, self.token)
        if prompts.maps is None:
            shares = clicks.new_zeros((1, KINDS * self.num_click_labels, *size))
        else:
            shares = map_channels(prompts.maps, self.num_click_labels, stride=1).to(clicks.dtype)
        count = max(len(clicks), len(shares))
        return torch.cat([drawn.expand(count, -1, -1, -1, -1) for drawn in (clicks, shares)], dim=1)
