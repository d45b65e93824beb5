"""The trainer of MedNeXt (Roy et al., MICCAI 2023, arXiv 2303.09975)."""

from monai.networks.nets.mednext import create_mednext
from torch import nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.baselines.wrappers import Padded, SegLayers


class MedNeXtTrainer(AutomaticTrainer):
    """Trains MONAI's MedNeXt-L with kernel 3. Patches of any size are padded to multiples of 16.

    It is the strongest convolutional network in "nnU-Net Revisited" (Isensee et al., MICCAI 2024); 3DSAM-adapter's
    paper does not compare with it. As its authors prescribe (paper, Section 4; nnUNetTrainerV2_MedNeXt.py of
    MIC-DKFZ/MedNeXt): AdamW with learning rate 1e-3, epsilon 1e-4 and nnU-Net's weight decay 3e-5, and deep supervision
    as in nnU-Net, where the lowest resolution has weight 0. The authors save memory by activation checkpointing, which
    MONAI's network does not have.
    """

    learning_rate = 1e-3
    weight_decay = 3e-5
    adam_epsilon = 1e-4
    deep_supervision_scales = [[1 / 2**level] * 3 for level in range(5)]

    @staticmethod
    def make_network(
        input_channels: int,
        num_classes: int,
        patch_size: tuple[int, int, int],
        variant: str = "L",
        kernel_size: int = 3,
    ) -> nn.Module:
        """MedNeXt of variant S, B, M or L behind a padding."""
        network = create_mednext(variant, 3, input_channels, num_classes, kernel_size, deep_supervision=True)
        network.out_0, network.out_blocks = SegLayers(network.out_0), nn.ModuleList(map(SegLayers, network.out_blocks))
        return Padded(network, (16, 16, 16))
