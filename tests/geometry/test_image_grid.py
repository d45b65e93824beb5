"""What lies on an image, and what is not one volume."""

import json
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from scipy.spatial.transform import Rotation

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.image_grid import difference, read_grid
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry

VALUES = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]
CODES = ["".join(code) for axes in permutations(("LR", "PA", "IS")) for code in product(*axes)]


def write(file, axes="LPS", origin=(5, -3, 2), spacing=(0.7, 1.3, 2.0), rotation=(0.1, 0.2, -0.1)):
    image = sitk.GetImageFromArray(VALUES)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(Rotation.from_rotvec(rotation).as_matrix().ravel())
    image = sitk.DICOMOrient(image, axes)
    sitk.WriteImage(image, str(file))
    return sitk.GetArrayFromImage(image)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("axes", CODES[::5])
def test_axes_of_the_file_whatever_the_reader_does(tmp_path, reader, axes):
    """Also from the properties alone, for images that were deleted after preprocessing."""
    file = tmp_path / "a.nii.gz"
    in_file = write(file, axes)
    image, properties = reader().read_images([str(file)])
    geometries = ImageGeometry.from_file(file, properties), ImageGeometry.from_properties(properties, image.shape[1:])
    for geometry, rounding in zip(geometries, (0, 1e-4)):
        found, place = geometry.in_file_order(image[0])
        assert (found == in_file).all()
        assert np.abs(place.affine - ImageGeometry.from_file(file).affine).max() <= rounding


def test_axes_that_are_not_known_stay(tmp_path):
    write(tmp_path / "a.nii.gz", "PIL")
    image, properties = SimpleITKIOWithReorient().read_images([str(tmp_path / "a.nii.gz")])
    geometry = ImageGeometry.from_properties(properties)
    found, place = geometry.in_file_order(image[0])
    assert (found == image[0]).all() and place is geometry


@pytest.mark.parametrize("reader", READERS)
def test_a_grid_is_read_as_the_reader_has_the_image(tmp_path, reader):
    file = tmp_path / "a.nii.gz"
    write(file, "PIL")
    image, properties = reader().read_images([str(file)])
    grid = read_grid(file, reader(), properties)
    assert grid.shape == image.shape[1:] and grid.spacing == pytest.approx(properties["spacing"])
    assert (grid.geometry.affine == ImageGeometry.from_file(file, properties).affine).all()
    assert grid.difference(properties) is None


def test_spacing_beside_the_image(tmp_path):
    for name in ("a_0000.tif", "a.tif", "b.tif", "c.tif"):
        tifffile.imwrite(tmp_path / name, VALUES, photometric="minisblack")
    for name, spacing in (("a", [2.0, 1.0, 1.0]), ("c", [2.5, 1.0, 1.0])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"spacing": spacing}))
    a, b, c = (read_label_map(tmp_path / f"{name}.tif", Tiff3DIO()) for name in "abc")
    grid = read_grid(tmp_path / "a_0000.tif", Tiff3DIO(), b.properties)
    assert grid.spacing == [2, 1, 1]
    assert a.place_note(grid) is b.place_note(grid) is None
    assert "its spacing is (1, 1, 2.5) instead of (1, 1, 2)" in c.place_note(grid)


# --- how far apart is elsewhere ---


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"origin": (5, -3, 2.19)}, None),
        ({"origin": (5.002, -3, 2)}, None),
        ({"origin": (13, 5, 8)}, r"its origin is \(13, 5, 8\) instead of \(5, -3, 2\), and a corner is 11.\d* voxels"),
        ({"spacing": (0.7, 1.3, 2.05)}, None),
        ({"spacing": (0.7, 1.3, 2.2)}, r"its spacing is \(0.7, 1.3, 2.2\) instead of \(0.7, 1.3, 2\), .* 0.3 voxels"),
        ({"rotation": (0, 0, 0.1)}, r"its direction is \(0.995, -0.09983, "),
    ],
)
def test_tolerance_is_a_share_of_a_voxel(tmp_path, changed, said):
    """Predictions 2 micrometres away were refused, with two equal triples."""
    plain = {"origin": (5, -3, 2), "rotation": (0, 0, 0)}
    write(tmp_path / "image.nii.gz", **plain)
    write(tmp_path / "label.nii.gz", **plain | changed)
    label_map = read_label_map(tmp_path / "label.nii.gz", SimpleITKIO())
    grid = read_grid(tmp_path / "image.nii.gz", SimpleITKIO(), label_map.properties)
    if said is None:
        label_map.check_on(grid)
    else:
        with pytest.raises(SAM3DError, match=f"label.nii.gz lies elsewhere than its image .*image.nii.gz: {said}"):
            label_map.check_on(grid)


