import multiprocessing

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as upstream
import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import pin_memory_of_all_eligible_items_in_dict
from helpers import all_kinds
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE, VoxelPrompts
from sam3d_nnunet.simulation.draw import Components
from sam3d_nnunet.simulation.maps import DrawnMaps
from sam3d_nnunet.simulation.simulator import ClickSimulator, PromptSimulator
from sam3d_nnunet.training.prompted_batches import DrawPrompts, PackedPrompts, PromptedDataLoader

IGNORE = 3
CPU = torch.device("cpu")
CLICKS = {"default": 32, "paper": 40, "released": 30}


def loaders(trainer) -> tuple:
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    return trainer.dataloader_train, trainer.dataloader_val


def label_map(target: torch.Tensor, kind: str) -> np.ndarray:
    """(B, D, H, W) labels that a batch's target shows, regions taken apart again."""
    if kind != "regions":
        return target[:, 0].numpy()
    whole, core, ignored = target.numpy().swapaxes(0, 1)
    return np.select([ignored, core, whole], [IGNORE, 1, 2], 0)


def check_batch(batch: dict, kind: str, size: int, strays: int) -> set[int]:
    """Clicks of a batch lie on what they claim, but for so many a patch; labels that were clicked."""
    points, labels, *_ = batch["prompts"]
    batch_size = len(batch["data"])
    assert points.shape == (batch_size, size, 3) and points.dtype == torch.float32
    assert labels.shape == (batch_size, size) and labels.dtype == torch.int64
    for segmentation, voxels, claimed in zip(label_map(batch["target"], kind), points.numpy(), labels.numpy()):
        voxels, claimed = voxels[claimed >= 0].astype(int), claimed[claimed >= 0]
        assert (voxels >= 0).all() and (voxels < segmentation.shape).all()
        found = segmentation[tuple(voxels.T)]
        assert not (found == IGNORE).any()
        assert (found != claimed).sum() <= strays
    return set(labels[labels >= 0].tolist())


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
@pytest.mark.parametrize("policy, strays", [("default", 1), ("paper", 0), ("released", 0)])
def test_clicks_lie_on_the_augmented_labels(make_trainer, kind, policy, strays):
    trainer = make_trainer(kind, settings={"clicks": {"policy": policy}, "batch_size": 3})
    clicked = set()
    for loader in loaders(trainer):
        for _ in range(10):
            clicked |= check_batch(next(loader), kind, CLICKS[policy], strays)
    assert clicked | ({0} if policy == "paper" else set()) == {0, 1, 2}  # it clicks background where there is only that


def test_no_click_outside_the_image(make_trainer):
    """Where a patch is larger than its image, what was filled up has become background in the target."""
    trainer = make_trainer(settings={"clicks": {"policy": "released"}})
    _, validation = loaders(trainer)  # nothing is augmented there, and filled up with 0
    filled_up = 0
    for _ in range(10):
        batch = next(validation)
        filled_up += (batch["data"] == 0).sum()
        for image, points, labels in zip(batch["data"][:, 0], *batch["prompts"][:2]):
            under = image[tuple(points[labels >= 0].long().T)]
            assert len(under) and (under != 0).all()
    assert filled_up > 1000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # nnU-Net's way to stop them
@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_workers_draw_different_clicks(make_trainer, monkeypatch, kind):
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = make_trainer(kind, settings={"clicks": {"policy": "released"}})
    training, validation = loaders(trainer)
    assert len(training._processes) == 2 and all(worker.is_alive() for worker in training._processes)
    batches = [next(training) for _ in range(12)]
    for batch in [*batches, next(validation)]:
        check_batch(batch, kind, 30, strays=0)
    assert len({batch["prompts"].points.numpy().tobytes() for batch in batches}) == len(batches)
    training._finish(), validation._finish()
    assert not multiprocessing.active_children()


def test_prompts_survive_nnunets_pinning(make_trainer, monkeypatch):
    """Which pins every tensor that it finds, and turns named tuples into plain ones."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    trainer = make_trainer()
    training, _ = loaders(trainer)
    batch = next(training)
    after = pin_memory_of_all_eligible_items_in_dict(dict(batch))
    assert all(any(t is p for p in pinned) for t in (*batch["prompts"], batch["data"]))
    trainer.on_train_start()
    trainer.network.train()
    assert np.isfinite(trainer.train_step(after)["loss"])


def test_clicks_follow_the_generator_that_differs_between_workers():
    """nnU-Net reseeds np.random alone; the patch is always the same here."""
    patch = {"segmentation": torch.ones((1, 16, 16, 16), dtype=torch.int16)}

    def draw(seed: int) -> list[bytes]:
        np.random.seed(seed)
        drawn = []
        for _ in range(3):  # the first patch of each batch
            step = DrawPrompts(PromptSimulator(ClickSimulator("paper", [1], True, 0.15)))
            step(**patch)
            drawn.append(step.drawn[0].points.tobytes())
        return drawn

    assert draw(1) == draw(1)
    assert len(set(draw(1) + draw(2))) == 6


def test_clicks_differ_from_batch_to_batch_and_follow_nnunets_seed(make_trainer):
    training, _ = loaders(make_trainer())

    def draw() -> list[bytes]:
        np.random.seed(7)
        torch.manual_seed(7)
        return [next(training)["prompts"].points.numpy().tobytes() for _ in range(3)]

    first, second = draw(), draw()
    assert first == second
    assert len(set(first)) == 3


def test_batch_of_one_is_not_always_foreground(make_trainer):
    """nnU-Net's rounding would centre each such patch on foreground."""
    trainer = make_trainer(settings={"batch_size": 1, "foreground_share": 0.5})
    training, _ = loaders(trainer)
    loader = training.data_loader
    assert next(training)["data"].shape == (1, 1, 16, 16, 16)
    chosen = [loader.get_do_oversample(0) for _ in range(400)]
    assert np.isclose(np.mean(chosen), 0.5, atol=4 * np.sqrt(0.25 / 400))


