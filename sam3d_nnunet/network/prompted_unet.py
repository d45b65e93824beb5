"""The prompted control: a U-Net with prompts as further input channels."""

from functools import partial

import torch
from torch import Tensor, nn

from sam3d_nnunet.network.device import computes_in_bf16
from sam3d_nnunet.network.prompt_encoder import drawn_prompts
from sam3d_nnunet.network.prompts import Correct, Prompts, corrected


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
            unet: takes the image's channels and `drawn_channels(num_click_labels)` more.
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
            prompts = corrected(partial(self._finest, image), prompts, correct)
        return self.decode(image, prompts)

    def _finest(self, image: Tensor, prompts: Prompts) -> Tensor:
        """The logits at full resolution; with deep supervision, coarser ones follow them."""
        logits = self.decode(image, prompts)
        return logits[0] if isinstance(logits, list) else logits

    def encode(self, image: Tensor) -> Tensor:
        """The image itself: nothing can be computed before the prompts are known."""
        return image

    def decode(self, image: Tensor, prompts: Prompts | None = None) -> Tensor | list[Tensor]:
        """Logits (B, K, D, H, W) float32; an image for each set of prompts, or one for all."""
        prompts = Prompts.none(len(image), image.device) if prompts is None else prompts
        size = tuple(image.shape[2:])
        drawn = drawn_prompts(
            prompts, self.num_click_labels, size, image.dtype, self.click_map, [self.token], takes_maps=True
        )
        image = image.expand(len(drawn), -1, -1, -1, -1)
        # the input is what counts: nnU-Net's deepest levels have 4 voxels a side, more than their kernels of 3
        bf16 = computes_in_bf16(self.precision, image.device, depth=image.shape[2])
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            logits = self.unet(torch.cat([image, drawn], dim=1))
        return [level.float() for level in logits] if isinstance(logits, (list, tuple)) else logits.float()
