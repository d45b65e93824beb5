import os
from itertools import permutations
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import center_of_mass
from scipy.spatial.transform import Rotation

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry, read_header

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


# voxels of the file, (i, j, k), each with a value of its own
NUMBERED = np.arange(1, 9 * 11 * 6 + 1, dtype=np.float32).reshape(9, 11, 6)
INDICES = np.argwhere(NUMBERED)


def itk_file(angles: tuple, flips: tuple, exchange: tuple) -> sitk.Image:
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(flips)
    return itk_image(NUMBERED.T, direction[:, exchange], (0.7, 1.1, 3.0), (-120.0, 33.3, 250.5))


def nifti(sform: np.ndarray | None, qform: np.ndarray | None, codes: tuple[int, int]) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(NUMBERED, None)
    image.header.set_zooms((2, 1, 3))
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    return image


def ras(x: tuple, y: tuple, z: tuple) -> np.ndarray:
    return np.array([x, y, z, (0, 0, 0, 1)], float)


QFORM = ras((-2, 0, 0, 50), (0, 1, 0, -60), (0, 0, 3, 70))
MOVED = ras((-2, 0, 0, 55), (0, 1, 0, -20), (0, 0, 3, 10))
PERMUTED = ras((0, 1, 0, 9), (0, 0, -3, 4), (2, 0, 0, -8))
SHEARED = ras((-2, 0.5, 0, 50), (0, 1, 0, -60), (0, 0.2, 3, 70))
FILES = {
    "straight": itk_file((0, 0, 0), (1, 1, 1), (0, 1, 2)),
    "flipped": itk_file((0, 0, 0), (-1, 1, -1), (0, 1, 2)),
    "permuted": itk_file((0, 0, 0), (1, -1, 1), (2, 0, 1)),
    "oblique": itk_file((10, -25, 7), (1, 1, 1), (0, 1, 2)),
    "oblique, flipped, permuted": itk_file((40, 30, -40), (-1, 1, 1), (1, 2, 0)),
    "sform moved": nifti(MOVED, QFORM, (2, 1)),
    "sform turned": nifti(PERMUTED, QFORM, (2, 1)),
    "sform of other scale": nifti(MOVED @ np.diag([0.5, 4, 2, 1]), QFORM, (1, 1)),
    "sform sheared": nifti(SHEARED, QFORM, (1, 1)),
    "only qform": nifti(None, QFORM, (0, 1)),
    "only sform": nifti(PERMUTED, None, (1, 0)),
    "neither": nifti(None, None, (0, 0)),
}


def write_image(folder: Path, name: str) -> str:
    file = str(folder / "image.nii.gz")
    image = FILES[name]
    sitk.WriteImage(image, file) if isinstance(image, sitk.Image) else nibabel.save(image, file)
    return file


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FILES)
def test_index_of_the_file_world_and_array_name_the_same_voxel(tmp_path, reader, name):
    """Each voxel of each file, through each reader; world is ITK's, also where nibabel reads another one."""
    file = write_image(tmp_path, name)
    image = sitk.ReadImage(file)
    assert (sitk.GetArrayFromImage(image).T == NUMBERED).all()

    array, properties = reader().read_images([file])
    geometry = ImageGeometry.from_file(file, properties)
    world = geometry.from_file_index(INDICES)
    expected = [image.TransformIndexToPhysicalPoint(i) for i in INDICES.tolist()]
    np.testing.assert_allclose(world, expected, atol=1e-4)
    np.testing.assert_allclose(geometry.to_file_index(world), INDICES, atol=1e-6)
    voxels = geometry.to_voxels(world)
    np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-4)
    assert (array[(0, *np.rint(voxels).astype(int).T)] == NUMBERED[tuple(INDICES.T)]).all()
    np.testing.assert_allclose(geometry.to_world(voxels), world, atol=1e-6)

    alone = ImageGeometry.from_file(Path(file))
    np.testing.assert_allclose(alone.from_file_index(INDICES), expected, atol=1e-4)
    np.testing.assert_allclose(alone.to_world(INDICES[:, ::-1]), expected, atol=1e-4)


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_itk_refuses_the_file(tmp_path, reader):
    """No qform, and axes of the sform that aren't at right angles: ITK has no world, so nibabel's holds."""
    file = str(tmp_path / "sheared.nii.gz")
    nibabel.save(nifti(SHEARED, None, (1, 0)), file)
    array, properties = reader().read_images([file])
    geometry = ImageGeometry.from_file(file, properties)
    world = geometry.from_file_index(INDICES)
    expected = np.c_[INDICES, np.ones(len(INDICES))] @ SHEARED.T
    np.testing.assert_allclose(world, expected[:, :3] * (-1, -1, 1), atol=1e-4)
    voxels = np.rint(geometry.to_voxels(world)).astype(int)
    assert (array[(0, *voxels.T)] == NUMBERED[tuple(INDICES.T)]).all()

    with pytest.raises(SAM3DError, match=r"sheared\.nii\.gz.*orthonormal"):
        ImageGeometry.from_file(file)


@pytest.mark.parametrize("reader", READERS)
def test_properties_alone_know_the_order_of_the_file(tmp_path, reader):
    """As for cases whose images aren't at hand; all but one reader say how they turned the image."""
    file = write_image(tmp_path, "oblique, flipped, permuted")
    _, properties = reader().read_images([file])
    geometry = ImageGeometry.from_properties(properties)
    if reader is SimpleITKIOWithReorient:
        for convert in (geometry.from_file_index, geometry.to_file_index):
            with pytest.raises(SAM3DError, match="image file"):
                convert(INDICES)
    else:
        expected = ImageGeometry.from_file(file).from_file_index(INDICES)
        np.testing.assert_allclose(geometry.from_file_index(INDICES), expected, atol=2e-4)


