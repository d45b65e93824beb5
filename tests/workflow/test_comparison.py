from typing import get_args

import pytest
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.nnunet.names import TRAINERS, TUNING, find_trainer, takes_prompts, trainers_in
from sam3d_nnunet.planning.recipes import known_recipes, load_recipe
from sam3d_nnunet.planning.settings import merge, parse_settings
from sam3d_nnunet.report.published import TARGETS, paper_rows
from sam3d_nnunet.workflow.comparison import Comparison

METHOD = {"name": "ours", "trainer": "SAM3DAdapterTrainer"}


@pytest.mark.parametrize("name", [n for n in known_recipes() if "benchmark" in load_recipe(n)])
def test_recipes(name):
    comparison = Comparison.from_recipe(name)
    assert comparison.baseline in [method.name for method in comparison.methods]


def test_the_papers_recipes_compare_all_its_methods():
    comparison = Comparison.from_recipe("kits21_tumor")
    names = {method.name for method in comparison.methods}
    assert {row.method for row in paper_rows(comparison.paper)} <= names
    trainers = {method.trainer for method in comparison.methods}
    assert {name for name, trainer in TRAINERS.items() if "baselines" in trainer.module} <= trainers
    assert trainers <= {None, "nnUNetTrainer", *TRAINERS}


def test_the_papers_recipes_have_the_papers_counts():
    """Of parameters tuned in the encoder, for ViT-B and patches of 128^3; no width of Houlsby's gives 7.61 M."""
    published = {row.method: row.tuned_parameters for row in paper_rows("kits21") if row.encoder_only}
    found = {}
    recipes = [load_recipe(name) for name in ("kits21_tumor", "msd_pancreas_tumor", "lits17_tumor", "msd_colon")]
    assert all(recipe["sam3d"] == recipes[0]["sam3d"] for recipe in recipes)
    given = recipes[0]["sam3d"]["networks"]
    for method in Comparison.from_recipe("kits21_tumor").methods:
        if method.trainer in trainers_in(TUNING):
            with torch.device("meta"):
                network = find_trainer(method.trainer).make_network(
                    1, 2, (128, 128, 128), **given.get(method.trainer, {})
                )
            name = "3DSAM-adapter" if method.trainer == "SAM3DAdapterAutoTrainer" else method.name
            found[name] = sum(p.numel() for p in network.image_encoder.parameters() if p.requires_grad)
    assert found.keys() == published.keys()
    off = {name: round(found[name] - published[name], -4) for name in found}
    assert off == dict.fromkeys(found, 0) | {"Adapter (Houlsby 2019)": 10_000}


def test_the_papers_ablations_share_the_plans_of_its_comparison():
    """So that a model that both train is trained once."""
    ablations, whole = (load_recipe(name) for name in ("kits21_ablations", "kits21_tumor"))
    shared = ("target", "target_spacing", "patch_size", "sam3d")
    assert {key: ablations.get(key) for key in shared} == {key: whole.get(key) for key in shared}
    comparison = Comparison.from_recipe("kits21_ablations")
    both = [m for m in Comparison.from_recipe("kits21_tumor").methods if m in comparison.methods]
    assert [method.trainer for method in both] == ["SAM3DAdapterTrainer_paper"]
    assert (comparison.folds, comparison.trials, comparison.windows) == ([0], 10, "single")


@pytest.mark.parametrize("name", ["kits21_ablations", "spine_ablations"])
def test_ablations_differ_from_their_baseline_in_the_network_alone(name):
    """Each of the paper's is there, and no network hides its effect by drawing clicks as dense prompts."""
    comparison, block = Comparison.from_recipe(name), load_recipe(name)["sam3d"]
    settings = {}
    for method in comparison.methods:
        settings[method.name] = parse_settings(merge(block, find_trainer(method.trainer).changes), name).model_dump()
    base = settings.pop(comparison.baseline)
    assert not PRESETS[base["preset"]].labelled_prompts or base["labelled_prompts"] is False
    changed = [{k: v for k, v in other.items() if v != base[k]} for other in settings.values()]
    expected = [{"prompt_encoding": "sam_position"}, {"prompt_encoding": "position"}, {"aggregate_levels": False}]
    expected += [{"deep_prompt_levels": levels} for levels in ([1, 2, 3], [1], [2], [3])]
    assert changed == expected
    assert comparison.protocols == ["volume_1", "center_1", "surrounding_1", "margin_1"]


