"""The spatial adapter tuned in front of every frozen transformer block."""

import torch.nn.functional as F
from torch import Tensor, nn


class SpatialAdapter(nn.Module):
    """Bottleneck with a depth-wise 3-D convolution and a residual (paper, Section 3.2 and Fig. 3)."""

    def __init__(self, dim: int) -> None:
        """
        Args:
            dim: width of a token; the bottleneck has half of it.
        """
        super().__init__()
        hidden = dim // 2
        self.down = nn.Linear(dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.up = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D, H, W, dim) -> the same shape."""
        hidden = F.relu(self.down(tokens), inplace=True).permute(0, 4, 1, 2, 3)
        hidden = F.relu(self.conv(hidden), inplace=True).permute(0, 2, 3, 4, 1)
        return tokens + F.relu(self.up(hidden), inplace=True)
