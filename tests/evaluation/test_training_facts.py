"""What method.json says about a training."""

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from sam3d_nnunet.baselines.prompted_unet import PromptedUNetTrainer
from sam3d_nnunet.evaluation.training_facts import training_facts
from sam3d_nnunet.nnunet.names import TRAINERS, find_trainer
from sam3d_nnunet.training.published import SAM3DAdapterTrainer_paper, SAM3DAdapterTrainer_released
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer
from sam3d_nnunet.training.variants import nnUNetTrainer_planned, nnUNetTrainer_smoke


class ForeignTrainer(nnUNetTrainer):
    """Somebody else's, of which only its checkpoint is known."""


def optimizer_state(optimizer: type[torch.optim.Optimizer], steps: int, **options) -> dict:
    """As nnU-Net saves it after some steps."""
    layer = nn.Linear(2, 1)
    trained = optimizer(layer.parameters(), **options)
    for _ in range(steps):
        layer(torch.ones(1, 2)).sum().backward()
        trained.step()
    return trained.state_dict()


SGD = optimizer_state(torch.optim.SGD, 3, lr=0.1, momentum=0.99)


def checkpoint_of(block: dict | None = None, **more) -> dict:
    """A checkpoint after 4 epochs, with the plan's patch of 32 x 64 x 96 and batches of 2."""
    planned = {"patch_size": (32, 64, 96), "batch_size": 2, "architecture": {}} | (
        {} if block is None else {"sam3d": block}
    )
    return {
        "init_args": {"plans": {"configurations": {"3d_fullres": planned}}, "configuration": "3d_fullres"},
        "current_epoch": 4,
        "optimizer_state": SGD,
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **more,
    }


def note(folder: Path, **noted: object) -> None:
    """debug.json, in which nnU-Net writes everything as text."""
    (folder / "debug.json").write_text(json.dumps({key: str(value) for key, value in noted.items()}))


def test_nnunet_itself(tmp_path):
    """Its checkpoints do not hold the number of steps; debug.json does."""
    note(tmp_path, num_iterations_per_epoch=250, batch_size=2, is_ddp=False)
    facts = training_facts(checkpoint_of(), nnUNetTrainer, tmp_path)
    assert facts == {
        "training_hours": None,
        "patch_size": [32, 64, 96],
        "batch_size": 2,
        "epochs": 4,
        "steps": 1000,
        "patches": 2000,
        "mirroring_axes": [0, 1, 2],
        "test_mirroring_axes": [0, 1, 2],
        "seed": "none",
        "training_cases": None,
        "no_click_share": None,
    }
    assert json.loads(json.dumps(facts)) == facts


def test_what_no_file_tells_is_unknown(tmp_path):
    facts = training_facts(checkpoint_of(), nnUNetTrainer, tmp_path)
    assert (facts["batch_size"], facts["steps"], facts["patches"]) == (2, None, None)
    foreign = training_facts(checkpoint_of(inference_allowed_mirroring_axes=None), ForeignTrainer, tmp_path)
    assert (foreign["mirroring_axes"], foreign["seed"]) == (None, None)
    assert training_facts(checkpoint_of(), ForeignTrainer, tmp_path)["mirroring_axes"] == [0, 1, 2]
    imported = checkpoint_of({"clicks": {"policy": "released"}, "preset": "paper"})
    for key in ("current_epoch", "optimizer_state"):
        del imported[key]
    imported["inference_allowed_mirroring_axes"] = None
    facts = training_facts(imported, SAM3DAdapterTrainer, tmp_path)
    unknown = ("training_hours", "epochs", "steps", "patches", "mirroring_axes", "seed")
    assert {key: facts[key] for key in unknown} == dict.fromkeys(unknown)
    assert (facts["test_mirroring_axes"], facts["no_click_share"]) == ([], 0)


