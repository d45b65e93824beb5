"""Turning arrays, against ITK; and grids of turned images, against those of images that lie so already."""

from itertools import permutations, product

import numpy as np
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid, to_image
from sam3d_nnunet.geometry.turn import NO_TURN, ORIENTATIONS, Turn
from sam3d_nnunet.geometry.world import ImageGeometry

CODES = st.sampled_from(sorted(ORIENTATIONS))
SHAPE = (5, 6, 7)


def image_in(code: str) -> sitk.Image:
    """A random image of SHAPE in the orientation LPS, with its voxels in another order."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).random(SHAPE))
    image.SetSpacing((0.5, 1, 2))
    return sitk.DICOMOrient(image, code)


def geometry_of(image: sitk.Image) -> ImageGeometry:
    itk = {"direction": image.GetDirection(), "spacing": image.GetSpacing(), "origin": image.GetOrigin()}
    return ImageGeometry.from_properties({"sitk_stuff": itk})


@given(CODES, CODES)
def test_turned_arrays_are_those_of_itk(code, wanted):
    image, expected = image_in(code), image_in(wanted)
    assert geometry_of(image).orientation == code
    turn = Turn.between(code, wanted)
    array = sitk.GetArrayFromImage(image)
    assert (turn.array(array) == sitk.GetArrayFromImage(expected)).all()
    channels = np.stack([array, -array])
    assert (turn.array(channels)[1] == -turn.array(array)).all()
    assert turn.along(image.GetSpacing()[::-1]) == list(expected.GetSpacing()[::-1])
    assert (Turn.between(wanted, code).array(turn.array(array)) == array).all()
    assert (turn == NO_TURN) == (code == wanted)


@given(CODES, CODES)
def test_voxels_are_found_again(code, wanted):
    turn, array = Turn.between(code, wanted), np.arange(np.prod(SHAPE)).reshape(SHAPE)
    turned = turn.array(array)
    voxels = np.argwhere(turned >= 0)
    back = turn.voxels_back(voxels, SHAPE)
    assert (array[tuple(back.T)] == turned[tuple(voxels.T)]).all()


@given(CODES, st.tuples(*[st.floats(-0.4, 0.4)] * 3))
def test_oblique_images_have_the_nearest_orientation(code, angles):
    image = image_in(code)
    axes = euler2mat(*angles) @ np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(axes.ravel())
    itk = sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(image.GetDirection())
    assert geometry_of(image).orientation == itk


def test_there_are_48_orientations():
    assert len(ORIENTATIONS) == 48
    assert {"LPS", "RAS", "SLA"} < ORIENTATIONS
    assert not {"LRS", "lps", "LP", "LPSR"} & ORIENTATIONS


# --- grids ---

TURNS = [Turn(axes, flips) for axes in permutations(range(3)) for flips in product([False, True], repeat=3)]


@st.composite
def turned_grids(draw: st.DrawFn) -> tuple[Turn, PreprocessedGrid, PreprocessedGrid, tuple[int, ...]]:
    """A turn, a grid of an image that was turned, the same grid of the turned image, the shape of the image."""
    turn, transpose = draw(st.sampled_from(TURNS)), draw(st.permutations([0, 1, 2]))
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    before = [turn.along(shape)[axis] for axis in transpose]
    start = [draw(st.integers(0, n - 1)) for n in before]
    stop = [draw(st.integers(s + 1, n)) for s, n in zip(start, before)]
    properties = {
        "shape_before_cropping": before,
        "bbox_used_for_cropping": [list(ends) for ends in zip(start, stop)],
        "shape_after_cropping_and_before_resampling": [b - a for a, b in zip(start, stop)],
    }
    on_grid = draw(st.tuples(*[st.integers(1, 14)] * 3))
    plain = PreprocessedGrid.from_properties(properties, transpose, on_grid)
    return turn, PreprocessedGrid.from_properties(properties, transpose, on_grid, turn), plain, shape


@given(turned_grids())
def test_a_grid_leads_back_to_the_image_as_it_lies(case):
    turn, grid, plain, shape = case
    labels = np.random.default_rng(0).integers(1, 1000, shape)
    assert (turn.array(labels)[plain.crop.slices] == turn.array(labels[grid.crop.slices])).all()
    assert (to_grid(labels, grid) == to_grid(turn.array(labels), plain)).all()
    on_grid = to_grid(labels, grid)
    image = to_image(on_grid, grid, shape)
    assert (turn.array(image) == to_image(on_grid, plain, turn.array(labels).shape)).all()


@given(turned_grids(), st.data())
def test_points_and_boxes_lead_back_to_the_image_as_it_lies(case, data):
    turn, grid, plain, shape = case
    turned = np.argwhere(np.ones(turn.along(shape), bool))
    voxels = turn.voxels_back(turned, shape)
    assert (grid.from_image(voxels) == plain.from_image(turned)).all()
    points = np.array([[data.draw(st.floats(-1, n)) for n in grid.shape] for _ in range(3)])
    expected = turn.voxels_back(plain.to_image(points), shape)
    np.testing.assert_allclose(grid.to_image(points), expected, atol=1e-9)
    start = [data.draw(st.integers(0, n - 1)) for n in grid.shape.tolist()]
    box = Box(start, [data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape.tolist())])
    inside = np.zeros(shape, bool)
    inside[grid.box_in_image(box).slices] = True
    expected = np.zeros(turn.along(shape), bool)
    expected[plain.box_in_image(box).slices] = True
    assert (turn.array(inside) == expected).all()
