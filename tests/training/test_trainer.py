import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import late_rank
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.distributed as dist
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import sam3d_nnunet.network.weights as weights
import sam3d_nnunet.training.planned_trainer as planned_trainer
import sam3d_nnunet.training.prompted_validation as prompted_validation
import sam3d_nnunet.training.trainer as sam_tuning
from sam3d_nnunet.baselines.prompted_unet import PromptedUNetTrainer
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import whole_file
from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.nnunet.names import class_lookup
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer
from sam3d_nnunet.training.variants import (
    SAM3DAdapterTrainer_5epochs,
    SAM3DAdapterTrainer_smoke,
    nnUNetTrainer_planned,
)


class ShortTrainer(SAM3DAdapterTrainer_smoke):
    """2 epochs of 2 steps."""

    changes = SAM3DAdapterTrainer_smoke.changes | {"steps_per_epoch": 2, "validation_steps": 1}


def started(trainer: SAM3DAdapterTrainer) -> SAM3DAdapterTrainer:
    trainer.on_train_start()
    trainer.network.train()
    return trainer


def state_of(trainer: SAM3DAdapterTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


# what is refused, before anything is written


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"configuration": "2d"}, "needs volumes, but SAM3DPlans, configuration 2d is 2-D. Train 3d_fullres instead"),
        ({"plan": {"patch_size": None}}, "has the patch size None; .* three numbers"),
        ({"plan": {"patch_size": 128}}, "has the patch size 128"),
        ({"plan": {"patch_size": []}}, r"has the patch size \[\]"),
        ({"plan": {"patch_size": [4, 16, 16]}}, r"has the patch size \[4, 16, 16\]; .* of at least 8"),
        ({"plan": {"patch_size": [16, 16.5, 16]}}, r"has the patch size \[16, 16.5, 16\]"),
        ({"plan": {"previous_stage": "3d_fullres"}}, "cascade"),
        ({"settings": {"presett": "tiny"}}, "'presett': there is no such setting"),
        ({"settings": {"optimizer": {"gradient_clip": "1"}}}, "'optimizer.gradient_clip': .* but it is '1'"),
        ({"settings": {"batch_size": "2"}}, "'batch_size': .* but it is '2'"),
        ({"settings": {"clicks": {"policy": "many"}}}, "'clicks.policy'"),
        ({"plan": {"sam3d": ["tiny"]}}, r"'sam3d' .*\['tiny'\]"),
        (
            {"trainer_class": SAM3DAdapterTrainer, "settings": {"preset": "vit_g"}},
            "'vit_g'.*vit_b",
        ),
        (
            {"trainer_class": SAM3DAdapterTrainer, "settings": {"preset": "paper"}},
            "unlabelled clicks .*Set clicks.policy to 'paper'",
        ),
    ],
)
def test_unusable_plans_are_refused_before_anything_is_written(make_trainer, results, arguments, message):
    with pytest.raises(SAM3DError, match=message):
        make_trainer(**arguments)
    assert not results.exists()


def test_unknown_configuration(make_trainer, results, prepared):
    plans = json.loads((prepared("classes").base / "SAM3DPlans.json").read_text())
    with pytest.raises(SAM3DError, match="SAM3DPlans has no configuration '3d_half'; it has 2d, 3d_fullres"):
        SAM3DAdapterTrainer(plans, "3d_half", 0, prepared("classes").dataset_json, torch.device("cpu"))
    assert not results.exists()


