"""The prompts of a batch: collating, mirroring, and the way through pickling and pinning."""

import copy
import pickle

import numpy as np
import pytest
import torch
from ddp_step import SMALL

from sam3d_nnunet.network import Prompts, build_sam3d
from sam3d_nnunet.prompts.prompt import NOTHING, VoxelPrompts

SIZE = (5, 6, 7)


def some_maps(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(NOTHING, 3, (3, *SIZE)).astype(np.int16)


def clicks(*labels: int) -> VoxelPrompts:
    points = np.arange(3 * len(labels), dtype=np.float32).reshape(-1, 3)
    return VoxelPrompts(points, np.array(labels, np.int64))


def test_fewer_clicks_are_padded():
    prompts = Prompts.from_voxels([clicks(1, 0, 2), clicks(), clicks(2)])
    assert prompts.labels.tolist() == [[1, 0, 2], [-1, -1, -1], [2, -1, -1]] and prompts.labels.dtype == torch.int64
    assert prompts.points.dtype == torch.float32 and prompts.points.shape == (3, 3, 3)
    assert prompts.points[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and not prompts.points[1].any()
    assert prompts.maps is None


def test_maps_are_stacked_and_patches_without_say_nothing():
    maps = some_maps(0)
    prompts = Prompts.from_voxels([clicks(1), clicks()._replace(maps=maps)])
    assert prompts.maps.dtype == torch.int16 and (prompts.maps[0] == NOTHING).all()
    assert torch.equal(prompts.maps[1], torch.from_numpy(maps))


def test_none_is_one_padded_click_each():
    prompts = Prompts.none(2)
    assert prompts.points.shape == (2, 1, 3) and prompts.labels.tolist() == [[-1], [-1]] and prompts.maps is None


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_clicks_and_maps_are_mirrored_alike(axes):
    """The map is 2 under the click and nowhere else, in the original and in the mirrored patch."""
    maps = np.full((3, *SIZE), NOTHING, np.int16)
    maps[1, 1, 2, 5] = 2
    prompts = Prompts.from_voxels([VoxelPrompts(np.array([[1.0, 2, 5]]), np.array([2]), maps)])
    mirrored = prompts.flip(axes, SIZE)
    assert (mirrored.maps == 2).nonzero()[0, 2:].tolist() == mirrored.points[0, 0].tolist()
    assert [a != b for a, b in zip(mirrored.points[0, 0], prompts.points[0, 0])] == [a in axes for a in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(mirrored.flip(axes, SIZE), prompts, strict=True))
    assert prompts.points[0, 0].tolist() == [1, 2, 5]  # the original is left as it is


def test_a_free_click_is_padding_behind_the_others():
    prompts = Prompts.from_voxels([clicks(1, 0)._replace(maps=some_maps(1))])
    more = prompts.with_free_clicks()
    assert more.labels.tolist() == [[1, 0, -1]] and more.maps is prompts.maps
    assert torch.equal(more.points[:, :2], prompts.points)


def test_device():
    prompts = Prompts.from_voxels([clicks(1)._replace(maps=some_maps(2))])
    assert all(t.device.type == "meta" for t in prompts.to(torch.device("meta")))
    assert Prompts.none(1).to(torch.device("meta")).maps is None


def test_copies_are_prompts():
    prompts = Prompts.from_voxels([clicks(1)])
    for again in (pickle.loads(pickle.dumps(prompts)), copy.deepcopy(prompts)):
        assert isinstance(again, Prompts) and torch.equal(again.points, prompts.points)


def test_concatenated_clicks_keep_the_maps():
    maps = some_maps(3)
    found = VoxelPrompts.concatenate([clicks(1), clicks(0, 2)._replace(maps=maps), clicks()])
    assert found.labels.tolist() == [1, 0, 2] and found.maps is maps
    chosen = found.with_clicks(found.labels == 0)
    assert chosen.points.tolist() == [[0, 1, 2]] and chosen.labels.tolist() == [0] and chosen.maps is maps


def test_a_copied_network_uses_its_own_prompt_encoders():
    """The object that applies prompts refers to modules that the network holds."""
    net = build_sam3d(SMALL, 1, 2, (16, 16, 16), 4, deep_prompt_levels=[1])
    other = copy.deepcopy(net)
    assert other.apply_prompts.levels[-1] is other.prompt_encoder is not net.prompt_encoder
    assert other.apply_prompts.levels[0] is other.deep_prompt_encoders[0] is not net.deep_prompt_encoders[0]
    assert other.apply_prompts.dense is other.dense_prompt is not net.dense_prompt