def test_unlabelled_clicks(make_trainer):
    settings = {"labelled_prompts": False, "clicks": {"policy": "paper"}}
    trainer = make_trainer(settings=settings)
    # the variant for tests takes the preset's, which is labelled
    trainer.settings = trainer.settings.model_copy(update={"labelled_prompts": False})
    training, _ = loaders(trainer)
    labels = torch.cat([next(training)["prompts"].labels for _ in range(5)])
    assert set(labels.unique().tolist()) <= {-1, 1}
    assert (labels == 1).any()


def test_nnunets_own_loader_comes_back(make_trainer, monkeypatch):
    trainer = make_trainer()
    training, _ = loaders(trainer)
    assert isinstance(training.data_loader, PromptedDataLoader)
    assert upstream.nnUNetDataLoader is nnUNetDataLoader

    def fail(*arguments):
        raise OSError("broken file")

    monkeypatch.setattr(trainer, "get_tr_and_val_datasets", fail)
    with pytest.raises(OSError, match="broken file"):
        trainer.get_dataloaders()
    assert upstream.nnUNetDataLoader is nnUNetDataLoader


# maps and targets


def seen(maps: torch.Tensor, kind: int) -> bool:
    return bool((maps[:, kind] != NOTHING).any())


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
def test_maps_lie_on_the_augmented_labels(make_trainer, kind):
    clicks = {"mask_share": 1.0, "scribble_share": 1.0, "box_share": 1.0}
    agreement = []
    for loader in loaders(make_trainer(kind, settings={"clicks": clicks, "batch_size": 3})):
        for _ in range(8):
            batch = next(loader)
            maps = batch["prompts"].unpack(CPU).maps
            assert maps.shape == (3, 3, 16, 16, 16) and maps.dtype == torch.int16
            assert maps.min() == NOTHING and maps.max() <= 2
            assert (maps[:, MASK] >= 0).all()
            for segmentation, (mask, scribbles, _) in zip(label_map(batch["target"], kind), maps.numpy()):
                assert (segmentation[scribbles != NOTHING] == scribbles[scribbles != NOTHING]).all()
                agreement.append((mask == segmentation)[segmentation != IGNORE].mean())
            assert (
                seen(maps, SCRIBBLE)
                == seen(maps, BOX)
                == bool((torch.from_numpy(label_map(batch["target"], kind)) % IGNORE).any())
            )
    assert np.mean(agreement) > 0.85


@pytest.mark.parametrize(
    "policy, shares, there", [("default", 0.0, False), ("default", 0.1, True), ("paper", 1.0, False)]
)
def test_maps_are_there_where_the_network_takes_them(make_trainer, policy, shares, there):
    names = ("mask_share", "scribble_share", "box_share", "iterated_share")
    trainer = make_trainer(settings={"clicks": {"policy": policy} | dict.fromkeys(names, shares)})
    training, _ = loaders(trainer)
    assert trainer.network.takes_maps == there
    for _ in range(5):
        assert (next(training)["prompts"].unpack(CPU).maps is not None) == there


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
def test_clicked_components_are_the_target(make_trainer, monkeypatch, kind):
    whole = []
    holding = Components.holding
    monkeypatch.setattr(Components, "holding", lambda self, clicks: whole.append(self) or holding(self, clicks))
    trainer = make_trainer(kind, settings={"target_policy": "clicked", "batch_size": 1})
    changed = 0
    for loader in loaders(trainer):
        for _ in range(20):
            whole.clear()
            batch = next(loader)
            if not whole:
                assert (batch["prompts"].labels == -1).all()
                continue
            before, found = np.maximum(whole[0].segmentation, 0), label_map(batch["target"], kind)[0]
            assert (found[found != before] == 0).all()  # only taken away
            assert ((found == IGNORE) == (before == IGNORE)).all()
            for number in np.unique(whole[0].numbers[found != before]):
                assert number > 0 and not (found[whole[0].numbers == number] > 0).any()  # as a whole
                changed += 1
    assert changed > 5 or kind == "regions"  # there a whole lesion is one component, and mostly the only one


@pytest.mark.parametrize("said", [[], [(0, MASK)], [(1, SCRIBBLE), (2, BOX), (1, MASK)]])
def test_packed_prompts_hold_what_is_said(said):
    patches = [VoxelPrompts(np.ones((n, 3), np.float32), np.ones(n, np.int64), DrawnMaps((4, 5, 6))) for n in (1, 0, 2)]
    for i, (patch, kind) in enumerate(said):
        patches[patch].maps[kind][1, 2, i] = i
    packed = PackedPrompts.pack(patches)
    expected = Prompts.from_voxels([patch._replace(maps=all_kinds(patch.maps)) for patch in patches])
    assert packed.maps.shape == (len(said), 4, 5, 6)
    for found, wanted in zip(PackedPrompts(*packed).unpack(CPU), expected, strict=True):
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype
