"""The prompted nnU-Net control, trained and used as ours."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sam3d_nnunet.baselines.prompted_unet import (
    PromptedResEncUNetTrainer,
    PromptedUNetTrainer,
    PromptedUNetTrainer_1000epochs,
    PromptedUNetTrainer_adamw,
)
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.planning.networks import residual
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

SHORT = {"num_epochs": 2, "steps_per_epoch": 2, "validation_steps": 1}


class ShortUNetTrainer(PromptedUNetTrainer):
    changes = SHORT


class ShortResEncTrainer(PromptedResEncUNetTrainer):
    changes = SHORT


BOTH = pytest.mark.parametrize("trainer_class", [ShortUNetTrainer, ShortResEncTrainer])


@BOTH
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["plain", "corrected"])
def test_steps_reach_every_parameter(make_trainer, trainer_class, share):
    trainer = make_trainer(trainer_class=trainer_class, settings={"clicks": {"iterated_share": share}})
    trainer.on_train_start()
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    for _ in range(2):
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    still = {name for name, p in trainer.network.named_parameters() if torch.equal(p, before[name])}
    # instance norm takes a convolution's bias away again; nnU-Net gives the coarsest output the weight 0
    assert all(name.endswith("bias") or ".seg_layers.0." in name for name in still)


def test_deep_supervision_in_training_only(make_trainer):
    trainer = make_trainer(trainer_class=ShortUNetTrainer)
    trainer.on_train_start()
    image = torch.zeros(1, 1, 16, 16, 16)
    assert isinstance(trainer.network(image), list)
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network(image).shape == (1, 3, 16, 16, 16)


def test_encoders(make_trainer):
    kinds = {ShortUNetTrainer: PlainConvUNet, ShortResEncTrainer: ResidualEncoderUNet}
    for trainer_class, kind in kinds.items():
        trainer = make_trainer(trainer_class=trainer_class)
        trainer.initialize()
        assert type(trainer.network.unet) is kind


@pytest.mark.parametrize(
    "block, drawn",
    [
        ({}, ("gaussian", 4)),
        ({"stride": 8, "click_map": "distance"}, ("distance", 8)),
        ({"stride": None}, ("gaussian", 2)),  # that of our network on patches of 16 voxels a side
        ({"click_unit": "voxel"}, ("gaussian", 1)),
    ],
)
def test_clicks_are_drawn_in_the_size_of_tokens(make_trainer, block, drawn):
    trainer = make_trainer(trainer_class=ShortUNetTrainer, settings={"stride": 4} | block)
    trainer.initialize()
    assert (trainer.network.click_map, trainer.network.token) == drawn
    written = trainer.plans_manager.plans["configurations"]["3d_fullres"]["sam3d"]
    assert (written["click_map"], written["click_unit"]) == (drawn[0], block.get("click_unit", "token"))


def test_clicks_that_are_not_drawn_are_refused(make_trainer):
    with pytest.raises(SAM3DError, match="click_map to 'none': a prompted U-Net would not know of clicks"):
        make_trainer(trainer_class=ShortUNetTrainer, settings={"click_map": "none"}).initialize()


def test_models_from_before_draw_balls_of_a_voxel(make_trainer):
    trainer = make_trainer(trainer_class=ShortUNetTrainer)
    block = trainer.configuration_manager.configuration["sam3d"]
    del block["click_map"], block["click_unit"]
    network = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3)
    assert (network.click_map, network.token) == ("gaussian", 1)


def without_size(plans: dict) -> dict:
    """Plans as earlier versions wrote them, whose clicks were balls of a voxel."""
    older = copy.deepcopy(plans)
    del older["configurations"]["3d_fullres"]["sam3d"]["click_unit"]
    return older


def test_folds_of_earlier_versions_keep_their_clicks(make_trainer):
    """A training replaces the copy of the plans from which all folds of the model are built."""
    trainer = make_trainer(trainer_class=ShortUNetTrainer)
    model = Path(trainer.output_folder_base)
    (model / "fold_3").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(without_size(trainer.plans_manager.plans)))
    trainer.on_train_start()  # nothing to keep: no other fold has been trained
    older = json.dumps(without_size(trainer.plans_manager.plans))
    (model / "plans.json").write_text(older)
    (model / "fold_3" / "checkpoint_best.pth").touch()
    with pytest.raises(SAM3DError, match=r"\(fold_3\) was trained with click_unit 'voxel', but now it is 'token'"):
        make_trainer(trainer_class=ShortUNetTrainer).on_train_start()
    assert (model / "plans.json").read_text() == older
    make_trainer(trainer_class=ShortUNetTrainer, settings={"click_unit": "voxel"}).on_train_start()


def test_trainings_of_earlier_versions_go_on_with_their_clicks(make_trainer, tmp_path):
    trainer, file = make_trainer(trainer_class=ShortUNetTrainer), tmp_path / "checkpoint_latest.pth"
    trainer.initialize()
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["plans"] = without_size(checkpoint["init_args"]["plans"])
    torch.save(checkpoint, file)
    with pytest.raises(SAM3DError, match="latest.pth was trained with click_unit 'voxel', but now it is 'token'. Set"):
        make_trainer(trainer_class=ShortUNetTrainer).load_checkpoint(str(file))
    make_trainer(trainer_class=ShortUNetTrainer, settings={"click_unit": "voxel"}).load_checkpoint(str(file))


def test_as_long_and_as_batched_as_nnunet(make_trainer):
    plan = {"batch_size": 5}
    trainer = make_trainer(trainer_class=PromptedUNetTrainer_1000epochs, settings={"batch_size": 3}, plan=plan)
    nnunet = make_trainer(trainer_class=nnUNetTrainer, plan=plan)
    for each in (trainer, nnunet):
        each.initialize()
    for key in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "batch_size"):
        assert getattr(trainer, key) == getattr(nnunet, key)
    written = trainer.plans_manager.plans["configurations"]["3d_fullres"]["sam3d"]
    assert (written["batch_size"], written["num_epochs"]) == (5, 1000)


class ShortAdamWTrainer(PromptedUNetTrainer_adamw):
    changes = SHORT


def test_adamw_is_that_of_our_network(make_trainer):
    block = {"optimizer": {"lr": 2e-3, "weight_decay": 0.1, "final_lr_share": 0.5, "gradient_clip": 3.0}}
    tiny = {"preset": "tiny", "stride": 4} | SHORT
    ours = make_trainer(trainer_class=SAM3DAdapterTrainer, settings=tiny | block)
    control = make_trainer(trainer_class=ShortAdamWTrainer, settings=block)
    for trainer in (ours, control):
        trainer.on_train_start()
    assert type(control.optimizer) is torch.optim.AdamW and control.optimizer.defaults == ours.optimizer.defaults
    assert control.gradient_clip == ours.gradient_clip == 3
    assert len(control.optimizer.param_groups[0]["params"]) == len(list(control.network.parameters()))
    for trainer in (ours, control):
        trainer.lr_scheduler.step(1)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1.5e-3)
    assert control.enable_deep_supervision
    assert np.isfinite(control.train_step(next(control.dataloader_train))["loss"])


def test_residual_of_another_architecture():
    with pytest.raises(SAM3DError, match="some.Net; PromptedResEncUNetTrainer needs"):
        residual("some.Net", {})


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_trained_model_predicts_everywhere(make_trainer, prepared, kind, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(EXT_FOLDER))
    trainer = make_trainer(kind, trainer_class=ShortUNetTrainer)
    trainer.run_training()
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder)
    for validation in ("validation", "validation_1click"):
        assert (folder / validation / "summary.json").is_file()
    image = prepared(kind).root / "raw" / prepared(kind).name / "imagesTr" / "case_2_0000.nii.gz"
    predictor = SAM3DPredictor()
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    checkpoint["trainer_name"] = "PromptedUNetTrainer"  # the class above is not where nnU-Net looks
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    predictor.initialize_from_trained_model_folder(folder.parent, 0)
    clicked = predictor.predict_case([image], Prompt([[6.0, 8.0, 5.0]], [1], "case_2"))
    assert clicked.segmentation().shape == clicked.case.shape
    session = SAM3DSession("cpu")
    session.initialize_from_trained_model_folder(folder.parent, 0)
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 18, 16)), {"spacing": (1, 1, 1)})
    session.set_target_buffer(np.zeros((20, 18, 16), np.uint8))
    session.add_point_interaction((9, 9, 9), include_interaction=True)
    nnunet = nnUNetPredictor(device=torch.device("cpu"))
    nnunet.initialize_from_trained_model_folder(str(folder.parent), [0], "checkpoint_final.pth")
    pixels = torch.randn(1, 20, 18, 22)
    logits = nnunet.predict_sliding_window_return_logits(pixels)
    assert logits.shape == (trainer.label_manager.num_segmentation_heads, 20, 18, 22) and logits.isfinite().all()
