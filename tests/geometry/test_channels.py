"""Channels of one image that are missing, or don't fit together."""

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.images import read_image


@pytest.fixture
def write(tmp_path):
    def write_one(name: str, shape=(3, 4, 5), spacing=(1.0, 1.0, 2.0)):
        image = sitk.GetImageFromArray(np.ones(shape, np.float32))
        image.SetSpacing(spacing)
        sitk.WriteImage(image, str(tmp_path / name))
        return tmp_path / name

    return write_one


def test_channels_are_read_as_nnunet_does(write):
    files = [write("a_0000.nii.gz"), write("a_0001.nii.gz")]
    image, properties = read_image(files, SimpleITKIO())
    expected, told = SimpleITKIO().read_images([str(file) for file in files])
    assert np.array_equal(image, expected) and image.shape == (2, 3, 4, 5)
    assert properties == told


@pytest.mark.parametrize(
    "other, said",
    [
        ({"shape": (3, 4, 6)}, r"different numbers of voxels along \(d, h, w\): \(3, 4, 5\), \(3, 4, 6\)"),
        ({"spacing": (1.0, 1.0, 2.5)}, r"different spacings in mm .*: \(2.0, 1.0, 1.0\), \(2.5, 1.0, 1.0\)"),
    ],
)
def test_channels_of_different_images(write, other, said):
    with pytest.raises(SAM3DError, match=rf"channels .*a_0000.nii.gz, .*a_0001.nii.gz have {said}"):
        read_image([write("a_0000.nii.gz"), write("a_0001.nii.gz", **other)], SimpleITKIO())


def test_the_channel_that_is_at_fault_is_named(write, tmp_path):
    first, second = write("a_0000.nii.gz"), tmp_path / "a_0001.nii.gz"
    with pytest.raises(SAM3DError, match="^There is no image file .*a_0001.nii.gz"):
        read_image([first, second], SimpleITKIO())
    second.write_text("nothing")
    with pytest.raises(SAM3DError, match="^The image [^,]*a_0001.nii.gz can't be read"):
        read_image([first, second], SimpleITKIO())
