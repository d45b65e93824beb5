import numpy as np
import pytest

from sam3d_nnunet.geometry.boxes import Box

A, B = Box((0, 2, 4), (5, 6, 7)), Box((3, 0, 5), (9, 3, 6))
APART = Box((7, 7, 7), (8, 9, 10))


def filled(box: Box) -> np.ndarray:
    mask = np.zeros((10, 10, 10), bool)
    mask[box.slices] = True
    return mask


def test_the_box_of_a_mask():
    mask = np.zeros((5, 6, 7), bool)
    assert Box.from_mask(mask) is None
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert Box.from_mask(mask) == Box((1, 2, 3), (4, 3, 7))
    assert Box.from_mask(mask[1]) == Box((2, 3), (3, 4))


def test_forms():
    assert A.shape == (5, 4, 3) and not A.is_empty
    assert A.as_lists() == [[0, 5], [2, 6], [4, 7]] == [[s.start, s.stop] for s in A.slices]
    for box in (Box.from_lists(A.as_lists()), Box.of_shape(A.shape, A.start)):
        assert box == A and hash(box) == hash(A)
    assert Box.of_shape((3, 4)) == Box((0, 0), (3, 4))
    numbers = Box(np.array([1, 2]), np.array([3, 4])).start
    assert numbers == (1, 2) and all(type(n) is int for n in numbers)


def test_intersection_and_union():
    assert (filled(A.intersection(B)) == filled(A) & filled(B)).all()
    assert A.intersection(APART).is_empty and not filled(A.intersection(APART)).any()
    assert A.union(B, APART) == Box.from_mask(filled(A) | filled(B) | filled(APART))
    assert A.union() == A


def test_moved_and_grown():
    assert A.shifted((1, 2, 3)) == Box((1, 4, 7), (6, 8, 10))
    array = np.random.default_rng(0).random((10, 10, 10))
    inner = A.intersection(B)
    assert (array[A.slices][inner.within(A).slices] == array[inner.slices]).all()
    assert inner.within(A).shifted(A.start) == inner
    assert A.grown(2) == Box((-2, 0, 2), (7, 8, 9))


@pytest.mark.parametrize("box", [A, B, APART])
def test_points_belong_to_the_box_of_their_nearest_voxel(box):
    points = np.random.default_rng(0).uniform(-0.5, 9.5, (500, 3))
    assert (box.contains(points) == filled(box)[tuple(np.rint(points).astype(int).T)]).all()
