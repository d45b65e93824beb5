"""The paper's ablations and its training: what they set, and that they train."""

import inspect

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sam3d_nnunet.nnunet.names import ABLATION, PUBLISHED, TRAINERS, class_lookup
from sam3d_nnunet.training.published import (
    SAM3DAdapterTrainer_paper,
    SAM3DAdapterTrainer_released,
    ShiftIntensity,
    loaded_size,
    published_augmentation,
)
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_deepprompt_14, SAM3DAdapterTrainer_posenc

NAMES = {
    "posenc": {"prompt_encoding": "position"},
    "nomla": {"aggregate_levels": False},
    "deepprompt_1234": {"deep_prompt_levels": [1, 2, 3]},
    "deepprompt_14": {"deep_prompt_levels": [1]},
    "deepprompt_24": {"deep_prompt_levels": [2]},
    "deepprompt_34": {"deep_prompt_levels": [3]},
}


class TinyPaper(SAM3DAdapterTrainer_paper):
    """The same training of a tiny network."""

    changes = SAM3DAdapterTrainer_paper.changes | {"preset": "tiny", "num_epochs": 1, "validation_steps": 1}


class TinyReleased(SAM3DAdapterTrainer_released):
    """The same training of a tiny network."""

    changes = SAM3DAdapterTrainer_released.changes | {"preset": "tiny"}


def test_nnunet_finds_all_by_name():
    names = [n for n, trainer in TRAINERS.items() if trainer.group in (ABLATION, PUBLISHED)]
    assert sorted(n.removeprefix("SAM3DAdapterTrainer_") for n in names) == sorted(
        [*NAMES, "vitl", "vith", "paper", "released"]
    )
    signature = inspect.signature(nnUNetTrainer.__init__)
    for name in names:
        trainer = class_lookup("here")(name)
        assert trainer.__name__ == name and list(inspect.signature(trainer.__init__).parameters) == list(
            signature.parameters
        )


@pytest.mark.parametrize("name", NAMES)
def test_ablations_change_one_thing_and_train(make_trainer, name):
    """Everything else is the plan's, here the preset tiny; a step reaches all that is tuned."""
    trainer = make_trainer(trainer_class=class_lookup("here")(f"SAM3DAdapterTrainer_{name}"))
    block = trainer.settings.model_dump()
    assert block == make_trainer(trainer_class=trainer.__class__.__base__).settings.model_dump() | NAMES[name]
    assert block["preset"] == "tiny"
    trainer.on_train_start()
    trainer.network.train()
    for _ in range(2):
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None] == []
    rebuilt = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3, False)
    rebuilt.load_state_dict(trainer.network.state_dict())


@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_posenc, SAM3DAdapterTrainer_deepprompt_14])
def test_ablations_correct_first_masks(make_trainer, trainer_class):
    trainer = make_trainer(trainer_class=trainer_class, settings={"clicks": {"iterated_share": 1.0}})
    trainer.on_train_start()
    trainer.network.train()
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


@pytest.mark.parametrize("letter", ["l", "h"])
def test_larger_encoders(make_trainer, letter):
    trainer = make_trainer(trainer_class=class_lookup("here")(f"SAM3DAdapterTrainer_vit{letter}"))
    assert trainer.settings.preset == f"vit_{letter}"
    with torch.device("meta"):
        net = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    blocks, width = {"l": (24, 1024), "h": (32, 1280)}[letter]
    assert len(net.image_encoder.blocks) == blocks and net.image_encoder.pos_embed.shape[-1] == width


# the published trainings


