"""Benchmarks that train our network for a few steps."""

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import start
import torch
import training_overheads
import waiting_threads


@pytest.fixture(autouse=True)
def same_threads(monkeypatch):
    """The scripts set how many threads torch has, and the tests after them share the process."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def test_starts_are_compared(tmp_path, monkeypatch, capsys):
    """Three phantoms: slices of one, a lifted training on the next, the last one is held out."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        truth = np.zeros((32, 32, 32), np.uint8)
        truth[8:24, 8:24, 8:24] = 1
        image = sitk.GetImageFromArray((truth + rng.normal(size=truth.shape)).astype(np.float32))
        sitk.WriteImage(image, tmp_path / "imagesTr" / f"case_{i}_0000.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(truth), tmp_path / "labelsTr" / f"case_{i}.nii.gz")
    out = tmp_path / "out"
    short = ["--slice-steps", "1", "--steps", "1", "--every", "1", "--patches", "2", "--seeds", "0", "--spacing", "1"]
    monkeypatch.setattr(sys, "argv", ["start.py", str(tmp_path), *short, "-o", str(out)])
    start.main()
    records = json.loads((out / "measured.json").read_text())
    assert [(r["start"], r["step"]) for r in records] == [(s, n) for s in start.STARTS for n in (0, 1)]
    assert "published" in capsys.readouterr().out


def test_steps_with_and_without_a_correction_are_timed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training_overheads.py", "step", "--size", "16", "16", "16", "--runs", "1"])
    training_overheads.main()
    lines = capsys.readouterr().out.splitlines()
    assert ["False" in line for line in lines[1:]] == [True, False] and all(line.endswith(" s") for line in lines[1:])


def test_steps_beside_busy_loops_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(waiting_threads.os, "cpu_count", torch.get_num_threads)
    waiting_threads._train(0.1)
    assert "s of processor time" in capsys.readouterr().out
