"""Dense prompts of an image that take memory only where they are drawn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prompts.prompt import BOX, KINDS, MASK, NOTHING, SCRIBBLE

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


@st.composite
def grids(draw: st.DrawFn) -> tuple[PreprocessedGrid, tuple[int, ...]]:
    """A grid, and the shape of its image, which may have an empty border."""
    crop, transpose = draw(SHAPES), tuple(draw(st.permutations([0, 1, 2])))
    before, after = (draw(st.tuples(*[st.integers(0, 4)] * 3)) for _ in range(2))
    flipped = draw(st.tuples(*[st.booleans()] * 3))
    grid = PreprocessedGrid(transpose, np.array(before), np.array(crop), np.array(draw(SHAPES)), flipped)
    size = [sum(part) for part in zip(before, crop, after)]
    return grid, tuple(size[axis] for axis in grid.transpose_back)


@given(grids(), st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_a_mask_is_what_is_nearest_to_each_voxel(scene, seed, marked):
    grid, shape = scene
    rng = np.random.default_rng(seed)
    label_map = np.zeros(shape, np.int16)
    for _ in range(marked):
        label_map[tuple(rng.integers(0, shape))] = rng.integers(1, 300)
    maps = DensePrompts.of_mask(label_map, grid).cut(grid.box)
    assert maps.dtype == np.int16 and np.array_equal(maps[MASK], to_grid(label_map, grid))
    assert (maps[[SCRIBBLE, BOX]] == NOTHING).all()


@given(SHAPES, st.integers(0, 2**32 - 1), st.booleans())
def test_boxes_are_cut_from_what_is_drawn(shape, seed, with_mask):
    rng = np.random.default_rng(seed)
    prompts, whole = DensePrompts.none(shape), np.full((KINDS, *shape), NOTHING, np.int16)
    if with_mask:
        prompts, whole[MASK] = prompts.with_mask(), 0
    for kind in (MASK, SCRIBBLE, BOX):
        ends = np.sort([rng.integers(0, shape), rng.integers(0, shape)], axis=0)
        box = Box(ends[0], ends[1] + 1)
        labels, where = rng.integers(0, 5, box.shape), rng.random(box.shape) < 0.5
        prompts.draw(kind, box, labels, where)
        whole[(kind, *box.slices)][where] = labels[where]
    assert np.array_equal(prompts.cut(Box.of_shape(shape)), whole)
    start = rng.integers(-5, 8, 3)
    box = Box.of_shape(rng.integers(1, 9, 3), start)
    padded = np.pad(whole, [(0, 0), *[(9, 20)] * 3], constant_values=NOTHING)
    if with_mask:  # is background beyond the image, as in training
        padded[MASK] = np.pad(whole[MASK], (9, 20))
    assert np.array_equal(prompts.cut(box), padded[(slice(None), *box.shifted([9] * 3).slices)])