def test_fewer_patches_than_gpus(make_trainer, results, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(
        SAM3DError, match="takes batches of 1 by the block 'sam3d' of .*, fewer than the 2 GPUs. Raise batch_size there"
    ):
        make_trainer(settings={"batch_size": 1})
    assert not results.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ([{"train": ["case_1"], "val": ["case_2"]}], "has no fold 4, only 0. Choose"),
        ([{"train": ["case_1"], "val": ["nobody"]}] * 5, r"Fold 4 of .* names 1 case\(s\) that are not in .*: nobody."),
        ([{"train": ["case_1"], "val": []}] * 5, 'Fold 4 of .* has no cases in "val"'),
        ({"train": ["case_1"], "val": ["case_2"]}, "must hold a list of folds"),
    ],
)
@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_smoke, nnUNetTrainer_planned])
def test_folds_that_cannot_be_used(make_trainer, prepared, tmp_path, trainer_class, content, message):
    """nnU-Net would validate on nothing, or silently take a random split instead of a fold that is not there."""
    trainer = make_trainer(trainer_class=trainer_class)
    trainer.fold, trainer.preprocessed_dataset_folder_base = 4, str(tmp_path)
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(content))
    with pytest.raises(SAM3DError, match=message):
        trainer.on_train_start()


@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_smoke, nnUNetTrainer_planned])
def test_folds_that_nnunet_trains_are_trained(make_trainer, tmp_path, trainer_class):
    """Another fold is empty, one case is drawn twice as often, and one is in both parts."""
    trainer = make_trainer(trainer_class=trainer_class)
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    fold = {"train": ["case_1", "case_2", "case_1"], "val": ["case_2"]}
    (tmp_path / "splits_final.json").write_text(json.dumps([fold, {"train": ["case_1"], "val": []}]))
    assert trainer.do_split() == (fold["train"], fold["val"])


def test_folds_that_nobody_has_written_are_nnunets_own(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    train, val = trainer.do_split()
    folds = generate_crossval_split(sorted([*train, *val]), seed=12345, n_splits=5)
    assert (train, val) == (folds[0]["train"], folds[0]["val"])


def test_the_split_is_logged_once(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    split = trainer.do_split()
    split[1].clear()
    assert trainer.do_split()[1] == ["Fall_Müller_病例", "case_2"]  # as in the file, though nnU-Net sorts its copy
    assert Path(trainer.log_file).read_text().count("Desired fold for training") == 1


def test_fewer_training_cases_are_a_part_of_more(make_trainer, tmp_path):
    """The same for all methods, whatever the order in the file; other folds draw others."""
    names = [f"case_{number:02}" for number in range(20)]
    found = {}
    for fold in (0, 1):
        for count in (4, 8, 20):
            for trainer_class in (SAM3DAdapterTrainer_smoke, nnUNetTrainer_planned):
                trainer = make_trainer(trainer_class=trainer_class, settings={"training_cases": count})
                trainer.fold = fold
                found.setdefault((fold, count), []).append(trainer._few(names[::-1]))
    for (fold, count), chosen in found.items():
        assert chosen[0] == chosen[1] == sorted(set(chosen[0])) and len(chosen[0]) == count
        assert count == 20 or set(chosen[0]) < set(found[fold, 20][0])
    assert set(found[0, 4][0]) < set(found[0, 8][0]) and found[0, 4] != found[1, 4]
    with pytest.raises(SAM3DError, match="training_cases is 20 .* has 8 training cases. Set it to at most 8"):
        trainer._few(names[:8])


def test_the_fold_has_fewer_training_cases(make_trainer):
    trainer = make_trainer(settings={"training_cases": 1})
    train, val = trainer.do_split()
    assert len(train) == 1 and val == ["Fall_Müller_病例", "case_2"]
    assert f"Training on 1 of 3 cases: {train[0]}" in Path(trainer.log_file).read_text()


def test_training_set_without_foreground(make_trainer, monkeypatch):
    """nnU-Net would notice at the first patch that is to be centred on foreground, if at all."""
    trainer = make_trainer("nothing")
    with pytest.raises(SAM3DError, match="No training case of fold 0 in .*Dataset715_Nothing.* any foreground voxel"):
        trainer.run_training()
    assert trainer.current_epoch == 0
    assert not list(Path(trainer.output_folder).glob("checkpoint*"))


# settings


def test_settings_are_resolved_and_written_into_the_plans(make_trainer):
    given = {"num_click_labels": None, "optimizer": {"weight_decay": 0.5}, "clicks": {"policy": "released"}}
    trainer = make_trainer(settings=given)
    block = trainer.plans_manager.plans["configurations"]["3d_fullres"]["sam3d"]
    assert block == trainer.settings.model_dump()
    assert block == trainer.configuration_manager.configuration["sam3d"]
    assert block["preset"] == "tiny" and block["stride"] == 4
    assert block["num_click_labels"] == 3  # background and two classes
    assert block["optimizer"]["weight_decay"] == trainer.weight_decay == 0.5  # of the plan
    assert block["optimizer"]["lr"] == trainer.initial_lr == 1e-3  # of the variant
    assert block["clicks"]["policy"] == "released"
    lengths = (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch)
    assert lengths == (2, 10, 5)


@pytest.mark.parametrize("kind, labels, heads", [("one class", 2, 2), ("ignore", 3, 3), ("regions", 3, 2)])
def test_clicks_carry_label_values(make_trainer, kind, labels, heads):
    """Not the ignore label's, and with regions those of the voxels, not of the channels."""
    trainer = make_trainer(kind)
    trainer.initialize()
    assert trainer.settings.num_click_labels == labels
    assert trainer.network.dense_prompt.num_labels == labels
    assert trainer.label_manager.num_segmentation_heads == heads
    assert trainer.network.eval()(torch.zeros(1, 1, 16, 16, 16)).shape[1] == heads


@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_smoke, PromptedUNetTrainer])
def test_fewer_labels_of_clicks_than_the_data_set_has_are_refused(make_trainer, trainer_class):
    with pytest.raises(SAM3DError, match="num_click_labels 2, but the labels of this data set are 0 to 2. Set it to 3"):
        make_trainer("classes", trainer_class=trainer_class, settings={"num_click_labels": 2})


