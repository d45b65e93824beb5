"""Pro-tuning (Nie et al., IEEE TCSVT 2023, arXiv 2207.14381) and its trainer."""

from functools import partial

from torch import Tensor, nn

from sam3d_nnunet.baselines.slice_encoder import BlockTuning, SliceEncoder
from sam3d_nnunet.baselines.tuned_sam import TunedSAM, TunedSAMTrainer
from sam3d_nnunet.baselines.wrappers import Size


class ProTuning(BlockTuning):
    """A prompt block: three light 2-D convolutions turn the tokens of a block into a prompt that is added to them.

    The last convolution starts at zero, so that training starts from SAM's own features. This is our choice.
    """

    def __init__(self, dim: int, width: int | None, kernel_size: int) -> None:
        """
        Args:
            dim: width of a token.
            width: channels between the outer convolutions. None: half of `dim`.
            kernel_size: of the depth-wise convolution.
        """
        super().__init__()
        width = dim // 2 if width is None else width
        self.prompt = nn.Sequential(
            nn.Conv2d(dim, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size, padding="same", groups=width),
            nn.ReLU(),
            nn.Conv2d(width, dim, 1),
        )
        nn.init.zeros_(self.prompt[-1].weight)
        nn.init.zeros_(self.prompt[-1].bias)

    def after_block(self, tokens: Tensor) -> Tensor:
        prompts = self.prompt(tokens.flatten(0, 1).permute(0, 3, 1, 2))
        return tokens + prompts.permute(0, 2, 3, 1).unflatten(0, tokens.shape[:2])


class SAM3DProTuningTrainer(TunedSAMTrainer):
    """Tunes a prompt block and the norms of each block, slice by slice: 7,248,384 parameters of ViT-B.

    The paper counts 7.17 M. A width of 384, half of ViT-B's, with a depth-wise convolution of 3 x 3 has this count
    (7,174,656), so our width is 384, and the paper's recipes have that convolution. To our knowledge the authors' is
    5 x 5, as our default.
    """

    paper_millions = 7.17

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: Size,
        width: int | None = None,
        kernel_size: int = 5,
        neck: str = "sam",
        **sam,
    ) -> TunedSAM:
        """SAM's encoder with prompt blocks; `sam` are arguments of `TunedSAM`."""
        encoder = partial(SliceEncoder, tuning=partial(ProTuning, width=width, kernel_size=kernel_size), neck=neck)
        return TunedSAM(encoder, input_channels, num_classes, patch_size, **sam)
