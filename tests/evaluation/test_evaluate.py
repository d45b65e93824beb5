import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.evaluate import evaluate, evaluate_as_in_paper
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.evaluation.result_files import read_table
from sam3d_nnunet.evaluation.results import Results, step_folders
from sam3d_nnunet.prediction.cases import read_case
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.report.case_images import CaseReader
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class
from sam3d_nnunet.simulation.protocols import Protocol
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer
from sam3d_nnunet.training.variants import nnUNetTrainer_smoke

CASES = ["Fall_Müller_病例", "case_2"]
QUICK = PredictionOptions("cpu", mirroring=False)


def in_file(segmentation: np.ndarray, plans, properties: dict, folder) -> np.ndarray:
    """A prediction as its file lies, which the reader of the plans may have turned."""
    file = str(folder / "in_file.nii.gz")
    plans.image_reader_writer_class().write_seg(segmentation, file, properties)
    return sitk.GetArrayFromImage(sitk.ReadImage(file))


def dice(a: np.ndarray, b: np.ndarray, label: int) -> float:
    return 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())


def test_clicks_predictions_and_metrics(make_evaluated, read, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["volume_1", "lesion_2"], 2, QUICK, tolerances=[1, 5]) == []
    method = root / model.folder.name
    predictor = SAM3DPredictor("cpu", use_mirroring=False)
    predictor.initialize_from_trained_model_folder(model.folder)
    results = Results(root)
    for case in CASES:
        truth = read(model.labels / f"{case}.nii.gz")
        # spacing 1, origin 0: millimetres are voxels
        expected = clicks_per_class(truth, [1, 2], 1, case_generator(case))[0][:, ::-1]
        clicks = [read_prompt(results.prompt_file("volume_1", trial, case)) for trial in (0, 1)]
        assert (clicks[0].points == expected).all() and (clicks[0].points != clicks[1].points).any()
        for trial in (0, 1):
            folder = method / "volume_1" / "fold_0" / f"trial_{trial}"
            prediction = predictor.predict_case([model.images / f"{case}_0000.nii.gz"], clicks[trial])
            found = read(folder / f"{case}.nii.gz")
            expected = prediction.segmentation(), predictor.model.plans, prediction.case.properties
            assert (found == in_file(*expected, tmp_path)).all()
            rows = results.metrics.query("protocol == 'volume_1' and trial == @trial and case == @case")
            assert rows["target"].tolist() == ["core", "rim"]
            assert rows["dice"].tolist() == pytest.approx([dice(found, truth, 1), dice(found, truth, 2)])
            assert {"nsd_1mm", "nsd_5mm"} <= set(rows)
    costs = results.costs.query("protocol == 'lesion_2'")
    assert costs["case"].tolist() == CASES * 2
    assert (costs["clicks_given"] == 4).all() and (costs["windows"] >= 1).all() and (costs["seconds"] > 0).all()


