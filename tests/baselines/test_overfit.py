"""Every trainer learns one case by heart; benchmarks/overfit.py shows the same on real ones."""

from typing import Any

import overfit
import pytest

from sam3d_nnunet.nnunet.names import class_lookup

SMALL: dict[str, dict[str, Any]] = {
    "SwinUNETRTrainer": {"feature_size": 12, "depths": [1, 1, 1, 1]},
    "UXNet3DTrainer": {"features": [8, 16, 32, 64], "depths": [1, 1, 1, 1]},
    "UNETRPPTrainer": {"features": [16, 32, 64, 128], "depths": [1, 1, 1, 1]},
    "NNFormerTrainer": {"embed_dim": 24, "heads": [1, 2, 4, 8]},
    "TransBTSTrainer": {"width": 32, "hidden": 64},
    "MedNeXtTrainer": {"variant": "S"},
}
RATES = {"lr": 3e-3, "weight_decay": 1e-5, "final_lr_share": 0.1, "gradient_clip": 1.0}


# its authors' rate would take minutes
FASTER = {"SwinUNETRTrainer": 1e-3}


@pytest.mark.parametrize("name", overfit.DEFAULT)
def test_learns_a_case_by_heart(make_trainer, name):
    settings = {"stride": 4, "sam_checkpoint": "none", "optimizer": RATES, "networks": {name: SMALL.get(name, {})}}
    trainer = make_trainer("one class", trainer_class=class_lookup(__name__)(name), settings=settings)
    trainer.initial_lr = FASTER.get(name, trainer.initial_lr)
    trainer.initialize()
    steps, dice = overfit.learn(trainer, overfit.case_batch(trainer, "case_3"), steps=200, wanted=0.9)
    print(f"{name}: Dice {dice:.3f} after {steps} steps")
    assert dice > 0.9
