"""Wrong content of results: one sentence that names file and key, wherever it is read."""

import json

import pytest
from typer.testing import CliRunner

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.result_files import read_object, read_rows
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.evaluation.results_folder import ResultsFolder, check_settings, fingerprint


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.json", {"dataset_json": {"file_ending": "nii"}}, '"file_ending" in "dataset_json" must be an ending'),
        ("data.json", {"dataset_json": {"labels": {"a": "1"}}}, '"labels" in "dataset_json" must'),
        ("data.json", {"images": 3}, "images should be a valid string, not 3"),
        ("method.json", {"kind": "manual"}, "kind should be 'automatic' or 'prompted', not 'manual'"),
        ("method.json", {"tuned_parameters": 10**30}, "tuned_parameters should be .*, not 1000"),
        ("method.json", {"training_hours": "2"}, "training_hours should be a valid number, not '2'"),
        ("method.json", {"test_mirroring_axes": [0, 3]}, "test_mirroring_axes.1 should be less than or equal to 2"),
        ("method.json", {"run_of": "../x"}, "run_of can't be '../x': the name leads to another folder"),
        ("settings.json", {"mirroring": [1]}, r"mirroring should be a valid boolean, not \[1\]"),
        ("settings.json", [], "holds no JSON object"),
    ],
)
def test_keys(name, content, said, tmp_path):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(SAM3DError, match=f"{tmp_path / name}:? {said}"):
        read_object(tmp_path / name)


def test_what_older_results_lack(tmp_path):
    for name in ("data.json", "method.json", "settings.json"):
        (tmp_path / name).write_text('{"of a later version": 1}')
        assert read_object(tmp_path / name) == {"of a later version": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.csv", "case,target,dice\na,b,1\n", "has no column truth_voxels"),
        ("metrics.csv", "case,target,dice,truth_voxels\na,b,1.5,3\n", "has 1.5 in the column dice, where it can't be"),
        ("metrics.csv", "case,target,dice,truth_voxels\na,b,1,inf\n", "has inf in the column truth_voxels"),
        ("metrics.csv", "case,target,dice,truth_voxels,fold\na,b,1,1,0\n", "a column fold, which reports add"),
        ("metrics.csv", "case,target,dice,truth_voxels\n../a,b,1,1\n", "'../a' can't be a case in .*metrics.csv"),
        ("prediction.csv", "case,seconds\na,soon\n", "has 'soon' in the column seconds, which is not a number"),
        ("prediction.csv", f"case,seconds\na,{'9' * 400}\n", "a number too large for the column seconds"),
        ("prediction.csv", "", "can't be read: .*No columns"),
        ("scores.csv", "case,target,truth_voxels,final_dice\na,all,1,1e400\n", "has inf in the column final_dice"),
    ],
)
def test_tables(name, content, said, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(SAM3DError, match=said):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("name", ["data.json", "nnU*/method.json", "nnU*/splits_final.json", "nnU*/*/*/*/metrics.csv"])
def test_reports_name_the_file(name, results_folder):
    file = next(results_folder.glob(name))
    file.write_text("[1, 2]")
    for command in (["table", "--without-figures"], ["figures"]):
        done = CliRunner().invoke(app, [command[0], str(results_folder), *command[1:]])
        if "splits" not in name or command[0] == "table":  # figures need no splits
            assert isinstance(done.exception, SAM3DError) and str(file) in str(done.exception)


def test_a_bad_table_is_told_before_cases_are_predicted(tmp_path):
    (tmp_path / "after_1").mkdir()
    (tmp_path / "after_1" / "prediction.csv").write_text("clicks,seconds\n1,1\n")
    with pytest.raises(SAM3DError, match="after_1/prediction.csv has no column case"):
        check_settings(tmp_path, {"mirroring": True})
    assert not (tmp_path / "settings.json").exists()


def test_other_methods_tables_are_none_of_an_evaluation(results_folder):
    """What one method left behind costs no other its evaluation."""
    file = next(results_folder.glob("nnU*/automatic/fold_0/trial_0/prediction.csv"))
    file.write_text("nothing")
    check_settings(results_folder / "new" / "automatic" / "fold_0" / "trial_0", {"mirroring": True})
    with pytest.raises(SAM3DError, match=str(file)):
        Results(results_folder).costs  # noqa: B018


def test_facts_that_lack_keys(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "method.json").write_text('{"kind": "automatic"}')
    facts = {"name": "ours", "trainer": "T", "plans": "P", "configuration": "C", "kind": "automatic", "device": None}
    ResultsFolder(tmp_path).write_method("ours", facts)
    assert read_object(tmp_path / "ours" / "method.json")["trainer"] == "T"


def test_fingerprint_of_damaged_zip_files(tmp_path):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(b"PK\x01\x02" + bytes(40) + b"PK\x05\x06" + b"\xff" * 18)
    assert len(fingerprint(file)) == 16
