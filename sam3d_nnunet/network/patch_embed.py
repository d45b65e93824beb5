"""SAM's patch embedding for volumes, folded into one small convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAM_PATCH = 16  # SAM embeds 16 x 16 pixels; the slice convolution spans 16 slices


def enlargement_matrix(stride: int) -> Tensor:
    """How 16 samples of a linearly enlarged axis come from `stride` voxels and one neighbour on either side.

    Row o holds the two interpolation weights at source position (o + 0.5) * stride / 16 - 0.5; column j is voxel j - 1.

    Args:
        stride: voxels a token covers along the axis (2, 4 or 8).

    Returns:
        (16, stride + 2) float32 matrix, each row adding up to 1.
    """
    position = (torch.arange(SAM_PATCH) + 0.5) * stride / SAM_PATCH - 0.5
    voxel = torch.arange(-1, stride + 1)
    return (1 - (position[:, None] - voxel).abs()).clamp(min=0)


class PatchEmbed(nn.Module):
    """Tokens from a volume (paper, Section 3.2): SAM's frozen patch embedding, then a tuned convolution over slices.

    The published network enlarges the volume 16 / stride times and embeds every slice of it. Enlargement and
    embedding are linear, so both are computed here as one convolution with (stride + 2)^3 taps on the original volume.
    """

    def __init__(self, input_channels: int, embed_dim: int, stride: int) -> None:
        """
        Args:
            input_channels: channels of the image; more than one are mixed into SAM's three by tuned weights.
            embed_dim: width of a token.
            stride: voxels a token covers along each axis (2, 4 or 8).
        """
        super().__init__()
        self.stride = stride
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=SAM_PATCH, stride=SAM_PATCH)
        self.slice_embed = nn.Conv3d(embed_dim, embed_dim, (SAM_PATCH, 1, 1), (SAM_PATCH, 1, 1), groups=embed_dim)
        self.channel_mix = nn.Parameter(torch.full((3, input_channels), 1 / input_channels))
        self.proj.requires_grad_(False)
        self.channel_mix.requires_grad_(input_channels > 1)
        self.register_buffer("enlarge", enlargement_matrix(stride), persistent=False)
        self.register_buffer("in_plane", torch.empty(embed_dim, 3, stride + 2, stride + 2), persistent=False)
        self._fold_in_plane()
        self.register_load_state_dict_post_hook(lambda module, keys: module._fold_in_plane())

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) with sides that are multiples of `stride` -> (B, D/stride, H/stride, W/stride, embed_dim)."""
        padded = F.pad(image, (1,) * 6, mode="replicate")
        with torch.autocast(image.device.type, enabled=False):  # little work that everything rests on: exact
            tokens = F.conv3d(padded, *self.folded_kernel(), stride=self.stride)
        # a copy in any case: of an image with one channel, torch.compile expects another layout than comes
        return tokens.permute(0, 2, 3, 4, 1).clone(memory_format=torch.contiguous_format)

    def folded_kernel(self) -> tuple[Tensor, Tensor]:
        """Weight (embed_dim, input_channels, s + 2, s + 2, s + 2) and bias (embed_dim,) of the one convolution."""
        taps = self.slice_embed.weight[:, 0, :, 0, 0]
        weight = torch.einsum("cd,dz,cryx,ri->cizyx", taps, self.enlarge, self.in_plane, self.channel_mix)
        bias = self.proj.bias * taps.sum(1) + self.slice_embed.bias
        return weight, bias

    @torch.no_grad()
    def _fold_in_plane(self) -> None:
        """SAM's frozen kernel, folded within the slice once for all steps, again whenever weights are loaded."""
        up = self.enlarge
        self.in_plane.copy_(torch.einsum("crhw,hy,wx->cryx", self.proj.weight, up, up))
