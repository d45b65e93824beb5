from types import SimpleNamespace

import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.cases import find_cases


def model(channels: int = 1, reader: type = SimpleITKIO) -> SimpleNamespace:
    plans = SimpleNamespace(image_reader_writer_class=reader)
    return SimpleNamespace(channels=channels, file_ending=".nii.gz", plans=plans)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_folder(tmp_path):
    touch(tmp_path, "b_0000.nii.gz", "a.b_0000.nii.gz", "病例_1_0000.nii.gz", "dataset.json", "d_0000.nrrd")
    touch(tmp_path, "._b_0000.nii.gz", "._b_0001.nii.gz", "b.nii.gz")  # an earlier segmentation of b
    found = find_cases(tmp_path, model())
    assert found == {case: [tmp_path / f"{case}_0000.nii.gz"] for case in ("a.b", "b", "病例_1")}
    assert find_cases(tmp_path, model(2))["b"] == [tmp_path / "b_0000.nii.gz", tmp_path / "b_0001.nii.gz"]
    touch(tmp_path, "b_0001.nii.gz")
    with pytest.raises(SAM3DError, match=r"b_0001.nii.gz .*1 channel.*rename the file to b_0001_0000.nii.gz"):
        find_cases(tmp_path, model())


def test_folder_without_images(tmp_path):
    with pytest.raises(SAM3DError, match="CASE_0000.nii.gz.* no file"):
        find_cases(tmp_path, model())
    touch(tmp_path, "a.txt")
    with pytest.raises(SAM3DError, match=r"CASE_0000.nii.gz.* a.txt.$"):
        find_cases(tmp_path, model())
    touch(tmp_path, "IM1.dcm")
    with pytest.raises(SAM3DError, match="DICOM.* convert the series"):
        find_cases(tmp_path, model())
    with pytest.raises(SAM3DError, match="There is no image file or folder"):
        find_cases(tmp_path / "b", model())


@pytest.mark.parametrize(
    "names, line",
    [
        (["liver_0001.nii.gz", "liver_0002.nii.gz"], "each file is a case, such as liver_0001"),
        (["liver.nii.gz", "MR 2 (late).nii.gz"], "each file is a case, such as MR 2 (late)"),
        (["a_0000.nii", "b_0000.nii"], "taken are .nii"),
        (["a.mha", "b.nrrd"], "taken are .mha, .nrrd"),
    ],
)
def test_folder_of_other_names(tmp_path, capsys, names, line):
    touch(tmp_path, *names, "._hidden.nii.gz", "notes.txt")
    found = find_cases(tmp_path, model())
    cases = [name.partition(".n" if ".n" in name else ".m")[0].removesuffix("_0000") for name in names]
    assert found == {case: [tmp_path / name] for case, name in zip(sorted(cases), sorted(names))}
    assert line in capsys.readouterr().err


def test_header_and_voxels_in_two_files_are_one_image(tmp_path):
    touch(tmp_path, "a.hdr", "a.img", "b.mhd", "b.raw", "c.nhdr", "c.zraw")
    assert list(find_cases(tmp_path, model())) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "channels, names, message",
    [
        (1, ["a_0000.nii.gz", "b.nii.gz"], "Names need _0000, as a_0000.nii.gz does: rename b.nii.gz to b_0000.nii.gz"),
        (1, ["a_0000.nii.gz", "b_0003.nii.gz"], "rename b_0003.nii.gz to b_0003_0000.nii.gz"),
        (2, ["a.nii.gz", "b.nii.gz"], "Names need _0000 to _0001.*: rename a.nii.gz to a_0000.nii.gz"),
        (2, ["liver_0001.nii.gz", "liver_0002.nii.gz"], "rename liver_0002.nii.gz"),
        (1, ["a.nii", "a.mha"], "a.mha and a.nii are the same image"),
    ],
)
def test_names_that_do_not_tell_the_channel(tmp_path, channels, names, message):
    touch(tmp_path, *names)
    with pytest.raises(SAM3DError, match=message):
        find_cases(tmp_path, model(channels))


@pytest.mark.parametrize(
    "name, case",
    [
        *[("a_0000.nii.gz", "a"), ("a.nii.gz", "a"), ("a.b.nrrd", "a.b"), ("A.NII.GZ", "A"), ("x_0000.mha", "x")],
        *[("liver.nii", "liver"), ("a.mhd", "a"), ("a.v2.nhdr", "a.v2"), ("a_0001.img.gz", "a_0001"), ("a.mgz", "a")],
    ],
)
def test_single_file(tmp_path, name, case):
    touch(tmp_path, name)
    assert find_cases(tmp_path / name, model()) == {case: [tmp_path / name]}


def test_single_file_of_several_channels(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a.nii.gz", "a_0000.txt", "a.dcm")
    assert find_cases(tmp_path / "a_0000.nii.gz", model(2)) == {
        "a": [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    }
    with pytest.raises(SAM3DError, match="2 channels.*CASE_0000.nii.gz"):
        find_cases(tmp_path / "a.nii.gz", model(2))
    with pytest.raises(SAM3DError, match="a_0000.txt.*.mha, .mhd.* .nrrd"):
        find_cases(tmp_path / "a_0000.txt", model())
    with pytest.raises(SAM3DError, match="a.dcm is a DICOM file.* dcm2niix"):
        find_cases(tmp_path / "a.dcm", model())
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkUInt8), str(tmp_path / "a.png"))
    with pytest.raises(SAM3DError, match="a.png is a flat image"):
        find_cases(tmp_path / "a.png", model())


def test_tiff_needs_the_number_by_which_nnunet_finds_the_spacing(tmp_path):
    touch(tmp_path, "a.tif")
    tiff = model(reader=Tiff3DIO)
    with pytest.raises(SAM3DError, match="Rename .*a.tif to a_0000.tif"):
        find_cases(tmp_path / "a.tif", tiff)
    with pytest.raises(SAM3DError, match="rename a.tif to a_0000.tif"):
        find_cases(tmp_path, tiff)


def test_names_of_other_files(tmp_path):
    touch(tmp_path, "plans_0000.nii.gz")
    with pytest.raises(SAM3DError, match="plans.json"):
        find_cases(tmp_path, model())
