import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets.paper_folds import PaperFold, import_splits, match_names, read_paper_folds, to_splits
from sam3d_nnunet.errors import SAM3DError

NO_TUMOUR = {32, 34, 38, 41, 47, 87, 89, 91, 105, 106, 114, 115, 119}
"""The training volumes of LiTS17 without a tumour, as commonly listed."""


@pytest.mark.parametrize(
    "task, cases, test_sizes",
    [
        ("kits", 300, [61, 61, 61, 61, 56]),
        ("pancreas", 281, [57, 57, 57, 57, 53]),
        ("lits", 118, [24, 24, 24, 24, 22]),
        ("colon", 126, [26, 24, 26, 25, 25]),
    ],
)
def test_published_folds(paper_splits, task, cases, test_sizes):
    folds = read_paper_folds(paper_splits / f"{task}.split.pkl")
    assert [len(fold.test) for fold in folds] == test_sizes
    tested = [name for fold in folds for name in fold.test]
    assert len(tested) == len(set(tested)) == cases
    for fold in folds:
        assert sorted(fold.train + fold.val + fold.test) == sorted(tested)


def test_lits_cases_are_those_with_a_tumour(paper_splits):
    folds = read_paper_folds(paper_splits / "lits.split.pkl")
    there = {name for fold in folds for name in fold.test}
    assert there == {f"volume-{number}" for number in range(131) if number not in NO_TUMOUR}


def test_to_splits():
    folds = [PaperFold(["a", "b"], ["c"], ["d"])]
    assert to_splits(folds) == [{"train": ["a", "b", "c"], "val": ["d"]}]
    assert to_splits(folds, train_on_validation=False) == [{"train": ["a", "b"], "val": ["d"]}]


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "holds no folds"),
        ({"train": {}}, "not dict"),
        ("train", "not str"),
        ([["a"]], "fold 0 of .* is no dictionary"),
        ([{"train": {}, "val": {}}], "fold 0 of .* train, val, test"),
        ([{"train": {}, "val": {}, "test": {}, "more": {}}], "fold 0"),
        ([{"train": ["a"], "val": {}, "test": {}}], "train is no dictionary"),
        ([{"train": {}, "val": {1: []}, "test": {}}], "val is no dictionary"),
        ([{"train": {"a": []}, "val": {}, "test": {"": []}}], "test is no dictionary"),
        ([{"train": {"a": [], "b": []}, "val": {}, "test": {"b": []}}], "in train and in test: b"),
    ],
)
def test_other_content(tmp_path, content, message):
    file = tmp_path / "folds.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(SAM3DError, match=message):
        read_paper_folds(file)


# names in another spelling


def test_same_case_in_other_spelling():
    wanted = ["volume-8", "case_00013", "colon_001", "pancreas_331", "v1.2", "Mu\u0308ller"]
    there = ["Volume_008", "Case13", "colon_001", "pancreas 331", "v12", "M\u00fcller"]
    match = match_names(wanted, there)
    assert match.found == {
        "volume-8": "Volume_008",
        "case_00013": "Case13",
        "colon_001": "colon_001",
        "pancreas_331": "pancreas 331",
        "Mu\u0308ller": "M\u00fcller",  # ü as two characters and as one
    }
    assert match.missing == ["v1.2"] and match.surplus == ["v12"]


@pytest.mark.parametrize("other", ["liver_8", "volume-80", "8", "volume", "volume-8-8", "volume-o8"])
def test_other_cases(other):
    assert match_names(["volume-8"], [other]).found == {}


def test_equal_names_win():
    assert match_names(["case_1"], ["case_1", "case_01"]).found == {"case_1": "case_1"}
    match = match_names(["case_1", "case_01"], ["case_01", "Case-1"])
    assert match.found == {"case_01": "case_01", "case_1": "Case-1"}


@pytest.mark.parametrize(
    "wanted, there", [(["case_1"], ["case_01", "Case-1"]), (["case_1", "case_01"], ["Case-1"]), (["1"], ["01", "001"])]
)
def test_several_candidates(wanted, there):
    with pytest.raises(SAM3DError, match="case_01|Case-1|001"):
        match_names(wanted, there)


NUMBERS = st.sets(st.integers(0, 10**6), min_size=1, max_size=30)


@given(NUMBERS, NUMBERS, st.integers(0, 9), st.integers(0, 9), st.sampled_from("-_. "), st.booleans())
def test_numbered_names(wanted, there, width, other_width, separator, upper):
    """However they are padded, separated and capitalised, exactly the common numbers are found."""
    names = {n: f"case_{n:0{width}}" for n in wanted}
    others = {n: f"{'CASE' if upper else 'case'}{separator}{n:0{other_width}}" for n in there}
    match = match_names(names.values(), others.values())
    assert match.found == {names[n]: others[n] for n in wanted & there}
    assert match.missing == sorted(names[n] for n in wanted - there)
    assert match.surplus == sorted(others[n] for n in there - wanted)


@given(st.sets(st.text()), st.sets(st.text()))
def test_any_names(wanted, there):
    """No name is lost, none is taken twice, equal names are found."""
    try:
        match = match_names(wanted, there)
    except SAM3DError:
        return
    assert match.found.keys() | set(match.missing) == wanted and not match.found.keys() & set(match.missing)
    assert set(match.found.values()) | set(match.surplus) == there
    assert len(set(match.found.values())) == len(match.found) == len(there) - len(match.surplus)
    assert all(match.found[name] == name for name in wanted & there)


@given(st.sets(st.text()))
def test_a_set_matches_itself(names):
    match = match_names(names, names)
    assert match.found == {name: name for name in names} and not match.missing and not match.surplus


# folds of a data set


CASES = {
    "kits": [f"case_{n:05}" for n in range(300)],
    "lits": [f"volume-{n}" for n in range(131)],
}


@pytest.fixture
def make_raw(write_names):
    """Makes a data set of label maps that are nothing but names; returns the file of its folds."""
    return lambda cases: write_names(cases) / "splits_final.json"


@pytest.mark.parametrize("task, cases", [("kits", 300), ("pancreas", 281), ("lits", 118), ("colon", 126)])
def test_published_folds_in_the_names_of_a_data_set(make_raw, paper_splits, task, cases):
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

    import_splits(pickled, "220", train_on_validation=False, overwrite=True)
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
    assert imported.notes()[0].startswith("300 case(s) ") and "case_00000 = Case0" in imported.notes()[0]


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
