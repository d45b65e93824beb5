"""Every trainer learns one case by heart; benchmarks/overfit.py shows the same on real ones."""

import overfit
import pytest
from small_networks import SMALL_NETWORKS

from sam3d_nnunet.nnunet.names import NETWORK, class_lookup, trainers_in

RATES = {"lr": 3e-3, "weight_decay": 1e-5, "final_lr_share": 0.1, "gradient_clip": 1.0}
# higher than their authors', for a short test
FASTER = {"SwinUNETRTrainer": 3e-3, "UXNet3DTrainer": 1e-3, "NNFormerTrainer": 3e-2}
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in trainers_in(NETWORK)]


@pytest.mark.parametrize("name", [*OTHERS, *(name for name in overfit.DEFAULT if name not in trainers_in(NETWORK))])
def test_learns_a_case_by_heart(make_trainer, monkeypatch, name):
    monkeypatch.setattr(overfit, "EVERY", 5)
    networks = {name: SMALL_NETWORKS.get(name, {})}
    settings = {"stride": 4, "sam_checkpoint": "none", "optimizer": RATES, "networks": networks}
    trainer = make_trainer("one class", trainer_class=class_lookup(__name__)(name), settings=settings)
    trainer.initial_lr = FASTER.get(name, trainer.initial_lr)
    trainer.initialize()
    steps, dice = overfit.learn(trainer, overfit.case_batch(trainer, "case_3"), steps=200, wanted=0.9)
    print(f"{name}: Dice {dice:.3f} after {steps} steps")
    assert dice > 0.9
