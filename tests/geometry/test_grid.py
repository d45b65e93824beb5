import numpy as np
import pytest

from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid, to_image

SHAPE = (9, 10, 11)


def grid_of(transpose: tuple[int, ...], crop: tuple[int, ...], shape: tuple[int, ...]) -> PreprocessedGrid:
    return PreprocessedGrid(transpose, np.array([1, 2, 0]), np.array(crop), np.array(shape))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("shape", [(5, 6, 7), (11, 4, 13)])
def test_each_voxel_has_the_value_of_the_nearest(transpose, shape):
    grid = grid_of(transpose, (5, 6, 7), shape)
    image = np.random.default_rng(0).integers(1, 1000, SHAPE)
    on_grid = to_grid(image, grid)
    assert on_grid.shape == shape
    for voxel in np.ndindex(shape):
        # a hair off, since voxels in the middle of two may have either
        places = [grid.to_image(np.array([voxel]) + shift)[0].round().astype(int) for shift in (-1e-6, 1e-6)]
        assert on_grid[voxel] in {image[tuple(place)] for place in places}
    back = to_image(on_grid, grid, SHAPE)
    assert back.shape == SHAPE
    if shape == (5, 6, 7):  # nothing was resampled
        inside = back > 0
        assert inside.sum() == 5 * 6 * 7
        assert (back[inside] == image[inside]).all()
    for voxel in np.argwhere(back > 0):
        places = [grid.from_image(voxel[None] + shift)[0].round().astype(int) for shift in (-1e-6, 1e-6)]
        places = [tuple(np.clip(place, 0, np.array(shape) - 1)) for place in places]
        assert back[tuple(voxel)] in {on_grid[place] for place in places}
