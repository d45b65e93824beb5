"""Training the paper's ways of tuning SAM within nnU-Net."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from effect import without_effect
from nnunetv2.run.run_training import maybe_load_checkpoint

from sam3d_nnunet.baselines.houlsby_adapter import SAM3DHoulsbyAdapterTrainer
from sam3d_nnunet.baselines.med_tuning import SAM3DMedTuningTrainer
from sam3d_nnunet.baselines.pro_tuning import SAM3DProTuningTrainer
from sam3d_nnunet.baselines.slice_encoder import SliceEncoder
from sam3d_nnunet.baselines.st_adapter import SAM3DSTAdapterTrainer
from sam3d_nnunet.baselines.tuned_sam import SAM3DAdapterAutoTrainer, SAM3DFullFineTuneTrainer
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.nnunet.names import class_lookup

ALL = (
    SAM3DFullFineTuneTrainer,
    SAM3DHoulsbyAdapterTrainer,
    SAM3DProTuningTrainer,
    SAM3DSTAdapterTrainer,
    SAM3DMedTuningTrainer,
    SAM3DAdapterAutoTrainer,
)
each_trainer = pytest.mark.parametrize("trainer_class", ALL)


@each_trainer
def test_nnunet_finds_it(trainer_class):
    assert class_lookup(__name__)(trainer_class.__name__) is trainer_class


@pytest.mark.parametrize("trainer_class, kind", [*((t, "classes") for t in ALL), (SAM3DMedTuningTrainer, "regions")])
def test_steps_change_what_is_tuned_and_nothing_else(make_automatic, trainer_class, kind):
    trainer = make_automatic(trainer_class, kind=kind)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    tuned = {name for name, p in trainer.network.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(tuned)
    for _ in range(2):  # what follows a layer that starts at zero changes in the second
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    changed = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
    # what has no effect may still be moved by rounding: Adam's steps don't depend on a gradient's size
    assert tuned - without_effect(trainer_class, tuned) <= changed <= tuned
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])


def test_training_validation_and_prediction(run_whole):
    log = next(run_whole(SAM3DMedTuningTrainer).glob("training_log_*.txt")).read_text()
    assert "Tuned in the image encoder: 0.01 M parameters; the paper counts 11.10 M for ViT-B" in log


@pytest.fixture
def sam_file(tmp_path, monkeypatch) -> Path:
    """A file of SAM's weights for the tiny preset, which then wants them."""
    tiny = PRESETS["tiny"]
    monkeypatch.setitem(PRESETS, "tiny", replace(tiny, sam_model="vit_b"))
    sam = SliceEncoder(tiny, 1, 4, activation_checkpointing=False, tuning=None).sam
    torch.save({f"image_encoder.{name}": t for name, t in sam.state_dict().items()}, tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@each_trainer
def test_starts_from_sams_weights_once(make_automatic, sam_file, trainer_class):
    settings = {"sam_checkpoint": str(sam_file)}
    trainer = make_automatic(trainer_class, settings=settings)
    trainer.on_train_start()
    encoder = trainer.network.image_encoder
    sam = encoder if trainer_class is SAM3DAdapterAutoTrainer else encoder.sam
    given = torch.load(sam_file, weights_only=True)["image_encoder.blocks.0.attn.qkv.weight"]
    assert torch.equal(sam.blocks[0].attn.qkv.weight, given)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))

    sam_file.unlink()  # neither --c nor --val needs it any more
    again = make_automatic(trainer_class, settings=settings)
    maybe_load_checkpoint(again, True, False, None)
    again.on_train_start()
    assert again.network.initialized == 1


def test_without_sams_weights_training_does_not_begin(make_automatic, sam_file):
    sam_file.unlink()
    trainer = make_automatic(SAM3DHoulsbyAdapterTrainer, settings={"sam_checkpoint": str(sam_file)})
    with pytest.raises(SAM3DError, match="sam.pth"):
        trainer.on_train_start()


