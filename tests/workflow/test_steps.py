import json
import pickle
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from segment_anything import sam_model_registry
from small_sam import make_sam
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets.splits import draw_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.measure import measure_folder
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.evaluation.results_folder import check_settings, fingerprint
from sam3d_nnunet.nnunet.names import find_trainer
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.planning.settings import BEFORE
from sam3d_nnunet.training.planned_trainer import complete_settings
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_5epochs
from sam3d_nnunet.workflow.comparison import Comparison
from sam3d_nnunet.workflow.steps import Step, Steps

NAME = "Dataset220_Some"
CASES = [f"case_{n}" for n in range(5)]
OURS = {"name": "ours", "trainer": "SAM3DAdapterTrainer"}
PLANS = Path(__file__).parents[1] / "data" / "before" / "model" / "plans.json"
NNUNET = {"name": "nnU-Net", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans"}
RESENC = {"name": "ResEnc", "trainer": "nnUNetTrainer", "plans": "nnUNetResEncUNetLPlans"}
SAM = {"name": "SAM", "sam2d": "vit_b"}


@pytest.fixture
def dataset(write_names, nnunet_folders, tmp_path) -> SimpleNamespace:
    """A data set of names alone, with a fold for each case."""
    base = write_names(CASES)
    draw_splits(CASES, base / "splits_final.json")
    return SimpleNamespace(base=base, trained=nnunet_folders.results / NAME, results=tmp_path / "measured")


def left(dataset: SimpleNamespace, methods: list[dict], recipe: str = "kits21_tumor", **more: object) -> list[Step]:
    comparison = Comparison.parse({"methods": methods, "folds": [0, 1]} | more, "a test")
    return Steps(comparison, recipe, "220", dataset.results, "cpu").left()


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def write_summary(folder: Path) -> None:
    folder.mkdir()
    (folder / "summary.json").write_text("{}")


def write_label_map(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(4, dtype=np.uint8)[None].repeat(3, 0)), str(file))


def write_plans(file: Path, block: dict | None = None, **more: dict) -> None:
    fullres = {"patch_size": [128] * 3, "spacing": [1.0] * 3, "data_identifier": f"{file.stem}_3d_fullres"}
    fullres |= {"sam3d": {"stride": 4} | load_recipe("kits21_tumor")["sam3d"] | (block or {})}
    plans = json.loads(PLANS.read_text())
    plans["configurations"] = {"3d_fullres": plans["configurations"]["3d_fullres"] | fullres} | more
    file.write_text(json.dumps(plans))


def test_all_steps_of_a_model(dataset):
    steps = {step.name: step for step in left(dataset, [OURS], trials=2)}
    model = "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres"
    assert list(steps) == [
        "prepare/fingerprint",
        "prepare/SAM3DPlans",
        "prepare/SAM3DPlans_3d_fullres",
        f"train/{model}/fold_0",
        f"train/{model}/fold_1",
        "evaluate/ours/fold_0",
        "evaluate/ours/fold_1",
    ]
    finished = set()
    for step in steps.values():
        assert set(step.needs) <= finished  # in this order they can be run
        finished.add(step.name)
    train = steps[f"train/{model}/fold_1"]
    expected = "nnUNetv2_train 220 3d_fullres 1 -p SAM3DPlans -tr SAM3DAdapterTrainer -device cpu --c"
    assert train.commands == [expected.split()]
    assert train.needs == ["prepare/SAM3DPlans", "prepare/SAM3DPlans_3d_fullres"]
    evaluate = steps["evaluate/ours/fold_1"]
    assert evaluate.needs == [train.name]
    assert "--protocol automatic --protocol volume_1 --protocol volume_3 --protocol volume_10" in evaluate.shell
    assert "--trials 2" in evaluate.shell and "--windows" not in evaluate.shell and "_tta" not in evaluate.shell
    steps = {step.name: step for step in left(dataset, [OURS], mirroring=False)}
    assert "--disable_tta" in steps[evaluate.name].shell
    *_, evaluate = left(dataset, [OURS], windows="single")
    assert "--windows single" in evaluate.shell


