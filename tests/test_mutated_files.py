"""`tests/campaigns/mutations.py` in short: mutated files of users, through commands that are fast."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
from mutation_runner import LONGEST_LINE, Inputs, Kind, count
from mutations import KINDS, folds

from sam3d_nnunet.datasets import check
from sam3d_nnunet.errors import SAM3DError

FAST = (": read", "splits show", "splits import", "target", "clipping", "convert", "recipe: benchmark")


def test_every_mutated_file_is_read_or_refused_by_name(tmp_path):
    kinds = {name: kind for name, kind in KINDS.items() if any(words in name for words in FAST)}
    counts, faults, _ = count(Inputs(kinds, tmp_path, seed=18).attempt, kinds, 250, quiet=True)
    assert not faults
    assert {outcome for counter in counts.values() for outcome in counter} == {"success", "refused"}


def fail(error: BaseException):
    def read(work: Path) -> None:
        raise error

    return read


def tell(text: str):
    def read(work: Path) -> None:
        print(text)
        raise SystemExit(1)

    return read


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda work: None, "success"),
        (fail(SAM3DError("splits_final.json is wrong")), "refused"),
        (fail(SAM3DError("something is wrong")), "unnamed"),
        (fail(KeyError("train")), "exception"),
        (tell("Traceback (most recent call last)\nKeyError: 'train'"), "traceback"),
        (tell(f"splits_final.json: {'9' * LONGEST_LINE}"), "long"),
    ],
)
def test_what_the_campaign_tells_apart(tmp_path, read, what):
    assert Inputs({"a": Kind(folds, read)}, tmp_path, 0).attempt("a", 1).what == what


def test_the_campaign_finds_a_reader_that_checks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "description_problems", lambda content: {})
    kinds = {"dataset.json": KINDS["dataset.json: doctor"]}
    _, faults, _ = count(Inputs(kinds, tmp_path, 0).attempt, kinds, 15, quiet=True)
    assert faults
