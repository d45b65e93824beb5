import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import center_of_mass
from scipy.spatial.transform import Rotation

from sam3d_nnunet.prompts.geometry import ImageGeometry, PreprocessedGrid

SPACINGS = st.tuples(*[st.floats(0.3, 7)] * 3)
ORIGINS = st.tuples(*[st.floats(-400, 400)] * 3)
POINTS = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(3)), elements=st.floats(-50, 600))
TRANSPOSES = st.permutations([0, 1, 2])
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]


@st.composite
def directions(draw: st.DrawFn) -> np.ndarray:
    """Any rotation, also with flipped and exchanged axes."""
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    flips = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    return (rotation @ flips)[:, draw(TRANSPOSES)]


def itk_image(array: np.ndarray, direction: np.ndarray, spacing: tuple, origin: tuple) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def itk_properties(image: sitk.Image) -> dict:
    return {
        "sitk_stuff": {
            "direction": image.GetDirection(),
            "spacing": image.GetSpacing(),
            "origin": image.GetOrigin(),
        }
    }


@given(directions(), SPACINGS, ORIGINS, POINTS)
def test_world_as_itk_has_it_and_back(direction, spacing, origin, voxels):
    image = itk_image(np.zeros((2, 2, 2), np.uint8), direction, spacing, origin)
    geometry = ImageGeometry.from_properties(itk_properties(image))
    world = geometry.to_world(voxels)
    expected = [image.TransformContinuousIndexToPhysicalPoint(v[::-1].tolist()) for v in voxels]
    np.testing.assert_allclose(world, np.reshape(expected, (-1, 3)), atol=1e-6)
    np.testing.assert_allclose(geometry.to_voxels(world), voxels, atol=1e-6)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "angles, flips, exchange",
    [
        ((0, 0, 0), (1, 1, 1), (0, 1, 2)),
        ((0, 0, 0), (-1, -1, 1), (0, 1, 2)),
        ((0, 0, 0), (1, -1, 1), (2, 0, 1)),
        ((10, -25, 7), (1, 1, 1), (0, 1, 2)),
        ((10, -25, 7), (-1, 1, -1), (1, 2, 0)),
        ((40, 30, -40), (1, 1, -1), (0, 2, 1)),
    ],
)
def test_files_as_nnunet_reads_them(tmp_path, reader, angles, flips, exchange):
    """Marked voxels are found in the reader's array and must be where ITK says they are."""
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(flips)
    marks = np.array([(1, 2, 3), (7, 2, 3), (1, 9, 3), (1, 2, 5), (8, 4, 4)])  # not in one plane: all of the affine
    array = np.zeros((9, 11, 6), np.float32)
    array[tuple(marks.T)] = 1 + np.arange(len(marks))
    image = itk_image(array, direction[:, exchange], (0.7, 1.1, 3.0), (-120.0, 33.3, 250.5))
    file = str(tmp_path / "oblique.nii.gz")
    sitk.WriteImage(image, file)
    image = sitk.ReadImage(file)

    read, properties = reader().read_images([file])
    found = np.array([np.argwhere(read[0] == 1 + i)[0] for i in range(len(marks))])
    geometry = ImageGeometry.from_properties(properties)
    expected = [image.TransformIndexToPhysicalPoint(m[::-1].tolist()) for m in marks]
    # NIfTI headers hold float32
    np.testing.assert_allclose(geometry.to_world(found.astype(float)), expected, atol=2e-4)
    np.testing.assert_allclose(geometry.to_voxels(np.array(expected)), found, atol=1e-3)


def test_no_position_in_the_world(tmp_path):
    """Formats such as PNG: the array's own axes and spacing."""
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "flat.png"))
    _, properties = NaturalImage2DIO().read_images([str(tmp_path / "flat.png")])
    geometry = ImageGeometry.from_properties(properties)
    assert geometry.to_world(np.array([[0.0, 3.0, 2.0]])).tolist() == [[2, 3, 0]]
    geometry = ImageGeometry.from_properties({"spacing": [3.0, 2.0, 1.0]})
    assert geometry.to_world(np.array([[1.0, 1.0, 1.0]])).tolist() == [[1, 2, 3]]


@st.composite
def grids(draw: st.DrawFn) -> PreprocessedGrid:
    sizes, starts = st.tuples(*[st.integers(1, 500)] * 3), st.tuples(*[st.integers(0, 200)] * 3)
    return PreprocessedGrid(
        tuple(draw(TRANSPOSES)), np.array(draw(starts)), np.array(draw(sizes)), np.array(draw(sizes))
    )


