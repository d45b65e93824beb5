import copy

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.plan_dataset import _with_preset, differences
from sam3d_nnunet.planning.settings import SAM3DSettings

PLANS = {
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "3d_fullres": {
            "patch_size": [16, 32, 24],
            "spacing": [2.0, 1.0, 1.0],
            "sam3d": SAM3DSettings(preset="tiny", stride=2).model_dump(),
        }
    },
}
RECIPE = {"target_spacing": [2, 1, 1], "patch_size": [16, 32, 24], "sam3d": {"preset": "tiny"}, "benchmark": {}}


def test_as_planned():
    assert differences(PLANS, RECIPE) == []
    assert differences(PLANS, {"sam3d": {"preset": "tiny"}}) == []
    assert differences(PLANS, RECIPE | {"patch_size": [16, 30, 24]}) == []  # nnU-Net enlarges it
    moved = PLANS | {"transpose_forward": [2, 0, 1]}  # the recipe says all along the image's axes
    assert differences(moved, RECIPE | {"target_spacing": [1, 1, 2], "patch_size": [32, 24, 16]}) == []
    assert differences(moved, RECIPE) == ["target_spacing", "patch_size"]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"target_spacing": [1, 1, 1]}, ["target_spacing"]),
        ({"patch_size": [64, 64, 64]}, ["patch_size"]),
        ({"sam3d": {"preset": "vit_b"}}, ["preset"]),
        ({"sam3d": {"preset": "tiny", "optimizer": {"lr": 1e-3}}}, ["optimizer"]),
        ({"sam3d": {}}, ["preset"]),
    ],
)
def test_the_recipe_says_otherwise(changes, expected):
    assert differences(PLANS, RECIPE | changes) == expected


def test_the_plans_say_more_than_the_recipe():
    """What the recipe leaves out is not whatever was planned, but the default."""
    plans = copy.deepcopy(PLANS)
    plans["configurations"]["3d_fullres"]["sam3d"] |= {"num_epochs": 5, "target_policy": "clicked"}
    assert set(differences(plans, RECIPE)) == {"num_epochs", "target_policy"}


@pytest.mark.parametrize(
    "clicks, policy", [({}, "paper"), ({"policy": "default"}, "paper"), ({"policy": "released"}, "released")]
)
def test_a_preset_keeps_the_click_policy_that_was_chosen(clicks, policy):
    settings = _with_preset({"clicks": clicks, "num_epochs": 5}, "paper")
    assert settings == {"clicks": {"policy": policy}, "num_epochs": 5, "preset": "paper"}
    assert _with_preset({"clicks": clicks}, "tiny") == {"clicks": clicks, "preset": "tiny"}
    assert _with_preset({"clicks": clicks}, None) == {"clicks": clicks}


def test_what_cannot_be_used():
    with pytest.raises(SAM3DError, match="'presett'"):
        differences(PLANS, {"sam3d": {"presett": "tiny"}})
    with pytest.raises(KeyError):
        differences({"configurations": {}}, RECIPE)
