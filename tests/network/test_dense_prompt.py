"""Clicks and maps drawn on the token grid."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ddp_step import SMALL
from scipy import ndimage

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import SAM3D, Prompts, build_sam3d, prompt_encoder
from sam3d_nnunet.network.prompt_encoder import CLICK_MAPS, click_maps, map_channels
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE

SIZE = (12, 16, 8)


def only(maps: torch.Tensor) -> Prompts:
    """Maps without clicks."""
    return Prompts.none(len(maps))._replace(maps=maps)


def test_a_ball_lies_at_its_click_in_the_channel_of_its_label():
    points = torch.tensor([[[2.0, 5, 3], [0, 0, 0]], [[1, 1, 1], [4, 6, 2]]])
    labels = torch.tensor([[1, 2], [0, -1]])
    balls = click_maps(points, labels, 3, (5, 7, 6))
    assert balls.shape == (2, 3, 5, 7, 6)
    assert balls[0, 1, 2, 5, 3] == balls[0, 2, 0, 0, 0] == balls[1, 0, 1, 1, 1] == 1
    for neighbour in ((1, 5, 3), (2, 6, 3), (2, 5, 4)):
        torch.testing.assert_close(balls[0, 1][neighbour].item(), math.exp(-0.5))
    assert not balls[0, 0].any() and not balls[1, 1:].any()


def test_many_clicks_at_one_place_count_once():
    balls = click_maps(torch.ones(1, 5, 3), torch.ones(1, 5).long(), 2, (3, 3, 3))
    assert balls.max() == balls[0, 1, 1, 1, 1] == 1


def distances(points: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """SciPy's distance from each cell to the nearest of some cells, (d, h, w)."""
    free = np.ones(grid, bool)
    free[tuple(points.T)] = False
    return torch.from_numpy(ndimage.distance_transform_edt(free)).float()


@pytest.mark.parametrize("token", [1, 4])
def test_distance_maps_are_those_of_scipy(token):
    """Clicks of both classes in the first patch, of the background in the second, padding in both."""
    grid, rng = (9, 14, 11), np.random.default_rng(0)
    points = rng.integers(0, grid, (2, 7, 3))
    labels = torch.tensor([[2, 1, 2, -1, 2, 2, -1], [0, -1, -1, -1, 0, -1, -1]])
    maps = click_maps(torch.from_numpy(points).float(), labels, 3, grid, "distance", token)
    assert maps.shape == (2, 3, *grid)
    for patch, label in ((0, 1), (0, 2), (1, 0)):
        clicked = points[patch][labels[patch].numpy() == label]
        torch.testing.assert_close(maps[patch, label], 1 / (1 + distances(clicked, grid) / token))
    for patch, label in ((0, 0), (1, 1), (1, 2)):  # no click, infinitely far
        assert not maps[patch, label].any()


def test_gaussian_balls_are_as_wide_as_a_token():
    """One click: its ball is a function of SciPy's distance. The four voxels of a token's side are one sigma."""
    at, grid = np.array([[4, 2, 7]]), (9, 14, 11)
    for token in (1, 4):
        ball = click_maps(torch.from_numpy(at).float()[None], torch.ones(1, 1).long(), 2, grid, "gaussian", token)
        torch.testing.assert_close(ball[0, 1], torch.exp(-((distances(at, grid) / token) ** 2) / 2))


@pytest.mark.parametrize("kind", CLICK_MAPS)
def test_clicks_between_cells_and_outside_are_drawn_where_they_are(kind):
    points = torch.tensor([[[1.5, 2.25, -0.5]]])
    drawn = click_maps(points, torch.ones(1, 1).long(), 2, (4, 5, 3), kind, 2)[0, 1]
    far = (torch.tensor([3.0, 0, 2]) - points[0, 0]).norm().item() / 2
    expected = 1 / (1 + far) if kind == "distance" else math.exp(-(far**2) / 2)
    assert drawn[3, 0, 2].item() == pytest.approx(expected, rel=1e-5)
    assert 0 < drawn.min() and drawn.max() < 1


@pytest.mark.parametrize("kind", CLICK_MAPS)
def test_patches_without_any_click_are_empty(kind):
    nothing_clicked = (torch.zeros(2, 0, 3), torch.zeros(2, 0).long()), (torch.zeros(2, 3, 3), -torch.ones(2, 3).long())
    for points, labels in nothing_clicked:
        assert torch.equal(click_maps(points, labels, 2, (3, 4, 5), kind), torch.zeros(2, 2, 3, 4, 5))


