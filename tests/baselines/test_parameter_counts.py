"""Totals for one channel, two classes and patches of 64 x 160 x 160, as the published implementations have them."""

import torch
from torch import nn

from sam3d_nnunet.baselines.med_next import MedNeXtTrainer
from sam3d_nnunet.baselines.nnformer import NNFormer, NNFormerTrainer
from sam3d_nnunet.baselines.swin_unetr import SwinUNETRTrainer
from sam3d_nnunet.baselines.trans_bts import TransBTSTrainer
from sam3d_nnunet.baselines.unetr_pp import UNETRPP, UNETRPPTrainer
from sam3d_nnunet.baselines.ux_net import UXNet3DTrainer

PATCH = (64, 160, 160)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_swin_unetr():
    assert count(SwinUNETRTrainer.make_network(1, 2, PATCH)) == 62_186_708


def test_ux_net():
    with torch.device("meta"):
        assert count(UXNet3DTrainer.make_network(1, 2, PATCH)) == 53_005_922


def test_unetr_pp():
    with torch.device("meta"):
        assert count(UNETRPP(1, 2, PATCH)) == 55_700_458
        # the published count leaves out the heads of two lower resolutions, which are trained with it
        heads = (32 + 1) * 2 + (64 + 1) * 2
        assert count(UNETRPPTrainer.make_network(1, 2, PATCH)) == 55_700_458 + heads


def test_nnformer():
    with torch.device("meta"):
        assert count(NNFormer(1, 2, PATCH)) == 149_486_426
        # the published count leaves out the heads of two lower resolutions, which are trained with it
        heads = (384 + 768) * 2 * 2 * 4 * 4 + 2 * 2
        assert count(NNFormerTrainer.make_network(1, 2, PATCH)) == 149_486_426 + heads


def test_trans_bts():
    """The published network holds two layers that it never uses."""
    with torch.device("meta"):
        dead = nn.Linear(128, 512), nn.LayerNorm(512)
        assert count(TransBTSTrainer.make_network(1, 2, PATCH)) + sum(map(count, dead)) == 32_330_898


def test_med_next():
    """The paper says 61.8 million (Table 1)."""
    with torch.device("meta"):
        assert count(MedNeXtTrainer.make_network(1, 2, PATCH)) == 61_728_682