def test_widths_stand_in_the_plan(make_automatic):
    trainer = make_automatic(SAM3DHoulsbyAdapterTrainer, {"width": 5})
    trainer.initialize()
    assert trainer.network.image_encoder.tunings[0].mlp_adapter.down.out_features == 5


def test_facts_are_all_arguments_with_their_values(make_automatic):
    trainer = make_automatic(SAM3DHoulsbyAdapterTrainer, {"width": 5})
    assert trainer.network_facts(trainer.settings) == {"width": 5, "neck": "sam"}
    trainer = make_automatic(SAM3DSTAdapterTrainer, {"neck": "3d"})
    assert trainer.network_facts(trainer.settings) == {"width": None, "kernel_size": (3, 1, 1), "neck": "3d"}


@each_trainer
def test_the_neck_stands_in_the_plan(make_automatic, sam_file, trainer_class):
    """The one that is not the default: it trains, starts from SAM's file, and the fact says so."""
    other = "sam" if trainer_class is SAM3DAdapterAutoTrainer else "3d"
    trainer = make_automatic(trainer_class, {"neck": other}, settings={"sam_checkpoint": str(sam_file)})
    assert trainer.network_facts(trainer.settings)["neck"] == other
    trainer.on_train_start()
    given = torch.load(sam_file, weights_only=True)
    encoder = trainer.network.image_encoder
    weights = [encoder.neck[0].weight] if other == "sam" else [n.reduce.weight[..., None, None] for n in encoder.necks]
    assert len(weights) == (1 if other == "sam" else 4)
    assert all(torch.equal(weight, given["image_encoder.neck.0.weight"]) for weight in weights)
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"neck": "4d"}, "under networks.SAM3DMedTuningTrainer, which make no network .*'4d' .* one of sam, 3d"),
        (
            {"ratoi": 3},
            "gives 'ratoi' under networks.SAM3DMedTuningTrainer, .* no such argument; it has ratio, neck[.]",
        ),
        ({"preset": "vit_b"}, "gives 'preset' under networks.SAM3DMedTuningTrainer, .* no such argument"),
        ({"ratio": "6"}, "under networks.SAM3DMedTuningTrainer, which make no network"),
        ({"ratio": 0}, "under networks.SAM3DMedTuningTrainer, which make no network"),
    ],
)
def test_unusable_arguments(make_automatic, arguments, message):
    with pytest.raises(SAM3DError, match=message):
        make_automatic(SAM3DMedTuningTrainer, arguments).initialize()


def test_errors_that_are_not_the_plans_stay_what_they_are(make_automatic, monkeypatch):
    def fail(*arguments, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(SAM3DMedTuningTrainer, "make_network", fail)
    with pytest.raises(ZeroDivisionError):
        make_automatic(SAM3DMedTuningTrainer).initialize()


def test_rate_and_decay_are_those_of_the_plan(make_automatic):
    optimizer = {"lr": 2e-4, "weight_decay": 3e-5, "final_lr_share": 0.1, "gradient_clip": 1.0}
    trainer = make_automatic(SAM3DProTuningTrainer, settings={"optimizer": optimizer})
    trainer.initialize()
    group = trainer.optimizer.param_groups[0]
    assert (type(trainer.optimizer), group["lr"], group["weight_decay"]) == (torch.optim.AdamW, 2e-4, 3e-5)
    trainer.lr_scheduler.step(trainer.num_epochs - 1)
    assert 2e-5 <= trainer.optimizer.param_groups[0]["lr"] < 1e-4


def test_gradients_are_clipped(make_automatic):
    optimizer = {"lr": 1e-4, "weight_decay": 1e-5, "final_lr_share": 0.1, "gradient_clip": 1e-3}
    trainer = make_automatic(SAM3DSTAdapterTrainer, settings={"optimizer": optimizer})
    trainer.on_train_start()
    trainer.train_step(next(trainer.dataloader_train))
    norm = torch.stack([p.grad.norm() for p in trainer.network.parameters() if p.grad is not None]).norm()
    assert norm <= 1e-3 * (1 + 1e-4)