@torch.no_grad()
def test_the_network_draws_what_it_was_built_for():
    image, clicks = torch.randn(1, 1, 12, 16, 8), Prompts(torch.tensor([[[5.5, 9.5, 1.5]]]), torch.tensor([[1]]))
    for kind in CLICK_MAPS:
        seen = []
        net = build_sam3d(SMALL, 1, 2, SIZE, stride=4, click_map=kind)
        net.dense_prompt.seg_layers.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
        net(image, clicks)
        drawn = click_maps(torch.tensor([[[1.0, 2, 0]]]), torch.tensor([[1]]), 2, (3, 4, 2), kind)
        torch.testing.assert_close(seen[0][:, :2], drawn)
    with pytest.raises(SAM3DError, match="click map 'disc' is not possible; choose one of none, gaussian, distance"):
        build_sam3d(SMALL, 1, 2, SIZE, stride=4, click_map="disc")


@torch.no_grad()
def test_clicks_that_are_not_drawn_act_through_their_tokens():
    image, clicks = torch.randn(1, 1, 12, 16, 8), Prompts(torch.tensor([[[5.5, 9.5, 1.5]]]), torch.tensor([[1]]))
    net = build_sam3d(SMALL, 1, 2, SIZE, stride=4, click_map="none").eval()
    torch.nn.init.ones_(net.dense_prompt.project.weight)
    seen = []
    net.dense_prompt.seg_layers.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    net.refinement.draw.register_forward_hook(lambda module, args, out: seen.append(out))
    with_click, without = net(image, clicks), net(image)
    assert len(seen) == 4 and not any(drawn.any() for drawn in seen)
    assert not torch.equal(with_click, without)


@torch.no_grad()
def test_clicks_without_tokens_act_where_they_are_drawn():
    image, clicks = torch.randn(1, 1, 12, 16, 8), Prompts(torch.tensor([[[5.5, 9.5, 1.5]]]), torch.tensor([[1]]))
    net = build_sam3d(SMALL, 1, 2, SIZE, stride=4, prompt_encoding="none", refine="none")
    assert not list(net.prompt_encoder.parameters())
    assert torch.equal(net(image, clicks), net(image))  # dense prompts start at zero
    torch.nn.init.ones_(net.dense_prompt.project.weight)
    assert not torch.equal(net(image, clicks), net(image))


@pytest.mark.parametrize("options", [{"click_map": "none"}, {"labelled_prompts": False}])
def test_clicks_that_would_change_nothing_are_refused(options):
    with pytest.raises(SAM3DError, match="neither tokens nor a map"):
        build_sam3d(SMALL, 1, 2, SIZE, stride=4, prompt_encoding="none", **options)


def test_voxels_become_tokens():
    """The middle of the token (1, 2, 0), 4 voxels a side, is the voxel position (5.5, 9.5, 1.5)."""
    net = build_sam3d(SMALL, 1, 2, SIZE, stride=4)
    seen = []
    net.dense_prompt.seg_layers.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    net(torch.randn(1, 1, 12, 16, 8), Prompts(torch.tensor([[[5.5, 9.5, 1.5]]]), torch.tensor([[1]])))
    assert seen[0].shape == (1, 8, 3, 4, 2)
    assert seen[0][0, 1, 1, 2, 0] == 1
    assert not seen[0][:, 2:].any()  # nothing was said by maps


def nothing(*shape: int) -> torch.Tensor:
    return torch.full(shape, NOTHING, dtype=torch.int16)


def test_maps_become_shares_of_tokens():
    maps = nothing(2, 3, 8, 4, 12)
    maps[0, MASK] = 0
    maps[0, MASK, :2, :4, :4] = 2  # half of the first token
    maps[1, BOX, 4:, :, 8:11] = 1  # three quarters of the last
    channels = map_channels(maps, 3, 4).unflatten(1, (3, 3))
    expected = torch.zeros(2, 3, 3, 2, 1, 3)
    expected[0, MASK, 0] = 1
    expected[0, MASK, 0, 0, 0, 0] = expected[0, MASK, 2, 0, 0, 0] = 0.5
    expected[1, BOX, 1, 1, 0, 2] = 0.75
    assert channels.dtype == torch.float32
    assert torch.equal(channels, expected)


def test_one_voxel_of_a_scribble_marks_its_token():
    maps = nothing(1, 3, 8, 8, 8)
    maps[0, SCRIBBLE, 5, 2, 7] = 1
    maps[0, SCRIBBLE, 6, 2, 7] = 0
    channels = map_channels(maps, 2, 4).unflatten(1, (3, 2))
    assert channels.sum() == 2
    assert channels[0, SCRIBBLE, 0, 1, 0, 1] == channels[0, SCRIBBLE, 1, 1, 0, 1] == 1


