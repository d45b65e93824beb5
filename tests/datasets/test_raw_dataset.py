import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.datasets.raw_dataset import RawDataset, for_each_case
from sam3d_nnunet.datasets.usable_files import refuse_unusable_files
from sam3d_nnunet.errors import SAM3DError

DATASET = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}


@pytest.mark.parametrize("dataset", ["77", "Dataset077_Some"])
def test_by_id_or_name(nnunet_folders, dataset):
    folder = nnunet_folders.raw / "Dataset077_Some"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    assert RawDataset.find(dataset) == RawDataset(folder, DATASET)


def test_no_such_data_set(nnunet_folders):
    with pytest.raises(SAM3DError, match="data set 77 can't be found") as error:
        RawDataset.find("77")
    assert "\n" not in str(error.value)


def test_listed_files(nnunet_folders, monkeypatch):
    folder = nnunet_folders.raw / "Dataset077_Some"
    folder.mkdir()
    monkeypatch.setenv("WHERE", "/elsewhere")
    listing = {"b": {"images": ["../b.nii.gz"], "label": "$WHERE/b.nii.gz"}, "a": {"images": ["/x"], "label": "/y"}}
    (folder / "dataset.json").write_text(json.dumps(DATASET | {"dataset": listing}))
    raw = RawDataset.find("77")
    assert raw.cases == ["a", "b"]
    assert raw.image_files("b") == [nnunet_folders.raw / "b.nii.gz"]
    assert raw.label_file("b") == Path("/elsewhere/b.nii.gz")
    assert raw.dataset_json["dataset"] == listing
    for files in (raw.image_files, raw.label_file):
        with pytest.raises(SAM3DError, match="lists no files of the case c"):
            files("c")


@pytest.mark.parametrize(
    "listing", [None, {}, ["a"], {"a": "b"}, {"a": {"images": ["b"]}}, {"a": {"images": ["\0"], "label": "c"}}]
)
def test_unusable_lists_of_files(tmp_path, listing):
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET | {"dataset": listing}))
    with pytest.raises(SAM3DError, match='dataset.json can.t be used: "dataset" must name "images" and "label"'):
        read_dataset_json(tmp_path / "dataset.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no file"), ("{", "line 1"), ('{"labels": {}}', '"channel_names" is missing'), ("[]", "object")],
)
def test_unusable_descriptions(tmp_path, text, said):
    file = tmp_path / "dataset.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SAM3DError, match=f"{file}.*{said}|{said}.*{file}"):
        read_dataset_json(file)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    "numbers, there", [([0, 2], "_0000, _0002"), ([0], "_0000"), ([0, 1, 2], "_0000, _0001, _0002")]
)
def test_other_channels_are_refused(tmp_path, numbers, there, listed):
    """nnU-Net would take the second file for the second channel, whatever its number."""
    (tmp_path / "imagesTr").mkdir()
    files = {case: [f"imagesTr/{case}_{n:04}.nii.gz" for n in part] for case, part in (("a", [0, 1]), ("b", numbers))}
    for file in files["a"] + files["b"]:
        (tmp_path / file).touch()
    content = DATASET | {"channel_names": {"0": "T1", "1": "T2"}}
    if listed:
        content["dataset"] = {case: {"images": part, "label": f"{case}.nii.gz"} for case, part in files.items()}
        there = ", ".join(f"_{n:04}" for n in range(len(numbers)))
    raw = RawDataset(tmp_path, content)
    if listed and len(numbers) == 2:  # names say nothing there
        raw.refuse_file_names()
        return
    with pytest.raises(SAM3DError, match=f"image 'b' has the channels {there}, but .* needs _0000, _0001. Add or"):
        raw.refuse_file_names()


def test_a_full_disk_is_no_fault_of_a_case(capsys):
    def full(case):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    with pytest.raises(OSError, match="No space left"):
        for_each_case(full, ["a", "b"], "Cases")

    def denied(case):
        raise PermissionError(errno.EACCES, "Permission denied", f"/data/{case}")

    _, failed = for_each_case(denied, ["a"], "Cases")
    assert failed == {"a": "/data/a: Permission denied. Give another path, or correct what is there and its rights."}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_channels_and_labels_of_other_sizes_are_refused(tmp_path, reader):
    for name, shape in {"a_0000": (5, 6, 7), "a_0001": (5, 6, 8), "a": (5, 6, 7), "b": (5, 6, 8)}.items():
        sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.uint8)), str(tmp_path / f"{name}.nii.gz"))
    images, a, b = ([tmp_path / f"a_000{n}.nii.gz" for n in (0, 1)], *(tmp_path / f"{n}.nii.gz" for n in "ab"))
    refuse_unusable_files({"a": a}, reader(), {"a": images[:1]})
    with pytest.raises(SAM3DError, match="a_0001.nii.gz has 8 x 6 x 5 voxels, but a_0000.nii.gz, .* has 7 x 6 x 5"):
        refuse_unusable_files({"a": a}, reader(), {"a": images})
    with pytest.raises(SAM3DError, match="voxels"):
        refuse_unusable_files({"a": b}, reader(), {"a": images[:1]})


def test_label_map_of_another_size_where_itk_reads_no_header(tmp_path):
    """ITK refuses sheared images, nibabel reads them."""
    sheared = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for name, shape in {"a_0000": (7, 6, 5), "a": (7, 6, 4)}.items():
        image = nibabel.Nifti1Image(np.ones(shape, np.uint8), None)
        image.set_sform(sheared, 1)
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    files = {"a": tmp_path / "a.nii.gz"}, NibabelIO(), {"a": [tmp_path / "a_0000.nii.gz"]}
    with pytest.raises(SAM3DError, match="voxels"):
        refuse_unusable_files(*files)