def test_the_papers_data_sets_are_those_of_its_figures():
    literal, _ = get_args(Comparison.model_fields["paper"].annotation)
    assert list(get_args(literal)) == list(TARGETS)


def test_which_methods_take_clicks():
    clicked = {m.name for m in Comparison().methods if m.trainer and takes_prompts(find_trainer(m.trainer))}
    controls = {"prompted nnU-Net", *(f"prompted nnU-Net, {kind}" for kind in ("1000 epochs", "ResEnc", "AdamW"))}
    assert clicked == controls | {"3DSAM-adapter", "3DSAM-adapter, as in the paper"}
    with pytest.raises(SAM3DError, match="NoTrainer"):
        find_trainer("NoTrainer")


@pytest.mark.parametrize(
    "block, message",
    [
        ({"methods": []}, "'methods'"),
        ({"metods": [METHOD]}, "'metods': there is no such setting"),
        ({"methods": [{"name": "ours"}]}, "'ours' either a trainer or sam2d"),
        ({"methods": [METHOD | {"sam2d": "vit_b"}]}, "'ours' either a trainer or sam2d"),
        ({"methods": [{"name": "SAM", "sam2d": "vit_x"}]}, "'methods.0.sam2d'"),
        ({"methods": [METHOD, METHOD]}, "methods 'ours'"),
        ({"methods": [METHOD | {"name": "../ours"}]}, "'methods.0.name'"),
        ({"methods": [METHOD | {"name": "{ours}"}]}, "'methods.0.name'"),
        ({"methods": [METHOD], "baseline": "theirs"}, "'theirs'"),
        ({"folds": []}, "'folds'"),
        ({"folds": [0, 0]}, r"folds \[0, 0\]"),
        ({"folds": [-1]}, r"folds \[-1\]"),
        ({"folds": ["0"]}, "'folds.0'"),
        ({"trials": 0}, "'trials'"),
        ({"protocols": ["volume_0"]}, "'volume_0'"),
        ({"slice_protocols": ["slice"]}, "'slice'"),
        ({"paper": "kits19"}, "'paper'"),
        ({"tolerances": [-1.0]}, "'tolerances.0'"),
        ({"tolerances": [float("nan")]}, "'tolerances.0'"),
        ({"slice_protocols": ["automatic"]}, "'automatic' for 2-D SAM"),
        ({"slice_protocols": ["iterated_3"]}, "'iterated_3' for 2-D SAM"),
        ({"protocols": ["volume_3_off20.0_5mm"]}, "'volume_3_off20.0_5mm'.* volume_3_off20_5mm"),
        ({"methods": [METHOD | {"name": "workflow"}]}, "'workflow'"),
        (
            {"methods": [METHOD, METHOD | {"name": "b", "sam3d": {"seed": 1}}]},
            "'ours' and 'b' the same plans",
        ),
        ({"methods": [METHOD, METHOD | {"name": "b", "data": "Other"}]}, "but other sam3d or data"),
        ({"methods": [METHOD | {"plans": "nnUNetPlans", "sam3d": {"seed": 1}}]}, "nnUNetPlans, which are used as they"),
        ({"methods": [METHOD | {"data": "a/b"}]}, "a/b"),
    ],
)
def test_mistakes_are_named(block, message):
    with pytest.raises(SAM3DError, match=message) as error:
        Comparison.parse(block, "the recipe mine")
    assert "the recipe mine" in str(error.value)


def test_a_recipe_without_block(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"sam3d": {"preset": "tiny"}}')
    with pytest.raises(SAM3DError, match="mine.json .*'benchmark'"):
        Comparison.from_recipe(str(file))


def test_some_methods_and_folds():
    comparison = Comparison().restricted(["TransBTS"], [3, 3])
    assert [method.trainer for method in comparison.methods] == ["TransBTSTrainer"]
    assert comparison.folds == [3]
    assert Comparison().restricted([], []) == Comparison()
    with pytest.raises(SAM3DError, match="'transbts'.* nnU-Net, "):
        Comparison().restricted(["transbts"], [])