def test_batch_of_several_gpus_is_that_of_the_plan(tmp_path):
    """debug.json holds the share of the first GPU."""
    note(tmp_path, num_iterations_per_epoch=10, batch_size=1, is_ddp=True)
    assert training_facts(checkpoint_of(), nnUNetTrainer, tmp_path)["patches"] == 4 * 10 * 2
    note(tmp_path, num_iterations_per_epoch=10, batch_size=5, is_ddp=False)
    assert training_facts(checkpoint_of(), ForeignTrainer, tmp_path)["patches"] == 4 * 10 * 5


def test_the_block_of_the_plan_counts_for_our_trainers(tmp_path):
    block = {"batch_size": 3, "steps_per_epoch": 50, "clicks": {"no_click_share": 0.25}, "seed": 7}
    block |= {"training_cases": 12}
    facts = training_facts(checkpoint_of(block), PromptedUNetTrainer, tmp_path)
    assert (facts["batch_size"], facts["patches"], facts["seed"]) == (3, 4 * 50 * 3, 7)
    assert facts["no_click_share"] == 0.25 and facts["training_cases"] == 12
    facts = training_facts(checkpoint_of(block), nnUNetTrainer_planned, tmp_path)
    assert (facts["patches"], facts["seed"], facts["no_click_share"]) == (600, 7, None)
    before = {key: value for key, value in block.items() if key != "seed"}  # models without this setting
    assert training_facts(checkpoint_of(before), PromptedUNetTrainer, tmp_path)["seed"] == "none"


@pytest.mark.parametrize("trainer", [SAM3DAdapterTrainer_paper, SAM3DAdapterTrainer_released])
def test_published_trainings_count_their_steps_and_always_click(trainer, tmp_path):
    """Their epochs have a step for each case, whatever the block and debug.json say."""
    block = trainer.changes | {"batch_size": 1, "steps_per_epoch": 250}
    note(tmp_path, num_iterations_per_epoch=250, batch_size=1, is_ddp=False)
    counted = optimizer_state(torch.optim.AdamW, 44)
    facts = training_facts(
        checkpoint_of(block, optimizer_state=counted, inference_allowed_mirroring_axes=None), trainer, tmp_path
    )
    assert (facts["steps"], facts["patches"], facts["no_click_share"]) == (44, 44, 0)
    assert (facts["mirroring_axes"], facts["test_mirroring_axes"]) == ([0, 1, 2], [])
    facts = training_facts(checkpoint_of(block, optimizer_state=None), trainer, tmp_path)
    assert facts["patches"] is None


@pytest.mark.parametrize("name", TRAINERS)
def test_mirroring_is_that_of_the_trainer(name, make_trainer, tmp_path):
    pytest.importorskip("monai")
    trainer_class = find_trainer(name)
    settings = getattr(trainer_class, "changes", {}) | {"sam_checkpoint": "none"}
    trainer = make_trainer(trainer_class=trainer_class, settings=settings)
    *_, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    checkpoint = checkpoint_of(inference_allowed_mirroring_axes=trainer.inference_allowed_mirroring_axes)
    checkpoint["init_args"] = trainer.my_init_kwargs
    facts = training_facts(checkpoint, trainer_class, tmp_path)
    assert facts["mirroring_axes"] == list(axes or ())
    assert facts["patch_size"] == [16, 16, 16]


def test_smoke_trainer_of_nnunet_is_not_seeded(tmp_path):
    assert training_facts(checkpoint_of(), nnUNetTrainer_smoke, tmp_path)["seed"] == "none"


def test_arguments_of_a_baselines_network(tmp_path):
    """Also those that the plan leaves at their defaults; other trainers have none."""
    pytest.importorskip("segment_anything")
    tuning = find_trainer("SAM3DHoulsbyAdapterTrainer")
    block = {"networks": {"SAM3DHoulsbyAdapterTrainer": {"width": 205}}}
    assert training_facts(checkpoint_of(block), tuning, tmp_path)["network"] == {"width": 205, "neck": "sam"}
    assert training_facts(checkpoint_of(), tuning, tmp_path)["network"] == {"width": 64, "neck": "sam"}
    assert "network" not in training_facts(checkpoint_of(block), SAM3DAdapterTrainer, tmp_path)
