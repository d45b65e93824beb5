from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry

LABELS = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]


@pytest.mark.parametrize("reader", READERS)
def test_label_maps_are_read_as_nnunets_readers_do(tmp_path, reader):
    sitk.WriteImage(sitk.DICOMOrient(sitk.GetImageFromArray(LABELS), "PIL"), str(tmp_path / "a.nii.gz"))
    label_map = read_label_map(tmp_path / "a.nii.gz", reader())
    assert (label_map.array == reader().read_seg(str(tmp_path / "a.nii.gz"))[0][0]).all()


@pytest.mark.parametrize("reader", READERS)
def test_unreadable_label_maps(tmp_path, reader):
    with pytest.raises(SAM3DError, match="no .*a.nii.gz"):
        read_label_map(tmp_path / "a.nii.gz", reader())
    (tmp_path / "a.nii.gz").write_text("nothing")
    with pytest.raises(SAM3DError, match="a.nii.gz"):
        read_label_map(tmp_path / "a.nii.gz", reader())


@pytest.mark.parametrize("reader", READERS)
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
    grid = label_map.own_grid()
    label_map.check_on(grid)
    label_map.check_labels({0, 1, 2})
    with pytest.raises(SAM3DError, match=r"a.nii.gz .*\(4, 5, 6\).*the truth .*\(4, 5, 7\)"):
        label_map.check_on(replace(grid, shape=(4, 5, 7), name="the truth b.nii.gz"))
    with pytest.raises(SAM3DError, match="a.nii.gz .* 1,.* 0, 2"):
        label_map.check_labels([2, 0])
    for voxels, axis in ((0.11, 2), (0.11, 0), (-0.2, 1)):
        moved = grid.geometry.affine.copy()
        moved[:3, 3] += voxels * moved[:3, axis]
        with pytest.raises(SAM3DError, match=rf"a.nii.gz .*its origin is .*{abs(voxels)} voxels"):
            label_map.check_on(replace(grid, as_read=ImageGeometry(moved)))
    moved = grid.geometry.affine.copy()
    moved[:3, 3] += 0.09 * moved[:3, :3].sum(1)  # along all axes at once
    label_map.check_on(replace(grid, as_read=ImageGeometry(moved)))
