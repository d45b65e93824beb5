"""A small benchmark through SLURM and on one machine: the same tables."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
COSTS = {"training_hours", "seconds", "peak_memory_gib"}
"""Columns of table.csv that depend on how busy a machine is."""
RECIPE = {
    "patch_size": [16, 16, 16],
    "sam3d": {
        "preset": "tiny",
        "stride": 4,
        "refine": "none",
        "num_epochs": 1,
        "steps_per_epoch": 2,
        "validation_steps": 1,
    },
    "benchmark": {
        "methods": [
            {"name": "ours", "trainer": "SAM3DAdapterTrainer"},
            {"name": "nnU-Net, same length", "trainer": "nnUNetTrainer_planned"},
        ],
        "folds": [0, 1],
        "seeds": [0],
        "protocols": ["automatic", "volume_1"],
        "trials": 1,
        "baseline": "nnU-Net, same length",
    },
}


@pytest.fixture
def recipe(nnunet_folders, write_dataset, tmp_path, monkeypatch) -> Path:
    """Two methods on two folds of three noisy balls."""
    for name, value in {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    cases = {}
    for number in range(3):
        rng = np.random.default_rng(number)
        where = np.stack(np.indices((16, 15, 14)), -1)
        ball = ((where - rng.uniform(6, 8, 3)) ** 2).sum(-1) < rng.uniform(20, 36)
        cases[f"ball_{number}"] = (ball + rng.normal(0, 0.3, ball.shape), ball)
    folder = write_dataset(nnunet_folders.raw, "Dataset001_Balls", cases, {"background": 0, "ball": 1})
    folds = [{"train": ["ball_0", f"ball_{2 - n}"], "val": [f"ball_{1 + n}"]} for n in (0, 1)]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    return tmp_path / "recipe.json"


def test_equal_but_for_the_costs(recipe, profile, nnunet_folders, run_command, tmp_path):
    tables = []
    for place, more in {"here": (), "cluster": ("--profile", profile)}.items():
        folders = {f"nnUNet_{name}": str(tmp_path / place / name) for name in ("preprocessed", "results")}
        for folder in folders.values():
            Path(folder).mkdir(parents=True)
        results = tmp_path / place / "measured"
        done = run_command("sam3d", "benchmark", recipe, "-d", "1", "-o", results, "--device", "cpu", *more, **folders)
        assert done.returncode == 0, done.stdout + done.stderr
        with (results / "table" / "table.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert set(rows[0]) > COSTS
        tables.append([{name: value for name, value in row.items() if name not in COSTS} for row in rows])
    assert len(tables[0]) > 20 and tables[0] == tables[1]
