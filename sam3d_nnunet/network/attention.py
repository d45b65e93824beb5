"""Window attention with SAM's decomposed relative positions, in three axes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.network.windows import WINDOW, WindowLayout


def relative_positions(table: Tensor) -> Tensor:
    """Rows of a relative-position table for each pair of places in a window.

    Args:
        table: (2 * size - 1, head_dim) made for any size, resampled linearly to that of a window, as SAM does.

    Returns:
        (8, 8, head_dim): row [i, j] belongs to a query at place i and a key at place j.
    """
    length = 2 * WINDOW - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], size=length, mode="linear", align_corners=False)[0].T
    place = torch.arange(WINDOW, device=table.device)
    return table[place[:, None] - place + WINDOW - 1]


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

    def forward(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """(B, D, H, W, dim) -> the same shape, attention inside the windows of `layout`."""
        windows = layout.partition(tokens)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        head_dim, batch = q.shape[-1], len(tokens)

        query_codes = layout.query_codes.repeat(batch, 1, 1)[:, None].expand(-1, self.num_heads, -1, -1)
        key_codes = torch.cat([layout.places.expand(len(layout.key_codes), -1, -1), layout.key_codes], dim=-1)
        key_codes = key_codes.repeat(batch, 1, 1)[:, None].expand(-1, self.num_heads, -1, -1)
        q = torch.cat([q * self.scale, self._position_biases(q), query_codes.to(q.dtype)], dim=-1)
        k = torch.cat([k, key_codes.to(k.dtype)], dim=-1)

        # fused kernels want queries, keys and values of one width, a multiple of 8
        width = -(-q.shape[-1] // 8) * 8
        q, k, v = (F.pad(t, (0, width - t.shape[-1])) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :head_dim]
        return layout.merge(self.proj(out.transpose(1, 2).flatten(2)))

    def _position_biases(self, q: Tensor) -> Tensor:
        """(windows, heads, 512, head_dim) -> (windows, heads, 512, 24): each query's biases towards each d, h and w."""
        q = q.unflatten(2, (WINDOW, WINDOW, WINDOW))
        rd, rh, rw = (relative_positions(t).to(q.dtype) for t in (self.rel_pos_d, self.rel_pos_h, self.rel_pos_w))
        biases = [
            torch.einsum("nmdhwc,dkc->nmdhwk", q, rd),
            torch.einsum("nmdhwc,hkc->nmdhwk", q, rh),
            torch.einsum("nmdhwc,wkc->nmdhwk", q, rw),
        ]
        return self.rel_pos_gain * torch.cat(biases, dim=-1).flatten(2, 4)
