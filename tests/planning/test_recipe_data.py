"""Recipes refuse data of other experiments, and say how to derive the right ones."""

import json
import shlex

import numpy as np
import pytest
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.recipe_data import refuse_other_labels
from sam3d_nnunet.planning.recipes import known_recipes, load_recipe

KITS = {"background": 0, "kidney": 1, "tumour": 2, "cyst": 3}
TUMOUR = {"background": 0, "tumour": 1}


@pytest.fixture
def dataset(nnunet_folders):
    """Writes a dataset.json alone; returns the data set."""

    def write(labels: dict, name: str = "Dataset220_KiTS21", **more: object) -> RawDataset:
        folder = nnunet_folders.raw / name
        folder.mkdir()
        content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"} | more
        if any(isinstance(values, list) for values in labels.values()):
            content["regions_class_order"] = list(range(1, len(labels)))
        (folder / "dataset.json").write_text(json.dumps(content))
        return RawDataset.find(name)

    return write


def refusal(recipe: str, dataset: RawDataset) -> str:
    with pytest.raises(SAM3DError) as error:
        refuse_other_labels(recipe, dataset)
    return str(error.value)


@pytest.mark.parametrize("name", ["tumour", "Tumor", "colon cancer primaries", "liver_lesion"])
@pytest.mark.parametrize("more", [{}, {"ignore": 2}])
def test_one_class_under_any_name_of_it(dataset, name, more):
    assert refuse_other_labels("kits21_tumor", dataset({"background": 0, name: 1} | more)) == []


def test_one_class_under_another_name(dataset):
    """It may be the tumour in another language, so it is used, and a line says so."""
    (note,) = refuse_other_labels("kits21_tumor", dataset({"background": 0, "Nierenkrebs": 1}))
    assert "'Nierenkrebs' of Dataset220_KiTS21" in note and "tumour" in note


def test_the_command_that_derives_the_target(dataset):
    said = refusal("kits21_tumor", dataset(KITS))
    assert "kits21_tumor is about one class, tumour, but Dataset220_KiTS21 has cyst, kidney, tumour." in said
    assert said.endswith("then give -d 320: sam3d dataset target -d 220 --label tumour -o 320")


@pytest.mark.parametrize(
    "labels, label",
    [
        ({"background": 0, "pancreas": 1, "cancer": 2}, "cancer"),
        ({"background": 0, "liver": 1, "Liver Tumor": 2}, "'Liver Tumor'"),
        ({"background": 0, "whole": [1, 2], "tumour": 2}, "tumour"),
        ({"background": 0, "tumour core": 1, "tumour rim": 2}, "LABEL"),
        ({"background": 0, "a": 1, "b": 2}, "LABEL"),
    ],
)
def test_the_label_is_the_users(dataset, labels, label):
    assert f"-d 220 --label {label} -o 320" in refusal("msd_pancreas_tumor", dataset(labels))


def test_the_new_id_is_free(dataset, nnunet_folders):
    (nnunet_folders.results / "Dataset320_Other").mkdir()
    assert refusal("kits21_tumor", dataset(KITS)).endswith("-o 321")
    assert refusal("kits21_tumor", dataset(KITS, "Dataset950_KiTS")).endswith("-d 950 --label tumour -o 1")


def test_cases_without_a_tumour_are_left_out_where_the_paper_did(dataset):
    liver = {"background": 0, "liver": 1, "tumour": 2}
    assert refusal("lits17_tumor", dataset(liver)).endswith("--label tumour -o 320 --drop-empty")


def test_what_was_derived_before_is_named(dataset):
    source = dataset(KITS)
    dataset({"background": 0, "kidney": 1}, "Dataset319_Kidney", derived_from=source.name)
    dataset(TUMOUR, "Dataset318_Another", derived_from="Dataset001_Other")
    assert "sam3d dataset target" in refusal("kits21_tumor", source)
    dataset(TUMOUR, "Dataset340_Mine", derived_from=source.name)
    assert refusal("kits21_tumor", source).endswith("Give Dataset340_Mine, which was derived from it: -d 340")


def test_a_recipe_of_any_classes(dataset):
    assert refuse_other_labels("hippocampus", dataset(KITS)) == []


def test_recipes_with_figures_of_the_paper_need_its_target():
    for name in known_recipes():
        recipe = load_recipe(name)
        assert ("paper" in recipe.get("benchmark", {})) <= ("target" in recipe), name


def test_the_commands_refuse_and_what_they_say_works(nnunet_folders, write_dataset):
    """Nothing is written, and the command in the message makes a data set that the recipe takes."""
    labels = np.zeros((6, 8, 8), np.uint8)
    labels[1:3], labels[4, :4] = 1, 2
    cases = {case: (labels.astype(np.float32), labels) for case in ("a", "b")}
    write_dataset(
        nnunet_folders.raw, "Dataset220_KiTS21", cases, {"background": 0, "kidney": 1, "tumor": 2}, channel="CT"
    )
    asked = ["plan", "-d", "220", "--recipe", "kits21_tumor"], ["benchmark", "kits21_tumor", "-d", "220", "-o", "x"]
    for command in asked:
        done = CliRunner().invoke(cli.app, command)
        assert isinstance(done.exception, SAM3DError)
        derive = shlex.split(str(done.exception).partition("-d 320: ")[2])
        assert derive[:3] == ["sam3d", "dataset", "target"]
    assert not any(nnunet_folders.preprocessed.iterdir())
    done = CliRunner().invoke(cli.app, derive[1:])
    assert done.exit_code == 0, done.output
    assert refuse_other_labels("kits21_tumor", RawDataset.find("320")) == []