def test_incomplete_tokens_are_filled_up_with_nothing():
    channels = map_channels(torch.zeros(1, 3, 5, 4, 3, dtype=torch.int16), 2, 4).unflatten(1, (3, 2))
    assert channels.shape == (1, 3, 2, 2, 1, 1)
    assert torch.equal(channels[0, MASK, 0].flatten(), torch.tensor([0.75, 3 / 16]))
    assert not channels[0, :, 1].any()
    assert (channels[0, SCRIBBLE, 0] == 1).all()


def net_for_maps(**options) -> SAM3D:
    """Whose answer depends on all kinds of maps, as after training."""
    torch.manual_seed(0)
    net = build_sam3d(SMALL, 1, 3, SIZE, 4, **options).eval()
    with torch.no_grad():
        net.dense_prompt.project.weight.normal_()
        net.dense_prompt.seg_layers.weight.normal_()
    return net


@pytest.mark.parametrize("size", [(12, 16, 8), (11, 18, 9)])
@torch.no_grad()
def test_each_kind_and_label_means_something(size):
    net = net_for_maps()
    embedding = net.encode(torch.randn(1, 1, *size))
    without = net.decode(embedding)
    assert torch.equal(net.decode(embedding, only(nothing(1, 3, *size))), without)
    found = [without]
    for kind in (MASK, SCRIBBLE, BOX):
        for label in range(3):
            maps = nothing(1, 3, *size)
            maps[0, kind, 2:5, 4:9, 1:4] = label
            found.append(net.decode(embedding, only(maps)))
    for i, one in enumerate(found):
        assert all(not torch.allclose(one, other) for other in found[:i])


@torch.no_grad()
def test_maps_for_each_set_of_clicks_or_one_for_all():
    net = net_for_maps()
    embedding = net.encode(torch.randn(1, 1, 12, 16, 8))
    points, labels = torch.rand(2, 1, 3) * 8, torch.tensor([[1], [2]])
    maps = torch.randint(NOTHING, 3, (2, 3, 12, 16, 8)).short()
    both = net.decode(embedding, Prompts(points, labels, maps))
    for i in range(2):
        alone = net.decode(embedding, Prompts(points[i : i + 1], labels[i : i + 1], maps[i : i + 1]))
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    shared = net.decode(embedding, Prompts(points, labels, maps[:1]))
    alone = net.decode(embedding, Prompts(points[1:], labels[1:], maps[:1]))
    torch.testing.assert_close(shared[1:], alone, rtol=1e-4, atol=1e-4)
    assert net.decode(embedding, only(maps)).shape == (2, 3, 12, 16, 8)


@torch.no_grad()
def test_kinds_never_shown_in_training_change_nothing():
    """Only the way out of the dense prompts starts at zero once; clicks alone have moved it here."""
    net = build_sam3d(SMALL, 1, 3, SIZE, 4).eval()
    net.dense_prompt.project.weight.normal_()
    image = torch.randn(1, 1, 12, 16, 8)
    assert torch.equal(net(image, only(torch.randint(0, 3, (1, 3, 12, 16, 8)).short())), net(image))


@pytest.mark.parametrize(
    "maps, problem",
    [
        (nothing(1, 3, 12, 16, 4), r"shape \(1, 3, 12, 16, 4\), but \(B, 3, 12, 16, 8\) is needed"),
        (nothing(1, 2, 12, 16, 8), r"shape \(1, 2, 12, 16, 8\)"),
        (nothing(1, 3, 12, 16, 8) + 4, "label 3;.* to 2"),
        (nothing(1, 3, 12, 16, 8) - 1, "label -2"),
    ],
)
def test_wrong_maps_are_refused(maps, problem):
    with pytest.raises(SAM3DError, match=problem):
        net_for_maps()(torch.zeros(1, 1, 12, 16, 8), only(maps))


@pytest.mark.parametrize("options", [{"labelled_prompts": False}, {"takes_maps": False}])
def test_maps_where_the_network_takes_none(options):
    net = build_sam3d(SMALL, 1, 3, SIZE, 4, **options)
    assert not net.takes_maps
    with pytest.raises(SAM3DError, match="without masks, scribbles and boxes"):
        net(torch.zeros(1, 1, 12, 16, 8), only(nothing(1, 3, 12, 16, 8)))
    with pytest.raises(SAM3DError, match="unlabelled clicks can't take masks"):
        build_sam3d(SMALL, 1, 3, SIZE, 4, labelled_prompts=False, takes_maps=True)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("autocast", [False, True])
def test_shares_are_average_pooling(stride, autocast):
    mask = torch.rand(2, 3, 8, 16, 24) < torch.tensor([0.1, 0.9, 1.1])[:, None, None, None]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = prompt_encoder._shares(mask, stride)
    assert found.dtype == torch.float32 and torch.equal(found, F.avg_pool3d(mask.float(), stride))
