import numpy as np
import pytest
from helpers import all_kinds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE
from sam3d_nnunet.simulation import maps as simulated
from sam3d_nnunet.simulation.draw import Components
from sam3d_nnunet.simulation.maps import MapSimulator, distorted, draw_curve

OUTSIDE, IGNORE = -1, 4
SEEDS = st.integers(0, 2**32)
SHAPES = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8)
LABEL_MAPS = st.sets(st.sampled_from([OUTSIDE, 0, 1, 2, IGNORE]), min_size=1).flatmap(
    lambda present: arrays(np.int16, SHAPES, elements=st.sampled_from(sorted(present)))
)


def scene() -> np.ndarray:
    segmentation = np.zeros((30, 40, 36), np.int16)
    segmentation[5:15, 5:20, 5:15] = 1
    segmentation[18:26, 22:34, 20:30] = 2
    segmentation[:, :, 34], segmentation[:, :, 35] = IGNORE, OUTSIDE
    return segmentation


@given(LABEL_MAPS, SEEDS)
def test_scribbles_lie_on_what_they_claim(segmentation, seed):
    marks = MapSimulator([1, 2], 0, 1, 0).marks(segmentation, np.random.default_rng(seed))
    maps = all_kinds(marks.maps)
    scribble = maps[SCRIBBLE]
    assert maps.dtype == np.int16 and (maps[[MASK, BOX]] == NOTHING).all()
    drawn = scribble != NOTHING
    assert (segmentation[drawn] == scribble[drawn]).all()
    assert set(scribble[drawn]) <= {0, 1, 2}
    assert set(scribble[drawn]) - {0} == set(marks.labels) != set() or not np.isin(segmentation, [1, 2]).any()
    for point, label in zip(marks.points, marks.labels):
        assert segmentation[tuple(point.astype(int))] == label
    numbers = Components(segmentation, [1, 2]).numbers
    for label in marks.labels:  # within one component, the marked one
        under = numbers[scribble == label]
        point = marks.points[marks.labels == label][0].astype(int)
        assert (under == numbers[tuple(point)]).all()


def test_scribbles_are_lines():
    rng = np.random.default_rng(0)
    sizes, flat, background = [], 0, 0
    for _ in range(200):
        scribble = MapSimulator([1], 0, 1, 0).marks(scene(), rng).maps[SCRIBBLE]
        voxels = np.argwhere(scribble == 1)
        flat += (np.ptp(voxels, axis=0) == 0).any()
        sizes.append(len(voxels))
        background += (scribble == 0).any()
    assert 5 < np.mean(sizes) < 40  # of 1500
    assert 80 < flat < 160
    assert 30 < background < 90


def test_a_curve_has_no_gaps():
    rng = np.random.default_rng(0)
    voxels = np.argwhere(np.ones((20, 30, 25)))
    for _ in range(100):
        steps = np.abs(np.diff(draw_curve(voxels, rng), axis=0)).max(axis=1)
        assert steps.max() <= 2 and np.mean(steps <= 1) > 0.8


def test_one_voxel_is_a_scribble_and_a_box():
    segmentation = np.zeros((5, 5, 5), np.int16)
    segmentation[4, 0, 2] = 2
    _, labels, maps = MapSimulator([1, 2], 0, 1, 1).marks(segmentation, np.random.default_rng(0))
    assert np.argwhere(maps[SCRIBBLE] == 2).tolist() == np.argwhere(maps[BOX] == 2).tolist() == [[4, 0, 2]]
    assert labels.tolist() == [2, 2]


def test_boxes_surround_a_component_or_a_slice_of_it():
    rng = np.random.default_rng(0)
    whole = 0
    for _ in range(200):
        _, labels, maps = MapSimulator([1, 2], 0, 0, 1).marks(scene(), rng)
        for label in labels:
            lower, upper = ((5, 5, 5), (15, 20, 15)) if label == 1 else ((18, 22, 20), (26, 34, 30))
            voxels = np.argwhere(maps[BOX] == label)
            found = voxels.min(axis=0), voxels.max(axis=0) + 1
            assert len(voxels) == np.prod(found[1] - found[0])  # filled
            assert (found[0] >= np.array(lower) - 2).all() and (found[1] <= np.array(upper) + 2).all()
            near = [np.abs(a - b).max() <= 2 for a, b in zip(found, (lower, upper))]
            one_slice = (found[1] - found[0] == 1).sum()
            assert all(near) or one_slice == 1
            whole += all(near)
    assert 100 < whole < 200  # of 300


@given(LABEL_MAPS, SEEDS)
def test_boxes_are_boxes(segmentation, seed):
    _, labels, maps = MapSimulator([1], 0, 0, 1).marks(segmentation, np.random.default_rng(seed))
    voxels = np.argwhere(maps[BOX] == 1)
    assert (len(voxels) > 0) == (len(labels) > 0) == (segmentation == 1).any()
    if len(voxels):
        assert len(voxels) == np.prod(np.ptp(voxels, axis=0) + 1)


@given(LABEL_MAPS, SEEDS)
def test_a_distorted_mask_is_a_label_map(segmentation, seed):
    before = segmentation.copy()
    mask = distorted(segmentation, [1, 2], np.random.default_rng(seed))
    assert mask.dtype == np.int16 and mask.shape == segmentation.shape
    assert set(np.unique(mask)) <= {0, 1, 2}
    assert (segmentation == before).all()


def test_distorted_masks_are_roughly_the_target():
    rng = np.random.default_rng(0)
    target = np.where(scene() == 2, 2, 0) + (scene() == 1)
    dice, missed, added, exact = [], 0, 0, 0
    for _ in range(200):
        mask = distorted(scene(), [1, 2], rng)
        for c in (1, 2):
            dice.append(2 * ((mask == c) & (target == c)).sum() / ((mask == c).sum() + (target == c).sum()))
        missed += not ((mask == 1).any() and (mask == 2).any())
        added += len(Components(mask, [1, 2])) > 2
        exact += (mask == target).all()
    assert 0.6 < np.mean(dice) < 0.9 and np.std(dice) > 0.1
    assert 20 < missed < 60 and 10 < added < 60 and 5 < exact < 60


@pytest.mark.parametrize("kind, shares", [(MASK, (0.3, 0, 0)), (SCRIBBLE, (0, 0.3, 0)), (BOX, (0, 0, 0.3))])
def test_shares(kind, shares):
    rng = np.random.default_rng(0)
    simulator = MapSimulator([1, 2], *shares)
    drawn = np.zeros(3)
    for _ in range(500):
        maps = simulator.marks(scene(), rng).maps
        simulator.add_mask(maps, scene(), rng)
        drawn += (all_kinds(maps) != NOTHING).any(axis=(1, 2, 3))
    expected = np.zeros(3)
    expected[kind] = 0.3
    assert np.allclose(drawn / 500, expected, atol=0.08)


@given(arrays(np.int16, array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 3)), st.data())
def test_masks_are_moved_and_grown_as_by_scipy(mask, data):
    by = data.draw(st.tuples(*[st.integers(-2, 2)] * 3))
    assert np.array_equal(simulated._shifted(mask, by), ndimage.shift(mask, by, order=0))
    for size in (2, 3, 4):
        assert np.array_equal(simulated._filtered(mask, np.maximum, size), ndimage.maximum_filter(mask, size=size))
        assert np.array_equal(simulated._filtered(mask, np.minimum, size), ndimage.minimum_filter(mask, size=size))
