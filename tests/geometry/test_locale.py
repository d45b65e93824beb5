"""ITK's reader of VTK files sets the locale of the process to "C", in which Python can't write other scripts."""

import locale

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.datasets.convert import _read
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_stored_values
from sam3d_nnunet.geometry.world import read_header


@pytest.mark.parametrize(
    "read",
    [
        read_header,
        lambda file: read_image([file], SimpleITKIO()),
        lambda file: read_stored_values(file, SimpleITKIO()),
        _read,
    ],
    ids=["header", "image", "label map", "conversion"],
)
def test_reading_keeps_the_locale(tmp_path, read):
    file = tmp_path / "image.vtk"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8)), str(file))
    locale.setlocale(locale.LC_ALL, "C.UTF-8")  # the fixture of all tests sets it back
    before = locale.setlocale(locale.LC_ALL)
    read(file)
    assert locale.setlocale(locale.LC_ALL) == before
