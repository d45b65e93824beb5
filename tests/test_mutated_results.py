"""`tests/campaigns/mutated_results.py` in short: mutated results and models, through what reads them fast."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
from mutated_results import KINDS
from mutation_runner import Inputs, count

from sam3d_nnunet.evaluation import result_files

FAST = ("json of model: load", "pth of model: load", "SAM's file", "released", "method.json: table")


def test_every_mutated_file_is_read_or_refused_by_name(tmp_path):
    kinds = {name: kind for name, kind in KINDS.items() if any(words in name for words in FAST)}
    counts, faults, _ = count(Inputs(kinds, tmp_path, seed=18).attempt, kinds, 36, quiet=True)
    assert not faults
    assert sum(outcomes["refused"] for outcomes in counts.values()) > 10


def test_the_campaign_finds_a_reader_that_checks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(result_files, "check_content", lambda *arguments: None)
    kinds = {"method.json": KINDS["method.json: table"]}
    _, faults, _ = count(Inputs(kinds, tmp_path, 0).attempt, kinds, 8, quiet=True)
    assert faults