@given(grids(), POINTS)
def test_grid_and_back(grid, voxels):
    np.testing.assert_allclose(grid.to_image(grid.from_image(voxels)), voxels, atol=1e-6)
    np.testing.assert_allclose(grid.from_image(grid.to_image(voxels)), voxels, atol=1e-6)


@given(grids())
def test_faces_of_the_crop_are_faces_of_the_grid(grid):
    faces = np.array([grid.crop_start - 0.5, grid.crop_start + grid.crop_shape - 0.5])[:, np.argsort(grid.transpose)]
    np.testing.assert_allclose(grid.from_image(faces), [[-0.5] * 3, grid.shape - 0.5], atol=1e-9)


def preprocess(image: np.ndarray, spacing: list[float], target: list[float], transpose: list[int]) -> tuple:
    """nnU-Net's preprocessing, with target spacings along the transposed axes: array and its properties."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "spacing": target,
        "normalization_schemes": ["NoNormalization"] * len(image),
        "use_mask_for_norm": [False] * len(image),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
    }
    plans = {
        "transpose_forward": transpose,
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(len(image))},
    }
    manager = PlansManager(plans)
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, {"spacing": spacing}, manager, manager.get_configuration("3d_fullres"), {}
    )
    return data, properties


GEOMETRIES = pytest.mark.parametrize(
    "spacing, target, transpose, separate_axis",
    [
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0, 1, 2], None),
        ([2.3, 0.8, 0.9], [1.0, 1.0, 1.0], [0, 1, 2], None),
        ([0.7, 0.7, 1.9], [1.3, 1.0, 0.9], [2, 0, 1], None),
        ([0.37, 1.1, 0.9], [1.0, 0.77, 1.0], [1, 2, 0], None),
        # more than threefold anisotropy: nnU-Net takes the nearest slice along that axis
        ([5.0, 0.8, 0.8], [1.0, 1.0, 1.0], [0, 1, 2], 0),
        ([0.8, 0.8, 5.0], [2.0, 1.0, 1.0], [2, 0, 1], 2),
    ],
)


@GEOMETRIES
def test_grid_against_nnunets_preprocessing(spacing, target, transpose, separate_axis):
    """Each voxel's value is its own index (cubic resampling keeps ramps), so the array says where it was sampled."""
    image = np.zeros((3, 40, 44, 36), np.float32)
    low, high = np.array([3, 0, 5]), np.array([36, 41, 36])
    inside = (slice(None), *(slice(a, b) for a, b in zip(low, high)))
    image[inside] = np.stack(np.indices(image.shape[1:]) + 1)[inside]  # + 1: zeros would be cropped

    data, properties = preprocess(image, spacing, target, transpose)
    grid = PreprocessedGrid.from_properties(properties, transpose, data.shape[1:])
    voxels = np.argwhere(np.ones(data.shape[1:]))
    sampled = data[(slice(None), *voxels.T)].T - 1
    mapped = grid.to_image(voxels)
    away_from_faces = ((mapped > low + 4) & (mapped < high - 5)).all(axis=1)
    assert away_from_faces.sum() > 100
    error = np.abs(sampled - mapped)[away_from_faces]
    for axis in range(3):
        # the nearest slice is at most half a slice away
        assert error[:, axis].max() < (0.51 if axis == separate_axis else 1e-3)


@GEOMETRIES
@pytest.mark.parametrize("centre", [(14.0, 21.0, 19.0), (22.3, 15.6, 24.9)])
def test_blob_is_where_the_click_on_it_is(spacing, target, transpose, separate_axis, centre):
    shape = np.array([40, 44, 36])
    distance = (np.stack(np.indices(shape), axis=-1) - centre) * spacing / np.max(spacing)
    image = np.exp(-((distance / 1.2) ** 2).sum(axis=-1))
    image[:3] = 0  # a crop to non-zero shifts the grid
    image[3:] += 1e-6
    data, properties = preprocess(image[None], spacing, target, transpose)
    grid = PreprocessedGrid.from_properties(properties, transpose, data.shape[1:])
    found = np.array(center_of_mass(np.where(data[0] > 1e-3, data[0], 0)))
    # where whole slices are repeated, the blob's centre is as exact as the sum over slices makes it
    tolerance = 0.1 if separate_axis is None else 0.25
    assert np.abs(found - grid.from_image(np.array([centre]))[0]).max() < tolerance
