import pickle

import pytest

from sam3d_nnunet.datasets.paper_folds import PaperFold, read_paper_folds, to_splits
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
    assert to_splits(folds, join_validation=False) == [{"train": ["a", "b"], "val": ["d"]}]


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
