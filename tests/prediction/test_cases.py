from types import SimpleNamespace

import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.cases import find_cases


def model(channels: int = 1) -> SimpleNamespace:
    plans = SimpleNamespace(image_reader_writer_class=SimpleITKIO)
    return SimpleNamespace(channels=channels, file_ending=".nii.gz", plans=plans)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_folder(tmp_path):
    touch(tmp_path, "b_0000.nii.gz", "a.b_0000.nii.gz", "病例_1_0000.nii.gz", "dataset.json", "c.nii.gz", "d_0000.nrrd")
    touch(tmp_path, "._b_0000.nii.gz", "._b_0001.nii.gz")
    found = find_cases(tmp_path, model())
    assert found == {case: [tmp_path / f"{case}_0000.nii.gz"] for case in ("a.b", "b", "病例_1")}
    assert find_cases(tmp_path, model(2))["b"] == [tmp_path / "b_0000.nii.gz", tmp_path / "b_0001.nii.gz"]
    touch(tmp_path, "b_0001.nii.gz")
    with pytest.raises(SAM3DError, match=r"b_0001.nii.gz .*1 channel"):
        find_cases(tmp_path, model())


def test_folder_without_images(tmp_path):
    with pytest.raises(SAM3DError, match="CASE_0000.nii.gz.* no file"):
        find_cases(tmp_path, model())
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(SAM3DError, match=r"CASE_0000.nii.gz.* a.nii.gz"):
        find_cases(tmp_path, model())
    with pytest.raises(SAM3DError, match="There is no image file or folder"):
        find_cases(tmp_path / "b", model())


@pytest.mark.parametrize(
    "name, case",
    [("a_0000.nii.gz", "a"), ("a.nii.gz", "a"), ("a.b.nrrd", "a.b"), ("A.NII.GZ", "A"), ("x_0000.mha", "x")],
)
def test_single_file(tmp_path, name, case):
    touch(tmp_path, name)
    assert find_cases(tmp_path / name, model()) == {case: [tmp_path / name]}


def test_single_file_of_several_channels(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a.nii.gz", "a_0000.png")
    assert find_cases(tmp_path / "a_0000.nii.gz", model(2)) == {
        "a": [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    }
    with pytest.raises(SAM3DError, match="2 channels.*CASE_0000.nii.gz"):
        find_cases(tmp_path / "a.nii.gz", model(2))
    with pytest.raises(SAM3DError, match="a_0000.png.*.gipl, .mha, .nii.gz, .nrrd"):
        find_cases(tmp_path / "a_0000.png", model())


def test_names_of_other_files(tmp_path):
    touch(tmp_path, "plans_0000.nii.gz")
    with pytest.raises(SAM3DError, match="plans.json"):
        find_cases(tmp_path, model())
