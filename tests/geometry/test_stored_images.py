"""Images that keep the type of their file have the values and properties of nnU-Net's reader."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.images import read_stored_image

TYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]


def write(file, dtype) -> str:
    image = sitk.GetImageFromArray((np.random.default_rng(0).normal(30, 9, (5, 6, 7))).astype(dtype))
    image.SetSpacing((0.7, 0.8, 3.1))
    image.SetOrigin((-3, 4, 5))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(file))
    return str(file)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", TYPES)
def test_values_and_properties_are_those_of_nnunet(tmp_path, ending, dtype):
    file = write(tmp_path / f"case_0000{ending}", dtype)
    image, properties = read_stored_image([file], SimpleITKIO())
    expected, theirs = SimpleITKIO().read_images([file])
    assert image.dtype == dtype and expected.dtype == np.float32
    assert np.array_equal(image.astype(np.float32), expected)
    assert properties == theirs


def test_scaled_files_keep_their_real_values(tmp_path):
    stored = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    stored.header.set_slope_inter(0.5, -7)
    nibabel.save(stored, tmp_path / "case_0000.nii.gz")
    file = str(tmp_path / "case_0000.nii.gz")
    image, _ = read_stored_image([file], SimpleITKIO())
    assert np.array_equal(image.astype(np.float32), SimpleITKIO().read_images([file])[0])


@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIO])
def test_other_readers_are_asked(tmp_path, reader):
    file = write(tmp_path / "case_0000.nii.gz", np.int16)
    image, properties = read_stored_image([file], reader())
    expected, theirs = reader().read_images([file])
    assert np.array_equal(image, expected) and properties.keys() == theirs.keys()


def test_channels_are_read_together(tmp_path):
    files = [write(tmp_path / f"case_000{c}.nii.gz", np.int16) for c in range(2)]
    assert read_stored_image(files, SimpleITKIO())[0].shape == (2, 5, 6, 7)


@pytest.mark.parametrize("kind", ["colour", "complex", "flat", "series", "text"])
def test_files_that_are_not_one_volume_are_refused(tmp_path, kind):
    file = tmp_path / "case_0000.nrrd"
    array = np.ones((3, 5, 6, 7) if kind == "series" else (6, 7) if kind == "flat" else (5, 6, 7), np.float32)
    if kind == "text":
        file.write_text("no image")
    elif kind == "colour":
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((5, 6, 7, 3), np.float32), isVector=True), str(file))
    else:
        values = array.astype(np.complex64) if kind == "complex" else array
        sitk.WriteImage(sitk.GetImageFromArray(values), str(file))
    with pytest.raises(SAM3DError, match="case_0000.nrrd"):
        read_stored_image([str(file)], SimpleITKIO())
