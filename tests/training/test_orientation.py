"""The orientation that a model notes is that of the arrays it is trained on."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from nnunetv2.run.run_training import maybe_load_checkpoint

from sam3d_nnunet.training.planned_trainer import from_first_rank


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


def test_a_continued_training_keeps_the_note_without_reading_cases(make_trainer, monkeypatch):
    trainer = make_trainer(settings={"orientation": "RAS"})
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
    again = make_trainer(settings={"orientation": "RAS"}, continue_training=True)
    maybe_load_checkpoint(again, continue_training=True, validation_only=False)
    with monkeypatch.context() as patches:
        patches.setattr(trainer.dataset_class, "load_case", None)
        again._correct_orientation()
    again.on_train_start()
    plans = json.loads((Path(again.output_folder_base) / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["sam3d"]["orientation"] == again.settings.orientation == "LPS"


def asking_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=2)
    answer = from_first_rank(lambda: f"of rank {rank}")
    Path(folder, f"{rank}.txt").write_text(answer)
    dist.destroy_process_group()


def test_the_first_rank_answers_for_all(tmp_path):
    torch.multiprocessing.start_processes(asking_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["of rank 0"] * 2
