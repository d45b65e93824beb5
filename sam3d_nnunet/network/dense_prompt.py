"""Dense prompts: clicks drawn as balls, a previous mask, scribbles and boxes, all on the token grid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.dense_maps import BOX, KINDS, MASK, NOTHING, SCRIBBLE

__all__ = ["BOX", "KINDS", "MASK", "NOTHING", "SCRIBBLE", "DensePrompt", "click_balls", "map_channels"]

BALL_SIGMA = 1.0  # tokens


def click_balls(points: Tensor, labels: Tensor, num_labels: int, grid: tuple[int, int, int]) -> Tensor:
    """One channel per click label, a Gaussian ball of 1 token s.d. at each of its clicks.

    Args:
        points: (B, N, 3) in token units, token centres at integers.
        labels: (B, N) int, -1 for padding.
        num_labels: number of channels.
        grid: tokens along (d, h, w).

    Returns:
        (B, num_labels, d, h, w) in [0, 1].
    """
    axes = [
        torch.exp(-((torch.arange(n, device=points.device) - points[..., i, None]) ** 2) / (2 * BALL_SIGMA**2))
        for i, n in enumerate(grid)
    ]
    channel = (labels[..., None] == torch.arange(num_labels, device=labels.device)).to(points.dtype)
    return torch.einsum("bnl,bnd,bnh,bnw->bldhw", channel, *axes).clamp(max=1)


def map_channels(maps: Tensor, num_labels: int, stride: int) -> Tensor:
    """One channel per map and label: the share of a token's voxels that say so; for scribbles whether any does.

    A scribble is one voxel wide: its share would be next to nothing.

    Args:
        maps: (B, 3, D, H, W) int, see `sam3d_nnunet.dense_maps`. Incomplete tokens are filled up with nothing.
        num_labels: channels per map.
        stride: voxels a token covers along each axis.

    Returns:
        (B, 3 * num_labels, d, h, w) float32 in [0, 1], all labels of the mask first.
    """
    d, h, w = (-n % stride for n in maps.shape[2:])
    if d or h or w:
        maps = F.pad(maps, (0, w, 0, h, 0, d), value=NOTHING)
    said = [F.avg_pool3d((maps == label).float(), stride) for label in range(num_labels)]
    shares = torch.stack(said, dim=2)
    shares[:, SCRIBBLE] = (shares[:, SCRIBBLE] > 0).float()
    return shares.flatten(1, 2)


class DensePrompt(nn.Module):
    """Maps dense prompt channels to a change of the last level of features (ours, not in the paper).

    The visual sampler knows where a click is only through the position left in its feature, so two look-alikes are hard
    to tell apart. The last layer starts at zero, which keeps the published function unchanged at the start.
    """

    def __init__(self, num_labels: int, dim: int, hidden: int, stride: int, takes_maps: bool) -> None:
        """
        Args:
            num_labels: labels of prompts, background included: one channel each, for clicks and for each map.
            dim: channels of the features.
            hidden: channels between the two convolutions.
            stride: voxels a token covers along each axis.
            takes_maps: whether there are channels for maps beside those for clicks.
        """
        super().__init__()
        self.num_labels = num_labels
        self.stride = stride
        self.takes_maps = takes_maps
        channels = num_labels * (1 + KINDS * takes_maps)
        self.seg_layers = nn.Conv3d(channels, hidden, kernel_size=3, padding=1)
        # a kind of map that no training step has shown then changes nothing, instead of adding noise
        nn.init.zeros_(self.seg_layers.weight[:, num_labels:])
        self.project = nn.Conv3d(hidden, dim, kernel_size=3, padding=1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, points: Tensor, labels: Tensor, grid: tuple[int, int, int], maps: Tensor | None = None) -> Tensor:
        """A change of the features from clicks and maps.

        Args:
            points: (B, N, 3) in token units, token centres at integers.
            labels: (B, N) int, -1 for padding.
            grid: tokens along (d, h, w).
            maps: (B or 1, 3, D, H, W) int in voxels; None: they say nothing.

        Returns:
            (B, dim, d, h, w).
        """
        channels = click_balls(points, labels, self.num_labels, grid)
        if self.takes_maps:
            if maps is None:
                said = channels.new_zeros(1, KINDS * self.num_labels, *grid)
            else:
                said = map_channels(maps, self.num_labels, self.stride).to(channels.dtype)
            channels = torch.cat([channels, said.expand(len(channels), -1, -1, -1, -1)], dim=1)
        return self.project(F.gelu(self.seg_layers(channels)))