def test_nnunets_plans_share_what_is_preprocessed(dataset):
    steps = {step.name: step for step in left(dataset, [NNUNET, RESENC])}
    assert [name for name in steps if name.startswith("prepare")] == [
        "prepare/fingerprint",
        "prepare/nnUNetPlans",
        "prepare/nnUNetResEncUNetLPlans",
        "prepare/nnUNetPlans_3d_fullres",
    ]
    command = ["nnUNetv2_plan_experiment", "-d", "220", "-pl", "nnUNetPlannerResEncL"]
    assert steps["prepare/nnUNetResEncUNetLPlans"].commands == [command]
    train = steps["train/nnUNetTrainer__nnUNetResEncUNetLPlans__3d_fullres/fold_0"]
    assert train.needs == ["prepare/nnUNetResEncUNetLPlans", "prepare/nnUNetPlans_3d_fullres"]
    assert "--protocol automatic" in steps["evaluate/ResEnc/fold_0"].shell
    assert "volume" not in steps["evaluate/ResEnc/fold_0"].shell


def test_sam_slice_by_slice(dataset):
    fingerprint, step = left(dataset, [SAM], slice_protocols=["slice_3"], trials=1)
    assert fingerprint.name == "prepare/fingerprint" and step.needs == [fingerprint.name]  # it says how to clip CT
    (dataset.base / "dataset_fingerprint.json").write_text("{}")
    (step,) = left(dataset, [SAM], slice_protocols=["slice_3"], trials=1)
    assert step.needs == []
    draw, predict, *measure = step.commands
    clicks = str(dataset.results / "prompts" / "slice_3" / "trial_0")
    assert draw[:2] == ["sam3d", "prompts"] and draw[-4:] == ["-f", "0", "-f", "1"]
    assert predict[:2] == ["sam3d", "predict-sam2d"] and clicks in predict
    predictions = predict[predict.index("-o") + 1]
    assert [command[command.index("--predictions") + 1] for command in measure] == [predictions] * 2
    assert [command[command.index("-f") + 1] for command in measure] == ["0", "1"]
    assert "vit_b_clipped" in predictions  # those of each image's own percentiles are not continued


def test_sams_commands_do_what_they_say(make_evaluated, tmp_path, monkeypatch):
    torch.save(make_sam().state_dict(), tmp_path / "sam.pth")
    monkeypatch.setenv("SAM3D_CHECKPOINT", str(tmp_path / "sam.pth"))
    monkeypatch.setitem(sam_model_registry, "vit_b", make_sam)
    results, name = tmp_path / "measured", make_evaluated().dataset
    comparison = Comparison.parse({"methods": [SAM], "folds": [0], "slice_protocols": ["slice_1"], "trials": 2}, "-")
    steps = Steps(comparison, "kits21_tumor", name, results, "cpu")
    for step in steps.left():
        for program, *arguments in step.commands:
            done = CliRunner().invoke(cli.app, arguments)
            assert program == "sam3d" and done.exit_code == 0, done.output
    assert steps.left() == []
    measured = Results(results).metrics
    assert set(measured["method"]) == {"SAM"} and set(measured["trial"]) == {0, 1}


