import numpy as np
import pytest
from helpers import labels_under
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import (
    case_generator,
    clicks_per_class,
    draw_clicks,
    draw_labelled,
    has_label,
    pad_clicks,
)

SEEDS = st.integers(0, 2**32)
SHAPES = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
LABEL_MAPS = arrays(np.int16, SHAPES, elements=st.sampled_from([-1, 0, 1, 2, 3]))


@given(arrays(bool, SHAPES), st.integers(0, 40), SEEDS)
def test_clicks_are_different_voxels_of_the_mask(mask, count, seed):
    points = draw_clicks(mask, count, np.random.default_rng(seed))
    assert points.dtype == np.float32
    assert points.shape == (min(count, mask.sum()), 3)
    assert labels_under(mask, points).all()
    assert len(np.unique(points, axis=0)) == len(points)


def test_every_voxel_of_the_mask_has_the_same_chance():
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 2:4, 1:6] = True
    rng = np.random.default_rng(0)
    hits = np.zeros(mask.shape)
    for _ in range(4000):
        hits[tuple(draw_clicks(mask, 1, rng)[0].astype(int))] += 1
    assert hits[mask].sum() == 4000
    assert np.abs(hits[mask] - 200).max() < 5 * np.sqrt(200)  # 20 voxels


@given(LABEL_MAPS, st.integers(0, 10), SEEDS)
def test_labels_are_those_under_the_clicks(segmentation, count, seed):
    points, labels, _ = draw_labelled(segmentation, segmentation >= 0, count, np.random.default_rng(seed))
    assert labels.dtype == np.int64
    assert (labels_under(segmentation, points) == labels).all()
    assert len(labels) == min(count, (segmentation >= 0).sum())


@given(LABEL_MAPS, st.integers(1, 5), SEEDS)
def test_each_present_class_gets_its_clicks(segmentation, count, seed):
    points, labels, _ = clicks_per_class(segmentation, [1, 2], count, np.random.default_rng(seed))
    assert (labels_under(segmentation, points) == labels).all()
    for label in (1, 2):
        assert (labels == label).sum() == min(count, (segmentation == label).sum())
    assert set(labels) <= {1, 2}


@given(LABEL_MAPS, SEEDS)
def test_same_seed_same_clicks(segmentation, seed):
    first, second = (clicks_per_class(segmentation, [1, 2, 3], 3, np.random.default_rng(seed)) for _ in range(2))
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()


def test_another_seed_gives_other_clicks():
    segmentation = np.ones((20, 20, 20), np.int16)
    drawn = {tuple(clicks_per_class(segmentation, [1], 1, case_generator(f"case_{i}"))[0][0]) for i in range(50)}
    assert len(drawn) > 40


@pytest.mark.parametrize(
    "arguments, numbers",
    [
        (("case_001",), [2003636133, 1949139734, 2673291545]),
        (("case_001", 1), [2012647163, 4290646036, 479339723]),
        (("Fall_Müller",), [2366779823, 631148461, 3287935230]),
        (("病例_7",), [3348114737, 3867070117, 900933359]),
    ],
)
def test_case_generator_is_the_same_everywhere(arguments, numbers):
    assert case_generator(*arguments).integers(0, 2**32, 3).tolist() == numbers


@st.composite
def clicks(draw: st.DrawFn) -> VoxelPrompts:
    """Up to 12 different clicks."""
    count = draw(st.integers(0, 12))
    points = np.arange(3 * count, dtype=np.float32).reshape(-1, 3)
    return VoxelPrompts(points, draw(arrays(np.int64, count, elements=st.integers(0, 4))))


def as_set(points: np.ndarray, labels: np.ndarray) -> set[tuple]:
    return {(*point, label) for point, label in zip(points.tolist(), labels.tolist())}


@given(clicks(), st.integers(1, 12), SEEDS)
def test_padding_to_a_fixed_size(clicks, size, seed):
    points, labels, _ = pad_clicks(clicks, size, np.random.default_rng(seed))
    assert points.shape == (size, 3) and points.dtype == np.float32
    assert labels.shape == (size,) and labels.dtype == np.int64
    real = labels != -1
    assert real.sum() == min(size, len(clicks[1]))
    assert as_set(points[real], labels[real]) <= as_set(*clicks[:2])
    assert len(np.unique(points[real], axis=0)) == real.sum()
    assert real[: real.sum()].all()  # padding comes last


@given(clicks(), clicks())
def test_clicks_are_concatenated_in_order(first, second):
    points, labels, _ = VoxelPrompts.concatenate([first, second])
    assert (points == np.concatenate([first[0], second[0]])).all()
    assert (labels == np.concatenate([first[1], second[1]])).all()


def test_no_clicks_at_all():
    points, labels, _ = VoxelPrompts.concatenate([])
    assert points.shape == (0, 3) and points.dtype == np.float32
    assert labels.shape == (0,) and labels.dtype == np.int64


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=6)), st.integers(0, 9), st.integers(0, 99))
def test_clicks_are_those_of_a_list_of_all_voxels(mask, count, seed):
    voxels = np.argwhere(mask)
    chosen = np.random.default_rng(seed).choice(len(voxels), min(count, len(voxels)), replace=False)
    assert np.array_equal(draw_clicks(mask, count, np.random.default_rng(seed)), voxels[chosen])


@given(arrays(np.int16, (3, 4, 5), elements=st.integers(-1, 9)), st.lists(st.integers(0, 9)))
def test_has_label_is_isin(segmentation, labels):
    assert np.array_equal(has_label(segmentation, labels), np.isin(segmentation, labels))
