"""Clicks as codes of their positions, SAM's way: the opponents of the visual sampler in the paper's ablation."""

import torch
from torch import Tensor, nn

from sam3d_nnunet.network.prompt_encoder import Attention, LabelEmbedding, LevelPromptEncoder

SAM_LABELS = 2  # background and foreground


class PositionCode(nn.Module):
    """SAM's positional encoding with a third axis: sines and cosines of random frequencies."""

    def __init__(self, dim: int) -> None:
        """
        Args:
            dim: length of a code; even.
        """
        super().__init__()
        self.register_buffer("frequencies", torch.randn(3, dim // 2))

    def forward(self, points: Tensor) -> Tensor:
        """(..., 3) in [-1, 1] between the faces of the grid -> (..., dim)."""
        # a sum of products, because autocast would round a matrix product to a few bits of the phase
        phases = 2 * torch.pi * (points[..., None] * self.frequencies).sum(-2)
        return torch.cat([phases.sin(), phases.cos()], dim=-1)

    def of_grid(self, size: tuple[int, int, int]) -> Tensor:
        """Codes of the centres of all tokens of a grid, (d * h * w, dim), the last axis first to change."""
        axes = [(2 * torch.arange(n, device=self.frequencies.device) + 1) / n - 1 for n in size]
        return self(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2))


class PositionPromptEncoder(LevelPromptEncoder):
    """`LevelPromptEncoder` with SAM's position codes instead of sampled features.

    As in SAM, a click is the code of its position plus an embedding of its label, even where all clicks are foreground.
    SAM also adds codes to the image tokens. Here the image tokens have none, as in the published prompt layers, so that
    only the representation of a click changes. `SAMPromptEncoder` has them.
    """

    def __init__(self, dim: int, num_heads: int = 8, mlp_dim: int = 2048, *, num_labels: int | None = None) -> None:
        """Arguments as for `LevelPromptEncoder`; without `num_labels` there are SAM's two labels."""
        super().__init__(dim, num_heads, mlp_dim, num_labels=num_labels or SAM_LABELS)
        self.position = PositionCode(dim)

    def click_tokens(self, features: Tensor, points: Tensor) -> Tensor:
        """Codes of the positions of the clicks, (B, dim, d, h, w) and (B, N, 3) -> (B, N, dim)."""
        return self.position(points).to(features.dtype)


class TwoWayLayer(nn.Module):
    """SAM's layer (Kirillov et al. 2023, Fig. 14): tokens attend to each other and to the image, then it to them.

    Wherever places matter, codes are added again: those of the image's tokens, and for the prompts' tokens what they
    were at first.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.tokens_to_image = Attention(dim, dim // 2, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.image_to_tokens = Attention(dim, dim // 2, num_heads)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self, image: Tensor, tokens: Tensor, image_codes: Tensor, token_codes: Tensor | None, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New image and tokens.

        Args:
            image: (B, T, dim).
            tokens: (B, Q, dim).
            image_codes: (T, dim).
            token_codes: (B, Q, dim). None: the first layer, in which the tokens are their own codes.
            visible: (B, Q) bool, False for padding.
        """
        if token_codes is None:
            token_codes = tokens
            tokens = self.self_attn(tokens, tokens, visible)
        else:
            coded = tokens + token_codes
            tokens = tokens + self.self_attn(coded, coded, visible, values=tokens)
        tokens = self.norm1(tokens)
        places = image + image_codes
        tokens = self.norm2(tokens + self.tokens_to_image(tokens + token_codes, places, values=image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_tokens(places, tokens + token_codes, visible, values=tokens))
        return image, tokens


class SAMPromptEncoder(nn.Module):
    """SAM's way from clicks to an image that knows them, with a third axis: position codes on both sides.

    A click is the code of its position plus an embedding of its label. Together with learned queries (SAM's output
    tokens) the clicks pass through two of SAM's layers, in which clicks look into the image at their place and the
    image's tokens know where they are. SAM decodes masks from both. Here only the image is decoded, as in
    3DSAM-adapter, so SAM's last attention from tokens to image has no place.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        num_queries: int = 10,
        num_layers: int = 2,
        *,
        num_labels: int | None = None,
    ) -> None:
        """Arguments as for `LevelPromptEncoder`; without `num_labels` there are SAM's two labels."""
        super().__init__()
        self.global_query = nn.Parameter(0.1 * torch.randn(1, num_queries, dim))
        self.position = PositionCode(dim)
        self.label_embedding = LabelEmbedding(num_labels or SAM_LABELS, dim)
        self.layers = nn.ModuleList(TwoWayLayer(dim, num_heads, mlp_dim) for _ in range(num_layers))

    def forward(self, features: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """As `LevelPromptEncoder`: features (B, dim, d, h, w), points (B, N, 3), labels (B, N) -> new features."""
        queries = self.global_query.expand(len(points), -1, -1)
        clicks = self.position(points).to(features.dtype) + self.label_embedding(labels)
        tokens = first = torch.cat([queries, clicks], dim=1)
        visible = nn.functional.pad(labels >= 0, (queries.shape[1], 0), value=True)
        size = tuple(features.shape[2:])
        image, codes = features.flatten(2).transpose(1, 2), self.position.of_grid(size).to(features.dtype)
        for i, layer in enumerate(self.layers):
            image, tokens = layer(image, tokens, codes, first if i else None, visible)
        return image.transpose(1, 2).unflatten(2, size)
