"""`sam3d prompts`: the clicks of `sam3d evaluate` without a model."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

CASES = ["Fall_Müller_病例", "case_2"]


def prompts(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["prompts", *map(str, arguments)])


def written(root: Path) -> dict[str, bytes]:
    """Content of data.json and of all prompt files, by their places."""
    files = [root / "data.json", *(root / "prompts").rglob("*.*")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


@pytest.fixture
def dataset(prepared, monkeypatch):
    """Its raw folder; nnU-Net's variables are set."""
    prepared = prepared("classes")
    monkeypatch.setenv("nnUNet_raw", str(prepared.root / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(prepared.root / "preprocessed"))
    return prepared.root / "raw" / prepared.name


def test_the_same_files_as_those_of_an_evaluation(make_evaluated, tmp_path):
    model, protocols = make_evaluated(), ["slice_2", "iterated_2"]
    evaluate(model.folder, tmp_path / "one", ["0"], protocols, 2, PredictionOptions("cpu", mirroring=False))
    chosen = [word for protocol in protocols for word in ("--protocol", protocol)]
    done = prompts("-d", 711, *chosen, "--trials", 2, "-f", 0, "-o", tmp_path / "two")
    assert done.exit_code == 0, done.output
    assert len(written(tmp_path / "two")) == 1 + 2 * 2 * len(CASES)
    assert written(tmp_path / "two") == written(tmp_path / "one")


def test_all_training_cases_and_clicks_that_are_there(dataset, tmp_path):
    folder = tmp_path / "results" / "prompts" / "slice_1" / "trial_0"
    folder.mkdir(parents=True)
    write_prompt(Prompt([[1, 2, 3]], [1], "case_3"), folder / "case_3.json")
    done = prompts("-d", 711, "--protocol", "slice_1", "-o", tmp_path / "results")
    assert done.exit_code == 0, done.output
    assert f"prompts: {tmp_path / 'results' / 'prompts'}" in done.output
    assert {file.stem for file in folder.iterdir()} == {*CASES, "case_1", "case_3", "case_4"}
    assert read_prompt(folder / "case_3.json").points.tolist() == [[1, 2, 3]]


def test_a_test_set_and_a_bad_case(dataset, tmp_path):
    root, labels = tmp_path / "results", tmp_path / "labelsTs"
    labels.mkdir()
    shutil.copy(dataset / "labelsTr" / "case_1.nii.gz", labels / "patient.nii.gz")
    (labels / "broken.nii.gz").write_text("nothing")
    asked = ["-d", 711, "--protocol", "volume_1", "--test", labels, labels, "-o", root]
    done = prompts(*asked)
    assert done.exit_code == 1
    assert "Error: 1 case(s) failed: prompts/volume_1/trial_0: broken" in done.output
    assert [file.name for file in (root / "prompts/volume_1/trial_0").iterdir()] == ["patient.json"]
    assert json.loads((root / "data.json").read_text())["test_truth"] == str(labels)

    shutil.copy(dataset / "labelsTr" / "case_1.nii.gz", labels)
    assert "both hold case_1. Rename" in str(prompts(*asked).exception)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-d", 711, "--protocol", "automatic"], "automatic"),
        (["-d", 711, "--protocol", "slice"], "There is no protocol 'slice'"),
        (["-d", 711, "--protocol", "slice_1", "-f", 9], "no fold 9"),
        (["-d", 711, "--protocol", "slice_1", "-f", 0, "--test", "a", "b"], "not both"),
        (["-d", 711], "--protocol"),
    ],
)
def test_mistakes(dataset, tmp_path, arguments, message):
    done = prompts(*arguments, "-o", tmp_path / "results")
    if isinstance(done.exception, SAM3DError):
        assert message in str(done.exception)
    else:
        assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "results").exists()