def test_what_is_known_of_data_and_method(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    file = model.folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["logging"] |= {"epoch_start_timestamps": [0, 4000], "epoch_end_timestamps": [3600, 7600]}
    torch.save(checkpoint, file)
    evaluate(model.folder, root, ["0"], ["volume_1"], 1, QUICK)
    results = Results(root)
    facts = results.methods[model.folder.name]
    network = model.trainer.network
    assert facts == {
        "name": model.folder.name,
        "trainer": "SAM3DAdapterTrainer_smoke",
        "plans": "SAM3DPlans",
        "configuration": "3d_fullres",
        "kind": "prompted",
        "parameters": sum(p.numel() for p in network.parameters()),
        "tuned_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "training_hours": pytest.approx(2),
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "epochs": 1,
        "steps": None,  # its optimiser made none
        "patches": None,
        "mirroring_axes": [],
        "test_mirroring_axes": [],
        "seed": "none",
        "training_cases": None,
        "no_click_share": 0.15,
        "peak_memory_gib": None,
        "device": "cpu",
    }
    assert results.splits(model.folder.name)[0]["val"] == CASES
    assert results.data["dataset"] == model.dataset
    assert results.data["truth"] == str(model.labels) and results.data["images"] == str(model.images)
    assert results.data["dataset_json"]["labels"] == {"background": 0, "core": 1, "rim": 2}


def test_finished_cases_are_left_alone(make_evaluated, tmp_path, monkeypatch):
    model, root = make_evaluated(), tmp_path / "evaluated"
    asked = (model.folder, root, ["0"], ["automatic", "volume_1", "iterated_2"], 1, QUICK)
    evaluate(*asked)
    files = {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.name.startswith(("case", "Fall", "met"))}
    gone = root / model.folder.name / "volume_1/fold_0/trial_0/case_2.nii.gz"
    gone.unlink()
    monkeypatch.setattr(SAM3DPredictor, "predict_read", _count(SAM3DPredictor.predict_read, calls := []))
    evaluate(*asked)
    assert len(calls) == 1 and gone.is_file()
    changed = {file for file, time in files.items() if file.stat().st_mtime_ns != time}
    assert {file.name for file in changed} == {
        *("case_2.nii.gz", "case_2.json", "metrics.csv", "metrics.json", "method.json"),
    }
    assert {file.parent for file in changed} == {gone.parent, root / model.folder.name}


@pytest.mark.parametrize("protocol", ["automatic", "volume_1", "iterated_2"])
def test_costs_are_known_wherever_there_is_a_prediction(make_evaluated, tmp_path, monkeypatch, protocol):
    """A kill keeps the files that have their names, so the table comes first."""
    model, root, replace, seen = make_evaluated(), tmp_path / "evaluated", os.replace, []

    def watch(source, target):
        target = Path(target)
        if target.name.endswith(".nii.gz"):
            assert target.name.removesuffix(".nii.gz") in read_table(target.parent / "prediction.csv")["case"].tolist()
            seen.append(target)
        replace(source, target)

    monkeypatch.setattr("sam3d_nnunet.io.os.replace", watch)
    evaluate(model.folder, root, ["0"], [protocol], 1, QUICK)
    assert len(seen) == len(step_folders(root, Protocol.parse(protocol))) * len(CASES)


def test_predictions_of_older_versions_may_lack_their_costs(make_evaluated, tmp_path, capsys):
    model, root = make_evaluated(), tmp_path / "evaluated"
    asked = (model.folder, root, ["0"], ["volume_1"], 1, QUICK)
    evaluate(*asked)
    assert "prediction.csv" not in capsys.readouterr().err
    file = root / model.folder.name / "volume_1/fold_0/trial_0/prediction.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))  # of the first case alone
    prediction = file.parent / "case_2.nii.gz"
    before = prediction.stat().st_mtime_ns
    evaluate(*asked)
    assert f"{file} lacks case_2" in capsys.readouterr().err and prediction.stat().st_mtime_ns == before
    prediction.unlink()
    evaluate(*asked)
    assert read_table(file)["case"].tolist() == CASES


def test_only_devices_that_predicted_are_noted(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    asked = (model.folder, root, ["0"], ["automatic"], 1, QUICK)
    evaluate(*asked)
    file = root / model.folder.name / "method.json"
    facts = json.loads(file.read_text()) | {"device": "H100", "peak_memory_gib": 9.5}
    file.write_text(json.dumps(facts))
    evaluate(*asked)
    assert json.loads(file.read_text()) == facts
    (file.parent / "automatic/fold_0/trial_0/case_2.nii.gz").unlink()
    evaluate(*asked)
    assert json.loads(file.read_text()) == facts | {"device": "H100 and cpu"}


def _count(function, calls):
    return lambda *args, **more: calls.append(1) or function(*args, **more)


def test_predictions_of_another_training_are_refused(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    asked = (model.folder, root, ["0"], ["automatic"], 1, QUICK)
    evaluate(*asked)
    settings = root / model.folder.name / "automatic/fold_0/trial_0/settings.json"
    noted = json.loads(settings.read_text())
    file = model.folder / "fold_0" / QUICK.checkpoint
    checkpoint = torch.load(file, weights_only=False)
    name = next(name for name in checkpoint["network_weights"] if ".seg_layers." in name)
    checkpoint["network_weights"][name] *= -1
    torch.save(checkpoint, file)
    facts = (root / model.folder.name / "method.json").read_text()
    for protocol in ("automatic", "volume_1"):  # under any, or one method would have rows of two models
        with pytest.raises(SAM3DError, match="automatic/fold_0/trial_0 .* another training than .*pth"):
            evaluate(model.folder, root, ["0"], [protocol], 1, QUICK)
    assert not (root / model.folder.name / "volume_1").exists()
    assert (root / model.folder.name / "method.json").read_text() == facts
    settings.write_text(json.dumps({key: value for key, value in noted.items() if key != "weights"}))
    evaluate(*asked)  # older results don't tell
    assert json.loads(settings.read_text())["weights"] != noted["weights"]


def test_clicks_are_never_drawn_again(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    evaluate(model.folder, root, ["0"], ["volume_1"], 1, QUICK)
    write_prompt(Prompt([[9, 8, 7]], [1], "case_2"), root / "prompts/volume_1/trial_0/case_2.json")
    evaluate(model.folder, root, ["0"], ["volume_1"], 1, QUICK, name="another")
    used = read_prompt(root / "another/volume_1/fold_0/trial_0/case_2.json")
    assert used.points.tolist() == [[9, 8, 7]]


def test_a_bad_case_does_not_cost_the_others(make_evaluated, tmp_path, monkeypatch, capsys):
    model, root = make_evaluated(), tmp_path / "evaluated"
    raw = tmp_path / "raw" / model.dataset
    shutil.copytree(model.images.parent, raw)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    (raw / "imagesTr" / "case_2_0000.nii.gz").write_text("nothing")
    protocols = ["automatic", "volume_1", "iterated_2"]
    failed = evaluate(model.folder, root, ["0"], protocols, 1, QUICK)
    assert failed == [f"{model.folder.name}/{protocol}/fold_0/trial_0: case_2" for protocol in protocols]
    assert "case_2 failed. " in capsys.readouterr().err
    assert set(Results(root).metrics["case"]) == {CASES[0]}

    (raw / "imagesTr" / "case_2_0000.nii.gz").unlink()
    (raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz").rename(tmp_path / "kept")
    failed = evaluate(model.folder, tmp_path / "none", ["0"], ["automatic", "volume_1"], 1, QUICK)
    assert len(failed) == 4  # a protocol that fails as a whole does not cost the next one, and says why
    assert capsys.readouterr().err.count("There is no image") == 4

    (tmp_path / "kept").rename(raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz")
    shutil.copy(model.images / "case_2_0000.nii.gz", raw / "imagesTr")
    (raw / "labelsTr" / "case_2.nii.gz").unlink()
    failed = evaluate(model.folder, tmp_path / "more", ["0"], ["automatic", "lesion_1"], 1, QUICK)
    assert [place.rpartition(": ")[2] for place in failed] == ["case_2"] * 2


@pytest.mark.parametrize("paper", [False, True])
def test_automatic_is_nnunets_prediction(make_evaluated, read, tmp_path, paper):
    model, root = make_evaluated(trainer_class=nnUNetTrainer_smoke), tmp_path / "evaluated"
    if paper:
        assert evaluate_as_in_paper(model.folder, root, options=QUICK) == []
    else:
        assert evaluate(model.folder, root, options=QUICK) == []
    assert [folder.protocol for folder in Results(root).folders] == ["automatic"]
    assert Results(root).methods[model.folder.name]["kind"] == "automatic"
    step, gaussian = (0.3, False) if paper else (0.5, True)
    predictor = nnUNetPredictor(step, gaussian, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model.folder), (0,))
    folder = root / model.folder.name / "automatic/fold_0/trial_0"
    for case in CASES:
        reader = predictor.plans_manager.image_reader_writer_class()
        image, properties = reader.read_images([str(model.images / f"{case}_0000.nii.gz")])
        expected = predictor.predict_single_npy_array(image, properties), predictor.plans_manager, properties
        assert (read(folder / f"{case}.nii.gz") == in_file(*expected, tmp_path)).all()
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["step"], settings["gaussian"]) == (step, gaussian)


def test_paper_for_a_model_with_clicks(make_evaluated, tmp_path):
    model, root = make_evaluated(folds=(0, 1)), tmp_path / "evaluated"
    assert evaluate_as_in_paper(model.folder, root, options=QUICK) == []
    folders = Results(root).folders
    assert {folder.protocol for folder in folders} == {"automatic", "volume_1", "volume_3", "volume_10"}
    assert {folder.fold for folder in folders} == {"0"}


def test_clicks_need_a_model_that_knows_them(make_evaluated, tmp_path):
    model = make_evaluated(trainer_class=nnUNetTrainer_smoke)
    with pytest.raises(SAM3DError, match="nnUNetTrainer_smoke.* under volume_1"):
        evaluate(model.folder, tmp_path / "evaluated", protocols=["automatic", "volume_1"], options=QUICK)
    assert not (tmp_path / "evaluated").exists()


def test_nothing_to_click_on(make_evaluated, read, tmp_path):
    model, root = make_evaluated("nothing"), tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["volume_1", "iterated_2"], 1, QUICK) == []
    for folder in ("volume_1/fold_0/trial_0", "iterated_2/fold_0/trial_0/after_2"):
        for case in CASES:
            assert not read(root / model.folder.name / folder / f"{case}.nii.gz").any()
    assert (Results(root).costs["clicks_given"] == 0).all()


@pytest.mark.parametrize("labelled", [True, False])
def test_each_iteration_corrects_an_error(make_evaluated, read, tmp_path, labelled):
    unlabelled = {"settings": {"labelled_prompts": False, "clicks": {"policy": "paper"}}}
    more = {} if labelled else unlabelled | {"trainer_class": SAM3DAdapterTrainer}
    model, root = make_evaluated("regions" if labelled else "one class", **more), tmp_path / "evaluated"
    assert evaluate(model.folder, root, ["0"], ["iterated_3"], 1, QUICK) == []
    folder = root / model.folder.name / "iterated_3/fold_0/trial_0"
    added = []
    for case in CASES:
        truth = read(model.labels / f"{case}.nii.gz")
        first = read_prompt(root / f"prompts/iterated_3/trial_0/{case}.json")
        assert (read_prompt(folder / f"after_1/{case}.json").points == first.points).all()
        for step in (2, 3):
            before, after = (read_prompt(folder / f"after_{s}/{case}.json") for s in (step - 1, step))
            assert len(after.points) == len(before.points) + 1
            assert (after.points[:-1] == before.points).all()
            voxel, label = tuple(np.rint(after.points[-1][::-1]).astype(int)), after.labels[-1]
            assert truth[voxel] == label != read(folder / f"after_{step - 1}/{case}.nii.gz")[voxel]
            added.append(label)
    assert 3 not in added  # to be ignored
    assert labelled or 0 not in added
    assert {f.clicks for f in Results(root).folders} == {1, 2, 3}
    assert not (folder / "case_2.nii.gz").exists()


def test_each_iteration_sees_the_mask_so_far(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    evaluate(model.folder, root, ["0"], ["iterated_2"], 1, QUICK)
    predictor = SAM3DPredictor("cpu", use_mirroring=False)
    predictor.initialize_from_trained_model_folder(model.folder)
    reader, changed = predictor.model.plans.image_reader_writer_class(), 0
    for case in CASES:
        folders = [root / model.folder.name / f"iterated_2/fold_0/trial_0/after_{step}" for step in (1, 2)]
        before, after = (reader.read_seg(str(folder / f"{case}.nii.gz"))[0][0] for folder in folders)
        image = read_case([model.images / f"{case}_0000.nii.gz"], predictor.model)
        prompt = read_prompt(folders[1] / f"{case}.json")
        maps = DensePrompts.of_mask(before, image.grid)
        assert (predictor.predict_read(image, prompt, maps=maps).segmentation() == after).all()
        changed += (predictor.predict_read(image, prompt).segmentation() != after).sum()
    assert changed > 0


def test_test_set_by_the_ensemble(make_evaluated, read, tmp_path):
    model, root = make_evaluated(folds=(0, 1)), tmp_path / "evaluated"
    images, labels = tmp_path / "imagesTs", tmp_path / "labelsTs"
    for folder, file, new in (
        (images, model.images / "case_1_0000.nii.gz", "patient_0000.nii.gz"),
        (labels, model.labels / "case_1.nii.gz", "patient.nii.gz"),
    ):
        folder.mkdir()
        shutil.copy(file, folder / new)
    assert evaluate(model.folder, root, (), ["automatic", "volume_1"], 1, QUICK, test=(images, labels)) == []
    results = Results(root)
    assert {(folder.protocol, folder.fold) for folder in results.folders} == {
        *(("automatic", "test"), ("volume_1", "test")),
    }
    assert set(results.metrics["case"]) == {"patient"}
    assert results.data["truth"] == str(model.labels) and results.data["test_truth"] == str(labels)
    predictor = SAM3DPredictor("cpu", use_mirroring=False)
    predictor.initialize_from_trained_model_folder(model.folder, [0, 1])
    prediction = predictor.predict_case(
        [images / "patient_0000.nii.gz"], read_prompt(results.prompt_file("volume_1", 0, "patient"))
    )
    found = read(root / model.folder.name / "volume_1/fold_test/trial_0/patient.nii.gz")
    expected = prediction.segmentation(), predictor.model.plans, prediction.case.properties
    assert (found == in_file(*expected, tmp_path)).all()


def test_listed_files(make_evaluated, read, tmp_path, monkeypatch):
    """Images of any name in any place; figures find them, too."""
    model, root = make_evaluated(), tmp_path / "evaluated"
    raw = tmp_path / "raw" / model.dataset
    raw.mkdir(parents=True)
    listing = {}
    for number, case in enumerate(CASES):
        image = shutil.copy(model.images / f"{case}_0000.nii.gz", raw / f"image {number}.nii.gz")
        listing[case] = {"images": [image.name], "label": str(model.labels / f"{case}.nii.gz")}
    content = json.loads((model.images.parent / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(content | {"dataset": listing}))
    usual = tmp_path / "usual"
    protocols = ["automatic", "volume_1", "iterated_1"]
    assert evaluate(model.folder, usual, ["0"], protocols, 1, QUICK) == []
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    assert evaluate(model.folder, root, ["0"], protocols, 1, QUICK) == []
    assert Results(root).metrics.equals(Results(usual).metrics)
    for case in CASES:
        image, same = (CaseReader(Results(folder)).image(case) for folder in (root, usual))
        assert (image.image == same.image).all() and (image.truth == same.truth).all()


def test_a_training_on_all_cases_has_to_be_named(make_evaluated, tmp_path):
    model, root = make_evaluated(folds=("all",)), tmp_path / "evaluated"
    images, labels = tmp_path / "imagesTs", tmp_path / "labelsTs"
    for source, name, folder in ((model.images, "_0000", images), (model.labels, "", labels)):
        folder.mkdir()
        shutil.copy(source / f"case_1{name}.nii.gz", folder / f"patient{name}.nii.gz")
    for test in (None, (images, labels)):
        with pytest.raises(SAM3DError, match=f"{model.folder} .*checkpoint_final.pth.*-f all"):
            evaluate(model.folder, root, options=QUICK, test=test)
    assert not root.exists()
    assert evaluate(model.folder, root, ["all"], options=QUICK, test=(images, labels)) == []


def test_folds_of_other_splits_are_refused(make_evaluated, tmp_path):
    """What nnU-Net's final validation predicted tells on what a fold was trained."""
    model, root = make_evaluated(folds=(0, 1)), tmp_path / "evaluated"
    summary = model.folder / "fold_1" / "validation" / "summary.json"
    summary.parent.mkdir()

    def validated(*cases: str) -> None:
        rows = [{"prediction_file": f"/then/{c}.nii.gz", "reference_file": f"/t/{c}.nii.gz"} for c in cases]
        summary.write_text(json.dumps({"metric_per_case": rows}))

    said = "Fold 1 of .*: case_2 only in .*splits_final.json and case_1, case_3 only in .*summary.json"
    validated(CASES[0], "case_1", "case_3")
    with pytest.raises(SAM3DError, match=said):
        evaluate(model.folder, root, options=QUICK)
    summary.write_text('{"metric_per_case": [1]}')
    with pytest.raises(SAM3DError, match="fold_1/validation/summary.json"):
        evaluate(model.folder, root, options=QUICK)
    assert not root.exists()
    validated(*CASES[::-1])
    assert evaluate(model.folder, root, ["1"], options=QUICK) == []
    validated("case_1")  # says nothing about a test set
    images, labels = tmp_path / "imagesTs", tmp_path / "labelsTs"
    for source, name, folder in ((model.images, "_0000", images), (model.labels, "", labels)):
        folder.mkdir()
        shutil.copy(source / f"case_1{name}.nii.gz", folder / f"patient{name}.nii.gz")
    assert evaluate(model.folder, root, ["1"], options=QUICK, test=(images, labels)) == []


def test_folds_that_nnunet_trains_are_evaluated(make_evaluated, tmp_path, monkeypatch, capsys):
    model, root = make_evaluated(), tmp_path / "evaluated"
    file = tmp_path / "preprocessed" / model.dataset / "splits_final.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([{"train": ["case_1"], "val": ["case_1", "case_1"]}, {"train": ["case_3"], "val": []}]))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    assert evaluate(model.folder, root, ["0"], options=QUICK) == []
    assert list(Results(root).metrics["case"].unique()) == ["case_1"]
    assert f"{file}: fold 0 validates on what it trains on: 1 case(s): case_1" in capsys.readouterr().err


def test_per_lesion_is_another_method(make_evaluated, tmp_path):
    model, root = make_evaluated(), tmp_path / "evaluated"
    evaluate(model.folder, root, ["0"], ["lesion_1"], 1, QUICK)
    alone = PredictionOptions("cpu", mirroring=False, per_lesion=True)
    with pytest.raises(SAM3DError, match="per_lesion False, not True"):
        evaluate(model.folder, root, ["0"], ["lesion_1"], 1, alone)
    assert evaluate(model.folder, root, ["0"], ["lesion_1"], 1, alone, name="per lesion") == []
    assert set(Results(root).methods) == {model.folder.name, "per lesion"}


def test_what_cannot_be_evaluated(make_evaluated, tmp_path):
    model, root, other = make_evaluated(), tmp_path / "evaluated", tmp_path / "other"
    other.mkdir()
    shutil.copy(model.labels / "case_1.nii.gz", other)
    for more, message in (
        ({"folds": ["3"]}, "checkpoint_final.pth in fold_3.*fold_0/checkpoint_final.pth"),
        ({"protocols": ["volume"]}, "There is no protocol 'volume'"),
        ({"dataset": "799"}, "data set 799 can't be found"),
        ({"dataset": "Dataset799_No"}, "There is no "),
        ({"test": (model.images, tmp_path / "no")}, "There is no folder"),
        ({"test": (model.images, other)}, "both hold case_1"),
        ({"protocols": ["iterated_2"], "options": PredictionOptions("cpu", per_lesion=True)}, "iterated_2"),
        ({"name": "prompts"}, "'prompts'"),
        ({"name": "../x"}, "'../x'"),
    ):
        with pytest.raises(SAM3DError, match=message):
            evaluate(model.folder, root, **{"options": QUICK} | more)
    with pytest.raises(SAM3DError, match="plans.json"):
        evaluate(tmp_path, root, options=QUICK)
    assert not (root / "prompts").exists()
    os.rename(model.folder / "fold_0", model.folder / "fold_7")
    with pytest.raises(SAM3DError, match="no fold 7, only 0 to 4"):
        evaluate(model.folder, root, options=QUICK)
