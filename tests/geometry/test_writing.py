import errno
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.geometry.writing import write_label_map, write_volume

pytest.importorskip("resource", reason="Windows has no largest size of files")
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk
import nnunetv2.imageio.simpleitk_reader_writer as itk, nnunetv2.imageio.nibabel_reader_writer as nib
from sam3d_nnunet.errors import refusal
from sam3d_nnunet.geometry.writing import write_label_map, write_volume
from sam3d_nnunet.io import whole_files

folder, kind, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
labels = np.zeros((100, 256, 256), np.uint8)
labels[0] = np.random.default_rng(0).integers(0, 3, labels[0].shape)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    with whole_files(folder, last="case.nii.gz") as part:
        if kind == "volume":
            write_volume(sitk.GetImageFromArray(labels), part / "case.nii.gz")
        else:
            reader = {"SimpleITKIO": itk.SimpleITKIO, "NibabelIO": nib.NibabelIO}[kind]()
            like = sitk.GetImageFromArray(labels)
            about = {"spacing": like.GetSpacing(), "origin": like.GetOrigin(), "direction": like.GetDirection()}
            properties = {"sitk_stuff": about, "nibabel_stuff": {"original_affine": np.eye(4)}, "spacing": [1, 1, 1]}
            write_label_map(labels, part / "case.nii.gz", properties, reader)
except OSError as e:
    print(refusal(e))
"""


@pytest.mark.parametrize("limit", [0, 300, 4096, 20_000, 10**7])
@pytest.mark.parametrize("kind", ["SimpleITKIO", "NibabelIO", "volume"])
def test_a_file_that_is_cut_off_gets_no_name(tmp_path, kind, limit):
    """Behind the first 18,000 bytes, all is background: what ITK reads for what is missing."""
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), kind, str(limit)], capture_output=True, text=True, check=True
    )
    there = [file.name for file in tmp_path.iterdir()]
    if limit == 10**7:
        assert there == ["case.nii.gz"] and not run.stdout
    else:
        assert there == [] and run.stdout.startswith(f"{tmp_path}/case.nii.gz: "), run.stdout + run.stderr
        assert "Make room" in run.stdout and "Traceback" not in run.stderr


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient, Tiff3DIO])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_all_readers_give_back_what_they_wrote(tmp_path, reader, dtype):
    """With an image that lies askew, so that readers that turn images have something to do."""
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, -1))
    ending = ".tif" if reader is Tiff3DIO else ".nii.gz"
    file = tmp_path / f"image{ending}"
    if reader is Tiff3DIO:
        import tifffile

        tifffile.imwrite(file, sitk.GetArrayFromImage(image))
    else:
        sitk.WriteImage(image, str(file))
    array, properties = reader().read_images([str(file)])
    labels = np.arange(array[0].size).reshape(array.shape[1:]).astype(dtype) % 3
    write_label_map(labels, tmp_path / f"labels{ending}", properties, reader())
    assert np.array_equal(reader().read_seg(str(tmp_path / f"labels{ending}"))[0][0], labels)


def test_a_volume_with_nan(tmp_path):
    write_volume(sitk.GetImageFromArray(np.full((2, 3, 4), np.nan)), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").is_file()


def test_what_reads_back_as_something_else(tmp_path):
    class Forgetful:
        def write_seg(self, labels, file, properties):
            pass

        def read_seg(self, file):
            return np.zeros((1, 2, 2, 2)), {}

    with pytest.raises(OSError) as error:
        write_label_map(np.ones((2, 2, 2), np.uint8), tmp_path / "a.nii.gz", {}, Forgetful())
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "a.nii.gz")