@pytest.mark.parametrize(
    ("trainer_class", "rate", "decay", "share", "epochs", "foreground", "policy"),
    [
        (SAM3DAdapterTrainer_paper, 1e-4, 1e-5, 0.1, 200, 0.5, "paper"),
        (SAM3DAdapterTrainer_released, 4e-4, 0, 0.01, 500, 2 / 3, "released"),
    ],
)
def test_published_settings(make_trainer, trainer_class, rate, decay, share, epochs, foreground, policy):
    other = {"deep_prompt_levels": [1], "target_policy": "clicked", "labelled_prompts": True, "batch_size": 4}
    trainer = make_trainer(trainer_class=trainer_class, settings=other)
    settings = trainer.settings
    assert settings.preset == "paper" and not settings.clicks_carry_labels and not settings.shows_maps
    assert settings.deep_prompt_levels == [] and settings.target_policy == "semantic"
    assert settings.clicks.policy == policy and settings.iterated_share == 0
    assert (trainer.num_epochs, settings.batch_size, trainer.oversample_foreground_percent) == (epochs, 1, foreground)
    trainer.network = torch.nn.Linear(1, 1)
    optimizer, schedule = trainer.configure_optimizers()
    assert optimizer.defaults["lr"] == rate and optimizer.defaults["weight_decay"] == decay
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    schedule.step(epochs)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(share * rate)


@pytest.mark.parametrize("trainer_class", [TinyPaper, TinyReleased])
@pytest.mark.parametrize("kind", ["one class", "regions"])
def test_published_trainings_take_steps(make_trainer, trainer_class, kind):
    trainer = make_trainer(kind, trainer_class=trainer_class)
    trainer.on_train_start()
    assert trainer.num_iterations_per_epoch == 3  # training cases
    assert trainer.inference_allowed_mirroring_axes is None
    assert (trainer.loss.weight_dice, trainer.loss.weight_ce) == (0.5, 0.5)
    trainer.network.train()
    for _ in range(3):
        batch = next(trainer.dataloader_train)
        assert batch["data"].shape == (1, 1, 16, 16, 16) and set(batch["prompts"].labels.unique().tolist()) <= {-1, 1}
        assert np.isfinite(trainer.train_step(batch)["loss"])