def test_plan_without_a_block_has_the_defaults(make_trainer):
    trainer = make_trainer(trainer_class=SAM3DAdapterTrainer_5epochs, plan={"sam3d": {}})
    assert trainer.settings.preset == "vit_b"
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (5, 250)
    assert trainer.settings.batch_size == 2


def test_inherited_configuration(make_trainer, prepared, tmp_path):
    plans = json.loads((prepared("classes").base / "SAM3DPlans.json").read_text())
    plans["configurations"]["3d_half"] = {"inherits_from": "3d_fullres", "sam3d": {"batch_size": 5}}
    plans["continue_training"] = False
    trainer = SAM3DAdapterTrainer_smoke(plans, "3d_half", 0, prepared("classes").dataset_json, torch.device("cpu"))
    assert trainer.settings.batch_size == 5
    assert trainer.settings.preset == "tiny"
    assert trainer.configuration_manager.configuration["sam3d"] == trainer.settings.model_dump()


def test_network_can_be_rebuilt_from_the_model_folder(make_trainer):
    trainer = started(make_trainer("regions", settings={"num_click_labels": 6}))
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    manager = PlansManager(plans)
    rebuilt = type(trainer).build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, False)
    rebuilt.load_state_dict(trainer.network.state_dict())
    assert rebuilt.dense_prompt.num_labels == 6


@pytest.mark.parametrize("batch_size, shares", [(4, [2, 1, 1]), (3, [1, 1, 1]), (8, [3, 3, 2])])
def test_batch_is_shared_out_over_the_gpus(make_trainer, monkeypatch, batch_size, shares):
    trainer = make_trainer(settings={"batch_size": batch_size})
    trainer.is_ddp = True
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        trainer._set_batch_size_and_oversample()
        found.append(trainer.batch_size)
        assert trainer.oversample_foreground_percent == 0.5  # nnU-Net's differs from rank to rank
    assert found == shares


# steps


def test_optimizer_holds_exactly_what_is_tuned(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in trainer.network.parameters() if p.requires_grad}
    assert any(not p.requires_grad for p in trainer.network.parameters())


