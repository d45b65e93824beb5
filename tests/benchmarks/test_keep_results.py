"""Keeping what tables and figures need of a folder of results."""

import json
import shutil
from pathlib import Path

import keep_results
import pytest
from results_fixtures import ADAPTER, SPLITS, STEPS, TRIALS, UNET

from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

PLACE = f"{ADAPTER}/volume_1/fold_0/trial_0"
LAST = f"{ADAPTER}/iterated_{STEPS}/fold_0/trial_0/after_{STEPS}"


def keep(results: Path, kept: Path, *options: str) -> dict:
    """Run the script; returns ORIGIN.json."""
    keep_results.main([str(results), str(kept), "--commit", "abc", *options])
    return json.loads((kept / "ORIGIN.json").read_text())


def fail(capsys, results: Path, kept: Path, *options: str) -> str:
    """Run the script; returns its message."""
    with pytest.raises(SystemExit) as stopped:
        keep(results, kept, *options)
    return str(stopped.value)


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | values))


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_text_that_tables_and_figures_read_is_kept_and_nothing_else(few_results, tmp_path):
    for name in ("settings.json", "metrics.json", "scores.csv"):
        (few_results / PLACE / name).write_text("case,target,truth_voxels\n" if name.endswith("csv") else "{}")
    for name in (f"{PLACE}/plans.json", f"{PLACE}/plot.png", "workflow/logs/a.txt", "table/table.csv", "notes.csv"):
        (few_results / name).parent.mkdir(parents=True, exist_ok=True)
        (few_results / name).write_text("{}")
    keep(few_results, tmp_path / "kept")
    folders = {folder.path.relative_to(few_results).as_posix() for folder in Results(few_results).folders}
    expected = {f"{folder}/{name}" for folder in folders for name in ("metrics.csv", "prediction.csv")}
    expected |= {f"{PLACE}/{name}" for name in ("settings.json", "metrics.json", "scores.csv")}
    expected |= {f"{method}/{name}" for method in (UNET, ADAPTER) for name in ("method.json", "splits_final.json")}
    expected |= {f"prompts/volume_1/trial_{trial}/{case}.json" for trial in range(TRIALS) for case in SPLITS[0]["val"]}
    assert files_of(tmp_path / "kept") == expected | {"data.json", "ORIGIN.json"}


def test_no_file_names_a_folder_of_this_machine(few_results, tmp_path):
    dataset_json = json.loads((few_results / "data.json").read_text())["dataset_json"]
    dataset_json["dataset"] = {"case_00": {"images": [f"{tmp_path}/a/case_00_0000.nii.gz"], "label": r"C:\b\c.nii"}}
    change(few_results / "data.json", dataset_json=dataset_json, test_truth="/mnt/d/labelsTs")
    change(few_results / UNET / "method.json", server="http://192.0.2.1:1527", licence="see https://a.org/b/c")
    failed = {"case_01": f"{few_results}/a b/case_01.nii.gz can't be read. See '/mnt/x/y.txt'."}
    change(few_results / PLACE / "metrics.json", failed=failed, cases={"case_00": {}})
    keep(few_results, tmp_path / "kept")
    kept = {name: (tmp_path / "kept" / name).read_text() for name in files_of(tmp_path / "kept")}
    for place in (str(tmp_path), str(few_results.parent), "/mnt", "C:", "192.0.2.1"):
        assert not [name for name, text in kept.items() if place in text], place
    data = json.loads(kept["data.json"])
    assert data["images"] == "Dataset004_Hippocampus/imagesTr"
    assert data["test_truth"] == "Dataset004_Hippocampus/labelsTs"
    assert data["dataset_json"]["dataset"] == {"case_00": {"images": ["case_00_0000.nii.gz"], "label": "c.nii"}}
    assert json.loads(kept[f"{UNET}/method.json"])["licence"] == "see https://a.org/b/c"
    metrics = json.loads(kept[f"{PLACE}/metrics.json"])
    assert metrics == {"failed": {"case_01": "a b/case_01.nii.gz can't be read. See 'y.txt'."}}


def test_corrective_clicks_are_kept_once(corrected_results, tmp_path):
    """Those after the last step, since they hold the others; those that were drawn beforehand are in prompts."""
    drawn = f"prompts/iterated_{STEPS}/trial_0/case_00.json"
    prompt = read_prompt(corrected_results / drawn)
    points, labels = [[*prompt.points.tolist(), [1, 2, 3]], [*prompt.labels, 0]]
    for folder in (LAST, LAST.replace(f"after_{STEPS}", "after_1")):
        write_prompt(Prompt(points, labels, "case_00"), corrected_results / folder / "case_00.json")
    shutil.copy(corrected_results / drawn.replace("00", "01"), corrected_results / LAST)
    keep(corrected_results, tmp_path / "kept")
    clicks = {name for name in files_of(tmp_path / "kept") if "case_" in name}
    assert {name for name in clicks if not name.startswith("prompts")} == {f"{LAST}/case_00.json"}
    assert len(read_prompt(tmp_path / "kept" / LAST / "case_00.json").labels) == len(labels)


def test_origin_says_where_the_numbers_come_from(few_results, tmp_path, monkeypatch):
    recipe = {"description": "tiny", "benchmark": {"baseline": UNET, "paper": "kits21"}}
    (tmp_path / "tiny.json").write_text(json.dumps(recipe))
    monkeypatch.setattr(keep_results, "_commit", lambda: "fed with changes")
    keep_results.main([*map(str, (few_results, tmp_path / "a/b")), "--recipe", str(tmp_path / "tiny.json")])
    origin = json.loads((tmp_path / "a/b/ORIGIN.json").read_text())
    assert origin["commit"] == "fed with changes"
    assert origin["recipe"] == {"name": "tiny", "content": recipe}
    assert origin["table"] == {"baseline": UNET, "paper": "kits21", "lesions": False}
    assert {"python", "torch", "nnunetv2", "sam3d_nnunet"} <= set(origin["packages"])
    assert origin["dataset"] == "Dataset004_Hippocampus"
    assert origin["processor"].endswith(" cores")
    assert origin["training"][UNET] == {"trainings": 1, "seconds": 33_300}  # 9.25 h a fold
    assert str(tmp_path) not in json.dumps(origin)


def test_baseline_of_the_recipe_that_was_not_measured_is_left_out(few_results, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps({"benchmark": {"baseline": "another"}}))
    assert keep(few_results, tmp_path / "kept", "--recipe", str(tmp_path / "tiny.json"))["table"]["baseline"] is None


@pytest.mark.parametrize(
    "text, message", [("case,seconds\n/home/me/x.nii.gz,1\n", "prediction.csv, line 2, names a folder"), ("\0", "text")]
)
def test_what_can_not_be_kept_leaves_the_old_copy(few_results, tmp_path, capsys, text, message):
    keep(few_results, tmp_path / "kept")
    before = files_of(tmp_path / "kept")
    (few_results / PLACE / "prediction.csv").write_text(text)
    assert message in fail(capsys, few_results, tmp_path / "kept", "--overwrite")
    assert files_of(tmp_path / "kept") == before
    assert {file.name for file in tmp_path.iterdir()} <= {"kept", "results", "imagesTr", "labelsTr"}


def test_other_folders_are_not_overwritten(few_results, tmp_path, capsys):
    (tmp_path / "kept").mkdir()
    assert "is there already" in fail(capsys, few_results, tmp_path / "kept")
    assert "no folder of kept results" in fail(capsys, few_results, tmp_path / "kept", "--overwrite")
    assert "can't be read" in fail(capsys, tmp_path, tmp_path / "new") or not (tmp_path / "new").exists()
