"""Names of files and cases as people give them."""

import json
import unicodedata

import pytest
from names import names

from sam3d_nnunet.datasets.case_files import case_file, image_name, name_fault
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.plan_dataset import plan_dataset

NFC, NFD = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "file, parts",
    [
        ("a_0000.nii.gz", ("a", 0, ".nii.gz")),
        ("a.v1.nii.gz", ("a.v1", None, ".nii.gz")),
        ("case 12 (late)_0003.NRRD", ("case 12 (late)", 3, ".NRRD")),
        ("x.nii.gz_0000.nii.gz", ("x.nii.gz", 0, ".nii.gz")),
        ("2024_0001.v2.mha", ("2024_0001.v2", None, ".mha")),
        ("病例_00001.img.gz", ("病例_00001", None, ".img.gz")),
    ],
)
def test_parts_of_a_name(tmp_path, file, parts):
    name = image_name(tmp_path / file)
    assert (name.case, name.channel, name.ending) == parts


@pytest.mark.parametrize("file", ["._a_0000.nii.gz", ".nii.gz", "dataset.json", "a.nii.gz.txt", "README"])
def test_no_image(tmp_path, file):
    assert image_name(tmp_path / file) is None


def test_most_names_are_fine():
    usable = names(300)
    assert len(set(usable)) == 300 and {"NA", "--help", " lead", "a_0000"} <= set(usable)
    assert not [name for name in usable if name_fault(name, training=True)]


@pytest.mark.parametrize(
    "case, word",
    [
        ("liver_seg", "_seg"),
        ("scan.nii.gz", "ITK"),
        ("scan.hdr", "ITK"),
        ("summary", "summary.json"),
        ("dataset", "dataset.json"),
        ("._a", "hidden"),
        ("a\nb", "line break"),
        ("M\udcfcller", "no Unicode"),
    ],
)
def test_names_that_lose_files(case, word):
    """Each of these loses a segmentation or mixes it up with another file, without a word from nnU-Net or ITK."""
    assert word in name_fault(case, training=True)


@pytest.fixture
def raw(nnunet_folders):
    folder = nnunet_folders.raw / "Dataset220_Liver (late) [v2]"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "image, label, message",
    [
        ("liver_1.nii.gz", "liver_1.nii.gz", "liver_1.nii.gz has no number of a channel.*liver_1_0000.nii.gz"),
        ("._a_0000.nii.gz", "a.nii.gz", "hidden file .*._a_0000.nii.gz"),
        ("a_seg_0000.nii.gz", "a_seg.nii.gz", "can't have a case 'a_seg'.*_seg"),
        (f"{NFD}_0000.nii.gz", f"{NFC}.nii.gz", "two forms of Unicode"),
    ],
)
def test_planning_refuses_names_that_nnunet_misreads(raw, image, label, message):
    (raw / "imagesTr" / image).touch()
    (raw / "labelsTr" / label).touch()
    with pytest.raises(SAM3DError, match=message):
        plan_dataset("220")


def test_a_label_map_is_found_by_the_look_of_its_name(tmp_path):
    (tmp_path / f"{NFD}.nii.gz").touch()
    (tmp_path / "b.seg.nrrd").touch()
    assert case_file(tmp_path, NFC, ".nii.gz") == tmp_path / f"{NFD}.nii.gz"
    assert case_file(tmp_path, "b.seg", ".nii.gz") == tmp_path / "b.seg.nrrd"
    assert case_file(tmp_path, "c", ".nii.gz") == tmp_path / "c.nii.gz"


def test_any_text_may_follow_the_id(raw):
    assert RawDataset.find("220").name == raw.name