def test_what_lies_outside_of_an_images_mask_stays_0(make_trainer):
    trainer = make_trainer(trainer_class=TinyPaper)
    labels = {"is_cascaded": False, "foreground_labels": [1, 2], "regions": None, "ignore_label": None}
    size = loaded_size((16, 16, 16), trainer.zoom[0], trainer.cut_from)
    segmentation = torch.zeros(1, *size, dtype=torch.int16)
    segmentation[:, :, : size[1] // 2] = -1
    np.random.seed(0)  # of several patches some are shifted
    for masked in (True, False):
        transforms = trainer.get_training_transforms((16, 16, 16), None, None, (0, 1, 2), False, [masked], **labels)
        done = [transforms(image=torch.zeros(1, *size), segmentation=segmentation) for _ in range(20)]
        assert any(patch["image"].any() for patch in done)
        # a shift is one number, so that 0 beside another one is a mask
        assert any(0 in patch["image"] and patch["image"].any() for patch in done) == masked


def test_an_epoch_is_a_pass_over_the_cases(make_trainer):
    trainer = make_trainer(trainer_class=TinyPaper)
    steps = []
    trainer.train_step = lambda batch: steps.append(batch["data"].shape[0]) or {"loss": np.array(0.0)}
    trainer.disable_checkpointing = True
    trainer.run_training()
    assert steps == [1, 1, 1]


def test_loss_is_half_dice_and_half_cross_entropy(make_trainer):
    trainer = make_trainer("one class", trainer_class=TinyPaper)
    logits, target = torch.randn(1, 2, 6, 6, 6), torch.randint(0, 2, (1, 1, 6, 6, 6))
    p, foreground = logits.softmax(1)[:, 1], (target[:, 0] == 1).float()
    dice = (2 * (p * foreground).sum() + 1e-5) / (p.sum() + foreground.sum() + 1e-5)
    expected = 0.5 * torch.nn.functional.cross_entropy(logits, target[:, 0]) - 0.5 * dice
    torch.testing.assert_close(trainer._build_loss()(logits, target.float()), expected)


def test_shift_of_20_hounsfield_units(make_trainer):
    plans = {"normalization_schemes": ["CTNormalization"]}
    assert make_trainer(trainer_class=TinyReleased, plan=plans).intensity_shift == 20 / 0.5  # s.d. of the fingerprint
    assert make_trainer(trainer_class=TinyReleased).intensity_shift == 0.1
    assert make_trainer(trainer_class=TinyPaper, plan=plans).intensity_shift == 0.1


# the published augmentation


def augmented(transforms: list, loaded: list[int], **content: torch.Tensor) -> dict:
    image = content.get("image", torch.rand(1, *loaded))
    sample = {"image": image.clone(), "segmentation": torch.ones(1, *loaded, dtype=torch.int16)}
    for transform in transforms:
        sample = transform(**sample)
    return sample


@pytest.mark.parametrize("patch_size", [(16, 16, 16), (16, 24, 16), (12, 16, 20)])
@pytest.mark.parametrize(("zoom", "cut_from"), [((0.9, 1.1), 1.0), ((0.85, 1.25), 1.2)])
def test_nothing_outside_of_what_is_loaded_is_seen(patch_size, zoom, cut_from):
    loaded = loaded_size(patch_size, zoom[0], cut_from)
    transforms = published_augmentation(patch_size, zoom, 1.0, cut_from, 0.3)
    for _ in range(20):
        sample = augmented(transforms, loaded)
        assert sample["image"].shape == sample["segmentation"].shape == (1, *patch_size)
        assert (sample["segmentation"] == 1).all()


def test_zoom_enlarges():
    ball = (torch.stack(torch.meshgrid(*3 * [torch.arange(40.0) - 19.5], indexing="ij")).norm(dim=0) < 8).float()[None]
    spatial, *_ = published_augmentation((32, 32, 32), (1.25, 1.25), 1.0, 1.0, 0.0)
    zoomed = spatial(image=ball, segmentation=torch.ones(1, 40, 40, 40, dtype=torch.int16))["image"]
    assert zoomed.sum() / ball.sum() == pytest.approx(1.25**3, rel=0.05)


def test_patches_are_cut_anywhere_from_a_larger_one():
    place = torch.stack(torch.meshgrid(*3 * [torch.arange(24.0)], indexing="ij"))
    spatial, *_ = published_augmentation((20, 20, 20), (1.0, 1.0), 0.0, 1.2, 0.0)
    corners = [spatial(image=place.clone(), segmentation=place[:1])["image"][:, 0, 0, 0] for _ in range(100)]
    corners = torch.stack(corners)
    assert corners.min() == 0 and corners.max() <= 4 and len(corners.unique(dim=0)) > 20
    spatial, *_ = published_augmentation((20, 20, 20), (1.0, 1.0), 0.0, 1.0, 0.0)
    cut = spatial(image=place[:, :20, :20, :20].clone(), segmentation=place[:1, :20, :20, :20])
    assert torch.equal(cut["image"], place[:, :20, :20, :20])


def test_turns_keep_the_shape_and_move_image_and_labels_alike():
    place = torch.arange(4.0 * 6 * 4).reshape(1, 4, 6, 4)
    _, turn, mirror, _ = published_augmentation((4, 6, 4), (1.0, 1.0), 0.0, 1.0, 0.0)
    turned = 0
    for _ in range(40):
        sample = mirror(**turn(image=place.clone(), segmentation=place.clone()))
        assert sample["image"].shape == place.shape and torch.equal(sample["image"], sample["segmentation"])
        rows = sample["image"][0, :, 0].diff(dim=0).abs().unique()  # along d: 24 unless turned by a quarter
        turned += rows.tolist() == [1.0]
    assert 4 < turned < 26  # of a half that turns, two of three turns exchange the axes


def test_shift_is_one_number_for_all_voxels():
    image = torch.rand(1, 4, 4, 4)
    shifts = [(ShiftIntensity(0.25)(image=image.clone())["image"] - image) for _ in range(50)]
    assert all(s.max() - s.min() < 1e-6 for s in shifts)
    means = torch.stack([s.mean() for s in shifts])
    assert means.abs().max() <= 0.25 + 1e-6 and means.min() < -0.1 and means.max() > 0.1