def test_what_is_finished_is_not_left(dataset):
    folds = [0]
    (dataset.base / "SAM3DPlans_3d_fullres").mkdir()
    (dataset.base / "dataset_fingerprint.json").write_text("{}")
    write_plans(dataset.base / "SAM3DPlans.json")
    names = [step.name for step in left(dataset, [OURS], folds=folds)]
    assert names[0] == "prepare/SAM3DPlans_3d_fullres"

    for case in CASES:
        (dataset.base / "SAM3DPlans_3d_fullres" / f"{case}.pkl").write_bytes(pickle.dumps({"spacing": [1, 1, 1]}))
    assert len(left(dataset, [OURS], folds=folds)) == 3  # nnU-Net copies the truth at the end
    for case in CASES:
        touch(dataset.base / "gt_segmentations" / f"{case}.nii.gz")
    train, _ = left(dataset, [OURS], folds=folds)
    assert train.name.startswith("train/") and train.needs == []

    fold = dataset.trained / "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    torch.save({}, fold / "checkpoint_final.pth")
    validate, _ = left(dataset, [OURS], folds=folds)
    assert validate.name == train.name and validate.commands[0][-1] == "--val"  # nothing is trained
    write_summary(fold / "validation")
    assert left(dataset, [OURS], folds=folds)[0] == validate  # the validation from clicks is missing
    write_summary(fold / "validation_1click")
    (evaluate,) = left(dataset, [OURS], folds=folds)
    assert evaluate.name == "evaluate/ours/fold_0" and evaluate.needs == []

    (case,) = json.loads((dataset.base / "splits_final.json").read_text())[0]["val"]
    truth = dataset.results / "truth"
    write_label_map(truth / f"{case}.nii.gz")
    for protocol, trial in (("automatic", 0), ("iterated_2", 0), ("iterated_2", 1)):
        folder = dataset.results / "ours" / protocol / "fold_0" / f"trial_{trial}"
        for measured in [folder] if protocol == "automatic" else [folder / "after_1", folder / "after_2"]:
            write_label_map(measured / f"{case}.nii.gz")
            content = {"labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
            measure_folder(measured, truth, content, (5.0,), [case])
    options = {"folds": folds, "protocols": ["automatic", "iterated_2"], "trials": 2}
    assert left(dataset, [OURS], **options) == []
    assert len(left(dataset, [OURS], **options | {"trials": 3})) == 1
    assert len(left(dataset, [OURS], **options, tolerances=[1.0])) == 1


def test_what_was_cut_off_is_made_again(dataset, nnunet_folders):
    """nnU-Net would read it, or keep it because it is there."""
    write_plans(dataset.base / "nnUNetPlans.json")
    raw, case = nnunet_folders.raw / NAME / "labelsTr", f"{CASES[0]}.nii.gz"
    (raw / case).write_bytes(b"whole")
    copies, fold = dataset.base / "gt_segmentations", dataset.trained / "nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0"
    fold.mkdir(parents=True)
    (dataset.base / "nnUNetPlans_3d_fullres").mkdir()
    for name in CASES:
        touch(copies / f"{name}.nii.gz")
        (dataset.base / "nnUNetPlans_3d_fullres" / f"{name}.pkl").write_bytes(pickle.dumps(name))
    (dataset.base / "dataset_fingerprint.json").write_text('{"spacings": [')
    torch.save({}, fold / "checkpoint_latest.pth")
    (fold / "checkpoint_final.pth").write_bytes((fold / "checkpoint_latest.pth").read_bytes()[:-9])
    write_summary(fold / "validation")
    fingerprint, prepare, train, _ = left(dataset, [NNUNET], folds=[0])
    cut_off = dataset.base / "dataset_fingerprint.json", copies / case, fold / "checkpoint_final.pth"
    for step, file in zip((fingerprint, prepare, train), cut_off, strict=True):
        assert step.commands[0] == ["rm", "-f", str(file)] and len(step.commands) == 2
    assert train.commands[1][-1] == "--c"

    (dataset.base / "dataset_fingerprint.json").write_text("{}")
    (copies / case).write_bytes(b"whole")
    torch.save({}, fold / "checkpoint_final.pth")
    assert [step.name for step in left(dataset, [NNUNET], folds=[0])] == ["evaluate/nnU-Net/fold_0"]
    (fold / "validation" / "summary.json").write_text('{"foreground_mean": ')
    train, _ = left(dataset, [NNUNET], folds=[0])
    assert len(train.commands) == 1 and train.commands[0][-1] == "--val"
    pickled = dataset.base / "nnUNetPlans_3d_fullres" / f"{CASES[1]}.pkl"
    pickled.write_bytes(pickled.read_bytes()[:-2])
    assert left(dataset, [NNUNET], folds=[0])[0].name == "prepare/nnUNetPlans_3d_fullres"


def test_other_plans_are_refused(dataset):
    file = dataset.base / "SAM3DPlans.json"
    write_plans(file, {"preset": "tiny", "num_epochs": 5})
    with pytest.raises(SAM3DError, match="SAM3DPlans.json .* preset, num_epochs"):
        left(dataset, [OURS])
    assert left(dataset, [OURS | {"plans": "Others"}, NNUNET])
    file.write_text("{}")
    with pytest.raises(SAM3DError, match="SAM3DPlans.json: dataset_name is missing"):
        left(dataset, [OURS])


@pytest.mark.parametrize("method", [NNUNET, OURS | {"trainer": "SAM3DAdapterTrainer_5epochs"}])
def test_models_of_other_plans_are_refused(dataset, method):
    name = method.get("plans", "SAM3DPlans")
    file, model = dataset.base / f"{name}.json", dataset.trained / f"{method['trainer']}__{name}__3d_fullres"
    model.mkdir(parents=True)
    write_plans(file)
    plans = json.loads(file.read_text())
    if method["trainer"] != "nnUNetTrainer":  # ours write what plans leave open into the copy
        dataset_json = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}}
        assert complete_settings(plans, "3d_fullres", dataset_json, SAM3DAdapterTrainer_5epochs).num_epochs == 5
        assert plans != json.loads(file.read_text())
    (model / "plans.json").write_text(json.dumps(plans))
    assert left(dataset, [method])
    write_plans(file, other={"inherits_from": "3d_fullres"})  # a configuration that the model has nothing to do with
    assert left(dataset, [method])
    content = json.loads(file.read_text())
    content["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    file.write_text(json.dumps(content))
    with pytest.raises(SAM3DError, match=f"{model.name} .*normalization_schemes"):
        left(dataset, [method])
    assert left(dataset, [RESENC])


@pytest.mark.parametrize(
    "trainer, differs",
    [
        ("nnUNetTrainer_planned", False),
        ("SAM3DHoulsbyAdapterTrainer", False),
        ("SAM3DAdapterTrainer_paper", False),
        ("SAM3DAdapterTrainer_tiny", True),  # which now refines its masks
        ("SAM3DAdapterTrainer", True),  # which now starts at SAM
        ("PromptedUNetTrainer", True),  # which now draws larger clicks
    ],
)
def test_models_of_older_versions_are_used_where_nothing_changed(dataset, trainer, differs):
    """Their copies of the plans lack the settings of `BEFORE`."""
    model = dataset.trained / f"{trainer}__SAM3DPlans__3d_fullres"
    model.mkdir(parents=True)
    write_plans(dataset.base / "SAM3DPlans.json")
    plans = json.loads((dataset.base / "SAM3DPlans.json").read_text())
    dataset_json = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}}
    complete_settings(plans, "3d_fullres", dataset_json, find_trainer(trainer))
    block = plans["configurations"]["3d_fullres"]["sam3d"]
    for key in BEFORE:
        del block[key]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SAM3DError, match=f"{model.name} .*other plans") if differs else nullcontext():
        assert left(dataset, [OURS | {"trainer": trainer}], protocols=["automatic"])


