"""SAM's own prompt encoding: clicks are told by where they are, not by what lies under them."""

import torch
from torch import Tensor, nn

from sam3d_nnunet.network.prompt_encoder import PromptEncoder

SAMS_LABELS = 2  # background and foreground


class PositionCode(nn.Module):
    """Sines and cosines of random frequencies (SAM's positional encoding, with a third axis)."""

    def __init__(self, dim: int) -> None:
        """
        Args:
            dim: length of a code, even.
        """
        super().__init__()
        self.register_buffer("frequencies", torch.randn(3, dim // 2))

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, 3) in [-1, 1] between the faces of the grid -> (B, N, dim)."""
        # sum of products and not a matrix product, which autocast would round to a few bits of the phase
        phases = 2 * torch.pi * (points[..., None] * self.frequencies).sum(-2)
        return torch.cat([phases.sin(), phases.cos()], dim=-1)


class PositionPromptEncoder(PromptEncoder):
    """`PromptEncoder` with SAM's codes of positions where the visual sampler has features (the paper's ablation).

    As in SAM a click is its position's code plus an embedding of its label, also where all clicks are foreground. SAM
    gives the image tokens their codes, too; here they stay without, as in the published prompt layers, so that only
    what stands for a click differs.
    """

    def __init__(self, dim: int, num_heads: int = 8, mlp_dim: int = 2048, *, num_labels: int | None = None) -> None:
        """Arguments are those of `PromptEncoder`; without labels there are SAM's two."""
        super().__init__(dim, num_heads, mlp_dim, num_labels=num_labels or SAMS_LABELS)
        self.position = PositionCode(dim)

    def click_tokens(self, features: Tensor, points: Tensor) -> Tensor:
        """Codes of the clicks' positions, (B, dim, d, h, w) and (B, N, 3) -> (B, N, dim)."""
        return self.position(points).to(features.dtype)
