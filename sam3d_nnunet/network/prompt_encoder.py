"""The visual sampler: clicks read the features under them and steer a level of the image encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with an inner width of its own and masked keys."""

    def __init__(self, dim: int, inner_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, Q, dim), (B, K, dim) and (B, K) bool, the keys that may be seen -> (B, Q, dim)."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, keys))
        )
        mask = None if visible is None else visible[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class PromptLayer(nn.Module):
    """Global queries and clicks attend to each other, then the image attends to the queries (paper, Section 3.3)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, num_queries: int) -> None:
        super().__init__()
        self.global_query = nn.Parameter(0.1 * torch.randn(1, num_queries, dim))
        self.self_attn = Attention(dim, dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.image_to_queries = Attention(dim, dim // 2, num_heads)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, image: Tensor, clicks: Tensor, is_click: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (B, T, dim), clicks (B, N, dim), is_click (B, N) bool -> new image tokens and clicks."""
        num_queries = self.global_query.shape[1]
        tokens = torch.cat([self.global_query.expand(len(clicks), -1, -1), clicks], dim=1)
        visible = F.pad(is_click, (num_queries, 0), value=True)
        tokens = self.norm2(tokens + self.norm1(self.self_attn(tokens, tokens, visible)))
        queries, clicks = tokens[:, :num_queries], tokens[:, num_queries:]
        queries = self.norm3(queries + self.mlp(queries))
        image = self.norm4(image + self.image_to_queries(image, queries))
        return image, clicks


class LabelEmbedding(nn.Module):
    """A vector per click label, zero at the start: what a click means, beside what lies under it."""

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__()
        self.seg_layers = nn.Embedding(num_labels, dim)
        nn.init.zeros_(self.seg_layers.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """(B, N) int, -1 for padding -> (B, N, dim)."""
        return self.seg_layers(labels.clamp(min=0))


class PromptEncoder(nn.Module):
    """Visual sampler and two prompt layers (paper, Section 3.3)."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        num_queries: int = 10,
        num_layers: int = 2,
        num_labels: int | None = None,
    ) -> None:
        """
        Args:
            dim: channels of the features.
            num_heads: attention heads.
            mlp_dim: hidden width of the MLP on the queries.
            num_queries: learned global queries of each layer.
            num_layers: number of prompt layers.
            num_labels: click labels that are told apart, background included; None for the published network, whose
                clicks are all alike. Features are then sampled with zero padding as published, else with border
                padding: a click in a corner keeps only 24 % of its feature under zero padding.
        """
        super().__init__()
        self.layers = nn.ModuleList(PromptLayer(dim, num_heads, mlp_dim, num_queries) for _ in range(num_layers))
        self.label_embedding = None if num_labels is None else LabelEmbedding(num_labels, dim)
        self.padding_mode = "zeros" if num_labels is None else "border"

    def forward(self, features: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """Features that know about the clicks.

        Args:
            features: (B, dim, d, h, w), a level of the image encoder.
            points: (B, N, 3) clicks in units of the features' grid, as `grid_sample` has them: -1 and 1 are its faces.
            labels: (B, N) int, -1 for padding.

        Returns:
            (B, dim, d, h, w).
        """
        clicks = self.click_tokens(features, points)
        if self.label_embedding is not None:
            clicks = clicks + self.label_embedding(labels)
        image = features.flatten(2).transpose(1, 2)
        for layer in self.layers:
            image, clicks = layer(image, clicks, labels >= 0)
        return image.transpose(1, 2).unflatten(2, features.shape[2:])

    def click_tokens(self, features: Tensor, points: Tensor) -> Tensor:
        """The features under the clicks, (B, dim, d, h, w) and (B, N, 3) -> (B, N, dim), trilinear."""
        grid = points.flip(-1)[:, :, None, None].to(features.dtype)  # grid_sample wants (x, y, z)
        sampled = F.grid_sample(features, grid, padding_mode=self.padding_mode, align_corners=False)
        return sampled[..., 0, 0].transpose(1, 2)
