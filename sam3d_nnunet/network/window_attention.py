"""Attention in windows of 8 x 8 x 8 tokens, shifted or not, with SAM's decomposed relative positions along 3 axes."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 8  # tokens a side
SHIFT = WINDOW // 2
DISTANCES = 2 * WINDOW - 1  # of two places in a window, along one axis
MASKED = -(2.0**14)  # exact in bfloat16; outweighs any content logit, so that masked keys get weight 0


class WindowLayout:
    """Partition of the token grids of a batch into windows of 8 x 8 x 8 tokens, as in Swin transformers.

    The grid is padded at its end to whole windows. A shifted layout rolls it by half a window along each axis that has
    more than one window. Tokens that become neighbours across the border in this way must not see each other. Both
    masks are written as inner products, and so is the choice of a key's place among the position biases of a query: a
    query with its 24 biases and `query_codes`, multiplied by `key_codes`, gives the bias of the pair, or at most
    `MASKED` where the query must not see the key.

    Attributes:
        order: (windows * 512,) the token, counted over the batch, at each place of each window. A place in the padding
            holds an arbitrary token, which no query sees.
        inverse: (B * D * H * W,) the place of each token.
        query_codes: (windows, 512, 8).
        key_codes: (windows, 512, 32): one-hot places along d, h and w, then the counterpart of `query_codes`.
    """

    def __init__(self, grid: tuple[int, int, int], shifted: bool, batch: int, device: torch.device) -> None:
        """
        Args:
            grid: tokens along (d, h, w).
            shifted: whether windows are shifted by half a window.
            batch: number of grids.
            device: of the tensors.
        """
        self.grid = grid
        self.padded = tuple(n + -n % WINDOW for n in grid)
        self.is_padded = self.padded != tuple(grid)
        self.shift = tuple(SHIFT if shifted and n > WINDOW else 0 for n in self.padded)
        self.device = device
        self.order, self.inverse = self._orders(batch)
        self.query_codes, keys = (codes.repeat(batch, 1, 1) for codes in self._mask_codes())
        one_hot = torch.eye(WINDOW, device=device)[window_places(device)].flatten(1)
        self.key_codes = torch.cat([one_hot.expand(len(keys), -1, -1), keys], dim=-1)

    def merge(self, windows: Tensor) -> Tensor:
        """(windows, 512, C) -> (B, D, H, W, C)."""
        return windows.flatten(0, 1).index_select(0, self.inverse).unflatten(0, (-1, *self.grid))

    def _orders(self, batch: int) -> tuple[Tensor, Tensor]:
        d, h, w = self.grid
        count = batch * d * h * w
        padded = torch.full((batch, *self.padded), count, device=self.device)
        padded[:, :d, :h, :w] = torch.arange(count, device=self.device).view(batch, d, h, w)
        order = self._to_windows(padded[..., None]).flatten()
        return order.clamp(max=count - 1), order.argsort()[:count]  # places in the padding come last

    def _mask_codes(self) -> tuple[Tensor, Tensor]:
        queries, keys = [], []
        for axis, (size, shift) in enumerate(zip(self.padded, self.shift)):
            # 1 for tokens that the roll moves to the other end
            side = (torch.arange(size, device=self.device) < shift).float()
            side = side.view([-1 if a == axis else 1 for a in range(3)]).expand(self.padded)
            queries += [side, 1 - side]
            keys += [MASKED * (1 - side), MASKED * side]
        d, h, w = self.grid
        outside = torch.full(self.padded, MASKED, device=self.device)
        outside[:d, :h, :w] = 0
        unused = torch.zeros_like(outside)  # completes a multiple of 8
        queries += [torch.ones_like(outside), unused]
        keys += [outside, unused]
        return tuple(self._to_windows(torch.stack(codes, dim=-1)[None]) for codes in (queries, keys))

    def _to_windows(self, tokens: Tensor) -> Tensor:
        """(B, *padded, C) -> (B * windows, 512, C)."""
        tokens = tokens.roll([-s for s in self.shift], dims=(1, 2, 3))
        b, d, h, w, c = tokens.shape
        tokens = tokens.view(b, d // WINDOW, WINDOW, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
        return tokens.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, WINDOW**3, c)


@lru_cache(maxsize=8)  # four shapes or batch sizes; 10 MB each for a batch of two patches of 32 x 32 x 32 tokens
def _kept_layout(grid: tuple[int, int, int], shifted: bool, batch: int, device: torch.device) -> WindowLayout:
    with torch.inference_mode(False):  # so that training can use what a prediction has built
        return WindowLayout(grid, shifted, batch, device)


def window_layout(tokens: Tensor, shifted: bool) -> WindowLayout:
    """The layout for tokens (B, D, H, W, C); it is built once for each shape and device, and kept for the last few.

    Tracers get one that is made of what they trace: torch.compile, and others by the type of their tensors.
    """
    grid = tuple(tokens.shape[1:4])
    make = _kept_layout if _is_plain(tokens) else WindowLayout
    return make(grid, shifted, len(tokens), tokens.device)


def _is_plain(tensor: Tensor) -> bool:
    return not torch.compiler.is_compiling() and type(tensor) is Tensor


def window_places(device: torch.device | None = None) -> Tensor:
    """(512, 3): place of each token of a window along d, h and w."""
    place = torch.arange(WINDOW, device=device)
    return torch.cartesian_prod(place, place, place)


def distance_table(table: Tensor) -> Tensor:
    """Table (2 * size - 1, head_dim) for windows of any size -> (15, head_dim), resampled linearly as SAM does."""
    if len(table) == DISTANCES:
        return table
    return F.interpolate(table.T[None], size=DISTANCES, mode="linear", align_corners=False)[0].T


def distance_index(device: torch.device | None = None) -> Tensor:
    """(512, 24): for each query of a window, the rows of the three stacked tables for the 8 + 8 + 8 places of keys."""
    offset = DISTANCES * torch.arange(3, device=device)[:, None]
    nearest_last = WINDOW - 1 - torch.arange(WINDOW, device=device)
    return (window_places(device)[..., None] + nearest_last + offset).flatten(1)


@lru_cache(maxsize=8)  # devices
def _kept_distance_index(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return distance_index(device)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of 8 x 8 x 8 tokens (paper, Section 3.2).

    SAM's height and width tables of relative positions are frozen, the depth table is tuned. Position bias and masks
    are inner products of a query and a key. They become a few extra columns of both, and no 512 x 512 bias is formed:
    queries carry their 8 + 8 + 8 biases, keys the one-hot codes of their places.
    """

    def __init__(self, dim: int, num_heads: int, table_size: int) -> None:
        """
        Args:
            dim: width of a token.
            num_heads: number of attention heads.
            table_size: tokens a side for which the relative-position tables are stored (14 or 64 in SAM).
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
        # SAM scales the content of a logit but not its position bias; the fused kernel scales both
        key_codes = key_codes.to(q.dtype) / self.scale
        query_codes, key_codes = (
            codes.to(q.dtype)[:, None].expand(-1, self.num_heads, -1, -1) for codes in (query_codes, key_codes)
        )
        q = torch.cat([q, self._position_biases(q), query_codes], dim=-1)
        k = torch.cat([k, key_codes], dim=-1)
        extra = q.shape[-1] - v.shape[-1]
        # fused kernels need values of the same width as queries and keys
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, extra)), scale=self.scale)[..., :-extra]
        return self.proj(out.transpose(1, 2).flatten(2))

    def _position_biases(self, q: Tensor) -> Tensor:
        """(windows, heads, 512, head_dim) -> (windows, heads, 512, 24): biases of each query for each d, h and w."""
        tables = torch.cat([distance_table(t) for t in (self.rel_pos_d, self.rel_pos_h, self.rel_pos_w)])
        biases = F.linear(q, self.rel_pos_gain * tables)
        index = (_kept_distance_index if _is_plain(q) else distance_index)(q.device)
        return biases.gather(-1, index.expand(*q.shape[:2], -1, -1))
