import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.simulation import draw as interior
from sam3d_nnunet.simulation.draw import interior_point, interior_points, squared_depth


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=8)).filter(np.any))
def test_no_other_voxel_lies_deeper(mask):
    point = tuple(interior_point(mask))
    assert mask[point]
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    assert depth[point] == depth.max()


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=8)), st.integers(0, 3))
def test_one_point_a_component_largest_first(mask, count):
    everything = interior_points(mask)
    assert mask[tuple(everything.T)].all()
    assert np.array_equal(interior_points(mask, count), everything[:count])


def test_components_by_size():
    mask = np.zeros((20, 20, 20), bool)
    mask[1:4, 1:4, 1:4] = mask[10:17, 10:17, 10:17] = mask[0, 19, 19] = True
    assert interior_points(mask).tolist() == [[13, 13, 13], [2, 2, 2], [0, 19, 19]]
    assert interior_points(np.zeros((3, 3, 3), bool)).shape == (0, 3)


def test_without_randomness_always_the_same_and_with_it_further_in_than_half():
    mask = np.zeros((20, 20, 20), bool)
    mask[3:16, 3:16, 3:16] = True
    assert len({tuple(interior_point(mask)) for _ in range(5)}) == 1
    rng = np.random.default_rng(0)
    drawn = np.array([interior_point(mask, rng) for _ in range(300)])
    assert drawn.min() >= 6 and drawn.max() <= 12  # 7 from the rim in the middle
    assert len(np.unique(drawn, axis=0)) > 100


def test_a_voxel_on_the_edge_of_the_image_is_not_inner():
    assert interior_point(np.ones((7, 9, 11), bool))[0] == 3
    assert interior_point(np.ones((1, 1, 1), bool)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("sheet", [False, True])
def test_large_errors_are_measured_coarsely(monkeypatch, sheet):
    """The voxel found is one of the mask, even where no coarse voxel is."""
    mask = np.zeros((40, 40, 40), bool)
    mask[5:36, 5:36, 5:36] = True
    if sheet:
        mask[:] = False
        mask[1::3, 5:36, 5:36] = True
        mask[:, 0, 0] = True
    fine = interior_point(mask)
    monkeypatch.setattr(interior, "MOST_VOXELS", 10**3)
    coarse = interior_point(mask)
    assert mask[tuple(coarse)]
    if not sheet:
        assert np.abs(np.subtract(coarse, fine)).max() <= 4


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=12)))
def test_squared_depth_is_exact(mask):
    expected = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1] ** 2
    assert np.array_equal(squared_depth(mask), np.rint(expected))


@pytest.mark.parametrize("shape", [pytest.param((258, 257, 257), marks=pytest.mark.slow), (1, 1, 40000)])
def test_depths_of_large_masks_do_not_overflow(shape):
    assert squared_depth(np.ones(shape, bool)).max() == ((min(shape) + 1) // 2) ** 2


def test_scattered_voxels_in_a_flat_volume():
    mask = np.zeros((1, 7, 9), bool)
    mask[0, ::2, ::2] = True
    assert interior_points(mask).tolist() == np.argwhere(mask).tolist()
