"""Cutting a token grid into windows, shifted or not, and the codes that mask attention inside them."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 8  # tokens a side
SHIFT = WINDOW // 2
MASKED = -128.0  # exact in bfloat16; exp(-128) is zero beside any unmasked logit


class WindowLayout:
    """How one token grid falls into windows of 8 x 8 x 8 tokens, as in Swin transformers.

    The grid is padded at its end to whole windows. A shifted layout rolls it by half a window along each axis that has
    more than one, and the tokens that so become neighbours across the border must not see each other. Both masks are
    inner products: `query_codes` @ `key_codes`^T is 0 where a query may see a key and at most -128 elsewhere.

    Attributes:
        query_codes: (windows, 512, 7).
        key_codes: (windows, 512, 7).
        places: (512, 24) one-hot codes of a token's place in its window along d, h and w.
    """

    def __init__(self, grid: tuple[int, int, int], shifted: bool, device: torch.device, dtype: torch.dtype) -> None:
        """
        Args:
            grid: tokens along (d, h, w).
            shifted: whether windows are moved by half a window.
            device: where the codes live.
            dtype: type of the codes.
        """
        self.grid = grid
        self.padding = tuple(-n % WINDOW for n in grid)
        self.padded = tuple(n + p for n, p in zip(grid, self.padding))
        self.shift = tuple(SHIFT if shifted and n > WINDOW else 0 for n in self.padded)
        self.query_codes, self.key_codes = (c.to(device, dtype) for c in self._mask_codes())
        one_hot = torch.eye(WINDOW, device=device, dtype=dtype)
        axes = torch.meshgrid(*[torch.arange(WINDOW, device=device)] * 3, indexing="ij")
        self.places = torch.cat([one_hot[a.flatten()] for a in axes], dim=1)

    def partition(self, tokens: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B * windows, 512, C)."""
        if any(self.padding):
            d, h, w = self.padding
            tokens = F.pad(tokens, (0, 0, 0, w, 0, h, 0, d))
        if any(self.shift):
            tokens = tokens.roll([-s for s in self.shift], dims=(1, 2, 3))
        return _to_windows(tokens)

    def merge(self, windows: Tensor) -> Tensor:
        """(B * windows, 512, C) -> (B, D, H, W, C), the inverse of `partition`."""
        d, h, w = (n // WINDOW for n in self.padded)
        tokens = windows.view(-1, d, h, w, WINDOW, WINDOW, WINDOW, windows.shape[-1])
        tokens = tokens.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *self.padded, windows.shape[-1])
        if any(self.shift):
            tokens = tokens.roll(self.shift, dims=(1, 2, 3))
        d, h, w = self.grid
        return tokens[:, :d, :h, :w]

    def _mask_codes(self) -> tuple[Tensor, Tensor]:
        queries, keys = [], []
        for axis, (size, shift) in enumerate(zip(self.padded, self.shift)):
            side = (torch.arange(size) >= size - shift).float()  # 1 for what was rolled in from the other end
            side = side.view([-1 if a == axis else 1 for a in range(3)]).expand(self.padded)
            queries += [side, 1 - side]
            keys += [MASKED * (1 - side), MASKED * side]
        d, h, w = self.grid
        outside = torch.full(self.padded, MASKED)
        outside[:d, :h, :w] = 0
        queries.append(torch.ones(self.padded))
        keys.append(outside.roll([-s for s in self.shift], dims=(0, 1, 2)))
        return tuple(_to_windows(torch.stack(codes, dim=-1)[None]) for codes in (queries, keys))


def _to_windows(tokens: Tensor) -> Tensor:
    """(B, D, H, W, C) with sides in whole windows -> (B * windows, 512, C)."""
    b, d, h, w, c = tokens.shape
    tokens = tokens.view(b, d // WINDOW, WINDOW, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return tokens.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, WINDOW**3, c)
