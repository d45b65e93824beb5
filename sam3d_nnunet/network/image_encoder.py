"""SAM's image encoder, adapted to volumes (paper, Section 3.2).

In the order of the data: `PatchEmbed` makes tokens, each `Block` has a `SpatialAdapter`, window attention and an MLP,
and a `Neck3D` behind some blocks gives a level of features. `ImageEncoder` combines them.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.window_attention import WINDOW, WindowAttention, WindowLayout, window_layout

SAM_PATCH = 16  # SAM embeds 16 x 16 pixels; the slice convolution spans 16 slices
SAM_GRID = 64  # tokens a side of SAM's position embedding and of the tables of its global attention
SAM_WINDOW = 14  # tokens a side of the tables of SAM's window attention
EPS = 1e-6  # of SAM's layer norms
DEPTH_GRID = 32  # rows of the depth position table, those of a 128^3 patch at stride 4
STARTS = ("sam", "published")  # what an encoder computes before training
CACHED = 3 * 2**21  # numbers in the widest map of a group of windows on a CPU: 25 MB, found by trial


def enlargement_matrix(stride: int) -> Tensor:
    """Linear enlargement of an axis as a matrix: 16 samples from `stride` voxels and one neighbour on either side.

    Row o holds the two interpolation weights at source position (o + 0.5) * stride / 16 - 0.5; column j is voxel j - 1.

    Args:
        stride: voxels a token covers along the axis (2, 4 or 8).

    Returns:
        (16, stride + 2) float32 matrix, each row adding up to 1.
    """
    position = (torch.arange(SAM_PATCH) + 0.5) * stride / SAM_PATCH - 0.5
    voxel = torch.arange(-1, stride + 1)
    return (1 - (position[:, None] - voxel).abs()).clamp(min=0)


class PatchEmbed(nn.Module):
    """Tokens from a volume: SAM's frozen patch embedding, then a tuned convolution over slices.

    The published network enlarges the volume 16 / stride times and embeds every slice of it. Enlargement and
    embedding are linear, so both are computed here as one convolution with (stride + 2)^3 taps on the original volume.
    """

    def __init__(self, input_channels: int, embed_dim: int, stride: int, start: str = "published") -> None:
        """
        Args:
            input_channels: channels of the image; with more than one, tuned weights mix them into SAM's three.
            embed_dim: width of a token.
            stride: voxels a token covers along each axis (2, 4 or 8).
            start: "sam": a token starts as the mean over its slices; "published": as random weights of the slices.
        """
        super().__init__()
        self.stride = stride
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=SAM_PATCH, stride=SAM_PATCH)
        self.slice_embed = nn.Conv3d(embed_dim, embed_dim, (SAM_PATCH, 1, 1), (SAM_PATCH, 1, 1), groups=embed_dim)
        if start == "sam":
            nn.init.constant_(self.slice_embed.weight, 1 / SAM_PATCH)
            nn.init.zeros_(self.slice_embed.bias)
        self.channel_mix = nn.Parameter(torch.full((3, input_channels), 1 / input_channels))
        self.proj.requires_grad_(False)
        self.channel_mix.requires_grad_(input_channels > 1)
        self.register_buffer("enlarge", enlargement_matrix(stride), persistent=False)
        self.register_buffer("in_plane", torch.empty(embed_dim, 3, stride + 2, stride + 2), persistent=False)
        self._fold_in_plane()
        self.register_load_state_dict_post_hook(lambda module, keys: module._fold_in_plane())

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, D, H, W) with sides that are multiples of `stride` -> (B, D/stride, H/stride, W/stride, embed_dim)."""
        padded = F.pad(image, (1,) * 6, mode="replicate")
        with torch.autocast(image.device.type, enabled=False):  # everything depends on this little work: float32
            tokens = F.conv3d(padded, *self.folded_kernel(), stride=self.stride)
        # always a copy: with one channel, the layout of the result is not the one that torch.compile expects
        return tokens.permute(0, 2, 3, 4, 1).clone(memory_format=torch.contiguous_format)

    def folded_kernel(self) -> tuple[Tensor, Tensor]:
        """Weight (embed_dim, input_channels, s + 2, s + 2, s + 2) and bias (embed_dim,) of the single convolution."""
        taps = self.slice_embed.weight[:, 0, :, 0, 0]
        weight = torch.einsum("cd,dz,cryx,ri->cizyx", taps, self.enlarge, self.in_plane, self.channel_mix)
        bias = self.proj.bias * taps.sum(1) + self.slice_embed.bias
        return weight, bias

    @torch.no_grad()
    def _fold_in_plane(self) -> None:
        """Fold SAM's frozen kernel within the slice: once for all steps, and again whenever weights are loaded."""
        up = self.enlarge
        self.in_plane.copy_(torch.einsum("crhw,hy,wx->cryx", self.proj.weight, up, up))