def test_digits_that_differ():
    wanted = ImageGeometry.from_properties({"spacing": [0.002, 0.002, 0.002]})
    moved = wanted.affine.copy()
    moved[:3, 3] = [1000, -20, 30]
    far = ImageGeometry(moved.copy())
    moved[0, 3] += 0.002
    said = difference(ImageGeometry(moved), far, (4, 5, 6))
    assert said == "its origin is (1000.002, -20, 30) instead of (1000, -20, 30), and a corner is 1 voxels away"


def test_qform_and_sform_that_differ(tmp_path):
    """What nibabel's reader writes beside such an image is at the same place by its own reading."""
    affine, other = np.diag([1.0, 2, 3, 1]), np.diag([1.0, 2, 3, 1])
    other[:3, 3] = 40
    image = nibabel.Nifti1Image(VALUES, affine)
    image.set_qform(other, 1)
    image.set_sform(affine, 2)
    nibabel.save(image, tmp_path / "image.nii.gz")
    array, properties = NibabelIO().read_images([str(tmp_path / "image.nii.gz")])
    NibabelIO().write_seg(array[0], str(tmp_path / "written.nii.gz"), properties)
    written = read_label_map(tmp_path / "written.nii.gz", NibabelIO())
    written.check_on(read_grid(tmp_path / "image.nii.gz", NibabelIO(), written.properties))


# --- not one volume ---

TWO_TIMES = np.stack([VALUES, VALUES])
RGB = np.zeros(VALUES.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])


def itk(image):
    return lambda file: sitk.WriteImage(image, str(file))


def nifti(array):
    return lambda file: nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)


OTHERS = {
    "two time points": (itk(sitk.JoinSeries([sitk.GetImageFromArray(VALUES)] * 2)), "has 2 time points"),
    "colours": (itk(sitk.GetImageFromArray(np.stack([VALUES] * 3, -1), isVector=True)), "has 3 components per voxel"),
    "NIfTI's RGB": (nifti(RGB), "has 3 components per voxel"),
    "complex": (nifti(VALUES.astype(np.complex64)), "has complex numbers"),
    "flat": (itk(sitk.GetImageFromArray(VALUES[0])), "has 2 axes"),
    "five axes": (nifti(np.stack([VALUES] * 2, -1)[..., None, :]), "has 5 axes"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_one_volume_is_called_by_its_name(tmp_path, reader, what):
    """ITK's readers took most of these for images: two time points for two channels, and colours for an axis."""
    write_it, said = OTHERS[what]
    write_it(tmp_path / "a.nii.gz")
    with pytest.raises(SAM3DError, match=rf"^The image .*a.nii.gz {said}"):
        read_image([tmp_path / "a.nii.gz"], reader())
    with pytest.raises(SAM3DError, match=rf"^The label map .*a.nii.gz {said}"):
        read_label_map(tmp_path / "a.nii.gz", reader())


def test_a_fourth_axis_of_one_volume(tmp_path):
    """nnU-Net trains with such a label map where its reader takes it, but can't write a prediction like its image."""
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(VALUES)]), str(tmp_path / "a.mha"))
    assert (read_label_map(tmp_path / "a.mha", SimpleITKIO()).array == VALUES).all()
    with pytest.raises(SAM3DError, match="The image .*a.mha has 4 axes"):
        read_image([tmp_path / "a.mha"], SimpleITKIO())
    nifti(VALUES[..., None])(tmp_path / "a.nii.gz")
    assert read_image([tmp_path / "a.nii.gz"], SimpleITKIO())[0].shape == (1, 6, 5, 4)
    with pytest.raises(SAM3DError, match="The label map .*a.nii.gz has 4 axes"):
        read_label_map(tmp_path / "a.nii.gz", NibabelIO())


def test_colours_in_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", np.stack([VALUES] * 3, -1), photometric="rgb")
    with pytest.raises(SAM3DError, match="a_0000.tif has 3 components per voxel"):
        read_image([tmp_path / "a_0000.tif"], Tiff3DIO())
