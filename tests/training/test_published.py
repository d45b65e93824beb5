"""The published trainings, `_paper` and `_released`: what they set, how they draw and augment patches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.training.boxed_batches import BoxedDataLoader, box_above
from sam3d_nnunet.training.finite import SLAB, step_if_finite
from sam3d_nnunet.training.published import (
    SAM3DAdapterTrainer_paper,
    SAM3DAdapterTrainer_released,
    SAM3DAdapterTrainer_released_inplane,
)
from sam3d_nnunet.training.published_augmentation import PublishedAugmentation, ShiftIntensity

CT = {"normalization_schemes": ["CTNormalization"]}
PLAIN = PublishedAugmentation(zoom=(1.0, 1.0), zoom_share=0.0)
INPLANE = SAM3DAdapterTrainer_released_inplane.augmentation
RELEASED = (SAM3DAdapterTrainer_released, SAM3DAdapterTrainer_released_inplane)


class TinyPaper(SAM3DAdapterTrainer_paper):
    """The same training of a tiny network."""

    changes = SAM3DAdapterTrainer_paper.changes | {"preset": "tiny", "num_epochs": 1, "validation_steps": 1}


class TinyReleased(SAM3DAdapterTrainer_released):
    """The same training of a tiny network."""

    changes = SAM3DAdapterTrainer_released.changes | {"preset": "tiny"}


class TinyInplane(SAM3DAdapterTrainer_released_inplane):
    """The same training of a tiny network."""

    changes = TinyReleased.changes


# the published trainings


@pytest.mark.parametrize(
    ("trainer_class", "rate", "decay", "share", "epochs", "foreground", "policy", "precision"),
    [
        (SAM3DAdapterTrainer_paper, 1e-4, 1e-5, 0.1, 200, 0.5, "paper", "auto"),
        *((released, 4e-4, 0, 0.01, 500, 2 / 3, "released", "fp32") for released in RELEASED),
    ],
)
def test_published_settings(make_trainer, trainer_class, rate, decay, share, epochs, foreground, policy, precision):
    other = {"deep_prompt_levels": [1], "target_policy": "clicked", "labelled_prompts": True, "batch_size": 4}
    trainer = make_trainer(trainer_class=trainer_class, settings=other)
    settings = trainer.settings
    assert settings.preset == "paper" and not settings.clicks_carry_labels and not settings.shows_maps
    assert settings.deep_prompt_levels == [] and settings.target_policy == "semantic"
    assert settings.clicks.policy == policy and settings.iterated_share == 0
    assert settings.precision == precision
    with torch.device("meta"):
        net = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    assert net.precision == precision
    assert (trainer.num_epochs, settings.batch_size, trainer.oversample_foreground_percent) == (epochs, 1, foreground)
    trainer.network = torch.nn.Linear(1, 1)
    optimizer, schedule = trainer.configure_optimizers()
    assert optimizer.defaults["lr"] == rate and optimizer.defaults["weight_decay"] == decay
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    schedule.step(epochs)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(share * rate)


@pytest.mark.parametrize(
    ("trainer_class", "kind"),
    [(TinyPaper, "one class"), (TinyPaper, "regions"), (TinyReleased, "regions"), (TinyInplane, "one class")],
)
def test_published_trainings_take_steps(make_trainer, trainer_class, kind):
    unknown = trainer_class is TinyInplane
    plan, settings = (CT, {"orientation": None}) if unknown else (None, None)
    trainer = make_trainer(kind, trainer_class=trainer_class, plan=plan, settings=settings)
    trainer.on_train_start()
    assert ("The plans note no orientation" in Path(trainer.log_file).read_text()) == unknown
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
    size = trainer.augmentation.loaded_size((16, 16, 16))
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
    assert make_trainer(trainer_class=TinyReleased, plan=CT).intensity_shift == 20 / 0.5  # s.d. of the fingerprint
    assert make_trainer(trainer_class=TinyReleased).intensity_shift == 0.1
    assert make_trainer(trainer_class=TinyPaper, plan=CT).intensity_shift == 0.1


def test_the_released_depth_table_starts_at_ones(make_trainer):
    started = make_trainer(trainer_class=TinyReleased)
    started.initialize()
    started._load_sam_weights()
    table = started.network.image_encoder.depth_embed
    assert (table == 1).all() and table.requires_grad
    papers = make_trainer(trainer_class=TinyPaper)
    papers.initialize()
    papers._load_sam_weights()
    assert (papers.network.image_encoder.depth_embed == 0).all()


def test_a_continued_training_keeps_its_depth_table(make_trainer, tmp_path):
    trainer = make_trainer(trainer_class=TinyReleased)
    trainer.initialize()
    trainer._load_sam_weights()
    with torch.no_grad():
        trainer.network.image_encoder.depth_embed.fill_(0.5)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    continued = make_trainer(trainer_class=TinyReleased)
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    continued._load_sam_weights()
    assert (continued.network.image_encoder.depth_embed == 0.5).all()


def test_each_part_is_clipped_by_its_own_norm():
    parts = [torch.nn.Linear(3, 1, bias=False), torch.nn.Linear(3, 1, bias=False)]
    loss = parts[0](torch.full((1, 3), 5.0)).sum() + parts[1](torch.full((1, 3), 0.1)).sum()
    optimizer = torch.optim.SGD([p for part in parts for p in part.parameters()], 0.0)
    assert step_if_finite(loss, parts, optimizer, 1.0).stepped
    first, second = (part.weight.grad for part in parts)
    torch.testing.assert_close(first, torch.full((1, 3), 3**-0.5))
    torch.testing.assert_close(second, torch.full((1, 3), 0.1))  # shorter than 1, whatever the other one


def test_a_part_with_an_infinite_gradient_stops_the_others():
    parts = [torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)]
    optimizer = torch.optim.SGD([p for part in parts for p in part.parameters()], 0.1)
    before = [part.weight.clone() for part in parts]
    loss = parts[0](torch.ones(1, 1)).sum() + parts[1](torch.full((1, 1), 1e30)).square().sum().clamp(max=1e-30)
    parts[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    assert not step_if_finite(loss, parts, optimizer, 1.0).stepped
    assert all(torch.equal(part.weight, weight) for part, weight in zip(parts, before))


def test_the_released_parts_are_the_whole_network(make_trainer):
    trainer = make_trainer(trainer_class=TinyReleased)
    trainer.initialize()
    trainer._load_sam_weights()
    trainer.gradient_clip = 1e-3
    clipped = [p for part in trainer.clipped_parts() for p in part.parameters()]
    assert {id(p) for p in clipped} == {id(p) for p in trainer.network.parameters()} and len(
        trainer.clipped_parts()
    ) == 3
    batch = {"data": torch.rand(1, 1, 16, 16, 16)}
    trainer.training_loss = lambda batch: trainer.network(batch["data"]).square().sum()
    trainer.train_step(batch)
    norms = [
        torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm()
        for part in trainer.clipped_parts()
    ]
    assert [norm.item() for norm in norms] == pytest.approx([1e-3] * 3, rel=1e-2)


# background patches


def test_box_of_what_lies_above_a_level():
    rng = np.random.default_rng(0)
    image = np.full((70, 14, 12), -2.0, np.float32)  # more slices than are read at once
    image[33:66, 3:9, 5:6] = rng.uniform(-1, 1, (33, 6, 1))
    channels = np.stack([image, np.ones_like(image)])
    assert box_above(channels, -1.5) == Box.from_mask(image > -1.5) == Box((33, 3, 5), (66, 9, 6))
    assert box_above(channels, 2) is None


def test_images_on_the_disk_are_read_by_slabs():
    class OnDisk:
        """Reads what is asked for, as the arrays that nnU-Net preprocesses do."""

        shape = (1, 3 * SLAB, 4, 5)

        def __getitem__(self, where: tuple) -> np.ndarray:
            part = np.ones(self.shape, np.float32)[where]
            assert part.size <= SLAB * 4 * 5
            return part

    assert box_above(OnDisk(), 0) == Box((0, 0, 0), (3 * SLAB, 4, 5))


def test_boxes_of_training_cases_lie_above_the_clip_minimum(make_trainer, monkeypatch):
    assert make_trainer(trainer_class=TinyReleased).loader_options()["boxes"] == {}  # not CT
    trainer = make_trainer(trainer_class=TinyReleased, plan=CT)
    properties = trainer.plans_manager.foreground_intensity_properties_per_channel["0"]
    low, high, mean, sd = (properties[key] for key in ("percentile_00_5", "percentile_99_5", "mean", "std"))
    assert trainer.body_level == pytest.approx((low + 0.01 * (high - low) - mean) / sd)
    trainer.initialize()
    training_set, _ = trainer.get_tr_and_val_datasets()
    level = float(np.quantile(training_set.load_case("case_1")[0][0], 0.999))
    monkeypatch.setattr(TinyReleased, "body_level", level)
    boxes = trainer.loader_options()["boxes"]
    assert boxes.keys() == {"case_1", "case_3", "case_4"}
    for case, box in boxes.items():
        assert box == Box.from_mask(training_set.load_case(case)[0][0] > level)


def loader_with(make_trainer, boxes: dict, kind: str = "one class") -> BoxedDataLoader:
    """The training loader of `_released`, which asks for patches of 16^3, cut from 19^3, with these boxes."""
    trainer = make_trainer(kind, trainer_class=TinyReleased)
    trainer.initialize()
    trainer._boxes = lambda: boxes
    trainer._load_sam_weights()
    loader = trainer.get_dataloaders()[0].data_loader
    assert isinstance(loader, BoxedDataLoader) and loader.inner_size.tolist() == [19, 19, 19]
    return loader


def drawn(loader, case: str, shape: tuple, force_fg: bool, locations: dict, count: int = 200) -> np.ndarray:
    """(count, 3): where inner patches of 19^3 begin."""
    starts = []
    for _ in range(count):
        loader._upcoming = iter([case])
        start, stop = loader.get_bbox(shape, force_fg, locations)
        assert np.subtract(stop, start).tolist() == list(loader.patch_size)
        starts.append(np.add(start, (np.array(loader.patch_size) - 19) // 2))
    return np.array(starts)


def test_background_patches_lie_in_the_box_and_everywhere_in_it(make_trainer):
    box = Box((10, 2, 40), (60, 12, 70))
    loader = loader_with(make_trainer, {"case_1": box})
    np.random.seed(0)
    for force in (False, True):  # a patch of foreground, in a case without any, is one of the background
        starts = drawn(loader, "case_1", (80, 30, 90), force, {1: []})
        assert starts[:, 0].min() == 10 and starts[:, 0].max() == 60 - 19
        assert starts[:, 2].min() == 40 and starts[:, 2].max() == 70 - 19
        assert len(np.unique(starts[:, 0])) > 20
        assert (starts[:, 1] == -3).all()  # thinner than a patch: centre on centre (2 + 12 = 2 * 7 = -3 + 16 + 1)


def test_other_patches_are_nnunets(make_trainer):
    loader = loader_with(make_trainer, {"case_1": Box((0, 0, 0), (5, 5, 5))})
    shape, locations = (80, 70, 90), {1: np.array([[0, 40, 30, 50], [0, 60, 60, 10]])}
    for case, force in (("case_1", True), ("a case without a box", False)):
        np.random.seed(1)
        loader._upcoming = iter([case])
        ours = loader.get_bbox(shape, force, locations)
        np.random.seed(1)
        assert ours == nnUNetDataLoader.get_bbox(loader, shape, force, locations)


def test_each_case_of_a_batch_gets_its_own_box(make_trainer):
    shapes = {(20, 18, 22): "case_1", (20, 20, 20): "case_3", (18, 22, 24): "case_4"}
    boxes = {case: Box((i, 2 * i, 3 * i), (i + 1, 2 * i + 1, 3 * i + 1)) for i, case in enumerate(shapes.values())}
    loader = loader_with(make_trainer, boxes)
    loader.oversample_foreground_percent = 0
    asked, get_bbox = [], loader.get_bbox

    def noting(shape, *more):
        ends = get_bbox(shape, *more)
        asked.append((tuple(shape), ends[0]))
        return ends

    loader.get_bbox = noting
    for _ in range(12):
        loader.generate_train_batch()
    assert len({shape for shape, _ in asked}) == 3
    for shape, start in asked:
        inner = np.array(start) + (np.array(loader.patch_size) - 19) // 2
        assert inner.tolist() == [(2 * a + 1 - 19) // 2 for a in boxes[shapes[shape]].start]


# the published augmentation


def augmented(transforms: list, loaded: list[int], **content: torch.Tensor) -> dict:
    image = content.get("image", torch.rand(1, *loaded))
    sample = {"image": image.clone(), "segmentation": torch.ones(1, *loaded, dtype=torch.int16)}
    for transform in transforms:
        sample = transform(**sample)
    return sample


def always(augmentation: PublishedAugmentation, **changes: object) -> PublishedAugmentation:
    """The same, but with a zoom and a turn for each patch."""
    return replace(augmentation, **({"zoom_share": 1.0, "turn_share": 1.0} | changes))


@pytest.mark.parametrize("patch_size", [(16, 16, 16), (16, 24, 16), (12, 16, 40)])
@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_paper, *RELEASED])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0)])
def test_nothing_outside_of_what_is_loaded_is_seen(patch_size, trainer_class, axes):
    augmentation = always(trainer_class.augmentation)
    loaded = augmentation.loaded_size(patch_size, axes)
    transforms = augmentation.transforms(patch_size, 0.3, axes)
    for _ in range(20):
        sample = augmented(transforms, loaded)
        assert sample["image"].shape == sample["segmentation"].shape == (1, *patch_size)
        assert (sample["segmentation"] == 1).all()


def test_zoom_enlarges():
    ball = (torch.stack(torch.meshgrid(*3 * [torch.arange(40.0) - 19.5], indexing="ij")).norm(dim=0) < 8).float()[None]
    spatial, *_ = PublishedAugmentation(zoom=(1.25, 1.25), zoom_share=1.0).transforms((32, 32, 32), 0.0)
    zoomed = spatial(image=ball, segmentation=torch.ones(1, 40, 40, 40, dtype=torch.int16))["image"]
    assert zoomed.sum() / ball.sum() == pytest.approx(1.25**3, rel=0.05)


def test_patches_are_cut_anywhere_from_a_larger_one():
    place = torch.stack(torch.meshgrid(*3 * [torch.arange(24.0)], indexing="ij"))
    spatial, *_ = replace(PLAIN, cut_from=1.2).transforms((20, 20, 20), 0.0)
    corners = [spatial(image=place.clone(), segmentation=place[:1])["image"][:, 0, 0, 0] for _ in range(100)]
    corners = torch.stack(corners)
    assert corners.min() == 0 and corners.max() <= 4 and len(corners.unique(dim=0)) > 20
    spatial, *_ = PLAIN.transforms((20, 20, 20), 0.0)
    cut = spatial(image=place[:, :20, :20, :20].clone(), segmentation=place[:1, :20, :20, :20])
    assert torch.equal(cut["image"], place[:, :20, :20, :20])


def test_turns_keep_the_shape_and_move_image_and_labels_alike():
    place = torch.arange(4.0 * 6 * 4).reshape(1, 4, 6, 4)
    _, turn, mirror, _ = PLAIN.transforms((4, 6, 4), 0.0)
    turned = 0
    for _ in range(40):
        sample = mirror(**turn(image=place.clone(), segmentation=place.clone()))
        assert sample["image"].shape == place.shape and torch.equal(sample["image"], sample["segmentation"])
        rows = sample["image"][0, :, 0].diff(dim=0).abs().unique()  # along d: 24 unless turned by a quarter
        turned += rows.tolist() == [1.0]
    assert 4 < turned < 26  # of a half that turns, two of three turns exchange the axes


def slopes(augmentation: PublishedAugmentation, axes: tuple[int, int, int], count: int = 60) -> np.ndarray:
    """(count, 3, 3): how the place from which a voxel comes changes along the axes of patches, both as (z, y, x)."""
    size = augmentation.loaded_size((12, 12, 12), axes)
    place = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
    spatial, *_ = augmentation.transforms((12, 12, 12), 0.0, axes)
    found = []
    for _ in range(count):
        source = spatial(image=place.clone(), segmentation=torch.zeros(1, *size, dtype=torch.int16))["image"]
        steps = torch.stack([source.diff(dim=1 + axis).flatten(1).median(dim=1).values for axis in range(3)], dim=1)
        found.append(steps[list(axes)][:, list(axes)].numpy())
    return np.array(found)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_turns_within_slices_by_up_to_30_degrees(axes):
    np.random.seed(0)
    found = slopes(always(INPLANE, zoom_share=0.0), axes)
    assert np.allclose(found[:, 0], [1, 0, 0], atol=1e-4) and np.allclose(found[:, :, 0], [1, 0, 0], atol=1e-4)
    angles = np.degrees(np.arctan2(found[:, 2, 1], found[:, 1, 1]))
    assert np.allclose(np.linalg.norm(found[:, 1:, 1:], axis=2), 1, atol=1e-4)
    assert -30.001 <= angles.min() < -20 and 20 < angles.max() <= 30.001


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_zooms_within_slices_leave_the_depth_alone(axes):
    np.random.seed(0)
    zooms = 1 / slopes(always(INPLANE, turn_share=0.0), axes).diagonal(axis1=1, axis2=2)
    assert np.allclose(zooms[:, 0], 1, atol=1e-4)
    for z in zooms[:, 1:].T:
        assert 0.899 <= z.min() < 0.92 and 1.08 < z.max() <= 1.101
    assert np.abs(zooms[:, 1] - zooms[:, 2]).max() > 0.05  # each axis by its own factor
    together = 1 / slopes(always(SAM3DAdapterTrainer_released.augmentation), axes).diagonal(axis1=1, axis2=2)
    assert np.allclose(together, together[:, :1], rtol=1e-3)
    assert 0.849 <= together.min() < 0.9 and 1.2 < together.max() <= 1.251


def test_shares_of_zooms_and_turns():
    np.random.seed(0)
    turned = (np.abs(slopes(replace(INPLANE, zoom_share=0.0), (0, 1, 2), 300)[:, 1, 2]) > 1e-3).mean()
    assert 0.2 < turned < 0.4
    for augmentation, share in (
        (replace(INPLANE, turn_share=0.0), 0.3),
        (SAM3DAdapterTrainer_released.augmentation, 0.8),
    ):
        zoomed = (np.abs(slopes(augmentation, (0, 1, 2), 300)[:, 1, 1] - 1) > 1e-3).mean()
        assert share - 0.1 < zoomed < share + 0.1


def test_monai_turns_about_its_first_axis_within_slices():
    """The released code gives the angle to MONAI's RandRotate as range_x, for images (d, h, w)."""
    transforms = pytest.importorskip("monai.transforms")
    turn = transforms.RandRotate(range_x=(0.4, 0.4), prob=1.0, keep_size=True)
    depth, height = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    by_depth, by_height = (place[None, :, :, None].expand(1, 9, 9, 9).contiguous() for place in (depth, height))
    assert torch.allclose(torch.as_tensor(turn(by_depth)), by_depth, atol=1e-4)
    assert not torch.allclose(torch.as_tensor(turn(by_height)), by_height, atol=0.5)