def test_image_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.nii.gz").write_text("text")
    with pytest.raises(SAM3DError, match=r"text\.nii\.gz"):
        ImageGeometry.from_file(tmp_path / "text.nii.gz")
    for properties in (None, {"nibabel_stuff": {"original_affine": np.eye(4)}}):
        with pytest.raises(SAM3DError, match=r"no .*missing\.nii\.gz"):
            ImageGeometry.from_file(tmp_path / "missing.nii.gz", properties)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan)])
def test_headers_that_give_no_place(affine):
    with pytest.raises(SAM3DError, match="header"):
        ImageGeometry.from_properties({"nibabel_stuff": {"original_affine": affine}})


def test_images_of_two_and_four_axes(tmp_path):
    """SimpleITKIO reads both: a slice with one more axis, and channels in one file."""
    flat = sitk.GetImageFromArray(np.zeros((4, 5), np.uint8))
    flat.SetSpacing((0.5, 2)), flat.SetOrigin((10, 20)), flat.SetDirection((0, -1, 1, 0))
    sitk.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    channels = sitk.JoinSeries([FILES["oblique"]] * 2)
    sitk.WriteImage(channels, str(tmp_path / "channels.nrrd"))

    array, properties = SimpleITKIO().read_images([str(tmp_path / "flat.nrrd")])
    assert array.shape == (1, 1, 4, 5)
    for geometry in (ImageGeometry.from_properties(properties), ImageGeometry.from_file(tmp_path / "flat.nrrd")):
        expected = flat.TransformIndexToPhysicalPoint((4, 3))
        np.testing.assert_allclose(geometry.to_world(np.array([[0, 3, 4]])), [[*expected, 0]])
    array, properties = SimpleITKIO().read_images([str(tmp_path / "channels.nrrd")])
    assert array.shape == (2, *NUMBERED.T.shape)
    geometry = ImageGeometry.from_file(tmp_path / "channels.nrrd", properties)
    expected = FILES["oblique"].TransformIndexToPhysicalPoint((8, 3, 4))
    np.testing.assert_allclose(geometry.to_world(np.array([[4, 3, 8]])), [expected])
    np.testing.assert_allclose(geometry.from_file_index(np.array([[8, 3, 4]])), [expected])


def test_no_position_in_the_world(tmp_path):
    """Formats such as PNG: the array's own axes and spacing."""
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "flat.png"))
    _, properties = NaturalImage2DIO().read_images([str(tmp_path / "flat.png")])
    for geometry in (
        ImageGeometry.from_properties(properties),
        ImageGeometry.from_file(tmp_path / "flat.png", properties),
        ImageGeometry.from_file(tmp_path / "flat.png"),
    ):
        assert geometry.to_world(np.array([[0.0, 3.0, 2.0]])).tolist() == [[2, 3, 0]]
        assert geometry.from_file_index(np.array([[2.0, 3.0, 0.0]])).tolist() == [[2, 3, 0]]
    geometry = ImageGeometry.from_properties({"spacing": [3.0, 2.0, 1.0]})
    assert geometry.to_world(np.array([[1.0, 1.0, 1.0]])).tolist() == [[1, 2, 3]]


def test_tiff_stacks(tmp_path):
    """Their spacing is in a file beside them, which ITK doesn't know."""
    tifffile.imwrite(tmp_path / "case_0000.tif", NUMBERED.T.astype(np.uint16), resolution=(0.2, 0.2))
    (tmp_path / "case.json").write_text('{"spacing": [3.0, 2.0, 0.5]}')
    file = str(tmp_path / "case_0000.tif")
    array, properties = Tiff3DIO().read_images([file])
    geometry = ImageGeometry.from_file(file, properties)
    world = geometry.from_file_index(INDICES)
    np.testing.assert_allclose(world, INDICES * (0.5, 2, 3))
    assert (array[(0, *geometry.to_voxels(world).astype(int).T)] == NUMBERED[tuple(INDICES.T)]).all()


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


@given(grids(), POINTS)
def test_clipped_to_the_crop(grid, voxels):
    clipped = grid.clip(voxels)
    on_grid = grid.from_image(clipped)
    assert (on_grid >= -0.5 - 1e-9).all() and (on_grid <= grid.shape - 0.5 + 1e-9).all()
    low = grid.crop_start[np.argsort(grid.transpose)]
    high = low + grid.crop_shape[np.argsort(grid.transpose)] - 1
    np.testing.assert_allclose(clipped, np.clip(voxels, low, high))


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


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("tilt", [0, 30])
def test_axial_order_of_turned_images(axes, sign, tilt):
    """`axes`: which of (d, h, w) of an upright image, tilted by some degrees, each axis is."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", tilt, degrees=True).as_matrix()
    upright = turn @ ImageGeometry.from_properties({"spacing": [1.0, 5.0, 5.0]}).affine
    turned = upright[:, [*axes, 3]] * [sign, sign, sign, 1]
    order = ImageGeometry(turned).axial_order
    assert [axes[axis] for axis in order] == [0, 1, 2]


def test_path_that_is_no_unicode(tmp_path):
    """ITK ends the whole process on such a path, with every read."""
    file = tmp_path / os.fsdecode(b"k\xfchn.nii.gz")
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(tmp_path / "a.nii.gz"))
    (tmp_path / "a.nii.gz").rename(file)
    for read in (read_header, lambda f: read_image([f], SimpleITKIO()), lambda f: read_label_map(f, SimpleITKIO())):
        with pytest.raises(SAM3DError, match="udcfchn.nii.gz' is no Unicode"):
            read(file)
