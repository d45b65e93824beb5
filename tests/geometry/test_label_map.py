from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.label_maps import read_label_map

LABELS = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_as_the_file_lies_whatever_the_reader_does(tmp_path, reader):
    image = sitk.DICOMOrient(sitk.GetImageFromArray(LABELS), "SAR")
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    found, as_in_file = read_label_map(tmp_path / "a.nii.gz", reader())
    assert as_in_file and (found == sitk.GetArrayFromImage(image)).all()


def test_formats_without_a_place_in_the_world_are_as_their_reader_has_them(tmp_path):
    """ITK reads 3-D TIFF, too, but knows nothing of the spacing that nnU-Net is told beside it."""
    tifffile.imwrite(tmp_path / "a.tif", LABELS, photometric="minisblack", resolution=(2.0, 2.0))
    assert sitk.ReadImage(str(tmp_path / "a.tif")).GetDimension() == 3
    found, as_in_file = read_label_map(tmp_path / "a.tif", Tiff3DIO())
    assert not as_in_file and (found == LABELS).all()


def test_unreadable_label_maps(tmp_path):
    with pytest.raises(SAM3DError, match="There is no label map .*a.nii.gz"):
        read_label_map(tmp_path / "a.nii.gz", SimpleITKIO())
    Path(tmp_path / "a.nii.gz").write_text("nothing")
    with pytest.raises(SAM3DError, match="label map .*a.nii.gz can't be read"):
        read_label_map(tmp_path / "a.nii.gz", SimpleITKIO())
