import re

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.planning.settings import SAM3DSettings, merge, parse_settings, planned_block, trained_settings


def test_defaults_are_the_papers():
    settings = parse_settings({}, "MyPlans")
    assert settings == SAM3DSettings()
    assert (settings.preset, settings.num_epochs, settings.steps_per_epoch) == ("vit_b", 200, 250)
    assert settings.optimizer.model_dump() == {
        "lr": 1e-4,
        "weight_decay": 1e-5,
        "final_lr_share": 0.1,
        "gradient_clip": 1.0,
    }
    assert settings.clicks.no_click_share == 0.15
    assert settings.foreground_share == 0.5
    assert settings.batch_size == 2


def test_what_is_written_into_a_plan_can_be_read():
    block = {"preset": "tiny", "stride": 2, "clicks": {"policy": "released"}, "optimizer": {"lr": 1}}
    settings = parse_settings(block, "MyPlans")
    assert parse_settings(settings.model_dump(), "MyPlans") == settings
    assert settings.clicks.policy == "released" and settings.clicks.no_click_share == 0.15
    assert settings.optimizer.lr == 1


@pytest.mark.parametrize("value, name", [(True, "convolutions"), (False, "none"), (None, None), ("unet", "unet")])
def test_refinement_was_a_switch(value, name):
    """Plans of models from then hold true or false."""
    assert parse_settings({"refine": value}, "MyPlans").refine == name


