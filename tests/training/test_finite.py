import json
import shutil
from pathlib import Path

import blosc2
import numpy as np
import pytest
import skipping_rank
import torch
import torch.distributed as dist
from torch import nn

from sam3d_nnunet.baselines.med_tuning import SAM3DMedTuningTrainer
from sam3d_nnunet.baselines.prompted_unet import PromptedUNetTrainer
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.training import finite
from sam3d_nnunet.training.finite import LONGEST_RUN, SkippedSteps, step_if_finite, with_finite_losses
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_smoke, nnUNetTrainer_planned

SHORT = {"preset": "tiny", "num_epochs": 2, "steps_per_epoch": 3, "validation_steps": 1}


class ShortTrainer(SAM3DAdapterTrainer_smoke):
    """An epoch of 2 steps."""

    changes = SAM3DAdapterTrainer_smoke.changes | {"num_epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}


def spoilt(batch: dict, voxel: float = torch.inf) -> dict:
    """One voxel of the second patch is not finite."""
    data = batch["data"].clone()
    data[1, 0, 5, 6, 7] = voxel
    return batch | {"data": data}


def everything(trainer) -> list[torch.Tensor]:
    """Weights, running statistics, and the optimizer's state."""
    of_optimizer = [v for state in trainer.optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    return [tensor.clone() for tensor in (*trainer.network.state_dict().values(), *of_optimizer)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


class Spoiling:
    """nnU-Net's loader, some of whose batches are spoilt."""

    def __init__(self, loader, numbers) -> None:
        self.loader, self.numbers, self.count = loader, numbers, 0

    def __next__(self) -> dict:
        self.count += 1
        batch = next(self.loader)
        return spoilt(batch) if self.count in self.numbers else batch


@pytest.mark.parametrize(
    "trainer_class, voxel",
    [
        (SAM3DAdapterTrainer_smoke, torch.inf),
        (PromptedUNetTrainer, torch.nan),
        (nnUNetTrainer_planned, -torch.inf),
        (SAM3DMedTuningTrainer, torch.inf),
        (SAM3DMedTuningTrainer, 1e30),  # finite, but its variance is not
    ],
)
def test_a_step_that_is_not_finite_changes_nothing(make_trainer, trainer_class, voxel):
    """SAM3DMedTuningTrainer has batch normalisation, whose running statistics a forward pass alone would spoil."""
    trainer = make_trainer(trainer_class=trainer_class, settings=SHORT)
    trainer.on_train_start()
    trainer.network.train()
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    before = everything(trainer)
    assert trainer.train_step(spoilt(batch, voxel))["skipped"]
    assert same(everything(trainer), before)
    assert all(parameter.grad is None for parameter in trainer.network.parameters())
    assert not trainer.train_step(batch)["skipped"]
    after = everything(trainer)
    assert not same(after, before) and all(tensor.isfinite().all() for tensor in after)


def test_skipped_steps_are_counted_aloud(make_trainer, monkeypatch):
    trainer = make_trainer(trainer_class=ShortTrainer)
    start = trainer.on_train_start

    def spoil():
        start()
        trainer.dataloader_train = Spoiling(trainer.dataloader_train, [2])

    monkeypatch.setattr(trainer, "on_train_start", spoil)
    trainer.run_training()
    log = log_of(trainer)
    assert log.count("steps skipped") == 1
    assert "1 of 2 steps skipped: loss or gradient not finite. Patches of these cases hold NaN or infinite" in log
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    weights = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_validation_losses_that_are_not_finite_do_not_count(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.on_validation_epoch_start()
    batch = next(trainer.dataloader_val)
    with torch.no_grad():
        good, bad = trainer.validation_step(dict(batch)), trainer.validation_step(spoilt(batch))
    assert not np.isfinite(bad["loss"])
    trainer.on_validation_epoch_end([good, bad])
    assert trainer.logger.get_value("val_losses", step=-1) == pytest.approx(good["loss"])


def test_many_skipped_steps_in_a_row_end_the_training(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.on_train_start()
    parameter = next(p for p in trainer.network.parameters() if p.requires_grad)
    monkeypatch.setattr(trainer, "training_loss", lambda batch: parameter.sum() * batch["data"].sum())
    good = next(trainer.dataloader_train)
    bad = spoilt(good)
    for _ in range(LONGEST_RUN - 1):
        trainer.train_step(bad)
    trainer.train_step(good)
    for _ in range(LONGEST_RUN - 1):
        trainer.train_step(bad)
    with pytest.raises(
        SAM3DError, match=f"^20 steps in a row .* epoch 0.* these cases .*{good['keys'][1]}.*preprocess"
    ):
        trainer.train_step(bad)


def test_a_training_that_diverges_ends(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.on_train_start()
    monkeypatch.setattr(trainer, "loss", lambda output, target: output[0].sum() * torch.nan)
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)]
    with pytest.raises(SAM3DError, match="^All 3 steps were skipped in epoch 0.*voxels .* finite.*Lower the learning"):
        trainer.on_train_epoch_end(outputs)


def test_weights_that_are_not_finite_are_neither_written_nor_continued(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.initialize()
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    good = file.read_bytes()
    name, parameter = next(iter(trainer.network.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan
    with pytest.raises(SAM3DError, match=f"checkpoint_latest.pth is not written.*{name}"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == good
    with pytest.raises(SAM3DError, match=f"The network has weights that are NaN .*{name}"):  # -pretrained_weights
        trainer.on_train_start()
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = trainer.network.state_dict()
    torch.save(checkpoint, file)
    with pytest.raises(SAM3DError, match=f"checkpoint_latest.pth has weights .*{name}.* earlier checkpoint"):
        make_trainer().load_checkpoint(str(file))


# cases


@pytest.fixture
def broken(prepared, make_trainer, tmp_path):
    """Makes a trainer with one voxel of some preprocessed cases infinite."""
    base = tmp_path / "preprocessed" / prepared("classes").name
    shutil.copytree(prepared("classes").base, base)

    def make(*cases: str):
        trainer = make_trainer(trainer_class=ShortTrainer)
        folder = base / Path(trainer.preprocessed_dataset_folder).name
        trainer.preprocessed_dataset_folder_base, trainer.preprocessed_dataset_folder = str(base), str(folder)
        for case in cases:
            file = folder / f"{case}.b2nd"
            image = blosc2.open(str(file))[:]
            image[0, -1, -1, -1] = np.nan
            file.unlink()
            blosc2.asarray(image, urlpath=str(file))
        return trainer

    return make


def test_cases_that_are_not_finite_are_named_before_the_first_epoch(broken):
    trainer = broken("case_3", "case_2")
    trainer.on_train_start()
    log = log_of(trainer)
    assert "WARNING: 1 training case(s) hold NaN or infinite voxels: case_3. Steps" in log
    assert "WARNING: 1 validation case(s) hold NaN or infinite voxels: case_2. What" in log


def test_cases_of_fold_all_are_read_once(broken, monkeypatch):
    """nnU-Net trains and validates on the same cases then."""
    trainer = broken("case_3")
    trainer.fold, looked = "all", []
    monkeypatch.setattr(finite, "_is_broken", lambda dataset, case: looked.append(case) or case == "case_3")
    trainer.on_train_start()
    assert len(looked) == len(set(looked)) == 5
    assert log_of(trainer).count("hold NaN or infinite voxels: case_3") == 1


def test_finite_cases_are_not_named(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    assert "WARNING" not in log_of(trainer)


def test_training_on_nothing_finite_is_refused(broken):
    with pytest.raises(SAM3DError, match="All training cases of fold 0 hold NaN or infinite voxels"):
        broken("case_1", "case_3", "case_4").on_train_start()


# several GPUs, and float16


def test_all_ranks_skip_the_same_steps(tmp_path):
    torch.multiprocessing.spawn(skipping_rank.run, args=(str(tmp_path),), nprocs=2)
    (one, weights), (other, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one == other == [False, False, True]
    assert torch.equal(weights, others) and weights.isfinite().all()


def stopping_rank(rank: int, folder: str) -> None:
    """Skips its last steps; only the patches of rank 1 are broken."""
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=2)
    trainer = object.__new__(nnUNetTrainer_planned)
    trainer.is_ddp, trainer.local_rank, trainer.current_epoch, trainer.skipped = True, rank, 3, SkippedSteps()
    voxel = torch.nan if rank == 1 else 0.0
    trainer.skipped.add({"keys": [f"case_{rank}"], "data": torch.full((1, 1, 2, 2, 2), voxel)})
    try:
        trainer.on_train_epoch_end([{"loss": np.nan, "skipped": True}] * 2)
    except SAM3DError as e:
        Path(folder, f"{rank}.txt").write_text(str(e))
    dist.destroy_process_group()


def test_all_ranks_name_the_cases_that_end_a_training(tmp_path):
    # forked, because a new process takes seconds to import nnU-Net; there is no autograd here
    torch.multiprocessing.start_processes(stopping_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    one, other = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert one == other
    assert one.startswith("All 2 steps were skipped in epoch 3") and "voxels: case_1. Correct the images" in one


def validating_rank(rank: int, folder: str) -> None:
    """Two losses; on rank 1 none is finite."""
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=2)
    losses = [0.25, np.nan] if rank == 0 else [np.nan, np.inf]
    found = [float(output["loss"]) for output in with_finite_losses([{"loss": loss} for loss in losses])]
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_a_rank_without_finite_losses_takes_those_of_others(tmp_path):
    torch.multiprocessing.start_processes(validating_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [[0.25, 0.25]] * 2


@pytest.mark.parametrize(
    "image, added, outcome, scale",
    [
        (1.0, 0.0, (True, False), 4.0),
        (torch.inf, 0.0, (False, False), 4.0),  # a smaller scale would not help
        (1.0, torch.nan, (False, False), 4.0),
        (3e38, 0.0, (False, True), 2.0),  # overflows only with the scale
    ],
)
def test_the_scaler_of_nnunet(image, added, outcome, scale):
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.5)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for _ in range(2):  # the scaler refuses a second step after one that it has not finished
        optimizer.zero_grad()
        loss = network(torch.full((1, 1), image)).sum() + added
        done = step_if_finite(loss, [network], optimizer, 1.0, scaler)
        if not outcome[0]:
            break
    assert (done.stepped, done.seeks_scale) == outcome
    assert scaler.get_scale() == scale
    assert (network.weight.item() != 0.5) == outcome[0]


def test_a_norm_that_overflows_alone_is_counted():
    """The scaler finds no infinite element, so it keeps its scale: such steps would never end."""
    network = nn.Linear(8, 1, bias=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    loss = network(torch.full((1, 8), 1e19)).sum()
    done = step_if_finite(loss, [network], torch.optim.SGD(network.parameters(), 0.1), 1.0, scaler)
    assert (done.stepped, done.seeks_scale, scaler.get_scale()) == (False, False, 4.0)