def test_nnunets_plans_are_used_as_they_are(dataset):
    own = NNUNET | {"plans": "nnUNetPlans_40G"}
    with pytest.raises(SAM3DError, match="nnUNetPlans_40G.json.* nnUNetPlans, "):
        left(dataset, [own])
    write_plans(dataset.base / "nnUNetPlans_40G.json", {"preset": "tiny"})  # which is none of the recipe's business
    names = [step.name for step in left(dataset, [own])]
    assert names[:2] == ["prepare/fingerprint", "prepare/nnUNetPlans_40G_3d_fullres"]


def test_configurations_share_what_their_plans_say(dataset):
    child = {"inherits_from": "3d_fullres", "batch_size": 5}
    write_plans(dataset.base / "nnUNetPlans.json", mine=child, second=child | {"previous_stage": "3d_lowres"})
    steps = left(dataset, [NNUNET, NNUNET | {"name": "mine", "configuration": "mine"}])
    assert [step.name for step in steps if step.name.startswith("prepare/nnUNet")] == ["prepare/nnUNetPlans_3d_fullres"]
    with pytest.raises(SAM3DError, match="second of .*nnUNetPlans.json.*cascade"):
        left(dataset, [NNUNET | {"configuration": "second"}])
    with pytest.raises(SAM3DError, match="nnUNetPlans.json .*third"):
        left(dataset, [NNUNET | {"configuration": "third"}])


def test_results_of_something_else_are_refused_before_any_work(dataset):
    (dataset.results / "ours").mkdir(parents=True)
    facts = {"trainer": "SAM3DAdapterTrainer_clicked", "plans": "SAM3DPlans", "configuration": "3d_fullres"}
    (dataset.results / "ours" / "method.json").write_text(json.dumps(facts))
    with pytest.raises(SAM3DError, match="SAM3DAdapterTrainer_clicked.* SAM3DAdapterTrainer\\W"):
        left(dataset, [OURS])
    assert left(dataset, [OURS | {"name": "others"}])
    (dataset.results / "data.json").write_text(json.dumps({"dataset": "Dataset320_Other"}))
    with pytest.raises(SAM3DError, match="Dataset320_Other"):
        left(dataset, [OURS | {"name": "others"}])


