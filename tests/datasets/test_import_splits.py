import json
import pickle

import pytest
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets.import_splits import import_splits
from sam3d_nnunet.errors import SAM3DError

CASES = {
    "kits": [f"case_{n:05}" for n in range(300)],
    "lits": [f"volume-{n}" for n in range(131)],
}


@pytest.fixture
def make_raw(write_names):
    """Makes a data set of label maps that are nothing but names; returns the file of its folds."""
    return lambda cases: write_names(cases) / "splits_final.json"


@pytest.mark.parametrize("task, cases", [("kits", 300), ("pancreas", 281), ("lits", 118), ("colon", 126)])
def test_published_folds(make_raw, paper_splits, task, cases):
    pickled = paper_splits / f"{task}.split.pkl"
    theirs = pickle.loads(pickled.read_bytes())  # known to be harmless
    names = CASES.get(task) or [name for fold in theirs for name in fold["test"]]
    file = make_raw(names)
    imported = import_splits(pickled, "220")
    splits = json.loads(file.read_text())
    assert imported.file == file and imported.splits and not imported.match.missing
    assert len(splits) == 5
    validated = [name for fold in splits for name in fold["val"]]
    assert len(validated) == len(set(validated)) == cases
    for fold, their in zip(splits, theirs):
        assert set(fold["val"]) == set(their["test"])
        assert set(fold["train"]) == {*their["train"], *their["val"]}
    assert len(imported.match.surplus) == len(names) - cases == (13 if task == "lits" else 0)

    import_splits(pickled, "220", join_validation=False, overwrite=True)
    for fold, their in zip(json.loads(file.read_text()), theirs):
        assert set(fold["train"]) == their["train"].keys() and set(fold["val"]) == their["test"].keys()


def test_nnunet_trains_on_them(make_raw, paper_splits):
    """nnU-Net's trainer reads the folds from this file."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    file = make_raw(CASES["lits"])
    import_splits(paper_splits / "lits.split.pkl", "220")
    trainer = object.__new__(nnUNetTrainer)
    trainer.fold, trainer.preprocessed_dataset_folder_base = 4, str(file.parent)
    trainer.preprocessed_dataset_folder = trainer.folder_with_segs_from_previous_stage = None
    trainer.dataset_class = lambda *arguments, **more: None
    trainer.print_to_log_file = lambda *text: None
    train, val = trainer.do_split()
    assert (len(train), len(val)) == (96, 22)


def test_names_in_another_spelling(make_raw, paper_splits):
    file = make_raw([f"Case{n}" for n in range(300)])
    imported = import_splits(paper_splits / "kits.split.pkl", "Dataset220_Some")
    assert "Case125" in json.loads(file.read_text())[0]["val"]
    assert "300 case(s) of the folds, called otherwise in the data set: case_00000 = Case0" in imported.notes()[0]


def test_missing_cases(make_raw, paper_splits):
    file = make_raw([*CASES["kits"][2:], "mine"])
    pickled = paper_splits / "kits.split.pkl"
    with pytest.raises(
        SAM3DError, match="2 of the 300 cases .*: case_00000, case_00001. Add them, or .*--allow-missing"
    ):
        import_splits(pickled, "220")
    assert not file.exists()
    imported = import_splits(pickled, "220", allow_missing=True)
    assert len({name for fold in json.loads(file.read_text()) for name in fold["val"]}) == 298
    assert [note.split(":")[0] for note in imported.notes()] == [
        "2 case(s) of the folds, not in the data set and left out",
        "1 case(s) of the data set, in none of these folds",
    ]


def test_another_data_set(make_raw, paper_splits):
    file = make_raw(["liver_1"])
    with pytest.raises(SAM3DError, match="None of the 118 cases .* volume-0, .* liver_1"):
        import_splits(paper_splits / "lits.split.pkl", "220", allow_missing=True)
    assert not file.exists()


def test_fold_without_cases(make_raw, paper_splits):
    make_raw(["volume-8"])
    with pytest.raises(SAM3DError, match="no case that is"):
        import_splits(paper_splits / "lits.split.pkl", "220", allow_missing=True)


def test_other_folds_are_kept(make_raw, paper_splits, nnunet_folders):
    file, pickled = make_raw(CASES["kits"]), paper_splits / "kits.split.pkl"
    file.parent.mkdir()
    file.write_text('[{"train": ["case_00000"], "val": ["case_00001"]}]')
    (nnunet_folders.results / "Dataset220_Some" / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0").mkdir(
        parents=True
    )
    before = file.read_text()
    with pytest.raises(SAM3DError, match="other folds.*nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0.*--overwrite"):
        import_splits(pickled, "220")
    assert file.read_text() == before
    assert not import_splits(pickled, "220", overwrite=True).unchanged
    assert import_splits(pickled, "220").unchanged


def test_no_such_data(nnunet_folders, paper_splits, monkeypatch):
    pickled = paper_splits / "kits.split.pkl"
    for dataset in ("220", "x", "Dataset220_No"):
        with pytest.raises(SAM3DError, match="220|x"):
            import_splits(pickled, dataset)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SAM3DError, match="nnUNet_raw"):
        import_splits(pickled, "220")


def test_commands(make_raw, paper_splits):
    make_raw(CASES["lits"])
    run = CliRunner().invoke
    done = run(cli.app, ["splits", "import", str(paper_splits / "lits.split.pkl"), "-d", "220"])
    assert done.exit_code == 0, done.output
    assert (
        "written: " in done.output and "13 case(s) of the data set, in none of these folds: volume-105" in done.output
    )
    assert "fold 4: 96 for training, 22 for validation" in done.output
    shown = run(cli.app, ["splits", "show", "-d", "220"])
    assert "5 fold(s), 118 case(s)" in shown.output and "in no fold: 13 case(s): volume-105, " in shown.output
    again = ["splits", "import", str(paper_splits / "lits.split.pkl"), "-d", "220", "--overwrite"]
    done = run(cli.app, [*again, "--their-validation", "leave-out"])
    assert "fold 0: 83 for training, 24 for validation" in done.output
    assert "fold 0 leaves out: 11 case(s)" in done.output
    assert run(cli.app, ["splits", "show"]).exit_code == 2
