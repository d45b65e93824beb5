import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import Components

OUTSIDE, IGNORE = -1, 4
SEEDS = st.integers(0, 2**32)
SHAPES = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
LABEL_MAPS = arrays(np.int16, SHAPES, elements=st.sampled_from([OUTSIDE, 0, 0, 0, 0, 1, 2, IGNORE]))


def three_lesions() -> np.ndarray:
    """Two of class 1, the second with a rim of class 2, and one of class 2; beside what is ignored or outside."""
    segmentation = np.zeros((10, 10, 20), np.int16)
    segmentation[1:3, 1:3, 1:3] = 1
    segmentation[1:6, 1:6, 8:13] = 2
    segmentation[2:5, 2:5, 9:12] = 1
    segmentation[7:9, 7:9, 1:3] = 2
    segmentation[:, :, 18], segmentation[:, :, 19] = IGNORE, OUTSIDE
    return segmentation


def clicks(*clicked: tuple) -> VoxelPrompts:
    points = np.array([c[:3] for c in clicked], np.float32).reshape(-1, 3)
    return VoxelPrompts(points, np.array([c[3] for c in clicked], np.int64))


def kept(segmentation: np.ndarray, left: np.ndarray) -> list[bool]:
    """Of the lesions: first of class 1, core, rim, last."""
    places = [(1, 1, 1), (3, 3, 10), (1, 1, 8), (8, 8, 2)]
    assert ((left == segmentation) | (left == 0)).all()
    assert (left[:, :, 18] == IGNORE).all() and (left[:, :, 19] == OUTSIDE).all()
    return [left[place] != 0 for place in places]


@pytest.mark.parametrize(
    "clicked, together, expected",
    [
        ([(2, 2, 2, 1)], False, [True, False, False, False]),
        ([(3, 3, 10, 1), (7, 7, 1, 2)], False, [False, True, False, True]),
        ([(3, 3, 10, 1), (1, 1, 8, 2)], False, [False, True, True, False]),
        ([(3, 3, 10, 2)], False, [False] * 4),  # another class's click
        ([(3, 3, 10, 0), (0, 0, 0, 1), (2, 2, 2, -1)], False, [False] * 4),  # background, beside, padding
        ([], False, [False] * 4),
        ([(3, 3, 10, 1)], True, [False, True, True, False]),  # core and rim are one lesion
        ([(1, 1, 8, 2)], True, [False, True, True, False]),
        ([(1, 1, 8, 1)], True, [False] * 4),
    ],
)
def test_components_holding_a_click_of_their_class(clicked, together, expected):
    segmentation = three_lesions()
    left = Components(segmentation, [1, 2], together).holding(clicks(*clicked))
    assert kept(segmentation, left) == expected
    assert (segmentation == three_lesions()).all()


def test_corners_touch():
    segmentation = np.zeros((4, 4, 4), np.int16)
    segmentation[0, 0, 0] = segmentation[1, 1, 1] = segmentation[3, 3, 3] = 1
    components = Components(segmentation, [1])
    assert len(components) == 2
    assert components.holding(clicks((0, 0, 0, 1))).sum() == 2


@given(LABEL_MAPS, st.booleans(), SEEDS)
def test_a_random_subset_of_each_class(segmentation, together, seed):
    components = Components(segmentation, [1, 2], together)
    left = components.random_subset(np.random.default_rng(seed))
    classes = np.isin(segmentation, [1, 2])
    assert (left[~classes] == segmentation[~classes]).all()
    for labels in [[1, 2]] if together else [[1], [2]]:
        numbers, count = ndimage.label(np.isin(segmentation, labels), np.ones((3, 3, 3)))
        whole = [(left[numbers == n] == segmentation[numbers == n]).all() for n in range(1, count + 1)]
        gone = [(left[numbers == n] == 0).all() for n in range(1, count + 1)]
        assert all(a or b for a, b in zip(whole, gone))
        assert any(whole) or not count


def test_mostly_one_and_specks_rarely():
    segmentation = np.zeros((8, 8, 40), np.int16)
    segmentation[:, :, :8] = segmentation[:, :, 10:18] = 1
    segmentation[::4, ::4, 20::4] = 1  # 20 of one voxel
    components = Components(segmentation, [1])
    assert len(components) == 22
    rng = np.random.default_rng(0)
    counts, large = [], []
    for _ in range(500):
        left = components.random_subset(rng)
        counts.append(len(Components(left, [1])))
        large.append(left[:, :, :18].any())
    assert 0.6 < np.mean(np.array(counts) == 1) < 0.85 and max(counts) > 10
    assert np.mean(large) > 0.4  # 2 of 22, but 16 of 36 by diameter


@given(LABEL_MAPS, SEEDS)
def test_voxels(segmentation, seed):
    components = Components(segmentation, [1, 2])
    for number in range(1, len(components) + 1):
        assert (components.voxels_of(number) == np.argwhere(components.numbers == number)).all()
        assert components.sizes[number] == (components.numbers == number).sum()


def test_any_order_of_memory():
    segmentation = three_lesions().transpose(2, 0, 1)[::-1]
    left = Components(segmentation, [1, 2]).holding(clicks((17, 2, 2, 1)))
    assert left.sum() - three_lesions()[:, :, 18:].sum() == 8
