"""ST-Adapter (Pan et al., NeurIPS 2022, arXiv 2206.13559) and its trainer."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from sam3d_nnunet.baselines.slice_encoder import BlockTuning, SliceEncoder
from sam3d_nnunet.baselines.tuned_sam import TunedSAM, TunedSAMTrainer
from sam3d_nnunet.baselines.wrappers import Size


class STAdapter(BlockTuning):
    """A bottleneck with a depth-wise 3-D convolution and a residual, in front of the MLP (Section 3.3).

    Slices take the place of the frames of a video. As in the authors' implementation there is no activation function,
    and the convolution starts at zero, so that training starts from SAM's own features.
    """

    def __init__(self, dim: int, width: int | None, kernel_size: Sequence[int]) -> None:
        """
        Args:
            dim: width of a token.
            width: of the bottleneck. None: half of `dim`.
            kernel_size: of the convolution along (d, h, w).
        """
        super().__init__()
        width = dim // 2 if width is None else width
        self.down = nn.Linear(dim, width)
        self.conv = nn.Conv3d(width, width, tuple(kernel_size), padding="same", groups=width)
        self.up = nn.Linear(width, dim)
        for parameter in (self.conv.weight, self.down.bias, self.conv.bias, self.up.bias):
            nn.init.zeros_(parameter)

    def before_mlp(self, tokens: Tensor) -> Tensor:
        hidden = self.conv(self.down(tokens).permute(0, 4, 1, 2, 3))
        return tokens + self.up(hidden.permute(0, 2, 3, 4, 1))


class SAM3DSTAdapterTrainer(TunedSAMTrainer):
    """Tunes an adapter and the norms of each block: 7,147,008 parameters of ViT-B, the paper's 7.15 M.

    One adapter per block, a bottleneck of 384 channels and a kernel of 3 x 1 x 1, which only acts across slices, are
    those of the authors' implementation for Kinetics-400.
    """

    paper_millions = 7.15

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: Size,
        width: int | None = None,
        kernel_size: Sequence[int] = (3, 1, 1),
        neck: str = "sam",
        **sam,
    ) -> TunedSAM:
        """SAM's encoder with adapters; `sam` are arguments of `TunedSAM`."""
        encoder = partial(SliceEncoder, tuning=partial(STAdapter, width=width, kernel_size=kernel_size), neck=neck)
        return TunedSAM(encoder, input_channels, num_classes, patch_size, **sam)
