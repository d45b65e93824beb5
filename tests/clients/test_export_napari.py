"""`sam3d export-napari`, and the class that napari-nninteractive finds by the file it writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.prediction.napari_folder import FOR_TRAINING, SESSION_FILE
from sam3d_nnunet.prediction.session import SAM3DSession

NAMESPACE = Path(__file__).parents[2] / "namespace"


def export(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["export-napari", *map(str, arguments)])


def first_mask(folder: Path) -> np.ndarray:
    """Of the fold and checkpoint that napari loads."""
    session = SAM3DSession("cpu", torch_n_threads=1)
    session.initialize_from_trained_model_folder(folder, 0, "checkpoint_final.pth")
    image = np.random.default_rng(0).normal(100, 10, (1, 20, 18, 22))
    session.set_image(image, {"spacing": (1, 1, 1)})
    session.set_target_buffer(np.zeros(image.shape[1:], np.uint8))
    session.add_point_interaction((10, 9, 11), True)
    return session.target_buffer


def test_names_the_session_class_in_the_model_folder(make_model):
    folder = make_model("one class").folder
    before = {file for file in folder.rglob("*") if file.is_file()}
    done = export(folder)
    assert done.exit_code == 0 and str(folder.resolve()) in done.output
    assert {file for file in folder.rglob("*") if file.is_file()} - before == {folder / SESSION_FILE}
    assert json.loads((folder / SESSION_FILE).read_text()) == "SAM3DSession"


def test_napari_finds_the_session(monkeypatch):
    """It searches the folders of the namespace package, which the client's package has a part of, too."""
    monkeypatch.syspath_prepend(NAMESPACE)
    import nnInteractive

    portions = [Path(portion) for portion in nnInteractive.__path__ if Path(portion).is_dir()]
    assert len(portions) > 1
    found = {name: [] for name in ("SAM3DSession", "nnInteractiveNoSuchSession")}
    for name, classes in found.items():
        for portion in portions:
            classes.append(recursive_find_python_class(str(portion / "inference"), name, "nnInteractive.inference"))
    assert set(found["SAM3DSession"]) - {None} == {SAM3DSession}  # twice, if a wheel is installed, too
    assert not any(found["nnInteractiveNoSuchSession"])


def test_copies_what_napari_needs(make_model, tmp_path):
    folder, copy = make_model("one class", folds=(0, 2)).folder, tmp_path / "new" / "copy"
    (folder / "LICENSE").write_text("CC BY 4.0\n")
    done = export(folder, "-o", copy, "-f", 2)
    assert done.exit_code == 0 and "fold 2" in done.output
    files = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    expected = {"plans.json", "dataset.json", "LICENSE", SESSION_FILE, "fold_0/checkpoint_final.pth"}
    assert files == expected
    kept = torch.load(copy / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert not kept.keys() & set(FOR_TRAINING)
    mask = first_mask(copy)
    shutil.rmtree(folder / "fold_0")
    (folder / "fold_2").rename(folder / "fold_0")
    assert mask.any() and np.array_equal(mask, first_mask(folder))


def test_a_model_without_fold_0_needs_a_copy(make_model, tmp_path):
    folder = make_model("one class", folds=("all",)).folder
    refused = export(folder)
    assert refused.exit_code != 0 and "fold_0/checkpoint_final.pth" in str(refused.exception)
    assert f"sam3d export-napari {folder} -o OUT -f all" in str(refused.exception)
    assert not (folder / SESSION_FILE).exists()
    assert export(folder, "-o", tmp_path / "copy").exit_code == 0
    assert first_mask(tmp_path / "copy").any()


def test_what_is_refused(make_model, tmp_path):
    folder = make_model("one class").folder
    (tmp_path / "there").mkdir()
    refused = export(folder, "-o", tmp_path / "there")
    assert "is there already" in str(refused.exception)
    assert "-f and -chk need -o" in export(folder, "-f", 1).output
    assert "no checkpoint_final.pth in fold_3" in str(export(folder, "-o", tmp_path / "new", "-f", 3).exception)
    assert not (tmp_path / "new").exists()
    assert "There is no model folder" in str(export(tmp_path / "none").exception)


@pytest.mark.parametrize("into", [(), ("-o", "copy")], ids=["marked", "copied"])
def test_a_broken_model_is_refused(make_model, tmp_path, monkeypatch, into):
    monkeypatch.chdir(tmp_path)
    folder = make_model("one class").folder
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"broken")
    assert "can't be read" in str(export(folder, *into).exception)
    assert not (folder / SESSION_FILE).exists() and not Path("copy").exists()