@pytest.mark.parametrize("batch, share, forced", [(2, 0.5, [False, True]), (2, 0.33, [False, True]), (1, 0.5, [True])])
def test_planned_nnunet_keeps_the_guarantee_of_a_foreground_patch(make_trainer, batch, share, forced):
    def loader_of(trainer_class):
        settings = {"batch_size": batch, "foreground_share": share}
        trainer = make_trainer(trainer_class=trainer_class, settings=settings)
        trainer.initialize()
        return trainer.get_dataloaders()[0].data_loader

    loader, ours = loader_of(nnUNetTrainer_planned), loader_of(SAM3DAdapterTrainer_smoke)
    assert [[loader.get_do_oversample(i) for i in range(batch)] for _ in range(8)] == [forced] * 8
    drawn = [ours.get_do_oversample(0) for _ in range(64)]
    assert 0 < sum(drawn) < 64  # by chance


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_step_changes_what_is_tuned_and_nothing_else(make_trainer, kind, batch_size):
    trainer = started(make_trainer(kind, settings={"batch_size": batch_size}))
    before = state_of(trainer)
    batches = [next(trainer.dataloader_train) for _ in range(3)]
    losses = [trainer.train_step(batch)["loss"] for batch in batches]  # zero-initialised layers hold others back once
    assert np.isfinite(losses).all()
    after = state_of(trainer)
    tuned = {name for name, p in trainer.network.named_parameters(remove_duplicate=False) if p.requires_grad}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= tuned
    # a class that was never clicked may have no gradient, but its weights decay
    assert len(tuned - changed) <= 0.05 * len(tuned), tuned - changed


def test_a_step_without_clicks_involves_all_that_is_tuned(make_trainer):
    """DDP waits forever for a parameter that has no gradient."""
    trainer = started(make_trainer(settings={"clicks": {"policy": "default", "no_click_share": 1.0}}))
    batch = next(trainer.dataloader_train)
    assert (batch["prompts"].labels == -1).all()
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_all_levels_count_in_the_loss(make_trainer):
    """By the inverse of the side of their voxels: the U-Net's 1, 2 and 4, the decoder's 2."""
    trainer = started(make_trainer())
    target = torch.randint(0, 2, (1, 1, 16, 16, 16)).float()
    levels = trainer.network(torch.randn(1, 1, 16, 16, 16))
    fine, half, quarter, decoder = (trainer.loss(level, target) for level in levels)
    torch.testing.assert_close(trainer.loss(levels, target), (fine + half / 2 + quarter / 4 + decoder / 2) / 2.25)
    assert isinstance(trainer.network.eval()(torch.randn(1, 1, 16, 16, 16)), torch.Tensor)


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_steps_corrects_the_first_mask(make_trainer, kind, share):
    trainer = started(make_trainer(kind, settings={"clicks": {"iterated_share": share}}))
    decoded = []
    decode = trainer.network.decode_levels

    def spy(embedding, prompts, **options):
        decoded.append(prompts)
        return decode(embedding, prompts, **options)

    trainer.network.decode_levels = spy
    batch = next(trainer.dataloader_train)
    given = batch["prompts"].unpack(torch.device("cpu"))
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None] == []
    if not share:
        assert len(decoded) == 1 and torch.equal(decoded[0].labels, given.labels)
        return
    (points, labels, maps), (new_points, new_labels, new_maps) = decoded
    assert (labels[:, -1] == -1).all() and (new_labels[:, -1] >= 0).any()
    assert torch.equal(points[:, :-1], given.points) and torch.equal(new_points[:, :-1], given.points)
    assert torch.equal(labels[:, :-1], given.labels) and torch.equal(new_labels[:, :-1], labels[:, :-1])
    assert torch.equal(maps, given.maps)  # which are left as they are
    assert (new_maps[:, 0] >= 0).all() and torch.equal(new_maps[:, 1:], maps[:, 1:])