def test_results_of_another_training_are_refused_before_any_work(dataset):
    """Their figures would appear as those of the model that is trained now."""
    checkpoint = dataset.trained / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(3)}, checkpoint)
    predicted = dataset.results / "nnU-Net" / "automatic" / "fold_0" / "trial_0"
    check_settings(predicted, {"weights": [fingerprint(checkpoint)]})
    assert left(dataset, [NNUNET])
    torch.save({"weight": torch.zeros(3)}, checkpoint)
    with pytest.raises(SAM3DError, match="automatic/fold_0/trial_0 .*final.pth"):
        left(dataset, [NNUNET])
    checkpoint.unlink()
    with pytest.raises(SAM3DError, match="measured/nnU-Net/./fold_0"):
        left(dataset, [NNUNET])
    (predicted / "settings.json").write_text("{}")  # of a version that didn't note it
    assert left(dataset, [NNUNET])


def test_results_of_other_windows_are_refused_before_any_work(dataset):
    """Those that don't say which followed the mask."""
    check_settings(dataset.results / "ours" / "volume_3" / "fold_1" / "trial_1", {"max_windows": 32})
    check_settings(dataset.results / "ours" / "automatic" / "fold_1" / "trial_0", {"step": 0.5})
    assert left(dataset, [OURS])
    with pytest.raises(SAM3DError, match="volume_3/fold_1/trial_1 holds predictions with windows follow, not single"):
        left(dataset, [OURS], windows="single")


def test_sam_needs_images_in_a_folder(dataset, nnunet_folders):
    file = nnunet_folders.raw / NAME / "dataset.json"
    listed = {case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"} for case in CASES}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": listed}))
    assert left(dataset, [OURS])
    with pytest.raises(SAM3DError, match="SAM .*sam3d predict-sam2d"):
        left(dataset, [OURS, SAM])


@pytest.mark.parametrize("commands, code", [([["false"], ["touch", "a b"]], 1), ([["true"], ["touch", "a b"]], 0)])
def test_a_command_that_fails_does_not_cost_the_next(tmp_path, commands, code):
    done = subprocess.run(["bash", "-c", f"set -e; ({Step('evaluate/x', commands, []).shell})"], cwd=tmp_path)
    assert done.returncode == code
    assert (tmp_path / "a b").is_file()


@pytest.mark.parametrize(
    "methods, more, message",
    [
        ([OURS], {"folds": [5]}, "has no fold 5, only 0 to 4"),
        ([OURS | {"trainer": "NoTrainer"}], {}, "recipe kits21_tumor: .*NoTrainer"),
        ([NNUNET | {"trainer": "NoTrainer"}], {}, "recipe kits21_tumor: .*NoTrainer"),
    ],
)
def test_mistakes_come_before_any_work(dataset, methods, more, message):
    with pytest.raises(SAM3DError, match=message):
        left(dataset, methods, **more)


def test_protocols_of_one_class_are_refused_before_training(dataset, nnunet_folders):
    assert left(dataset, [OURS], protocols=["autopet_3"])
    file = nnunet_folders.raw / NAME / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": {"background": 0, "a": 1, "b": 2}}))
    assert left(dataset, [NNUNET], protocols=["autopet_3"])  # it takes no clicks
    with pytest.raises(SAM3DError, match="autopet_3 is about data sets with one class"):
        left(dataset, [OURS], protocols=["autopet_3"])


# several seeds


def test_seeds_beside_results_without_one_are_refused_before_training(dataset):
    trained = {"trainer": "SAM3DAdapterTrainer", "plans": "SAM3DPlans", "configuration": "3d_fullres"}
    touch(dataset.results / "ours" / "method.json")
    (dataset.results / "ours" / "method.json").write_text(json.dumps(trained))
    assert left(dataset, [OURS])
    with pytest.raises(SAM3DError, match="holds the method ours. Tables would show it and ours, seed 0 under one name"):
        left(dataset, [OURS], seeds=[0])


