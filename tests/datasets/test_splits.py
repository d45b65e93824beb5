import json

import pytest

from sam3d_nnunet.datasets.paper_folds import describe_file
from sam3d_nnunet.datasets.splits import describe_splits, read_fold, read_splits, same_splits, write_splits
from sam3d_nnunet.errors import SAM3DError

GOOD = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]


def test_good_folds():
    assert describe_splits(GOOD, ["a", "b"]) == [
        "2 fold(s), 2 case(s)",
        "fold 0: 1 for training, 1 for validation",
        "fold 1: 1 for training, 1 for validation",
        "each of these cases is in the validation set of exactly one fold",
    ]


def test_everything_that_can_be_wrong():
    splits = [{"train": ["a"], "val": ["b"]}, {"train": ["c"], "val": ["b", "x"]}]
    assert describe_splits(splits, ["a", "b", "c", "d"])[1:] == [
        "fold 0: 1 for training, 1 for validation",
        "fold 0 leaves out: 2 case(s): c, x",
        "fold 1: 1 for training, 2 for validation",
        "fold 1 leaves out: 1 case(s): a",
        "in no fold: 1 case(s): d",
        "trained on, in no validation set: 2 case(s): a, c",
        "in the validation sets of several folds: 1 case(s): b",
        "in the folds, not in the data set: 1 case(s): x",
    ]


def test_files(tmp_path, paper_splits):
    file = tmp_path / "folder" / "splits_final.json"
    write_splits(GOOD, file)
    assert read_splits(file) == GOOD and describe_file(file) == describe_splits(GOOD)
    lines = describe_file(paper_splits / "lits.split.pkl")
    assert lines[:2] == ["5 fold(s), 118 case(s)", "fold 0: 94 for training, 24 for validation"]
    assert "exactly one fold" in lines[-1]


def test_same_splits():
    assert same_splits([{"train": ["a", "b"], "val": []}], [{"train": ["b", "a"], "val": []}])
    assert not same_splits(GOOD, GOOD[::-1])
    assert not same_splits(GOOD, GOOD[:1])


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "^FILE, line 1: this is not JSON"),
        ("[]", "^FILE holds no folds"),
        ("{}", '^FILE must hold a list of folds, each with "train" and "val", not {}'),
        ("[1]", '^Fold 0 of FILE must be an object with "train" and "val", not 1'),
        ('[{"train": ["a"]}]', '^Fold 0 of FILE has no list "val"'),
        ('[{"train": "a", "val": ["b"]}]', "^\"train\" of fold 0 of FILE must be a list of names of cases, not 'a'"),
        ('[{"train": ["b", 1], "val": ["b"]}]', '^"train" of fold 0 of FILE must hold names .* one of them is 1'),
        ('[{"train": ["b"], "val": [null]}]', '^"val" of fold 0 of FILE must hold names .* one of them is None'),
        ('[{"train": ["b", ""], "val": ["c"]}]', "one of them is ''"),
    ],
)
def test_bad_files(tmp_path, content, message):
    file = tmp_path / "splits_final.json"
    file.write_text(content)
    with pytest.raises(SAM3DError, match=message.replace("FILE", str(file))) as refused:
        read_splits(file)
    assert "\n" not in str(refused.value)
    file.write_text(json.dumps(GOOD))
    assert read_splits(file) == GOOD
    with pytest.raises(SAM3DError, match="none.json.*nnU-Net writes"):
        read_splits(tmp_path / "none.json")


def test_folds_that_nnunet_trains_all_the_same(tmp_path):
    """Cases in both parts may be meant, a case twice is drawn twice as often, and other folds don't matter."""
    file = tmp_path / "splits_final.json"
    splits = [{"train": ["a", "b", "a"], "val": ["b", "c", "c"]}, {"train": ["a"], "val": []}]
    file.write_text(json.dumps(splits))
    assert read_splits(file) == splits
    assert describe_file(file)[1:6] == [
        "fold 0: 2 for training, 2 for validation",
        "fold 0 validates on what it trains on: 1 case(s): b",
        'fold 0 names several times in "train": 1 case(s): a',
        'fold 0 names several times in "val": 1 case(s): c',
        "fold 1: 1 for training, 0 for validation",
    ]
    assert read_fold(file, 0, "abc", "there") == {"train": ["a", "b"], "val": ["b", "c"]}
    assert read_fold(file, 1, "abc", "there", ["train"])["train"] == ["a"]
    with pytest.raises(SAM3DError, match=f'^Fold 1 of {file} has no cases in "val". Add some.'):
        read_fold(file, 1, "abc", "there")


def test_keys_of_other_tools_are_left_alone(tmp_path):
    file = tmp_path / "splits_final.json"
    file.write_text('[{"train": ["a"], "val": ["b"], "test": []}]')
    assert read_splits(file) == GOOD[:1]


def test_one_fold(tmp_path):
    file = tmp_path / "splits_final.json"
    write_splits(GOOD, file)
    assert read_fold(file, 1, ["a", "b", "c"], "there") == GOOD[1]
    assert read_fold(file, 1, ["a"], "there", parts=["val"]) == GOOD[1]
    with pytest.raises(SAM3DError, match=f"^{file} has no fold 2, only 0 to 1. "):
        read_fold(file, 2, ["a", "b"], "there")
    with pytest.raises(SAM3DError, match=rf"^Fold 1 of {file} names 1 case\(s\) that are not in there: b. "):
        read_fold(file, 1, ["a"], "there")
