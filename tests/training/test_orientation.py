"""The orientation that a model notes is that of the arrays it is trained on."""

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize(("noted", "expected"), [("RAS", "LPS"), ("LPS", "LPS"), (None, None)])
def test_plans_of_other_data_are_corrected(make_trainer, capsys, noted, expected):
    """nnUNetv2_move_plans_between_datasets takes the note along; a recipe or a person may write null."""
    trainer = make_trainer(settings={"orientation": noted})
    trainer.on_train_start()
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["sam3d"]["orientation"] == expected
    assert trainer.settings.orientation == expected
    assert trainer.configuration_manager.configuration["sam3d"]["orientation"] == expected
    message = "the plans say that images lie as RAS, but the preprocessed images lie as LPS"
    assert (message in capsys.readouterr().out) == (noted == "RAS")
