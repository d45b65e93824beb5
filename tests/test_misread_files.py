"""Files that libraries misread without an error, through all that reads them: damage, and labels that are not whole."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from helpers import read_array

from sam3d_nnunet.baselines.sam2d import SliceCases
from sam3d_nnunet.datasets.target import derive_target
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.drawn_prompts import draw_prompts
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.external import evaluate_predictions
from sam3d_nnunet.evaluation.measure import measure_folder
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.planning.plan_dataset import plan_dataset
from sam3d_nnunet.planning.planner import SAM3DPlanner
from sam3d_nnunet.prediction.batch import predict_from_files
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.report.case_images import CaseReader

CASES = ["Fall_Müller_病例", "case_2"]
"""The validation cases."""


def damage(file: Path) -> None:
    """Cut a file to 80 %."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 4 // 5])


def scale(file: Path, factor: float = 0.9961) -> None:
    """Labels as they come out of a file with a scale in its header."""
    image = sitk.ReadImage(str(file))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32) * factor, str(file))


@pytest.fixture
def dataset(prepared, tmp_path, monkeypatch) -> SimpleNamespace:
    """A copy of a data set to break: `.raw`, `.base` and `.truth`. nnU-Net's variables are set."""
    original = prepared("classes")
    raw, base = tmp_path / "raw" / original.name, tmp_path / "preprocessed" / original.name
    shutil.copytree(original.root / "raw" / original.name, raw)
    shutil.copytree(original.base, base)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(base.parent))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    content = json.loads((raw / "dataset.json").read_text())
    return SimpleNamespace(name=original.name, raw=raw, base=base, truth=raw / "labelsTr", dataset_json=content)