def test_corrections_follow_one_another(make_trainer):
    """Each is made on the mask that the one before led to, and has a place of its own."""
    clicks = {"iterated_share": 1.0, "most_corrections": 3, "no_click_share": 0.0}
    trainer = started(make_trainer("classes", settings={"clicks": clicks}))
    decode, rounds = trainer.network.decode_levels, set()
    for _ in range(12):
        decoded = []
        trainer.network.decode_levels = lambda embedding, prompts, seen=decoded, **options: (
            seen.append(prompts) or decode(embedding, prompts, **options)
        )
        trainer.train_step(next(trainer.dataloader_train))
        rounds.add(len(decoded) - 1)
        for done, (before, after) in enumerate(zip(decoded, decoded[1:]), 1):
            changed = (before.labels != after.labels).any(dim=0).nonzero().flatten().tolist()
            assert changed == [after.labels.shape[1] - done]
        assert (decoded[0].labels[:, -3:] == -1).all()
    assert rounds == {1, 2, 3}


def test_policies_of_the_paper_show_clicks_only(make_trainer):
    for policy in ("paper", "released"):
        trainer = started(make_trainer(settings={"clicks": {"policy": policy, "iterated_share": 1.0}}))
        assert not trainer.network.takes_maps
        trainer.network.register_forward_pre_hook(
            lambda module, args: pytest.fail("maps") if args[1].maps is not None or args[2] is not None else None
        )
        trainer.train_step(next(trainer.dataloader_train))


def test_clicked_trains(make_trainer):
    trainer = started(make_trainer(settings={"target_policy": "clicked"}))
    assert trainer.settings.target_policy == "clicked"
    assert np.isfinite([trainer.train_step(next(trainer.dataloader_train))["loss"] for _ in range(3)]).all()


@pytest.mark.parametrize("name", ["SAM3DAdapterTrainer_clicked", "SAM3DAdapterTrainer_tiny_clicked"])
def test_trainers_in_which_clicks_select(make_trainer, name):
    trainer = make_trainer(trainer_class=class_lookup("here")(name))
    assert trainer.settings.target_policy == "clicked"
    assert trainer.settings.preset == "tiny"  # of the plan, or of the trainer
    assert trainer.settings.num_epochs == (20 if "tiny" in name else 200)


def test_gradients_are_clipped(make_trainer):
    trainer = started(make_trainer(settings={"optimizer": {"gradient_clip": 1e-3}}))
    trainer.train_step(next(trainer.dataloader_train))
    norms = [p.grad.norm() for p in trainer.network.parameters() if p.grad is not None]
    assert torch.stack(norms).norm() <= 1.001e-3


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
def test_validation_step_uses_the_clicks(make_trainer, kind):
    trainer = started(make_trainer(kind))
    network = trainer.network.eval()
    given = []
    network.register_forward_pre_hook(lambda *arguments: given.append(arguments[-1]), with_kwargs=True)
    batch = next(trainer.dataloader_val)
    with torch.no_grad():
        result = trainer.validation_step(batch)
    assert trainer.network is network
    prompts = given[0]["prompts"]
    assert torch.equal(prompts.points[:, :-1], batch["prompts"].points)
    assert torch.equal(prompts.labels[:, :-1], batch["prompts"].labels)
    assert (prompts.labels[:, -1] == -1).all()  # where corrections come in training steps
    assert torch.equal(prompts.maps, batch["prompts"].unpack(torch.device("cpu")).maps)
    assert result["tp_hard"].shape == (2,)

    with pytest.raises(KeyError), torch.no_grad():
        trainer.validation_step({k: v for k, v in batch.items() if k != "target"})
    assert trainer.network is network


# checkpoints


def test_killed_training_is_continued(make_trainer):
    trainer = make_trainer(trainer_class=ShortTrainer)
    epoch_start = trainer.on_epoch_start

    def killed():
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        epoch_start()

    trainer.on_epoch_start = killed
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    saved = state_of(trainer)
    steps = {float(s["step"]) for s in trainer.optimizer.state_dict()["state"].values()}
    files = {file.name for file in Path(trainer.output_folder).glob("checkpoint*")}
    assert files == {"checkpoint_latest.pth", "checkpoint_best.pth"}

    again = make_trainer(trainer_class=ShortTrainer, continue_training=True)
    maybe_load_checkpoint(again, continue_training=True, validation_only=False)
    assert again.current_epoch == 1
    assert all(torch.equal(tensor, saved[name]) for name, tensor in state_of(again).items())
    assert again.network.initialized == 1  # SAM's weights are not asked for
    assert {float(s["step"]) for s in again.optimizer.state_dict()["state"].values()} == steps == {2.0}
    rates = []
    train_step = again.train_step
    again.train_step = lambda batch: rates.append(again.optimizer.param_groups[0]["lr"]) or train_step(batch)
    again.run_training()
    assert rates == [pytest.approx(1e-3 * 0.55)] * 2  # half-way to a tenth
    files = {file.name for file in Path(again.output_folder).glob("checkpoint*")}
    assert files == {"checkpoint_final.pth", "checkpoint_best.pth"}
    assert len(again.logger.get_value("train_losses", step=None)) == 2


