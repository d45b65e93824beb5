"""SAM3DFullFineTuneTrainer: all of SAM's 2-D encoder is tuned."""

from functools import partial

from sam3d_nnunet.baselines.padding import Size
from sam3d_nnunet.baselines.slice_encoder import SliceEncoder
from sam3d_nnunet.baselines.tuned_sam import TunedSAM
from sam3d_nnunet.baselines.tuned_sam_trainer import TunedSAMTrainer


class SAM3DFullFineTuneTrainer(TunedSAMTrainer):
    """Tunes SAM's encoder as a whole, slice by slice: 89,670,912 parameters of ViT-B, the paper's 89.67 M."""

    paper_millions = 89.67

    @staticmethod
    def make_network(input_channels: int, num_classes: int, patch_size: Size, **sam) -> TunedSAM:
        """SAM's encoder on slices; `sam` are arguments of `TunedSAM`."""
        encoder = partial(SliceEncoder, tuning=None)
        return TunedSAM(encoder, input_channels, num_classes, patch_size, **sam)
