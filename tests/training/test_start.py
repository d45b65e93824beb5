"""The setting `start`: what trainings write into the plans, and what older models were trained with."""

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sam3d_nnunet.baselines.houlsby_adapter import SAM3DHoulsbyAdapterTrainer
from sam3d_nnunet.baselines.tuned_sam import SAM3DAdapterAutoTrainer
from sam3d_nnunet.planning.settings import BLOCK
from sam3d_nnunet.training.planned_trainer import complete_settings
from sam3d_nnunet.training.published import SAM3DAdapterTrainer_paper, SAM3DAdapterTrainer_released
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_tiny

MODEL = Path(__file__).parents[1] / "data" / "before" / "model"
CONFIGURATION = "3d_fullres"
PAPER = {"preset": "paper", "clicks": {"policy": "paper"}}


def plans_with(block: dict) -> dict:
    plans = json.loads((MODEL / "plans.json").read_text())
    plans["configurations"][CONFIGURATION][BLOCK] = block
    return plans


def built(plans: dict, trainer) -> torch.nn.Module:
    """The network as nnU-Net builds it from a model's plans."""
    manager = PlansManager(plans)
    with torch.device("meta"):
        return trainer.build_network_architecture(manager, manager.get_configuration(CONFIGURATION), 1, 3, False)


@pytest.mark.parametrize(
    "trainer, block, start",
    [
        (SAM3DAdapterTrainer, {}, "sam"),
        (SAM3DAdapterTrainer, {"start": None}, "sam"),
        (SAM3DAdapterTrainer, {"start": "published"}, "published"),
        (SAM3DAdapterTrainer, PAPER, "published"),
        (SAM3DAdapterTrainer, PAPER | {"start": "sam"}, "sam"),
        (SAM3DAdapterTrainer_tiny, {}, "published"),
        (SAM3DAdapterTrainer_tiny, {"start": "sam"}, "sam"),
        (SAM3DAdapterTrainer_paper, {"start": "sam"}, "published"),
        (SAM3DAdapterTrainer_released, {"start": "sam"}, "published"),
        (SAM3DAdapterAutoTrainer, {}, "sam"),
        (SAM3DAdapterAutoTrainer, {"start": "published"}, "published"),
        (SAM3DAdapterAutoTrainer, PAPER, "published"),
    ],
)
def test_trainings_write_their_start_into_the_plans(trainer, block, start):
    plans = plans_with(block)
    dataset_json = json.loads((MODEL / "dataset.json").read_text())
    assert complete_settings(plans, CONFIGURATION, dataset_json, trainer).start == start
    assert plans["configurations"][CONFIGURATION][BLOCK]["start"] == start
    encoder = built(plans, trainer).image_encoder
    assert encoder.start == start
    assert all(block.adapter.only_adds == (start == "published") for block in encoder.blocks)


@pytest.mark.parametrize("trainer", [SAM3DAdapterTrainer, SAM3DAdapterAutoTrainer])
@pytest.mark.parametrize("block", [{}, {"preset": "vit_b"}, {"preset": "tiny", "stride": 4}])
def test_models_from_before_the_setting_keep_their_function(trainer, block):
    encoder = built(plans_with(block), trainer).image_encoder
    assert encoder.start == "published"
    assert all(block.adapter.only_adds for block in encoder.blocks)


def test_methods_without_our_encoder_leave_it_open():
    plans = plans_with({})
    dataset_json = json.loads((MODEL / "dataset.json").read_text())
    assert complete_settings(plans, CONFIGURATION, dataset_json, SAM3DHoulsbyAdapterTrainer).start is None