class SpatialAdapter(nn.Module):
    """Bottleneck with a depth-wise 3-D convolution and a residual connection (paper, Fig. 3).

    As published, a ReLU follows the last layer, so an adapter only adds. Started at zero there is none: it would stop
    the gradient.
    """

    def __init__(self, dim: int, start: str = "published") -> None:
        """
        Args:
            dim: width of a token; the bottleneck has half of it.
            start: "sam": the adapter starts by adding nothing; "published": by adding random features.
        """
        super().__init__()
        hidden = dim // 2
        self.only_adds = start == "published"
        self.down = nn.Linear(dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.up = nn.Linear(hidden, dim)
        if start == "sam":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D, H, W, dim) -> the same shape."""
        hidden = F.relu(self.down(tokens), inplace=True).permute(0, 4, 1, 2, 3)
        hidden = F.relu(self.conv(hidden), inplace=True).permute(0, 2, 3, 4, 1)
        change = self.up(hidden)
        return tokens + (F.relu(change, inplace=True) if self.only_adds else change)


class Mlp(nn.Module):
    """SAM's two-layer perceptron, frozen."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(tokens)))


class Block(nn.Module):
    """Spatial adapter, window attention and MLP (paper, Fig. 3). Adapter and norms are tuned, SAM's rest is frozen."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, table_size: int, start: str = "published") -> None:
        super().__init__()
        self.adapter = SpatialAdapter(dim, start)
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = WindowAttention(dim, num_heads, table_size)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, mlp_dim)
        self.windows_per_group = max(1, CACHED // (WINDOW**3 * mlp_dim))

    def forward(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """(B, D, H, W, dim) -> the same shape.

        Everything but the adapter treats each window by itself. On a CPU the windows are therefore processed in groups
        that fit into its cache: memory is read once and written once.
        """
        rows = self.adapter(tokens).flatten(0, 3)
        size = self.windows_per_group if rows.device.type == "cpu" else len(layout.query_codes)
        groups = zip(layout.order.split(size * WINDOW**3), layout.query_codes.split(size), layout.key_codes.split(size))
        if torch.is_grad_enabled() or layout.is_padded:
            windows = [self.attend(rows.index_select(0, order), *codes) for order, *codes in groups]
            return layout.merge(torch.cat(windows))
        for order, *codes in groups:  # in place, without further memory
            rows.index_copy_(0, order, self.attend(rows.index_select(0, order), *codes).flatten(0, 1))
        return rows.view_as(tokens)

    def attend(self, rows: Tensor, query_codes: Tensor, key_codes: Tensor) -> Tensor:
        """SAM's transformer block on a group of windows, (windows * 512, dim) -> (windows, 512, dim)."""
        windows = rows.unflatten(0, (-1, WINDOW**3))
        windows = windows + self.attn(self.norm1(windows), query_codes, key_codes)
        return windows + self.mlp(self.norm2(windows))