def test_released_quarter_turns_are_sagittal():
    place = torch.arange(4.0**3).reshape(1, 4, 4, 4)
    axes = (1, 2, 0)
    _, turn, *_ = SAM3DAdapterTrainer_released.augmentation.transforms((4, 4, 4), 0.0, axes)
    np.random.seed(0)
    found = {tuple(turn(image=place, segmentation=place)["image"].flatten().tolist()) for _ in range(60)}
    expected = {tuple(torch.rot90(place, k, dims=(2, 3)).flatten().tolist()) for k in range(4)}
    assert found == expected
    none = SAM3DAdapterTrainer_released.augmentation.transforms((4, 6, 4), 0.0, (0, 1, 2))
    assert len(none) == 3  # sides differ


@pytest.mark.parametrize(
    ("orientation", "transposed", "axes"),
    [
        (None, [2, 0, 1], (0, 1, 2)),
        ("LPS", [0, 1, 2], (0, 1, 2)),
        ("RAI", [0, 1, 2], (0, 1, 2)),
        ("SPL", [0, 1, 2], (2, 1, 0)),  # slices along the first index of the file, as in KiTS
        ("SPL", [2, 0, 1], (0, 2, 1)),
    ],
)
def test_axes_of_the_patient_in_preprocessed_images(make_trainer, orientation, transposed, axes):
    trainer = make_trainer(trainer_class=TinyInplane, settings={"orientation": orientation})
    trainer.plans_manager.plans["transpose_forward"] = transposed
    assert trainer.axes == axes
    if orientation is not None:  # the slices of a preprocessed array, by the letters of its axes
        letters = np.array(list(orientation[::-1]))[transposed]
        assert letters[axes[0]] in "SI" and letters[axes[1]] in "PA"


def test_shift_is_one_number_for_all_voxels():
    image = torch.rand(1, 4, 4, 4)
    shifts = [(ShiftIntensity(0.25)(image=image.clone())["image"] - image) for _ in range(50)]
    assert all(s.max() - s.min() < 1e-6 for s in shifts)
    means = torch.stack([s.mean() for s in shifts])
    assert means.abs().max() <= 0.25 + 1e-6 and means.min() < -0.1 and means.max() > 0.1
