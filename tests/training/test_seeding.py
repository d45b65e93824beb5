"""Trainings with a seed draw the same weights, patches, augmentation and prompts again."""

import numpy as np
import pytest
import torch

from sam3d_nnunet.baselines.prompted_unet import PromptedUNetTrainer
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_smoke, nnUNetTrainer_planned

STEPS = 2


@pytest.fixture
def loss_curve(make_trainer):
    """Losses of the first steps of a training."""

    def run(trainer_class: type, seed: int) -> list[float]:
        trainer = make_trainer(trainer_class=trainer_class, settings={"seed": seed, "clicks": {"iterated_share": 0.5}})
        trainer.on_train_start()
        trainer.network.train()
        return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(STEPS)]

    return run


@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_smoke, PromptedUNetTrainer, nnUNetTrainer_planned])
def test_same_seed_gives_the_same_loss_curve(loss_curve, trainer_class):
    first = loss_curve(trainer_class, seed=5)
    torch.rand(3), np.random.rand(3)  # whatever was drawn before
    assert loss_curve(trainer_class, seed=5) == first


def test_other_seeds_give_other_weights(make_trainer):
    def weights(seed: int | None) -> torch.Tensor:
        trainer = make_trainer(settings={"seed": seed})
        trainer.initialize()
        return torch.cat([p.flatten() for p in trainer.network.parameters()])

    drawn = [weights(seed) for seed in (5, 5, 6, None, None)]
    assert drawn[0].equal(drawn[1])
    assert len({tuple(w.tolist()) for w in drawn}) == 4


def batches(trainer, count: int) -> list[dict]:
    loaders = trainer.get_dataloaders()
    try:
        return [next(loaders[0]) for _ in range(count)]
    finally:
        for loader in loaders:
            loader._finish()


def same(first: dict, second: dict) -> bool:
    return first["data"].equal(second["data"]) and first["prompts"][0].equal(second["prompts"][0])


# batchgenerators' thread may be reading when a worker ends
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_worker_processes_give_the_same_batches_in_the_same_order(make_trainer, monkeypatch):
    trainer = make_trainer(settings={"seed": 5})
    trainer.initialize()
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    first = batches(trainer, 4)
    assert all(map(same, first, batches(trainer, 4)))
    assert not same(first[0], first[1])  # the workers draw different numbers
    trainer.current_epoch = 1  # a training that is continued does not see the same patches again
    assert not same(first[0], batches(trainer, 1)[0])


def test_negative_seeds_are_refused(make_trainer):
    with pytest.raises(SAM3DError, match="'seed': .*greater than or equal to 0, but it is -1"):
        make_trainer(settings={"seed": -1})
