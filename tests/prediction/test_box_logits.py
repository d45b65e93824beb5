"""From a box of the preprocessed grid to the original image."""

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.ndimage import map_coordinates

from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.prediction.growth import BoxLogits

LABELS = LabelManager({"background": 0, "core": 1, "rim": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "core": 1}, [2, 1])
STRAIGHT = (False, False, False)
# image, transpose, crop start and shape (axes exchanged), grid, box, axes that run against the image
SCENES = [
    ((20, 22, 24), (0, 1, 2), (0, 0, 0), (20, 22, 24), (20, 22, 24), ((0, 0, 0), (20, 22, 24)), STRAIGHT),
    ((20, 22, 24), (2, 0, 1), (3, 2, 1), (18, 15, 20), (27, 40, 11), ((4, 10, 0), (12, 16, 8)), STRAIGHT),
    ((9, 40, 31), (0, 2, 1), (0, 1, 5), (9, 29, 33), (30, 16, 33), ((22, 0, 13), (8, 9, 20)), STRAIGHT),
    ((20, 22, 24), (2, 0, 1), (3, 2, 1), (18, 15, 20), (27, 40, 11), ((4, 10, 0), (12, 16, 8)), (True, False, True)),
]


def probabilities_of(found, grid, image_shape, labels) -> np.ndarray:
    probabilities = np.full((len(found.logits), *image_shape), np.nan, np.float32)
    found.write_probabilities(grid, labels, probabilities)
    return probabilities


def scene(number: int) -> tuple[tuple[int, ...], PreprocessedGrid, BoxLogits]:
    image_shape, transpose, crop_start, crop_shape, shape, (start, size), flipped = SCENES[number]
    grid = PreprocessedGrid(transpose, np.array(crop_start), np.array(crop_shape), np.array(shape), flipped)
    logits = torch.randn(3, *size, generator=torch.Generator().manual_seed(number))
    return image_shape, grid, BoxLogits(logits, start, shape, regions=False)


def looked_up(image_shape: tuple[int, ...], grid: PreprocessedGrid, found: BoxLogits) -> tuple[np.ndarray, np.ndarray]:
    """Logits of every voxel of the image by SciPy, where `PreprocessedGrid` says it is, and where there are any."""
    voxels = np.stack(np.indices(image_shape), -1).reshape(-1, 3)
    position = grid.from_image(voxels)
    low, high = np.array(found.start) - 0.5, np.array(found.start) + found.logits.shape[1:] - 0.5
    inside = ((position >= low) & (position < high)).all(1)
    cropped = voxels[:, grid.transpose] - grid.crop_start
    inside &= ((cropped >= 0) & (cropped < grid.crop_shape)).all(1)
    inside = inside.reshape(image_shape)
    in_box = (position - found.start).T
    values = [map_coordinates(x.numpy(), in_box, order=1, mode="nearest").reshape(image_shape) for x in found.logits]
    return np.stack(values), inside


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_probabilities_are_looked_up_voxel_by_voxel(number):
    image_shape, grid, found = scene(number)
    expected, inside = looked_up(image_shape, grid, found)
    assert 0 < inside.sum() and (inside.all() or number > 0)
    probabilities = probabilities_of(found, grid, image_shape, LABELS)
    assert probabilities.shape == (3, *image_shape) and probabilities.dtype == np.float32
    softmax = torch.from_numpy(expected).softmax(0).numpy()
    np.testing.assert_allclose(probabilities[:, inside], softmax[:, inside], atol=1e-4)
    assert (probabilities[0, ~inside] == 1).all() and (probabilities[1:, ~inside] == 0).all()


@pytest.mark.parametrize("number", range(len(SCENES)))
def test_segmentation_is_the_likeliest_class(number):
    image_shape, grid, found = scene(number)
    segmentation = found.segmentation(grid, image_shape, LABELS)
    assert segmentation.shape == image_shape and segmentation.dtype == np.uint8
    assert np.array_equal(segmentation, probabilities_of(found, grid, image_shape, LABELS).argmax(0))


def test_regions():
    image_shape, grid, found = scene(1)
    found = BoxLogits(found.logits[:2], found.start, found.shape, regions=True)
    probabilities = probabilities_of(found, grid, image_shape, REGIONS)
    segmentation = found.segmentation(grid, image_shape, REGIONS)
    whole, core = probabilities > 0.5
    assert np.array_equal(segmentation, np.where(core, 1, np.where(whole, 2, 0)))
    _, inside = looked_up(image_shape, grid, found)
    assert (probabilities[:, ~inside] == 0).all()


def test_many_labels_need_wider_voxels():
    labels = LabelManager({"background": 0} | {str(k): k for k in range(1, 301)}, None)
    logits = torch.zeros(301, 2, 2, 2)
    logits[300] = 1
    grid = PreprocessedGrid((0, 1, 2), np.zeros(3, int), np.full(3, 2), np.full(3, 2))
    found = BoxLogits(logits, (0, 0, 0), (2, 2, 2), regions=False)
    assert (found.segmentation(grid, (2, 2, 2), labels) == 300).all()


def test_nothing_was_looked_at():
    image_shape, grid, found = scene(1)
    empty = BoxLogits(torch.zeros(3, 0, 0, 0), (0, 0, 0), found.shape, regions=False)
    assert not empty.segmentation(grid, image_shape, LABELS).any()
    assert (empty.on_grid().argmax(0) == 0).all()
