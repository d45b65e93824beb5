"""The prompt encoder: how clicks and dense prompts change the features of an image (paper, Section 3.3).

`PromptEncoder`, at the end, combines its parts: for each level of features that prompts change a `LevelPromptEncoder`
(the visual sampler and two prompt layers; or for the paper's ablation one of `position_prompt`), and `DensePrompt`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prompts.prompt import KINDS, NOTHING, SCRIBBLE

CLICK_MAPS = ("gaussian", "distance")
"""How clicks are drawn, see `click_maps`. "none" stands for an ablation in which they aren't."""


class Attention(nn.Module):
    """Multi-head attention with an inner width of its own and masked keys."""

    def __init__(self, dim: int, inner_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(
        self, queries: Tensor, keys: Tensor, visible: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """What queries take from keys.

        Args:
            queries: (B, Q, dim).
            keys: (B, K, dim).
            visible: (B, K) bool, which keys are. None: all.
            values: (B, K, dim). None: the keys.

        Returns:
            (B, Q, dim).
        """
        values = keys if values is None else values
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        mask = None if visible is None else visible[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class PromptLayer(nn.Module):
    """Global queries and clicks attend to each other, then the image attends to the queries."""

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
    """A learned vector for each click label, added to the feature under the click. It starts at zero."""

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__()
        self.seg_layers = nn.Embedding(num_labels, dim)
        nn.init.zeros_(self.seg_layers.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """(B, N) int, -1 for padding -> (B, N, dim)."""
        return self.seg_layers(labels.clamp(min=0))


class LevelPromptEncoder(nn.Module):
    """Clicks change one level of features: the visual sampler and two prompt layers."""

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
            num_labels: click labels, background included. None for the published network, whose clicks have no labels.
                It samples features with zero padding. With labels, features are sampled with border padding, because
                zero padding leaves a click in a corner only 24 % of its feature.
        """
        super().__init__()
        self.layers = nn.ModuleList(PromptLayer(dim, num_heads, mlp_dim, num_queries) for _ in range(num_layers))
        self.label_embedding = None if num_labels is None else LabelEmbedding(num_labels, dim)
        self.padding_mode = "zeros" if num_labels is None else "border"

    def forward(self, features: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """Features that the clicks have changed.

        Args:
            features: (B, dim, d, h, w), a level of the image encoder.
            points: (B, N, 3) clicks in the units of `grid_sample`: -1 and 1 are the faces of the token grid.
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
        """The visual sampler: features under the clicks, (B, dim, d, h, w) and (B, N, 3) -> (B, N, dim), trilinear."""
        grid = points.flip(-1)[:, :, None, None].to(features.dtype)  # grid_sample wants (x, y, z)
        sampled = F.grid_sample(features, grid, padding_mode=self.padding_mode, align_corners=False)
        return sampled[..., 0, 0].transpose(1, 2)


class NoTokens(nn.Module):
    """Ablation of ours: clicks have no tokens. They change features only where they are drawn (`DensePrompt`)."""

    def __init__(self, dim: int, num_heads: int = 8, mlp_dim: int = 2048, *, num_labels: int | None = None) -> None:
        """Arguments as for `LevelPromptEncoder`. It needs none of them, because it has no weights."""
        super().__init__()

    def forward(self, features: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """The features (B, dim, d, h, w) as they are."""
        return features


def click_maps(
    points: Tensor,
    labels: Tensor,
    num_labels: int,
    grid: tuple[int, int, int],
    kind: str = "gaussian",
    token: float = 1.0,
) -> Tensor:
    """Clicks drawn on a grid, one channel for each label: 1 at a click, less further away, 0 without any click.

    With d, the Euclidean distance of a cell to a click of the label, and t, the side of a token, both in cells:

    - "gaussian": exp(-d^2 / (2 t^2)), the sum over the clicks, at most 1.
    - "distance": 1 / (1 + d / t), of the nearest click. Euclidean distance maps did better than Gaussian balls for
      others (arXiv 2508.21680); this one is bounded and needs no size of the image.
    - "none": 0, for ablations: clicks are not drawn.

    Args:
        points: (B, N, 3) in cells of the grid, their centres at integers.
        labels: (B, N) int, -1 for padding, which is not drawn whatever its points are (finite).
        num_labels: number of channels.
        grid: cells along (d, h, w): tokens or voxels.
        kind: one of `CLICK_MAPS`, or "none".
        token: side of a token in cells: 1 on the token grid, the stride on voxels.

    Returns:
        (B, num_labels, d, h, w) in [0, 1].
    """
    if kind == "none":
        return points.new_zeros(len(points), num_labels, *grid)
    squared = [
        (torch.arange(n, device=points.device) - points[..., i, None]) ** 2 for i, n in enumerate(grid)
    ]  # (B, N, n) along each axis
    is_label = labels[..., None] == torch.arange(num_labels, device=labels.device)
    if kind == "distance":
        return 1 / (1 + _nearest(squared, is_label) / token)
    axes = [torch.exp(-distance / (2 * token**2)) for distance in squared]
    return torch.einsum("bnl,bnd,bnh,bnw->bldhw", is_label.to(points.dtype), *axes).clamp(max=1)


def _nearest(squared: Sequence[Tensor], is_label: Tensor) -> Tensor:
    """Distance to the nearest click of each label, infinite where there is none.

    Args:
        squared: (B, N, n) squared distances along d, h and w.
        is_label: (B, N, L) bool, the labels of the clicks.

    Returns:
        (B, L, d, h, w).
    """
    out_of_reach = torch.where(is_label, 0.0, torch.inf).to(squared[0].dtype)
    d, h, w = squared
    nearest = d.new_full((len(d), is_label.shape[2], d.shape[2], h.shape[2], w.shape[2]), torch.inf)
    for n in range(d.shape[1]):  # all clicks at once would need N times the memory
        distance = d[:, n, :, None, None] + h[:, n, None, :, None] + w[:, n, None, None, :]
        nearest = torch.minimum(nearest, distance[:, None] + out_of_reach[:, n, :, None, None, None])
    return nearest.sqrt()


def map_channels(maps: Tensor, num_labels: int, stride: int) -> Tensor:
    """Maps on the token grid, one channel for each map and label: the share of a token's voxels with that label.

    For scribbles it is whether any voxel has it, because a line one voxel wide fills almost no share of a token.

    Args:
        maps: (B, 3, D, H, W) int, see `sam3d_nnunet.prompts.prompt`. Incomplete tokens are filled up with `NOTHING`.
        num_labels: channels per map.
        stride: voxels a token covers along each axis.

    Returns:
        (B, 3 * num_labels, d, h, w) float32 in [0, 1]; the labels of the previous mask come first.
    """
    d, h, w = (-n % stride for n in maps.shape[2:])
    if d or h or w:
        maps = F.pad(maps, (0, w, 0, h, 0, d), value=NOTHING)
    shares = torch.stack([_shares(maps == label, stride) for label in range(num_labels)], dim=2)
    shares[:, SCRIBBLE] = (shares[:, SCRIBBLE] > 0).float()
    return shares.flatten(1, 2)


def _shares(mask: Tensor, stride: int) -> Tensor:
    """Share of each token's voxels in a mask: (B, C, D, H, W) bool, whole tokens -> (B, C, d, h, w) float32.

    Equal to average pooling, which takes six times as long on a CPU: bytes are counted (strides of up to 15 fit).
    """
    counts = mask
    for axis in (2, 3):
        counts = counts.unflatten(axis, (-1, stride)).sum(axis + 1, dtype=torch.uint8)
    return counts.unflatten(4, (-1, stride)).sum(5, dtype=torch.float32) / stride**3


def drawn_prompts(
    prompts: Prompts,
    num_labels: int,
    grid: tuple[int, int, int],
    dtype: torch.dtype,
    click_map: str,
    tokens: Sequence[float],
    takes_maps: bool,
    stride: int = 1,
) -> Tensor:
    """All prompts drawn on a grid, of voxels or of tokens.

    Args:
        prompts: points in cells of the grid, their centres at integers; maps in voxels. For each patch, or one for all.
        num_labels: labels of prompts, background included.
        grid: cells along (d, h, w).
        dtype: of the result.
        click_map: how clicks are drawn, one of `CLICK_MAPS`, or "none".
        tokens: sizes in which they are drawn, in cells, see `click_maps`.
        takes_maps: whether maps are drawn, too. Without any, they are 0.
        stride: voxels a cell covers along each axis.

    Returns:
        (B, `drawn_channels`, d, h, w) in [0, 1]: for each size a channel a label, then the maps as `map_channels`.
    """
    points = prompts.points.masked_fill((prompts.labels < 0)[..., None], 0)  # whatever padding holds, NaN included
    points = points.to(dtype)
    drawn = [click_maps(points, prompts.labels, num_labels, grid, click_map, token) for token in tokens]
    if takes_maps:
        maps = drawn[0].new_zeros((1, KINDS * num_labels, *grid))
        if prompts.maps is not None:
            maps = map_channels(prompts.maps, num_labels, stride).to(dtype)
            d, h, w = (cells - n for cells, n in zip(grid, maps.shape[2:]))  # an image of one token has a grid of two
            maps = F.pad(maps, (0, w, 0, h, 0, d))
        drawn.append(maps)
    count = max(map(len, drawn))
    return torch.cat([channels.expand(count, -1, -1, -1, -1) for channels in drawn], dim=1)


def drawn_channels(num_labels: int, num_sizes: int = 1, takes_maps: bool = True) -> int:
    """Number of channels of `drawn_prompts`."""
    return num_labels * (num_sizes + KINDS * takes_maps)


class DensePrompt(nn.Module):
    """Dense prompts change the last level of features (ours, not in the paper).

    The visual sampler knows the position of a click only through the feature under it, so two look-alikes are hard to
    tell apart. The last layer starts at zero, so that the published function is unchanged at the start.
    """

    def __init__(
        self, num_labels: int, dim: int, hidden: int, stride: int, takes_maps: bool, click_map: str = "gaussian"
    ) -> None:
        """
        Args:
            num_labels: labels of prompts, background included: one channel each for clicks and for each map.
            dim: channels of the features.
            hidden: channels between the two convolutions.
            stride: voxels a token covers along each axis.
            takes_maps: whether there are channels for maps in addition to those for clicks.
            click_map: how clicks are drawn, one of `CLICK_MAPS`.
        """
        super().__init__()
        self.num_labels = num_labels
        self.stride = stride
        self.takes_maps = takes_maps
        self.click_map = click_map
        self.seg_layers = nn.Conv3d(drawn_channels(num_labels, 1, takes_maps), hidden, kernel_size=3, padding=1)
        # a kind of map that training never shows then changes nothing, instead of adding noise
        nn.init.zeros_(self.seg_layers.weight[:, num_labels:])
        self.project = nn.Conv3d(hidden, dim, kernel_size=3, padding=1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, prompts: Prompts, grid: tuple[int, int, int]) -> Tensor:
        """The change of the features.

        Args:
            prompts: points in tokens, token centres at integers; maps in voxels, for each patch or one for all.
            grid: tokens along (d, h, w).

        Returns:
            (B, dim, d, h, w).
        """
        dtype = prompts.points.dtype
        drawn = drawn_prompts(prompts, self.num_labels, grid, dtype, self.click_map, [1], self.takes_maps, self.stride)
        return self.project(F.gelu(self.seg_layers(drawn)))


class PromptEncoder:
    """All that prompts change: turns the levels of features that depend on prompts into the prompted levels.

    It has no weights of its own and is no torch module, because `SAM3D` registers its parts one by one: checkpoints
    name them `prompt_encoder`, `deep_prompt_encoders` and `dense_prompt`, side by side. Hooks that rename tensors would
    allow one module around them, but then `state_dict` and `named_parameters` would disagree about every name.
    """

    def __init__(self, levels: Sequence[LevelPromptEncoder], dense: DensePrompt | None, stride: int) -> None:
        """
        Args:
            levels: one encoder for each level that prompts change, shallow to deep.
            dense: changes the deepest level before its encoder reads it. None: the published network, in which clicks
                have no labels and there are no maps.
            stride: voxels a token covers along each axis.
        """
        self.levels = list(levels)
        self.dense = dense
        self.stride = stride

    @property
    def takes_maps(self) -> bool:
        """Whether previous masks, scribbles and boxes change anything."""
        return self.dense is not None and self.dense.takes_maps

    def __call__(self, levels: Sequence[Tensor], prompts: Prompts, size: tuple[int, int, int]) -> list[Tensor]:
        """The prompted levels.

        Args:
            levels: (B or 1, dim, d, h, w), those that prompts change, shallow to deep.
            prompts: in voxels of the image.
            size: voxels of the image along (d, h, w).

        Returns:
            (B, dim, d, h, w) each.

        Raises:
            SAM3DError: a prompt has a label that the network does not know, or is of a kind that it does not take.
        """
        self._check_labels(prompts.labels)
        self._check_maps(prompts.maps, size)
        labels = prompts.labels
        points = prompts.points.to(levels[-1].dtype)
        points = points.masked_fill((labels < 0)[..., None], 0)  # whatever padding holds, NaN included
        levels = [level.expand(len(points), -1, -1, -1, -1) for level in levels]
        grid = tuple(levels[-1].shape[2:])
        tokens = (points + 0.5) / self.stride  # counted from the faces of the grid
        if self.dense is not None:
            levels[-1] = levels[-1] + self.dense(prompts._replace(points=tokens - 0.5), grid)
        faces = 2 * tokens / torch.tensor(grid, device=tokens.device) - 1
        return [encoder(level, faces, labels) for encoder, level in zip(self.levels, levels, strict=True)]

    def _check_labels(self, labels: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        lowest, highest = (1, 1) if self.dense is None else (0, self.dense.num_labels - 1)
        wrong = (labels != -1) & ((labels < lowest) | (labels > highest))
        if not wrong.any():
            return
        label = labels[wrong][0].item()
        if self.dense is not None:
            raise SAM3DError(f"A click has label {label}; this network knows labels 0 (background) to {highest}.")
        raise SAM3DError(
            f"A click has label {label}; the published network takes unlabelled foreground clicks only (label 1). "
            "Background clicks and classes need a preset with labelled prompts, such as vit_b."
        )

    def _check_maps(self, maps: Tensor | None, size: tuple[int, int, int]) -> None:
        if maps is None:
            return
        if not self.takes_maps:
            raise SAM3DError(
                "This network was built without masks, scribbles and boxes as prompts; give it clicks only."
            )
        if tuple(maps.shape[1:]) != (KINDS, *size):
            wanted = ", ".join(map(str, (KINDS, *size)))
            raise SAM3DError(f"Maps of prompts have the shape {tuple(maps.shape)}, but (B, {wanted}) is needed.")
        if torch.compiler.is_compiling():
            return
        lowest, highest = (int(n) for n in maps.aminmax())
        if lowest < NOTHING or highest >= self.dense.num_labels:
            label = lowest if lowest < NOTHING else highest
            raise SAM3DError(
                f"A mask, scribble or box has label {label}; this network knows labels 0 (background) to "
                f"{self.dense.num_labels - 1}, and {NOTHING} where it says nothing."
            )
