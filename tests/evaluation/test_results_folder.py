import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.result_files import read_table
from sam3d_nnunet.evaluation.results_folder import ResultsFolder, add_cost, check_settings, fingerprint

FACTS = {"name": "M", "trainer": "T", "plans": "P", "configuration": "C", "kind": "prompted", "parameters": 7}


def data(name: str = "Dataset001_A", images: str = "/a/images") -> EvaluationData:
    return EvaluationData(
        name, Path(images), Path("/a/labels"), {"file_ending": ".nrrd", "labels": {"background": 0, "x": 1}}
    )


def test_results_are_of_one_data_set(tmp_path):
    root = ResultsFolder(tmp_path / "deep" / "results")
    root.claim(data())
    root.claim(data(), data(images="/t/images"))
    root.claim(data())
    content = json.loads((root.root / "data.json").read_text())
    assert content == {
        "format": "sam3d_results",
        "version": 1,
        "dataset": "Dataset001_A",
        "images": "/a/images",
        "truth": "/a/labels",
        "test_images": "/t/images",
        "test_truth": "/a/labels",
        "dataset_json": {"file_ending": ".nrrd", "labels": {"background": 0, "x": 1}},
    }
    for other in ((data("Dataset002_B"),), (data(images="/b"),), (data(), data(images="/other"))):
        with pytest.raises(SAM3DError, match="results holds results with"):
            root.claim(*other)
    (root.root / "data.json").write_text("{")
    with pytest.raises(SAM3DError, match="data.json, line 1"):
        root.claim(data())


def test_facts_of_a_method_add_up(tmp_path):
    root = ResultsFolder(tmp_path)
    root.write_method("M", FACTS | {"peak_memory_gib": 3.5, "device": "H100"})
    root.write_method("M", FACTS | {"peak_memory_gib": 2.0, "device": "H100", "kind": "automatic"})
    root.write_method("M", FACTS | {"peak_memory_gib": None, "device": None, "parameters": None})
    assert root.known_method("M") == FACTS | {"peak_memory_gib": 3.5, "device": "H100"}
    root.write_method("M", FACTS | {"peak_memory_gib": None, "device": "cpu"})
    root.write_method("M", FACTS | {"peak_memory_gib": 1.0, "device": "H100"})
    assert root.known_method("M") == FACTS | {"peak_memory_gib": 3.5, "device": "H100 and cpu"}
    with pytest.raises(SAM3DError, match="trainer T, not U"):
        root.write_method("M", FACTS | {"trainer": "U"})


def test_folds_that_are_evaluated_at_once(tmp_path):
    devices = {f"computer {number}" for number in range(12)}

    def evaluate(device: str) -> None:
        ResultsFolder(tmp_path).write_method("M", FACTS | {"peak_memory_gib": 1.0, "device": device})

    with ThreadPoolExecutor(len(devices)) as folds:
        list(folds.map(evaluate, devices))
    assert set(ResultsFolder(tmp_path).known_method("M")["device"].split(" and ")) == devices


@pytest.mark.parametrize("name", ["", ".", "..", "prompts", "a/b", "a\\b", "/abs"])
def test_names_that_are_no_folder_of_their_own(tmp_path, name):
    with pytest.raises(SAM3DError, match="can't be the name of a method"):
        ResultsFolder(tmp_path).write_method(name, FACTS)


def test_splits_stay_the_same(tmp_path):
    root, splits = ResultsFolder(tmp_path / "results"), tmp_path / "splits.json"
    root.keep_splits("M", splits)
    assert not (root.root / "M").exists()
    splits.write_text('[{"train": ["c"], "val": ["a"]}]')
    root.keep_splits("M", splits)
    root.keep_splits("M", splits)
    assert (root.root / "M" / "splits_final.json").read_text() == splits.read_text()
    splits.write_text('[{"train": ["c"], "val": ["b"]}]')
    with pytest.raises(SAM3DError, match="splits.json differs from .*splits_final.json"):
        root.keep_splits("M", splits)


def test_costs(tmp_path):
    add_cost(tmp_path, "b", 1, 2, 0.12345)
    add_cost(tmp_path, "007", 0, None, 2.0)
    add_cost(tmp_path, "b", 3, 4, 5.0, outside=2)
    table = pd.read_csv(tmp_path / "prediction.csv", dtype=str, keep_default_na=False)
    assert table.columns.tolist() == ["case", "clicks", "windows", "seconds", "clicks_outside"]
    assert table["case"].tolist() == ["007", "b"]
    assert table["clicks"].tolist() == ["0", "3"] and table["seconds"].tolist() == ["2.0", "5.0"]
    assert table["clicks_outside"].tolist() == ["0", "2"]
    assert table["windows"].tolist()[0] == "" and float(table["windows"][1]) == 4


