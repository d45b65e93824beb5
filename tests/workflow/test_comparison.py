from typing import get_args

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet.names import TRAINERS, find_trainer, takes_prompts
from sam3d_nnunet.planning.recipes import known_recipes, load_recipe
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


def test_the_papers_data_sets_are_those_of_its_figures():
    literal, _ = get_args(Comparison.model_fields["paper"].annotation)
    assert list(get_args(literal)) == list(TARGETS)


def test_which_methods_take_clicks():
    clicked = {m.name for m in Comparison().methods if m.trainer and takes_prompts(find_trainer(m.trainer))}
    prompted = {"prompted nnU-Net", "prompted nnU-Net, 1000 epochs", "prompted nnU-Net, ResEnc"}
    assert clicked == prompted | {"3DSAM-adapter", "3DSAM-adapter, as in the paper"}
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
    ],
)
def test_mistakes_are_named(block, message):
    with pytest.raises(SAM3DError, match=message):
        Comparison.parse(block, "the recipe mine")


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