class Neck3D(nn.Module):
    """1 x 1 x 1 convolution, norm, 3 x 3 x 3 convolution, norm: a level of features for the decoder.

    SAM's own neck is the same in 2-D: its 3 x 3 convolution is the middle slice of ours, without neighbours.
    """

    def __init__(self, dim: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, out_channels, bias=False)
        self.norm1 = nn.LayerNorm(out_channels, eps=EPS)
        self.conv = nn.Conv3d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.LayerNorm(out_channels, eps=EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D, H, W, dim) -> (B, out_channels, D, H, W)."""
        features = self.norm1(self.reduce(tokens)).permute(0, 4, 1, 2, 3)
        features = self.conv(features).permute(0, 2, 3, 4, 1)
        return self.norm2(features).permute(0, 4, 1, 2, 3)

    def sams_part(self) -> dict[str, Tensor]:
        """Views of what SAM's neck has too, with its names and shapes."""
        return {
            "0.weight": self.reduce.weight[..., None, None],
            "1.weight": self.norm1.weight,
            "1.bias": self.norm1.bias,
            "2.weight": self.conv.weight[:, :, 1],
            "3.weight": self.norm2.weight,
            "3.bias": self.norm2.bias,
        }

    @torch.no_grad()
    def load_sam(self, tensors: Mapping[str, Tensor]) -> None:
        """Become SAM's neck on each slice, from its tensors with the names of `sams_part`."""
        self.conv.weight.zero_()
        for name, part in self.sams_part().items():
            part.copy_(tensors[name])


class ImageEncoder(nn.Module):
    """Levels of features of a volume, at four depths of the transformer."""

    def __init__(
        self,
        input_channels: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        global_blocks: tuple[int, ...],
        out_channels: int,
        stride: int,
        activation_checkpointing: bool = False,
        start: str = "published",
    ) -> None:
        """
        Args:
            input_channels: channels of the image.
            embed_dim: width of a token.
            depth: number of transformer blocks.
            num_heads: attention heads of a block.
            global_blocks: indices of the blocks with global attention in SAM; a neck follows each.
            out_channels: channels of each level of features.
            stride: voxels a token covers along each axis (2, 4 or 8).
            activation_checkpointing: keep only the inputs of blocks and necks for the backward pass, which computes
                the rest again: far less memory for a third more time.
            start: "sam": with SAM's weights, the features of equal slices are SAM's for the slice, until training
                changes them; "published": slices are weighted at random, and adapters add random features.

        Raises:
            SAM3DError: there is no such start.
        """
        super().__init__()
        if start not in STARTS:
            raise SAM3DError(f"start {start!r} is not possible; choose one of {', '.join(STARTS)}.")
        self.stride = stride
        self.activation_checkpointing = activation_checkpointing
        self.start = start
        self.patch_embed = PatchEmbed(input_channels, embed_dim, stride, start)
        self.pos_embed = nn.Parameter(torch.zeros(1, SAM_GRID, SAM_GRID, embed_dim), requires_grad=False)
        self.depth_embed = nn.Parameter(torch.zeros(1, DEPTH_GRID, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, 4 * embed_dim, SAM_GRID if i in global_blocks else SAM_WINDOW, start)
            for i in range(depth)
        )
        self.global_blocks = global_blocks
        self.necks = nn.ModuleList(Neck3D(embed_dim, out_channels) for _ in global_blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, D, H, W) -> levels of (B, out_channels, D/stride, H/stride, W/stride), shallow to deep."""
        tokens = self.patch_embed(image)
        grid = tuple(tokens.shape[1:4])
        tokens = tokens + self.position_embedding(grid)
        layouts = [window_layout(tokens, shifted) for shifted in (True, False)]
        run = partial(checkpoint, use_reentrant=False) if self._recompute() else _call
        levels = []
        for i, block in enumerate(self.blocks):
            tokens = run(block, tokens, layouts[i % 2])
            if i in self.global_blocks:
                levels.append(run(self.necks[len(levels)], tokens))
        return levels

    def _recompute(self) -> bool:
        return self.activation_checkpointing and torch.is_grad_enabled()

    def position_embedding(self, grid: tuple[int, int, int]) -> Tensor:
        """(1, d, h, w, embed_dim): SAM's in-plane table and the depth table, resampled to the token grid.

        From 64 to 32 tokens a side, bilinear resampling is the 2 x 2 mean of the published network.
        """
        d, h, w = grid
        plane = F.interpolate(self.pos_embed.permute(0, 3, 1, 2), size=(h, w), mode="bilinear", align_corners=False)
        depth = F.interpolate(self.depth_embed.transpose(1, 2), size=d, mode="linear", align_corners=False)
        return plane.permute(0, 2, 3, 1)[:, None] + depth.transpose(1, 2)[:, :, None, None]


def _call(module: nn.Module, *args: object) -> Tensor:
    return module(*args)
