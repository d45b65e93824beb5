"""The way between an image array and the grid, against the one mapping of voxel centres."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid
from sam3d_nnunet.prediction.image_properties import geometry_of
from sam3d_nnunet.prediction.session_image import Region, SessionImage


def random_grid(seed: int) -> tuple[SessionImage, tuple[int, ...], np.random.Generator]:
    """A `SessionImage` without model and image."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(8, 20, 3)
    transpose = rng.permutation(3)
    start = rng.integers(0, 4, 3)
    crop = shape[transpose] - start - rng.integers(0, 3, 3)
    flipped = tuple(bool(flip) for flip in np.random.default_rng(seed + 100).integers(0, 2, 3))
    grid = PreprocessedGrid(tuple(transpose.tolist()), start, crop, rng.integers(4, 40, 3), flipped)
    image = SessionImage.__new__(SessionImage)
    vars(image).update(vars(SimpleNamespace(grid=grid, shape=tuple(shape.tolist()))))
    return image, tuple(shape.tolist()), rng


@pytest.mark.parametrize("seed", range(20))
def test_boxes_hold_the_voxels_whose_centres_they_hold(seed):
    image, shape, rng = random_grid(seed)
    low = np.array([rng.integers(0, n) for n in image.grid.shape])
    high = np.array([rng.integers(a + 1, n + 1) for a, n in zip(low, image.grid.shape)])
    voxels = np.argwhere(np.ones(shape, bool))
    there = image.grid.from_image(voxels)
    inside = ((there >= low - 0.5) & (there < high - 0.5)).all(axis=1)
    cropped = voxels[:, image.grid.transpose] - image.grid.crop_start
    inside &= ((cropped >= 0) & (cropped < image.grid.crop_shape)).all(axis=1)
    mask = np.zeros(shape, bool)
    mask[image.grid.box_in_image(Box(low, high)).slices] = True
    assert (mask == inside.reshape(shape)).all()


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_those_of_the_nearest_voxel(seed):
    image, shape, rng = random_grid(seed)
    labels = rng.integers(0, 200, shape)
    box = Box([n // 4 for n in image.grid.shape], image.grid.shape)
    found = to_grid(labels, image.grid, box)
    voxels = np.argwhere(np.ones(found.shape, bool)) + box.start
    exact = image.grid.to_image(voxels)
    nearest = np.rint(exact).astype(int)
    clear = (np.abs(np.abs(exact - np.floor(exact)) - 0.5) > 1e-6).all(axis=1)  # no two are equally near
    nearest = np.clip(nearest, 0, np.array(shape) - 1)
    assert (found.ravel()[clear] == labels[tuple(nearest.T)][clear]).mean() > 0.99


@pytest.mark.parametrize("share", [0.02, 0.2, 1])
@pytest.mark.parametrize("seed", range(20))
def test_every_voxel_of_a_region_counts(seed, share):
    image, shape, rng = random_grid(seed)
    start = np.array([rng.integers(0, n - 3) for n in shape])
    mask = rng.random([rng.integers(1, n - s + 1) for n, s in zip(shape, start)]) < share
    mask.flat[0] = True
    drawn = image.region_on_grid(Region(mask, tuple(start)))
    expected = np.rint(image.grid.from_image(np.argwhere(mask) + start)).astype(int)
    expected = expected[((expected >= 0) & (expected < image.grid.shape)).all(axis=1)]
    if drawn is None:
        assert len(expected) == 0
        return
    box, voxels = drawn
    whole = np.zeros(image.grid.shape, bool)
    whole[box.slices] = voxels
    assert whole[tuple(expected.T)].all()
    # and all that is drawn belongs to the voxel that is nearest, or was hit
    nearest = np.zeros(shape, bool)
    nearest[tuple(slice(s, s + n) for s, n in zip(start, mask.shape))] = mask
    allowed = to_grid(nearest, image.grid)
    allowed[tuple(expected.T)] = True
    assert (whole == allowed).all()


def test_a_large_region_is_not_listed_voxel_by_voxel():
    image, _, _ = random_grid(0)
    image.grid = PreprocessedGrid((2, 0, 1), np.zeros(3, int), np.array([100, 120, 110]), np.array([90, 130, 110]))
    box = Region(np.ones((100, 90, 80), bool), (10, 15, 20))
    tracemalloc.start()
    image.region_on_grid(box)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * box.mask.size  # bytes; the indices of all voxels alone are three times that


def test_the_direction_of_channels_is_left_out():
    """ITK has 16 numbers for an image with four axes, x first."""
    nine = np.array([[0, -1, 0], [1, 0, 0], [0, 0, -1.0]])
    sixteen = np.eye(4)
    sixteen[:3, :3] = nine
    three, four = (geometry_of({"direction": d.ravel().tolist()}) for d in (nine, sixteen))
    assert three.orientation == four.orientation
    assert np.array_equal(three.to_world(np.eye(3)), four.to_world(np.eye(3)))
