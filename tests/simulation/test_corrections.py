import cc3d
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.simulation.draw import correction_click

MAPS = st.tuples(*[arrays(np.int16, (5, 6, 4), elements=st.sampled_from([0, 0, 1, 2]))] * 2)


def box(label: int, *slices: slice, shape: tuple[int, ...] = (20, 24, 22)) -> np.ndarray:
    segmentation = np.zeros(shape, np.int16)
    segmentation[slices] = label
    return segmentation


MISSED = (slice(2, 9), slice(3, 10), slice(4, 11))  # its middle is (5, 6, 7)


def test_a_missed_object_is_clicked_in_its_middle():
    point, label = correction_click(np.zeros((20, 24, 22), np.int16), box(2, *MISSED))
    assert point.tolist() == [5, 6, 7] and point.dtype == np.float32
    assert label == 2


def test_a_false_positive_gets_a_background_click():
    point, label = correction_click(box(1, *MISSED), np.zeros((20, 24, 22), np.int16))
    assert point.tolist() == [5, 6, 7] and label == 0


def test_another_class_is_an_error_of_its_own():
    """Two classes meet: one click can't mend both."""
    target = box(1, slice(2, 9), slice(3, 10), slice(2, 12))
    target[2:9, 3:10, 12:17] = 2
    point, label = correction_click(np.zeros_like(target), target)
    assert label == 1 and point[2] < 12
    point, label = correction_click(np.where(target == 1, 2, 0), np.maximum(target, 0))
    assert label == 1  # by the true class, where another was predicted


def test_the_largest_error_comes_first():
    target = box(1, slice(1, 4), slice(1, 4), slice(1, 4)) + box(1, *(slice(10, 15),) * 3)
    assert correction_click(np.zeros_like(target), target)[0].tolist() == [12, 12, 12]
    first = np.where(np.indices(target.shape)[0] > 8, target, 0)
    assert correction_click(first, target)[0].tolist() == [2, 2, 2]
    assert correction_click(target, target) is None


def test_nothing_is_an_error_where_labels_are_ignored():
    target = box(1, *MISSED)
    target[10:] = -1
    assert correction_click(box(1, *MISSED) + box(2, slice(12, 20)), target) is None


@given(MAPS, st.none() | st.integers(0, 2**32))
def test_a_correction_lies_on_the_error_and_tells_the_truth(maps, seed):
    prediction, target = maps
    click = correction_click(prediction, target, None if seed is None else np.random.default_rng(seed))
    if click is None:
        assert (prediction == target).all()
        return
    voxel = tuple(click[0].astype(int))
    assert prediction[voxel] != target[voxel] == click[1]


def whole_volume_way(prediction, target, rng):
    """The same click without any box: components of the whole volume, SciPy's distances, all voxels of the error."""
    errors = np.where((prediction != target) & (target >= 0), target + 1, 0)
    numbers = cc3d.connected_components(errors, connectivity=26, max_labels=errors.size + 1)
    sizes = np.bincount(numbers.ravel())
    if len(sizes) == 1:
        return None
    largest = numbers == sizes[1:].argmax() + 1
    depth = distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1, 1:-1]
    inner = np.flatnonzero(depth >= depth.max() * (1 if rng is None else 0.5))
    voxel = np.unravel_index(inner[0] if rng is None else rng.choice(inner), depth.shape)
    return [*map(int, voxel)], int(target[largest][0])


FEW_OR_MANY = st.integers(0, 2**32).flatmap(
    lambda seed: st.tuples(st.just(seed), st.sampled_from([0.02, 0.2, 0.6]), st.permutations(range(3)))
)


@given(array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=12), FEW_OR_MANY, st.booleans())
def test_the_box_of_the_errors_gives_the_click_of_the_whole_volume(shape, drawn, random):
    """Also among components of one size and voxels of one depth, and whatever the order of axes in memory."""
    seed, share, axes = drawn
    rng = np.random.default_rng(seed)
    target = rng.choice([-1, 0, 0, 1, 2], shape).astype(np.int16).transpose(axes)
    wrong = rng.random(shape).transpose(axes) < share
    prediction = np.where(wrong, (target + 1) % 3, np.maximum(target, 0)).astype(np.int16)
    rngs = [np.random.default_rng(seed) if random else None for _ in range(2)]
    found, expected = correction_click(prediction, target, rngs[0]), whole_volume_way(prediction, target, rngs[1])
    assert (found is None) == (expected is None)
    assert found is None or ([*map(int, found[0])], found[1]) == expected
