import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry

LABELS = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("axes", ["SAR", "LPS", "RAS", "PIL"])
def test_as_the_file_lies_whatever_the_reader_does(tmp_path, reader, axes):
    image = sitk.DICOMOrient(sitk.GetImageFromArray(LABELS), axes)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    label_map = read_label_map(tmp_path / "a.nii.gz", reader())
    assert (label_map.array == reader().read_seg(str(tmp_path / "a.nii.gz"))[0][0]).all()
    found, geometry = label_map.in_file_order()
    assert (found == sitk.GetArrayFromImage(image)).all()
    assert (geometry.affine == ImageGeometry.from_file(tmp_path / "a.nii.gz").affine).all()


def test_formats_without_a_place_in_the_world_are_as_their_reader_has_them(tmp_path):
    """ITK reads 3-D TIFF, too, but knows nothing of the spacing that nnU-Net is told beside it."""
    tifffile.imwrite(tmp_path / "a.tif", LABELS, photometric="minisblack", resolution=(2.0, 2.0))
    assert sitk.ReadImage(str(tmp_path / "a.tif")).GetDimension() == 3
    label_map = read_label_map(tmp_path / "a.tif", Tiff3DIO())
    assert label_map.in_file_order() is None and (label_map.array == LABELS).all()


def test_flat_images_and_channels_have_no_three_axes(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(LABELS[0]), str(tmp_path / "flat.nrrd"))
    label_map = read_label_map(tmp_path / "flat.nrrd", SimpleITKIO())
    assert label_map.in_file_order() is None and (label_map.array == LABELS[:1]).all()
    colours = sitk.GetImageFromArray(np.stack([LABELS] * 3, -1), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "colours.nrrd"))
    assert read_label_map(tmp_path / "colours.nrrd", SimpleITKIO()).in_file_order() is None


@pytest.mark.parametrize("reader", READERS)
def test_unreadable_label_maps(tmp_path, reader):
    with pytest.raises(SAM3DError, match="no .*a.nii.gz"):
        read_label_map(tmp_path / "a.nii.gz", reader())
    (tmp_path / "a.nii.gz").write_text("nothing")
    with pytest.raises(SAM3DError, match="a.nii.gz"):
        read_label_map(tmp_path / "a.nii.gz", reader())


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_damaged_files_that_itk_takes_for_zeros(tmp_path, reader):
    file = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(file))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SAM3DError, match="a.nii"):
        read_label_map(file, reader())


def test_what_an_image_and_its_model_ask_of_a_label_map(tmp_path):
    image = sitk.GetImageFromArray(LABELS)
    image.SetSpacing((0.5, 1, 2))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    label_map = read_label_map(tmp_path / "a.nii.gz", SimpleITKIO())
    geometry = label_map.in_file_order()[1]
    label_map.check_shape((4, 5, 6))
    label_map.check_place(geometry)
    label_map.check_labels({0, 1, 2})
    assert label_map.astype(np.int16).array.dtype == np.int16
    with pytest.raises(SAM3DError, match=r"a.nii.gz .*\(4, 5, 6\).*the truth .*\(4, 5, 7\)"):
        label_map.check_shape((4, 5, 7), "the truth b.nii.gz")
    with pytest.raises(SAM3DError, match="a.nii.gz .* 1,.* 0, 2"):
        label_map.check_labels([2, 0])
    for voxels, axis in ((0.11, 2), (0.11, 0), (-0.2, 1)):
        moved = geometry.affine.copy()
        moved[:3, 3] += voxels * moved[:3, axis]
        with pytest.raises(SAM3DError, match=rf"a.nii.gz .*{abs(voxels)} voxels"):
            label_map.check_place(ImageGeometry(moved))
    moved = geometry.affine.copy()
    moved[:3, 3] += 0.09 * moved[:3, :3].sum(1)  # along all axes at once
    label_map.check_place(ImageGeometry(moved))
