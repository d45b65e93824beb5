"""What prompts tell the network: the visual sampler, dense prompts, and the paper's ablation (Section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.prompts.prompt import BOX, KINDS, MASK, NOTHING, SCRIBBLE


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
        maps: (B, 3, D, H, W) int, see `sam3d_nnunet.prompts.prompt`. Incomplete tokens are filled up with nothing.
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