@pytest.fixture
def predictions(dataset, tmp_path) -> Path:
    """The truth of the validation cases."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for case in CASES:
        shutil.copy(dataset.truth / f"{case}.nii.gz", folder)
    return folder


# labels that are not whole


@pytest.mark.parametrize("scaled", ["predictions", "truth"])
@pytest.mark.parametrize("factor", [0.9961, 0.9999, 1.0039])
def test_a_perfect_prediction_scores_1(dataset, predictions, scaled, factor):
    scale((predictions if scaled == "predictions" else dataset.truth) / "case_2.nii.gz", factor)
    report = measure_folder(predictions, dataset.truth, dataset.dataset_json, processes=1)
    assert not report.failed and set(report.rows["dice"]) == {1.0}


def test_other_values_are_refused(dataset, predictions):
    scale(predictions / "case_2.nii.gz", 0.75)
    report = measure_folder(predictions, dataset.truth, dataset.dataset_json, processes=1)
    assert list(report.failed) == ["case_2"] and "case_2.nii.gz holds 1.5 at voxel" in report.failed["case_2"]


def test_clicks_on_a_scaled_truth_are_the_same(dataset, tmp_path):
    drawn = []
    for folder in (tmp_path / "before", tmp_path / "after"):
        assert draw_prompts(dataset.name, folder, ["volume_3", "lesion_1"]) == []
        drawn.append({file.relative_to(folder): file.read_bytes() for file in folder.rglob("prompts/**/*.json")})
        for file in dataset.truth.iterdir():
            scale(file)
    assert len(drawn[0]) == 2 * 5 and drawn[0] == drawn[1]


def test_target_of_scaled_labels(dataset):
    expected = read_array(dataset.truth / "case_2.nii.gz") == 2
    scale(dataset.truth / "case_2.nii.gz")
    done = derive_target(dataset.name, ["rim"], "799")
    assert np.array_equal(read_array(done.folder / "labelsTr" / "case_2.nii.gz"), expected)


def test_scaled_segmentation_to_refine(make_model, tmp_path):
    model = make_model()
    predictor = SAM3DPredictor("cpu")
    predictor.initialize_from_trained_model_folder(model.folder)
    image, label = model.images / "case_2_0000.nii.gz", model.labels / "case_2.nii.gz"
    results = []
    for name in ("whole", "scaled"):
        (tmp_path / name).mkdir()
        shutil.copy(label, tmp_path / name)
        if name == "scaled":
            scale(tmp_path / name / "case_2.nii.gz")
        out = tmp_path / f"from_{name}"
        (report,) = predict_from_files(predictor, image, out, refine_from=tmp_path / name)
        assert report.error is None
        results.append((report.clicks, read_array(out / "case_2.nii.gz")))
    assert results[0][0] == results[1][0] > 0
    assert np.array_equal(results[0][1], results[1][1])


def test_mask_of_a_session(make_model):
    model = make_model()
    session = SAM3DSession("cpu")
    session.initialize_from_trained_model_folder(model.folder)
    mask = read_array(model.labels / "case_2.nii.gz")
    session.set_image(read_array(model.images / "case_2_0000.nii.gz")[None], {"spacing": (1, 1, 1)})
    target = np.zeros(mask.shape, np.uint8)
    session.set_target_buffer(target)
    session.add_initial_seg_interaction(mask * np.float32(0.9999))
    assert np.array_equal(target, mask) and mask.any()
    with pytest.raises(SAM3DError, match=r"mask holds 0\.5 at voxel"):
        session.add_initial_seg_interaction(mask * np.float32(0.5))


@pytest.mark.parametrize("factor, said", [(0.9961, "1.9922.* cuts off to 1"), (0.75, "1.5 .* no whole number")])
def test_labels_that_nnunet_would_cut_off_are_not_planned(dataset, factor, said):
    SAM3DPlanner(dataset.name)
    scale(dataset.truth / "case_2.nii.gz", factor)
    with pytest.raises(SAM3DError, match=rf"1 of 5 case\(s\).*labelsTr/case_2.nii.gz holds {said}"):
        SAM3DPlanner(dataset.name)


@pytest.mark.parametrize("break_it, said", [(scale, "cuts off to 1"), (damage, "is damaged")])
def test_labels_that_nnunet_would_misread_are_not_trained_on_or_measured(
    dataset, make_trainer, monkeypatch, break_it, said
):
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "preprocessed_dataset_folder_base", str(dataset.base))
    break_it(dataset.base / "gt_segmentations" / "case_2.nii.gz")
    for step in (trainer.on_train_start, trainer.perform_actual_validation):
        with pytest.raises(SAM3DError, match=rf"1 of . case\(s\).*gt_segmentations/case_2.nii.gz.*{said}"):
            step()


# damaged files


@pytest.mark.parametrize("damaged", ["predictions", "truth"])
def test_damaged_label_map_is_not_measured(dataset, predictions, tmp_path, capsys, damaged):
    damage((predictions if damaged == "predictions" else dataset.truth) / "case_2.nii.gz")
    failed = evaluate_predictions(predictions, tmp_path / "out", dataset.name, "Others", "0")
    assert failed == ["Others/automatic/fold_0/trial_0: case_2"]
    assert "case_2.nii.gz is damaged: its compressed data are cut off" in capsys.readouterr().err
    assert set(Results(tmp_path / "out").metrics["case"]) == {CASES[0]}


def test_no_clicks_on_a_damaged_truth(dataset, tmp_path, capsys):
    damage(dataset.truth / "case_2.nii.gz")
    failed = draw_prompts(dataset.name, tmp_path / "out", ["volume_1"])
    assert failed == ["prompts/volume_1/trial_0: case_2"]
    assert "case_2.nii.gz is damaged" in capsys.readouterr().err


def test_damaged_image_is_not_evaluated(make_evaluated, dataset, tmp_path, monkeypatch, capsys):
    model, root = make_evaluated(), tmp_path / "out"
    monkeypatch.setenv("nnUNet_raw", str(dataset.raw.parent))
    damage(dataset.raw / "imagesTr" / "case_2_0000.nii.gz")
    protocols = ["automatic", "volume_1", "iterated_2"]
    failed = evaluate(model.folder, root, ["0"], protocols, options=PredictionOptions("cpu", mirroring=False))
    assert failed == [f"{model.folder.name}/{protocol}/fold_0/trial_0: case_2" for protocol in protocols]
    assert capsys.readouterr().err.count("case_2_0000.nii.gz is damaged") == 3
    with pytest.raises(SAM3DError, match="case_2_0000.nii.gz is damaged"):
        CaseReader(Results(root)).image("case_2")


def test_damaged_image_is_not_predicted(make_model, tmp_path):
    model = make_model()
    predictor = SAM3DPredictor("cpu")
    predictor.initialize_from_trained_model_folder(model.folder)
    images = tmp_path / "images"
    images.mkdir()
    for case in CASES:
        shutil.copy(model.images / f"{case}_0000.nii.gz", images)
    damage(images / "case_2_0000.nii.gz")
    reports = predict_from_files(predictor, images, tmp_path / "out", refine_from=model.labels)
    errors = {report.name: report.error for report in reports}
    assert errors[CASES[0]] is None and "case_2_0000.nii.gz is damaged" in errors["case_2"]
    assert not (tmp_path / "out" / "case_2.nii.gz").exists()
    with pytest.raises(SAM3DError, match="case_2_0000.nii.gz is damaged"):
        SliceCases(images, tmp_path / "sliced", model.trainer.dataset_json)._read("case_2")


def test_damaged_segmentation_is_not_refined(make_model, tmp_path):
    model = make_model()
    predictor = SAM3DPredictor("cpu")
    predictor.initialize_from_trained_model_folder(model.folder)
    shutil.copytree(model.labels, tmp_path / "masks")
    damage(tmp_path / "masks" / "case_2.nii.gz")
    image = model.images / "case_2_0000.nii.gz"
    (report,) = predict_from_files(predictor, image, tmp_path / "out", refine_from=tmp_path / "masks")
    assert "case_2.nii.gz is damaged" in report.error


@pytest.mark.parametrize("file", ["imagesTr/case_2_0000.nii.gz", "labelsTr/case_2.nii.gz"])
def test_damaged_files_are_not_planned(dataset, file):
    damage(dataset.raw / file)
    with pytest.raises(SAM3DError, match=rf"1 of 5 case\(s\) can't be used.*{file} is damaged"):
        SAM3DPlanner(dataset.name)


@pytest.mark.parametrize("file", ["imagesTr/case_2_0000.nii.gz", "labelsTr/case_2.nii.gz"])
def test_damaged_files_leave_no_fingerprint(dataset, file):
    """It would stay when the file has been repaired."""
    (dataset.base / "dataset_fingerprint.json").unlink()
    damage(dataset.raw / file)
    with pytest.raises(SAM3DError, match=f"{file} is damaged"):
        plan_dataset(dataset.name)
    assert not (dataset.base / "dataset_fingerprint.json").exists()
