"""SAM3DAdapterAutoTrainer: our image encoder, trained without prompts."""

from sam3d_nnunet.baselines.padding import Size
from sam3d_nnunet.baselines.tuned_sam import TunedSAM
from sam3d_nnunet.baselines.tuned_sam_trainer import TunedSAMTrainer
from sam3d_nnunet.network.image_encoder import ImageEncoder
from sam3d_nnunet.network.sam3d import Preset
from sam3d_nnunet.training.sam_tuning import SAMTuning


class SAM3DAdapterAutoTrainer(TunedSAMTrainer):
    """Tunes `SAM3D` without its prompt encoder: 15,209,984 parameters of ViT-B in the encoder, the paper's 15.21 M.

    7,868,416 of them are its four 3-D necks, which the slice-wise methods don't have.
    """

    paper_millions = 15.21
    load_sam = SAMTuning.load_sam

    @staticmethod
    def make_network(input_channels: int, num_classes: int, patch_size: Size, **sam) -> TunedSAM:
        """Our encoder and decoder; `sam` are arguments of `TunedSAM`."""
        return TunedSAM(_encoder, input_channels, num_classes, patch_size, **sam)


def _encoder(preset: Preset, input_channels: int, stride: int, activation_checkpointing: bool) -> ImageEncoder:
    return ImageEncoder(
        input_channels,
        preset.embed_dim,
        preset.depth,
        preset.num_heads,
        preset.global_blocks,
        preset.feature_channels,
        stride,
        activation_checkpointing,
    )