def test_trainings_of_earlier_versions_keep_their_refinement(make_trainer, tmp_path):
    """Their weights don't fit today's network, and their plans only tell that masks were refined."""
    trainer, file = make_trainer(settings={"refine": "convolutions"}), tmp_path / "checkpoint_latest.pth"
    trainer.initialize()
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["plans"]["configurations"]["3d_fullres"]["sam3d"]["refine"] = True
    torch.save(checkpoint, file)
    with pytest.raises(SAM3DError, match="trained with refine 'convolutions', but now it is 'unet'. Set"):
        make_trainer().load_checkpoint(str(file))
    make_trainer(settings={"refine": True}).load_checkpoint(str(file))


def test_other_ranks_leave_the_first_ones_file_alone(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    trainer.local_rank = 1
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    with whole_file(file) as half:
        half.write_bytes(b"being written")
        trainer.save_checkpoint(str(file))
        assert half.read_bytes() == b"being written"
        assert not file.exists()


def test_checkpointing_disabled(make_trainer):
    trainer = make_trainer(trainer_class=ShortTrainer)
    trainer.disable_checkpointing = True
    trainer.run_training()
    assert trainer.current_epoch == 2
    assert not list(Path(trainer.output_folder).glob("*.pth*"))


# weights to start from


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """No SAM weights on this machine, and no network."""

    def refuse(url: str, **options):
        raise ConnectionError(f"cannot resolve {url}")

    monkeypatch.delenv(weights.CHECKPOINT_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(weights.pooch, "retrieve", refuse)


@pytest.fixture
def tiny_sam(monkeypatch) -> list[tuple]:
    """The tiny preset wants SAM's weights too; what is loaded instead of them is written down."""
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], sam_model="vit_b"))
    calls = []
    monkeypatch.setattr(sam_tuning, "lift_sam", lambda encoder, path: calls.append((encoder, path)))
    return calls


def test_without_sam_weights_training_stops_before_the_first_epoch(make_trainer, offline, tmp_path):
    trainer = make_trainer(trainer_class=SAM3DAdapterTrainer, settings={"preset": "vit_b"})
    trainer.on_epoch_start = lambda: pytest.fail("an epoch has begun")
    with pytest.raises(SAM3DError) as stopped:
        trainer.run_training()
    message = str(stopped.value)
    assert "vit_b weights could not be downloaded from https://" in message and "cannot resolve" in message
    for remedy in (str(tmp_path / "cache"), "SAM3D_CHECKPOINT", "'sam_checkpoint'", '"none"'):
        assert remedy in message
    assert not trainer.network.initialized
    assert not list(Path(trainer.output_folder).glob("*.pth*"))


def test_training_from_scratch_must_be_asked_for(make_trainer, offline, tiny_sam):
    with pytest.raises(SAM3DError, match="could not be downloaded"):
        make_trainer().on_train_start()
    trainer = started(make_trainer(settings={"sam_checkpoint": "none"}))
    assert trainer.network.initialized == 1
    assert tiny_sam == []
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


