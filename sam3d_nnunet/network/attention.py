"""Window attention with SAM's decomposed relative positions, in three axes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.network.windows import WINDOW, window_places

DISTANCES = 2 * WINDOW - 1  # of two places in a window, along one axis


def distance_table(table: Tensor) -> Tensor:
    """(2 * size - 1, head_dim) made for any size -> (15, head_dim), resampled linearly as SAM does."""
    if len(table) == DISTANCES:
        return table
    return F.interpolate(table.T[None], size=DISTANCES, mode="linear", align_corners=False)[0].T


def distance_index(device: torch.device | None = None) -> Tensor:
    """(512, 24): for each query of a window, the rows of the three joined tables towards the 8 + 8 + 8 places."""
    offset = DISTANCES * torch.arange(3, device=device)[:, None]
    nearest_last = WINDOW - 1 - torch.arange(WINDOW, device=device)
    return (window_places(device)[..., None] + nearest_last + offset).flatten(1)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of 8 x 8 x 8 tokens (paper, Section 3.2).

    SAM's height and width tables of relative positions are frozen, the depth table is tuned. The position
    bias and the masks are inner products of a query and a key, so they ride on a few extra columns of both and no
    512 x 512 bias is ever formed: queries carry their 8 + 8 + 8 biases, keys the one-hot codes of their places.
    """

    def __init__(self, dim: int, num_heads: int, table_size: int) -> None:
        """
        Args:
            dim: width of a token.
            num_heads: number of attention heads.
            table_size: tokens a side that the relative-position tables are stored for (14 or 64 in SAM).
        """
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_d, self.rel_pos_h, self.rel_pos_w = (
            nn.Parameter(torch.zeros(2 * table_size - 1, head_dim)) for _ in range(3)
        )
        self.register_buffer("rel_pos_gain", torch.ones(()))
        for frozen in (self.qkv, self.proj, self.rel_pos_h, self.rel_pos_w):
            frozen.requires_grad_(False)

    def forward(self, windows: Tensor, query_codes: Tensor, key_codes: Tensor) -> Tensor:
        """(windows, 512, dim) and their codes from `WindowLayout` -> (windows, 512, dim)."""
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query_codes, key_codes = (
            codes.to(q.dtype)[:, None].expand(-1, self.num_heads, -1, -1) for codes in (query_codes, key_codes)
        )
        # SAM scales the content of a logit, not its position bias, but the fused kernel will scale both
        key_codes = key_codes / self.scale
        q = torch.cat([q, self._position_biases(q), query_codes], dim=-1)
        k = torch.cat([k, key_codes], dim=-1)
        extra = q.shape[-1] - v.shape[-1]
        # fused kernels want values of the same width as queries and keys
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, extra)), scale=self.scale)[..., :-extra]
        return self.proj(out.transpose(1, 2).flatten(2))

    def _position_biases(self, q: Tensor) -> Tensor:
        """(windows, heads, 512, head_dim) -> (windows, heads, 512, 24): each query's biases towards each d, h and w."""
        tables = torch.cat([distance_table(t) for t in (self.rel_pos_d, self.rel_pos_h, self.rel_pos_w)])
        biases = F.linear(q, self.rel_pos_gain * tables)
        return biases.gather(-1, distance_index(q.device).expand(*q.shape[:2], -1, -1))