def test_seeds_are_trainings_of_their_own_on_the_same_data(dataset):
    methods = [OURS, {"name": "U-Net", "trainer": "nnUNetTrainer"}, NNUNET]
    steps = {step.name: step for step in left(dataset, methods, seeds=[0, 3])}
    shells = {name: step.shell for name, step in steps.items()}
    for seed in (0, 3):
        plans = f"SAM3DPlans_seed{seed}"
        assert f"--overwrite-plans-name SAM3DPlans --seed {seed} ||" in shells[f"prepare/{plans}"]
        train = steps[f"train/SAM3DAdapterTrainer__{plans}__3d_fullres/fold_0"]
        assert f"-p {plans} -tr SAM3DAdapterTrainer" in train.shell
        assert set(train.needs) == {f"prepare/{plans}", "prepare/SAM3DPlans_3d_fullres"}
        evaluate = shells[f"evaluate/ours, seed {seed}/fold_1"]
        assert f"--name 'ours, seed {seed}' " in evaluate and " --run-of ours " in evaluate
    # nnU-Net's own trainer knows no seed
    assert "train/nnUNetTrainer__SAM3DPlans__3d_fullres/fold_0" in steps
    assert "train/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0" in steps
    assert len(steps) == len(set(shells.values()))


def test_settings_of_one_method_need_plans_of_its_own_and_share_the_data(dataset):
    few = {"name": "few", "trainer": "SAM3DAdapterTrainer", "plans": "SAM3DPlans_few", "data": "SAM3DPlans"}
    few["sam3d"] = {"training_cases": 1}
    steps = {step.name: step for step in left(dataset, [OURS, few])}
    plan = steps["prepare/SAM3DPlans_few"].shell
    assert (
        """--overwrite-plans-name SAM3DPlans_few --settings '{"training_cases": 1}' --data-plans SAM3DPlans""" in plan
    )
    assert "--settings" not in steps["prepare/SAM3DPlans"].shell
    train = steps["train/SAM3DAdapterTrainer__SAM3DPlans_few__3d_fullres/fold_0"]
    assert set(train.needs) == {"prepare/SAM3DPlans_few", "prepare/SAM3DPlans_3d_fullres"}
    seeded = {step.name: step.shell for step in left(dataset, [few], seeds=[2])}["prepare/SAM3DPlans_few_seed2"]
    assert "SAM3DPlans_few --settings" in seeded and "--data-plans SAM3DPlans --seed 2" in seeded
    write_plans(dataset.base / "SAM3DPlans_few.json", {"training_cases": 2})
    with pytest.raises(SAM3DError, match="SAM3DPlans_few.json differs from the recipe kits21_tumor in training_cases"):
        left(dataset, [OURS, few])
    few["sam3d"] = {"training_case": 1}
    with pytest.raises(SAM3DError, match="for the method few cannot be used.*'training_case': there is no such"):
        left(dataset, [OURS, few])


def test_plans_of_another_seed_are_refused(dataset):
    file = dataset.base / "SAM3DPlans_seed3.json"
    write_plans(file, {"seed": 3})
    assert left(dataset, [OURS], seeds=[3])
    write_plans(file, {"seed": 4})
    with pytest.raises(SAM3DError, match="SAM3DPlans_seed3.json differs from the recipe kits21_tumor in seed"):
        left(dataset, [OURS], seeds=[3])
    with pytest.raises(SAM3DError, match=r"seeds \[3, 3\]"):
        left(dataset, [OURS], seeds=[3, 3])


def test_the_papers_ablations(dataset):
    """Eight trainings of one fold from one plan, each evaluated with ten draws of a click and a single window."""
    comparison = Comparison.from_recipe("kits21_ablations")
    steps = Steps(comparison, "kits21_ablations", "220", dataset.results, "cpu").left()
    kinds = [step.name.split("/")[0] for step in steps]
    assert {kind: kinds.count(kind) for kind in kinds} == {"prepare": 3, "train": 8, "evaluate": 8}
    evaluations = [step.shell for step in steps if step.name.startswith("evaluate")]
    assert all("--trials 10 --device cpu --windows single --protocol volume_1" in shell for shell in evaluations)
