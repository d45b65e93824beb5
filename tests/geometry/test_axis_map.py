"""The one mapping between the voxels of an image and of its grid, against all forms that it replaces."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid, to_image

SIZES = st.tuples(*[st.integers(1, 80)] * 3)


@st.composite
def grids(draw: st.DrawFn) -> PreprocessedGrid:
    return PreprocessedGrid(
        tuple(draw(st.permutations([0, 1, 2]))),
        np.array(draw(st.tuples(*[st.integers(0, 20)] * 3))),
        np.array(draw(SIZES)),
        np.array(draw(SIZES)),
    )


@st.composite
def grids_with_box(draw: st.DrawFn) -> tuple[PreprocessedGrid, Box]:
    grid = draw(grids())
    start = [draw(st.integers(0, n - 1)) for n in grid.shape.tolist()]
    return grid, Box(start, [draw(st.integers(s + 1, n)) for s, n in zip(start, grid.shape.tolist())])


def image_shape(grid: PreprocessedGrid) -> tuple[int, ...]:
    """Of an image that ends with the crop, or two voxels later."""
    shape = grid.crop_start + grid.crop_shape + [0, 1, 2]
    return tuple(shape[np.argsort(grid.transpose)].tolist())


# --- the six forms as they were ---


def old_from_image(self: PreprocessedGrid, voxels: np.ndarray) -> np.ndarray:
    cropped = np.asarray(voxels)[:, self.transpose] - self.crop_start
    return (cropped + 0.5) * self.shape / self.crop_shape - 0.5


def old_to_image_points(self: PreprocessedGrid, coordinates: np.ndarray) -> np.ndarray:
    cropped = (np.asarray(coordinates) + 0.5) * self.crop_shape / self.shape - 0.5
    return (cropped + self.crop_start)[:, np.argsort(self.transpose)]


def old_nearest_voxels(grid: PreprocessedGrid, place: tuple[slice, ...] | None = None) -> list[np.ndarray]:
    place = place or tuple(slice(0, int(n)) for n in grid.shape)
    indices = []
    for box, start, crop, size in zip(place, grid.crop_start, grid.crop_shape, grid.shape):
        position = (np.arange(box.start, box.stop) + 0.5) * crop / size - 0.5
        indices.append(start + np.clip(np.rint(position).astype(int), 0, crop - 1))
    return indices


def old_to_image(label_map: np.ndarray, grid: PreprocessedGrid, image_shape: tuple[int, ...]) -> np.ndarray:
    nearest = [
        np.clip(np.rint((np.arange(crop) + 0.5) * n / crop - 0.5), 0, n - 1).astype(int)
        for n, crop in zip(grid.shape, grid.crop_shape)
    ]
    image = np.zeros([image_shape[axis] for axis in grid.transpose], label_map.dtype)
    crop = tuple(slice(start, start + n) for start, n in zip(grid.crop_start, grid.crop_shape))
    image[crop] = label_map[np.ix_(*nearest)]
    return image.transpose(np.argsort(grid.transpose))


def old_session_to_image(grid: PreprocessedGrid, place: tuple[slice, ...]) -> tuple[slice, ...]:
    slices = []
    for box, crop_start, crop, size in zip(place, grid.crop_start, grid.crop_shape, grid.shape):
        position = (np.arange(crop) + 0.5) * size / crop - 0.5
        first, end = np.searchsorted(position, [box.start - 0.5, box.stop - 0.5])
        slices.append(slice(int(crop_start + first), int(crop_start + end)))
    return tuple(slices[axis] for axis in np.argsort(grid.transpose))


class OldAxis:
    def __init__(self, crop: int, grid: int, start: int, size: int) -> None:
        position = (np.arange(crop) + 0.5) * grid / crop - 0.5
        inside = np.flatnonzero((position >= start - 0.5) & (position < start + size - 0.5))
        self.first, self.count = (inside[0], len(inside)) if len(inside) else (0, 0)
        position = np.clip(position[inside] - start, 0, size - 1)
        self.below = torch.from_numpy(np.floor(position).astype(np.int64))
        self.above = (self.below + 1).clamp(max=size - 1)
        self.part = torch.from_numpy(position).float() - self.below

    def place(self, crop_start: int) -> slice:
        first = int(crop_start + self.first)
        return slice(first, first + self.count)

    def resample(self, x: Tensor, axis: int, which: slice = slice(None)) -> Tensor:
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        below, above = (x.index_select(axis, index[which]) for index in (self.below, self.above))
        return torch.lerp(below, above, self.part[which].view(shape))


# --- and what has replaced them, bit for bit ---


@given(grids(), st.integers(0, 2**32 - 1), st.sampled_from([np.float64, np.float32, np.int64]))
def test_points(grid, seed, kind):
    points = np.random.default_rng(seed).uniform(-50, 150, (seed % 5, 3)).astype(kind)
    wide = points.astype(np.float64)  # the old form added its 0.5 to float32 coordinates in float32
    for new, expected in (
        (grid.from_image, old_from_image(grid, points)),
        (grid.to_image, old_to_image_points(grid, wide)),
    ):
        found = new(points)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@given(grids_with_box(), st.integers(0, 2**32 - 1))
def test_nearest_voxels(grid_and_box, seed):
    grid, box = grid_and_box
    for place, new in ((box.slices, grid.nearest_in_image(box)), (None, grid.nearest_in_image())):
        expected = old_nearest_voxels(grid, place)
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(new, expected, strict=True))
    rng = np.random.default_rng(seed)
    label_map = rng.integers(0, 200, image_shape(grid), np.uint8)
    expected = label_map.transpose(grid.transpose)[np.ix_(*old_nearest_voxels(grid, box.slices))]
    assert np.array_equal(to_grid(label_map, grid, box), expected)
    on_grid = rng.integers(0, 200, grid.shape, np.int32)
    found = to_image(on_grid, grid, image_shape(grid))
    assert found.dtype == np.int32
    assert np.array_equal(found, old_to_image(on_grid, grid, image_shape(grid)))


@given(grids_with_box())
def test_boxes(grid_and_box):
    grid, box = grid_and_box
    expected = Box.from_lists([(s.start, s.stop) for s in old_session_to_image(grid, box.slices)])
    assert grid.box_in_image(box) == expected


@given(grids_with_box(), st.integers(0, 2**32 - 1))
def test_interpolation(grid_and_box, seed):
    grid, box = grid_and_box
    logits = torch.randn(2, *box.shape, generator=torch.Generator().manual_seed(seed))
    for axis in range(3):
        old = OldAxis(grid.crop_shape[axis], grid.shape[axis], box.start[axis], box.shape[axis])
        new = grid.axes[axis].linear_weights(box.start[axis], box.stop[axis])
        assert len(new.below) == old.count
        if old.count:
            first, stop = grid.axes[axis].voxels_in(box.start[axis], box.stop[axis])
            assert slice(first, stop) == old.place(grid.crop_start[axis])
        for found, expected in ((new.below, old.below), (new.above, old.above), (new.fraction, old.part)):
            assert found.dtype == expected.numpy().dtype and np.array_equal(found, expected.numpy())
        resampled = torch.lerp(
            logits.index_select(axis + 1, torch.from_numpy(new.below)),
            logits.index_select(axis + 1, torch.from_numpy(new.above)),
            torch.from_numpy(new.fraction).view([-1 if a == axis + 1 else 1 for a in range(4)]),
        )
        assert torch.equal(resampled, old.resample(logits, axis + 1))


@pytest.mark.parametrize("size", [1, 2, 79])
def test_halves_are_rounded_as_before(size):
    """Where two voxels are equally near, `np.rint` takes the even one."""
    grid = PreprocessedGrid((0, 1, 2), np.zeros(3, int), np.full(3, 2 * size), np.full(3, size))
    for found, expected in zip(grid.nearest_in_image(), old_nearest_voxels(grid), strict=True):
        assert np.array_equal(found, expected)
