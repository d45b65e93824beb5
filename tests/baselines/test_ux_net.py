import pytest
import torch

from sam3d_nnunet.baselines.ux_net import ChannelNorm, UXBlock, UXNet3DTrainer

SMALL = {"depths": [1, 2, 1, 1], "features": [4, 8, 12, 16]}


@pytest.mark.parametrize("size", [(32, 32, 32), pytest.param((40, 56, 40), marks=pytest.mark.slow), (8, 12, 14)])
def test_network(check_network, size):
    check_network(UXNet3DTrainer, size, SMALL)


def test_steps(check_steps):
    trainer = check_steps(UXNet3DTrainer, SMALL)
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-2)


def test_channels_of_a_voxel_are_normalised():
    x = torch.randn(2, 5, 3, 4, 2) * 7 + 3
    y = ChannelNorm(5)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 3, 4, 2), atol=1e-3, rtol=0)


def test_a_block_reaches_three_voxels():
    block = UXBlock(4)
    torch.nn.init.ones_(block.gain)
    x = torch.randn(1, 4, 11, 11, 11)
    other = x.clone()
    other[:, :, 5, 5, 5] += 1
    changed = (block(x) - block(other)).abs().amax((0, 1)) > 1e-7
    inside = torch.zeros(11, 11, 11, dtype=torch.bool)
    inside[2:9, 2:9, 2:9] = True
    assert not changed[~inside].any()
    assert changed[inside].float().mean() > 0.9


def test_a_fresh_block_changes_next_to_nothing():
    """So that depth doesn't hinder at the start (layer scale)."""
    x = torch.randn(1, 4, 6, 6, 6)
    torch.testing.assert_close(UXBlock(4)(x), x, atol=1e-4, rtol=0)