@pytest.mark.parametrize(
    "block, problem",
    [
        ({"presett": "vit_b"}, "'presett'"),
        ({"clicks": {"polcy": "paper"}}, "'clicks.polcy'"),
        ({"batch_size": "2"}, "'batch_size': input should be a valid integer, but it is '2'"),
        ({"batch_size": 2.0}, "'batch_size': .* but it is 2.0"),
        ({"batch_size": True}, "'batch_size': .* but it is True"),
        ({"batch_size": None}, "'batch_size': .* but it is None"),
        ({"batch_size": 0}, "'batch_size': .*greater than or equal to 1, but it is 0"),
        ({"num_epochs": 0}, "'num_epochs'"),
        ({"labelled_prompts": 1}, "'labelled_prompts'"),
        ({"preset": 3}, "'preset'"),
        ({"num_click_labels": 1}, "'num_click_labels'"),
        ({"foreground_share": 1.5}, "'foreground_share': .* but it is 1.5"),
        ({"target_policy": "everything"}, "'target_policy': .* but it is 'everything'"),
        ({"clicks": {"policy": "many"}}, "'clicks.policy': .*'default', 'paper' or 'released', but it is 'many'"),
        ({"clicks": {"no_click_share": -0.1}}, "'clicks.no_click_share'"),
        ({"clicks": {"most_clicks": 0}}, "'clicks.most_clicks': .* but it is 0"),
        ({"clicks": {"iterated_share": 1.1}}, "'clicks.iterated_share': .* but it is 1.1"),
        ({"clicks": {"mask_share": None}}, "'clicks.mask_share'"),
        ({"clicks": "paper"}, "'clicks': .* but it is 'paper'"),
        ({"optimizer": {"lr": 0}}, "'optimizer.lr': .*greater than 0, but it is 0"),
        ({"optimizer": {"lr": float("nan")}}, "'optimizer.lr': .* but it is nan"),
        ({"optimizer": {"gradient_clip": "1"}}, "'optimizer.gradient_clip'"),
        ({"optimizer": None}, "'optimizer'"),
        ({"stride": 3}, r"stride .*3.*\(2, 4, 8\)"),
        ({"stride": "4"}, "'stride'"),
        ({"refine": "u-net"}, "'refine': .*'none', 'convolutions', 'unet' or 'unet_alone', but it is 'u-net'"),
        ({"refine": 1}, "'refine': .* but it is 1"),
        ({"prompt_encoding": "fourier"}, "'prompt_encoding': .*'sam_position' or 'none', but it is 'fourier'"),
        ({"deep_prompt_levels": [1, 4]}, "'deep_prompt_levels.1': .* but it is 4"),
        ({"deep_prompt_levels": 1}, "'deep_prompt_levels'"),
        ({"aggregate_levels": 0}, "'aggregate_levels'"),
        ({"deep_prompt_levels": [1], "aggregate_levels": False}, r"\[1\].*aggregate_levels"),
        ({"prompt_encoding": "none", "deep_prompt_levels": [1]}, r"\[1\].*'none'.*Set deep_prompt_levels to \[\]"),
        (
            {"preset": "paper", "refine": "unet", "clicks": {"policy": "paper"}},
            "unlabelled clicks.*refine 'unet'.*Set refine to 'none'",
        ),
        ({"prompt_encoding": "none", "click_map": "none"}, "not drawn either.*'sampler'"),
        (
            {"prompt_encoding": "none", "labelled_prompts": False, "clicks": {"policy": "paper"}},
            "not drawn either",
        ),
        ({"preset": "vit_g"}, f"'vit_g'.*{', '.join(PRESETS)}"),
    ],
)
def test_mistakes_are_named(block, problem):
    with pytest.raises(SAM3DError, match=problem) as refused:
        parse_settings(block, "MyPlans, configuration 3d_fullres")
    assert "The block 'sam3d' of MyPlans, configuration 3d_fullres" in str(refused.value)
    assert "pydantic" not in str(refused.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(SAM3DError, match="'batch_size'.*; 'colour'"):
        parse_settings({"batch_size": "2", "colour": "red"}, "MyPlans")


@pytest.mark.parametrize("block", [{"preset": "paper"}, {"preset": "tiny", "labelled_prompts": False}])
def test_unlabelled_clicks_need_a_policy_without_background_clicks(block):
    with pytest.raises(SAM3DError, match="unlabelled clicks.*clicks.policy.*'paper'.*'released'"):
        parse_settings(block, "MyPlans")
    for policy in ("paper", "released"):
        settings = parse_settings(block | {"clicks": {"policy": policy}}, "MyPlans")
        assert not settings.clicks_carry_labels


def test_labels_of_clicks_follow_the_preset_unless_set():
    assert parse_settings({"preset": "vit_b"}, "MyPlans").clicks_carry_labels
    assert parse_settings({"preset": "paper", "labelled_prompts": True}, "MyPlans").clicks_carry_labels


NO_MAPS = dict.fromkeys(("mask_share", "scribble_share", "box_share", "iterated_share"), 0.0)


@pytest.mark.parametrize(
    "block, share, maps",
    [
        ({}, 0.3, True),
        ({"clicks": NO_MAPS}, 0, False),
        ({"clicks": NO_MAPS | {"box_share": 0.1}}, 0, True),
        ({"clicks": NO_MAPS | {"iterated_share": 0.5}}, 0.5, True),
        ({"clicks": {"policy": "paper", "iterated_share": 1.0}}, 0, False),
        ({"clicks": {"policy": "released"}}, 0, False),
        ({"preset": "paper", "clicks": {"policy": "paper"}}, 0, False),
    ],
)
def test_only_the_default_policy_shows_more_than_clicks(block, share, maps):
    settings = parse_settings(block, "MyPlans")
    assert settings.iterated_share == share
    assert settings.shows_maps == maps


def test_clicks_that_select():
    for block in ({}, {"clicks": {"policy": "paper"}}, {"preset": "paper", "clicks": {"policy": "paper"}}):
        assert parse_settings(block | {"target_policy": "clicked"}, "MyPlans").target_policy == "clicked"
    with pytest.raises(SAM3DError, match="'clicked'.*'released'.*Set clicks.policy to 'paper' or 'default'"):
        parse_settings({"clicks": {"policy": "released"}, "target_policy": "clicked"}, "MyPlans")


@pytest.mark.parametrize("block", [None, [], "tiny"])
def test_blocks_of_trained_models_that_are_none(block):
    with pytest.raises(SAM3DError, match="The block 'sam3d' of MyPlans cannot be used.*, not "):
        trained_settings(block, "MyPlans")


def test_merge_goes_into_nested_blocks_and_leaves_its_arguments_alone():
    base = {"preset": "vit_b", "optimizer": {"lr": 1e-4, "weight_decay": 0}, "clicks": {"policy": "paper"}}
    changes = {"optimizer": {"lr": 1e-3}, "clicks": None, "stride": 4}
    assert merge(base, changes) == {
        "preset": "vit_b",
        "optimizer": {"lr": 1e-3, "weight_decay": 0},
        "clicks": None,
        "stride": 4,
    }
    assert base["optimizer"] == {"lr": 1e-4, "weight_decay": 0} and changes["clicks"] is None


def test_blocks_are_merged_over_those_inherited_from():
    configurations = {
        "3d_fullres": {"sam3d": {"preset": "vit_b", "optimizer": {"lr": 1e-4, "weight_decay": 0.1}}},
        "child": {"inherits_from": "3d_fullres", "batch_size": 4},
        "grandchild": {"inherits_from": "child", "sam3d": {"preset": "tiny", "optimizer": {"lr": 1e-3}}},
        "2d": {},
    }
    plans = {"plans_name": "MyPlans", "configurations": configurations}
    assert planned_block(plans, "child") == configurations["3d_fullres"]["sam3d"]
    assert planned_block(plans, "grandchild") == {"preset": "tiny", "optimizer": {"lr": 1e-3, "weight_decay": 0.1}}
    assert planned_block(plans, "2d") == {}


@pytest.mark.parametrize("block", [[], "vit_b", None, ["preset"]])
@pytest.mark.parametrize("configuration", ["3d_fullres", "child"])
def test_a_block_that_is_none(block, configuration):
    configurations = {"3d_fullres": {"sam3d": block}, "child": {"inherits_from": "3d_fullres", "sam3d": {"stride": 4}}}
    with pytest.raises(SAM3DError, match=f"'sam3d' of MyPlans, configuration 3d_fullres.*{re.escape(repr(block))}"):
        planned_block({"plans_name": "MyPlans", "configurations": configurations}, configuration)