def test_predictions_with_other_settings_are_not_mixed(tmp_path):
    check_settings(tmp_path / "a", {"step": 0.5, "folds": ["0"]})
    check_settings(tmp_path / "a", {"step": 0.5, "folds": ["0"]})
    with pytest.raises(SAM3DError, match="step 0.5, not 0.3"):
        check_settings(tmp_path / "a", {"step": 0.3, "folds": ["0"]})
    (tmp_path / "a" / "settings.json").write_text("[]")
    with pytest.raises(SAM3DError, match="settings.json .* object"):
        check_settings(tmp_path / "a", {"step": 0.5})


def test_older_predictions_have_windows_that_follow(tmp_path):
    """They can be continued so, but not with a single window."""
    check_settings(tmp_path / "a", {"max_windows": 32})
    with pytest.raises(SAM3DError, match="windows follow, not single"):
        check_settings(tmp_path / "a", {"max_windows": 32, "windows": "single"})
    check_settings(tmp_path / "a", {"max_windows": 32, "windows": "follow"})
    check_settings(tmp_path / "b", {"max_windows": 32, "windows": "single"})
    with pytest.raises(SAM3DError, match="windows single, not follow"):
        check_settings(tmp_path / "b", {"max_windows": 32, "windows": "follow"})


def test_weights_are_compared_where_they_should_be_the_same(tmp_path):
    """Not of another checkpoint or ensemble, nor in a copy that is kept beside the results."""
    root, model = ResultsFolder(tmp_path / "results"), tmp_path / "model"
    for fold in "01":
        (model / f"fold_{fold}").mkdir(parents=True)
        torch.save({"weight": torch.zeros(3)}, model / f"fold_{fold}" / "last.pth")
    settings = {"folds": ["0"], "checkpoint": "last.pth", "weights": ["others"]}
    for trial, more in (("0", {"folds": ["0", "1"]}), ("1", {"checkpoint": "best.pth"}), ("2_old", {})):
        check_settings(root.root / f"M/automatic/fold_0/trial_{trial}", settings | more)
    root.refuse_other_weights("M", "0", model, ["0"], "last.pth")
    with pytest.raises(SAM3DError, match="trial_0 .* another training than .*fold_1/last.pth"):
        root.refuse_other_weights("M", "0", model, ["0", "1"], "last.pth")


def test_a_fingerprint_changes_with_the_weights_and_not_with_the_file(tmp_path):
    network = torch.nn.Linear(40, 30)
    torch.save({"network_weights": network.state_dict(), "current_epoch": 3}, tmp_path / "a.pth")
    before = fingerprint(tmp_path / "a.pth")
    assert len(before) == 16
    shutil.copyfile(tmp_path / "a.pth", tmp_path / "copy.pth")
    torch.save({"network_weights": network.state_dict(), "current_epoch": 3}, tmp_path / "again.pth")
    assert fingerprint(tmp_path / "copy.pth") == fingerprint(tmp_path / "again.pth") == before
    torch.save({"network_weights": network.state_dict(), "current_epoch": 4, "device": "cpu"}, tmp_path / "again.pth")
    assert fingerprint(tmp_path / "again.pth") == before
    with torch.no_grad():
        network.weight[3, 4] += 1e-3
    torch.save({"network_weights": network.state_dict(), "current_epoch": 3}, tmp_path / "a.pth")
    assert fingerprint(tmp_path / "a.pth") != before


def test_fingerprints_of_other_files(tmp_path):
    for name, content in (("a", b"some"), ("b", b"some"), ("c", b"other")):
        (tmp_path / name).write_bytes(content)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")


def test_costs_of_cases_whose_names_look_like_missing_values(tmp_path):
    for case in ("NA", "null", "007", "nan", "1e5"):
        add_cost(tmp_path, case, 1, None, 0.5)
    add_cost(tmp_path, "NA", 2, None, 0.5)
    table = read_table(tmp_path / "prediction.csv").set_index("case")
    assert table["clicks"].to_dict() == {"007": 1, "1e5": 1, "NA": 2, "nan": 1, "null": 1}
    assert table["windows"].isna().all()
