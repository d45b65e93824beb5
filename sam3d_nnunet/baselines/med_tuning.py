"""Med-Tuning (Shen et al., MIDL 2024, arXiv 2304.10880) and its trainer."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3d_nnunet.baselines.slice_encoder import BlockTuning, SliceEncoder
from sam3d_nnunet.baselines.tuned_sam import TunedSAM, TunedSAMTrainer
from sam3d_nnunet.baselines.wrappers import Size
from sam3d_nnunet.network.sam3d import Preset

AXES = (2, 3, 4)  # of a volume's Fourier transform


class MedAdapter(nn.Module):
    """A bottleneck that mixes local features of two sizes with global ones from a Fourier transform.

    The last layer starts at zero, so that training starts from SAM's own features. The authors start at random.
    """

    def __init__(self, dim: int, width: int, depth: int, interacts: bool) -> None:
        """
        Args:
            dim: width of a token.
            width: of the bottleneck.
            depth: tokens along d.
            interacts: whether the mixture of an earlier adapter is a further input.
        """
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.local = nn.ModuleList(_local(width, size) for size in (3, 5))
        self.frequency_weight = nn.Parameter(torch.ones(depth, 1, 1))
        self.frequency_bias = nn.Parameter(torch.ones(depth, 1, 1))
        self.mix = nn.Conv3d(width, width, 1)
        self.from_earlier = nn.Conv3d(width, width, 1) if interacts else None
        self.fuse = nn.Conv3d(2 * width, width, 1) if interacts else None
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, earlier: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, d, h, w, dim) and an earlier mixture (B, width, d, h, w) -> adapted tokens and the mixture."""
        hidden = F.gelu(self.down(tokens)).permute(0, 4, 1, 2, 3)
        mixture = self.mix(sum(local(hidden) for local in self.local) + self._global(hidden))
        if self.fuse is not None:
            mixture = self.fuse(torch.cat((mixture, self.from_earlier(earlier)), dim=1))
        update = F.gelu(self.up((hidden + mixture).permute(0, 2, 3, 4, 1)))
        return tokens + update, mixture

    def _global(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):  # torch has no bfloat16 complex numbers
            spectrum = torch.fft.fftn(hidden.float(), dim=AXES)
            return torch.fft.ifftn(spectrum * self.frequency_weight + self.frequency_bias, dim=AXES).abs()


def _local(width: int, size: int) -> nn.Module:
    """A depth-wise convolution within slices, then one across slices.

    The bias of the second has no effect, because batch norm follows. It stays, as in the authors' implementation:
    checkpoints and the states of their optimizers hold it, and running means include it.
    """
    return nn.Sequential(
        nn.Conv3d(width, width, (1, size, size), padding="same", groups=width),
        nn.Conv3d(width, width, (size, 1, 1), padding="same", groups=width),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


class MedTuningEncoder(SliceEncoder):
    """SAM's encoder with a Med-Adapter behind each block, for volumes of a fixed depth.

    The adapter at the end of each stage, where a level of features leaves, also sees the mixture of the previous stage.
    In the authors' implementation the first of these adapters sees zeros; here it has no such input. The weights of
    the frequencies belong to a number of slices, so only patches of the plan's depth are possible.
    """

    def __init__(
        self,
        preset: Preset,
        input_channels: int,
        stride: int,
        activation_checkpointing: bool,
        depth: int,
        ratio: float,
        neck: str = "sam",
    ) -> None:
        """
        Args:
            preset, input_channels, stride, activation_checkpointing, neck: as in `SliceEncoder`.
            depth: voxels of the image along d.
            ratio: of a token's width to the bottleneck's.
        """
        super().__init__(preset, input_channels, stride, activation_checkpointing, lambda dim: BlockTuning(), neck)
        width, tokens = int(preset.embed_dim / ratio), -(-depth // stride)
        self.adapters = nn.ModuleList(
            MedAdapter(preset.embed_dim, width, tokens, interacts=i in preset.global_blocks[1:])
            for i in range(preset.depth)
        )

    def levels(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, d, h, w, dim) -> levels of (B, C', d, h, w)."""
        levels, stage = [], None
        for i, adapter in enumerate(self.adapters):
            # without checkpointing, in which batch norm would count each batch twice
            tokens, mixture = adapter(self.block(i, tokens), stage)
            if i in self.global_blocks:
                stage = mixture
                levels.append(self.level(len(levels), tokens))
        return levels


class SAM3DMedTuningTrainer(TunedSAMTrainer):
    """Tunes a Med-Adapter and the norms of each block: 2,830,848 parameters of ViT-B at 32 tokens along d.

    3,072 of them, biases in front of batch norm, have no effect, as in the authors' implementation. The paper counts
    11.10 M and gives no width. Ours is that of the authors' implementation, a sixth of a token's: 128 channels. Half of
    a token's (ratio 2), as the counts of ST-Adapter and Pro-tuning suggest, would give 10.46 M. A ratio of 1.91, as in
    the paper's recipes, gives its count.
    """

    paper_millions = 11.10

    @staticmethod
    def make_network(
        input_channels: int, num_classes: int, patch_size: Size, ratio: float = 6, neck: str = "sam", **sam
    ) -> TunedSAM:
        """SAM's encoder with Med-Adapters; `sam` are arguments of `TunedSAM`."""
        encoder = partial(MedTuningEncoder, depth=patch_size[0], ratio=ratio, neck=neck)
        return TunedSAM(encoder, input_channels, num_classes, patch_size, **sam)
