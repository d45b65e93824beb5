import json
from pathlib import Path

import pytest

from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.datasets.raw_dataset import RawDataset
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