def test_sam_weights_are_loaded_once(make_trainer, tiny_sam, tmp_path):
    file = tmp_path / "sam.pth"
    file.touch()
    trainer = started(make_trainer(trainer_class=ShortTrainer, settings={"sam_checkpoint": str(file)}))
    assert tiny_sam == [(trainer.network.image_encoder, file)]
    checkpoint = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(checkpoint))
    file.unlink()

    for again in (True, False):  # --c, and -pretrained_weights
        other = make_trainer(trainer_class=ShortTrainer, settings={"sam_checkpoint": str(file)})
        shutil.copy(checkpoint, tmp_path / "pretrained.pth")
        maybe_load_checkpoint(other, again, False, None if again else str(tmp_path / "pretrained.pth"))
        other.on_train_start()
        assert len(tiny_sam) == 1


@pytest.mark.parametrize("rank, order", [(0, ["look", "barrier"]), (1, ["barrier", "look"])])
def test_first_gpu_downloads_for_the_others(make_trainer, monkeypatch, rank, order):
    trainer = make_trainer()
    trainer.is_ddp, trainer.local_rank = True, rank
    done = []
    monkeypatch.setattr(planned_trainer, "wait_for_all_ranks", lambda: done.append("barrier"))
    with trainer.first_rank_first():
        done.append("look")
    assert done == order


def test_pretrained_weights_from_another_number_of_classes(make_trainer, tmp_path):
    source = started(make_trainer("one class"))
    for _ in range(2):
        source.train_step(next(source.dataloader_train))
    source.save_checkpoint(str(tmp_path / "pretrained.pth"))
    trainer = make_trainer("regions", settings={"num_click_labels": 5})
    trainer.initialize()
    before, given = state_of(trainer), source.network.state_dict()
    load_pretrained_weights(trainer.network, str(tmp_path / "pretrained.pth"))
    after = state_of(trainer)
    assert after.keys() == given.keys()
    own = {name for name in after if ".seg_layers." in name}
    assert all(torch.equal(after[name], given[name]) for name in after.keys() - own)
    assert all(torch.equal(after[name], before[name]) for name in own)
    assert {name for name in after if after[name].shape != given[name].shape} <= own
    assert np.isfinite(started(trainer).train_step(next(trainer.dataloader_train))["loss"])
    said = "The given weights are used with start 'published'"
    assert said in Path(trainer.log_file).read_text() and said not in Path(source.log_file).read_text()


def test_ranks_wait_longer_than_their_backend_would(tmp_path):
    torch.multiprocessing.spawn(late_rank.run, args=(str(tmp_path),), nprocs=2)
    assert (tmp_path / "rank_0").is_file() and (tmp_path / "rank_1").is_file()


# final validation


def test_clicks_of_the_final_validation(make_trainer, prepared, monkeypatch):
    """With regions, an ignore label, an image smaller than a patch and a name in other scripts; in one process."""
    monkeypatch.setattr(prompted_validation, "default_num_processes", 1)
    read = Mock(wraps=prompted_validation.RawDataset.find)
    monkeypatch.setattr(prompted_validation.RawDataset, "find", read)
    trainer = started(make_trainer("regions", trainer_class=ShortTrainer))
    prompted_validation.validate_prompted(trainer, 2, save_probabilities=True)
    assert read.call_count == 1  # not for each case
    folder, truths = Path(trainer.output_folder) / "validation_2click", prepared("regions").base / "gt_segmentations"
    cases = ["Fall_Müller_病例", "case_2"]
    endings = (".nii.gz", ".npz", ".pkl", ".json")
    assert set(os.listdir(folder)) == {f"{case}{end}" for case in cases for end in endings} | {"summary.json"}

    for case in cases:
        prompt = read_prompt(folder / f"{case}.json")
        assert prompt.image == case
        truth = sitk.ReadImage(str(truths / f"{case}.nii.gz"))
        under = [truth[truth.TransformPhysicalPointToIndex(point.tolist())] for point in prompt.points]
        assert under == prompt.labels.tolist() == [1, 1, 2, 2]
        voxels = clicks_per_class(sitk.GetArrayFromImage(truth), [1, 2], 2, case_generator(case)).points
        indices = [truth.TransformPhysicalPointToIndex(point.tolist())[::-1] for point in prompt.points]
        assert indices == [tuple(v) for v in voxels.astype(int).tolist()]  # by the case's name alone
        assert sitk.ReadImage(str(folder / f"{case}.nii.gz")).GetSize() == truth.GetSize()
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["mean"]) == {"(1, 2)", "1"}
    assert len(summary["metric_per_case"]) == 2


