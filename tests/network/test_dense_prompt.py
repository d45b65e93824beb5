"""Clicks drawn as balls on the token grid."""

import math

import torch
from ddp_step import SMALL

from sam3d_nnunet.network import SAM3D
from sam3d_nnunet.network.dense_prompt import click_balls


def test_a_ball_lies_at_its_click_in_the_channel_of_its_label():
    points = torch.tensor([[[2.0, 5, 3], [0, 0, 0]], [[1, 1, 1], [4, 6, 2]]])
    labels = torch.tensor([[1, 2], [0, -1]])
    balls = click_balls(points, labels, 3, (5, 7, 6))
    assert balls.shape == (2, 3, 5, 7, 6)
    assert balls[0, 1, 2, 5, 3] == balls[0, 2, 0, 0, 0] == balls[1, 0, 1, 1, 1] == 1
    for neighbour in ((1, 5, 3), (2, 6, 3), (2, 5, 4)):
        torch.testing.assert_close(balls[0, 1][neighbour].item(), math.exp(-0.5))
    assert not balls[0, 0].any() and not balls[1, 1:].any()


def test_many_clicks_at_one_place_count_once():
    balls = click_balls(torch.ones(1, 5, 3), torch.ones(1, 5).long(), 2, (3, 3, 3))
    assert balls.max() == balls[0, 1, 1, 1, 1] == 1


def test_voxels_become_tokens():
    """The middle of the token (1, 2, 0), 4 voxels a side, is the voxel position (5.5, 9.5, 1.5)."""
    net = SAM3D(SMALL, input_channels=1, num_classes=2, stride=4)
    seen = []
    net.dense_prompt.seg_layers.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    net(torch.randn(1, 1, 12, 16, 8), torch.tensor([[[5.5, 9.5, 1.5]]]), torch.tensor([[1]]))
    assert seen[0].shape == (1, 2, 3, 4, 2)
    assert seen[0][0, 1, 1, 2, 0] == 1
