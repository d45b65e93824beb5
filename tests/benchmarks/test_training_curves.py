import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_curves import names, read_folds

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_curves.py"
EPOCH = """
2026-11-26 17:45:02.339617: train_loss {loss}
2026-11-26 17:45:02.339814: val_loss -0.8141
2026-11-26 17:45:02.339897: Pseudo dice [np.float32({dice}), np.float32(nan)]
2026-11-26 17:45:02.339990: Epoch time: {seconds} s
"""


@pytest.fixture
def model(tmp_path) -> Path:
    """Two folds: one of 3 epochs in two files, as after --c, the other of 2."""
    folder = tmp_path / "Trainer__Plans__3d_fullres"
    for fold, epochs in ((0, 3), (1, 2)):
        (folder / f"fold_{fold}").mkdir(parents=True)
        for epoch in range(epochs):
            file = folder / f"fold_{fold}" / f"training_log_{epoch // 2}.txt"
            text = EPOCH.format(loss=-0.1 * (epoch + fold), dice=0.25 * (epoch + 1), seconds=9 - epoch)
            file.write_text((file.read_text() if file.is_file() else "") + text)
    return folder


def test_only_epochs_that_all_folds_have(model):
    losses, dices, seconds = read_folds(model)
    np.testing.assert_allclose(losses, [[0, -0.1], [-0.1, -0.2]])
    np.testing.assert_allclose(dices, [[0.25, 0.5]] * 2)
    assert sorted(seconds) == [7, 8, 8]


def test_tables_and_curves(model, tmp_path):
    command = [sys.executable, str(SCRIPT), str(model), "--every", "2", "-o", str(tmp_path / "curves.svg")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| Trainer | -0.100 |" in printed and "| Trainer | 0.375 |" in printed
    assert "Trainer: 2 fold(s), median 8.0 s an epoch" in printed
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_a_folder_without_logs(tmp_path):
    with pytest.raises(SystemExit, match="no fold with a training log"):
        read_folds(tmp_path)


def test_models_of_the_same_trainer_have_their_plans_in_the_name():
    models = [Path(f"{data}/Trainer__{plans}__3d_fullres") for data in "ab" for plans in ("few", "all")]
    assert names(models[:1]) == ["Trainer"]
    assert names(models[:2]) == ["Trainer__few", "Trainer__all"]
    assert names([models[0], Path("a/Trainer__few__3d_lowres")]) == [
        "Trainer__few__3d_fullres",
        "Trainer__few__3d_lowres",
    ]
    assert names(models) == [str(model) for model in models]