def test_truth_that_reaches_into_the_empty_border_costs_no_validation(make_trainer, prepared, monkeypatch):
    """nnU-Net cuts off what is 0 in the image; a label may go on there, and be clicked on."""
    monkeypatch.setattr(prompted_validation, "default_num_processes", 1)
    trainer = started(make_trainer("classes", trainer_class=ShortTrainer))
    truths, load_case = prepared("classes").base / "gt_segmentations", trainer.dataset_class.load_case
    kept = {}

    def load_cropped(dataset, case):
        data, segmentation, previous, properties = load_case(dataset, case)
        truth, _ = trainer.plans_manager.image_reader_writer_class().read_seg(str(truths / f"{case}.nii.gz"))
        keep = int(np.flatnonzero(truth[0].any((0, 1)))[1])  # one slice of the lesion is left
        kept[case] = keep, ImageGeometry.from_properties(properties)
        properties["bbox_used_for_cropping"][2] = (0, keep)
        shape = (*data.shape[1:3], keep)
        properties |= dict.fromkeys(("shape_after_cropping_and_before_resampling", "shape_after_cropping"), shape)
        return data[:, :, :, :keep], segmentation, previous, properties

    monkeypatch.setattr(trainer.dataset_class, "load_case", load_cropped)
    prompted_validation.validate_prompted(trainer, 3)
    folder = Path(trainer.output_folder) / "validation_3click"
    assert (folder / "summary.json").is_file()
    for case, (keep, geometry) in kept.items():
        voxels = geometry.to_voxels(read_prompt(folder / f"{case}.json").points)
        assert voxels[:, 2].max() == pytest.approx(keep - 1)


def test_predictor_of_nnunet_loads_the_model(make_trainer, monkeypatch):
    trainer = make_trainer(trainer_class=SAM3DAdapterTrainer_smoke)
    started(trainer)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    known = {type(trainer).__name__: type(trainer)}
    monkeypatch.setattr(predict_from_raw_data, "recursive_find_trainer_class_by_name", known.get)
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    image = torch.randn(1, 20, 18, 22)
    logits = predictor.predict_sliding_window_return_logits(image)
    trainer.network.eval()
    assert logits.shape == (3, 20, 18, 22)
    predictor.network = trainer.network
    torch.testing.assert_close(predictor.predict_sliding_window_return_logits(image), logits)


def test_data_that_are_not_preprocessed(make_trainer, tmp_path):
    """nnU-Net's own error is a traceback that names a folder."""
    trainer = make_trainer()
    trainer.preprocessed_dataset_folder = str(tmp_path / "none")
    command = "nnUNetv2_preprocess -d 711 -plans_name .* -c 3d_fullres"
    with pytest.raises(SAM3DError, match=f"no preprocessed data {tmp_path / 'none'}.*{command}"):
        trainer.initialize()


@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer, PromptedUNetTrainer])
def test_folds_of_another_stride_are_refused(make_trainer, trainer_class):
    """The same weights would fit, and compute something else."""
    trainer = make_trainer(trainer_class=trainer_class, settings={"preset": "tiny", "stride": 4})
    plans = copy.deepcopy(trainer.plans_manager.plans)
    trainer._refuse_other_function(plans, "a fold")
    plans["configurations"]["3d_fullres"]["sam3d"]["stride"] = 2
    with pytest.raises(SAM3DError, match="a fold was trained with stride 2, but now it is 4. Set stride to 2"):
        trainer._refuse_other_function(plans, "a fold")
    plans["configurations"]["3d_fullres"]["sam3d"]["stride"] = None  # the default for these patches is 2
    with pytest.raises(SAM3DError, match="stride 2"):
        trainer._refuse_other_function(plans, "a fold")
