"""Clicks drawn as balls on the token grid, so that the network also knows where they are."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class DensePrompt(nn.Module):
    """Maps dense prompt channels to a change of the last level of features (ours, not in the paper).

    The visual sampler knows where a click is only through the position left in its feature, so two look-alikes are hard
    to tell apart. The last layer starts at zero, which keeps the published function unchanged at the start.
    """

    def __init__(self, num_labels: int, dim: int, hidden: int) -> None:
        """
        Args:
            num_labels: click labels, background included: one channel each.
            dim: channels of the features.
            hidden: channels between the two convolutions.
        """
        super().__init__()
        self.num_labels = num_labels
        self.seg_layers = nn.Conv3d(num_labels, hidden, kernel_size=3, padding=1)
        self.project = nn.Conv3d(hidden, dim, kernel_size=3, padding=1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, points: Tensor, labels: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(B, N, 3) in token units and (B, N) labels -> (B, dim, d, h, w)."""
        balls = click_balls(points, labels, self.num_labels, grid)
        return self.project(F.gelu(self.seg_layers(balls)))
