import json
import os
import shutil

import pytest
import SimpleITK as sitk

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.external import evaluate_predictions
from sam3d_nnunet.evaluation.measure import measure, up_to_date
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.case_images import CaseReader

CASES = ["Fall_Müller_病例", "case_2"]


@pytest.fixture
def dataset(prepared, monkeypatch):
    prepared = prepared("classes")
    monkeypatch.setenv("nnUNet_raw", str(prepared.root / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(prepared.root / "preprocessed"))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")  # starting processes takes longer than all else here
    prepared.labels = prepared.root / "raw" / prepared.name / "labelsTr"
    return prepared


@pytest.fixture
def predictions(dataset, tmp_path):
    """The truth itself, in a folder with other files."""
    folder = tmp_path / "predictions"
    shutil.copytree(dataset.labels, folder)
    (folder / "summary.json").write_text("{}")
    return folder


def test_validation_cases_of_a_fold(dataset, predictions, tmp_path):
    root = tmp_path / "evaluated"
    for trial in (0, 2):
        assert evaluate_predictions(predictions, root, "711", "Others", "0", "volume_1", trial, [2]) == []
    results = Results(root)
    assert [(f.method, f.protocol, f.fold, f.trial) for f in results.folders] == [
        ("Others", "volume_1", "0", 0),
        ("Others", "volume_1", "0", 2),
    ]
    assert results.methods["Others"]["kind"] == "prompted" and results.methods["Others"]["trainer"] is None
    assert set(results.metrics["case"]) == set(CASES)
    assert (results.metrics["dice"] == 1).all() and (results.metrics["nsd_2mm"] == 1).all()


def test_changed_predictions_are_measured_again(dataset, predictions, tmp_path):
    root = tmp_path / "evaluated"
    assert evaluate_predictions(predictions, root, dataset.name, "Others", "0") == []
    assert (Results(root).metrics["dice"] == 1).all()
    # replaced by an older file
    changed = predictions / "case_2.nii.gz"
    image = sitk.ReadImage(str(changed))
    sitk.WriteImage(sitk.Cast(image == 2, image.GetPixelID()), str(changed))
    os.utime(changed, (0, 0))
    assert evaluate_predictions(predictions, root, dataset.name, "Others", "0") == []
    table = Results(root).metrics.set_index(["case", "target"])
    assert table.loc[("case_2", "rim"), "dice"] == 0 and table.loc[(CASES[0], "rim"), "dice"] == 1


def test_predictions_that_are_gone_are_not_counted_again(dataset, predictions, tmp_path, capsys):
    root = tmp_path / "evaluated"
    (predictions / "prediction.csv").write_text("case,clicks,windows,seconds\ncase_2,1,1,2.5\n")
    assert evaluate_predictions(predictions, root, dataset.name, "Others", "0") == []
    (predictions / "case_2.nii.gz").unlink()
    (predictions / "prediction.csv").unlink()
    assert evaluate_predictions(predictions, root, dataset.name, "Others", "0") == [
        "Others/automatic/fold_0/trial_0: case_2"
    ]
    assert set(Results(root).metrics["case"]) == {CASES[0]}
    assert not (root / "Others/automatic/fold_0/trial_0/prediction.csv").exists()
    (predictions / f"{CASES[0]}.nii.gz").write_text("nothing")
    capsys.readouterr()
    failed = evaluate_predictions(predictions, root, dataset.name, "Others", "0")
    assert failed == [f"Others/automatic/fold_0/trial_0: {case}" for case in (CASES[0], "case_2")]
    assert "can't be read" in capsys.readouterr().err
    assert not Results(root).folders


@pytest.mark.parametrize("what", ["truth", "names", "values"])
def test_what_changes_in_the_truth_is_measured_again(dataset, predictions, tmp_path, monkeypatch, what):
    raw, root = tmp_path / "raw" / dataset.name, tmp_path / "evaluated"
    shutil.copytree(dataset.root / "raw" / dataset.name, raw)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    assert evaluate_predictions(predictions, root, dataset.name, "Others", "0") == []
    if what == "truth":
        file = str(raw / "labelsTr" / "case_2.nii.gz")
        image = sitk.ReadImage(file)
        sitk.WriteImage(sitk.Cast(image == 2, image.GetPixelID()), file)
    else:
        description = json.loads((raw / "dataset.json").read_text())
        names = ("A", "B") if what == "names" else ("rim", "core")
        description["labels"] = {"background": 0, names[0]: 1, names[1]: 2}
        (raw / "dataset.json").write_text(json.dumps(description))
    folder = root / "Others/automatic/fold_0/trial_0"
    data = EvaluationData.from_nnunet(dataset.name)
    assert not up_to_date(folder, data, CASES, [5.0])
    measure(folder, data, CASES, [5.0])
    assert up_to_date(folder, data, CASES, [5.0])
    if what == "truth":
        assert Results(root).metrics.set_index(["case", "target"]).loc[("case_2", "core"), "dice"] < 0.9
    else:
        assert Results(root).metrics["target"].tolist() == [*names, *names]
    for content in ("[]", "{}", '{"cases": 1, "tolerances_mm": null, "labels": 0}', "{"):
        (folder / "metrics.json").write_text(content)
        assert not up_to_date(folder, data, CASES, [5.0])


def test_a_test_set(dataset, predictions, tmp_path):
    labels, root = tmp_path / "labelsTs", tmp_path / "evaluated"
    labels.mkdir()
    for name in ("patient", "forgotten"):
        shutil.copy(dataset.labels / "case_1.nii.gz", labels / f"{name}.nii.gz")
    shutil.copy(dataset.labels / "case_1.nii.gz", predictions / "patient.nii.gz")
    failed = evaluate_predictions(predictions, root, "711", "Others", (labels, labels))
    assert failed == ["Others/automatic/fold_test/trial_0: forgotten"]
    assert set(Results(root).metrics["case"]) == {"patient"}

    (labels / "patient.nii.gz").rename(labels / "case_1.nii.gz")
    with pytest.raises(SAM3DError, match="both hold case_1. Rename"):
        evaluate_predictions(predictions, tmp_path / "more", "711", "Others", (labels, labels))
    assert not (tmp_path / "more").exists()


def test_costs_beside_the_predictions(dataset, predictions, tmp_path):
    """Those of the fold's cases are taken along."""
    root, file = tmp_path / "evaluated", predictions / "prediction.csv"
    file.write_text("case,clicks,windows,seconds\ncase_1,9,,100\ncase_2,3,,0.5\n")
    assert evaluate_predictions(predictions, root, "711", "Others", "0", "volume_3") == []
    assert Results(root).costs[["case", "clicks_given", "seconds"]].values.tolist() == [["case_2", 3, 0.5]]

    file.write_text("case,clicks,windows,seconds\ncase_1,9,,100\n")
    assert evaluate_predictions(predictions, tmp_path / "none", "711", "Others", "0") == []
    assert not any((tmp_path / "none").rglob("prediction.csv"))


@pytest.mark.parametrize("text", ["case,time\ncase_2,3\n", "case,clicks,windows,seconds\ncase_2,3,,long\n", ""])
def test_unusable_costs(dataset, predictions, tmp_path, text):
    (predictions / "prediction.csv").write_text(text)
    with pytest.raises(SAM3DError, match="prediction.csv .* case, clicks, windows, seconds"):
        evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others", "0")
    assert not (tmp_path / "evaluated").exists()


def test_bad_predictions_do_not_cost_the_others(dataset, predictions, tmp_path, capsys):
    """One missing, one on other voxels."""
    (predictions / "case_2.nii.gz").unlink()
    failed = evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others", "0")
    assert failed == ["Others/automatic/fold_0/trial_0: case_2"]

    labels = tmp_path / "labelsTs"
    labels.mkdir()
    for name in ("one", "two"):
        for folder in (labels, predictions):
            shutil.copy(dataset.labels / "case_1.nii.gz", folder / f"{name}.nii.gz")
    image = sitk.ReadImage(str(predictions / "one.nii.gz"))
    image.SetSpacing((1, 1, 2))
    sitk.WriteImage(image, str(predictions / "one.nii.gz"))
    failed = evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others", (labels, labels))
    assert failed == ["Others/automatic/fold_test/trial_0: one"]
    assert "one failed. " in capsys.readouterr().err
    assert set(Results(tmp_path / "evaluated").metrics["case"]) == {CASES[0], "two"}


def test_training_cases_are_no_test_set(dataset, predictions, tmp_path):
    training = dataset.labels.with_name("imagesTr"), dataset.labels
    with pytest.raises(SAM3DError, match="labelsTr holds the training cases"):
        evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others", training)


def test_mistakes(dataset, predictions, tmp_path):
    for arguments, message in (
        ((tmp_path / "no", "711", "Others", "0"), "holds no prediction CASE.nii.gz"),
        ((predictions, "711", "Others", "9"), "no fold 9"),
        ((predictions, "711", "Others", "test"), "no validation cases of its own"),
        ((predictions, "711", "a/b", "0"), "can't be the name"),
        ((predictions, "711", "Others", "0", "iterated_5"), "iterated_5"),
        ((predictions, "711", "Others", "0", "clicks"), "There is no protocol"),
    ):
        folder, *more = arguments
        with pytest.raises(SAM3DError, match=message):
            evaluate_predictions(folder, tmp_path / "evaluated", *more)


def test_test_images_without_numbers(dataset, predictions, tmp_path):
    """Figures find the images, too, which sam3d predict takes by these names."""
    images, labels, root = (tmp_path / name for name in ("images", "labels", "evaluated"))
    image = dataset.labels.parent / "imagesTr" / "case_1_0000.nii.gz"
    for folder, file in ((images, image), (labels, dataset.labels / "case_1.nii.gz")):
        folder.mkdir()
        shutil.copy(file, folder / "patient_0001.nii.gz")
    shutil.copy(dataset.labels / "case_1.nii.gz", predictions / "patient_0001.nii.gz")
    assert evaluate_predictions(predictions, root, "711", "Others", (images, labels)) == []
    test = EvaluationData.from_nnunet("711").test_set(images, labels)
    assert test.image_files("patient_0001") == [images / "patient_0001.nii.gz"]
    reader = CaseReader(Results(root))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(images / "patient_0001.nii.gz")))
    assert sorted(reader.image("patient_0001").image.shape) == sorted(expected.shape)


def test_predictions_of_other_names_are_listed(dataset, predictions, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "case_1.nrrd").touch()
    with pytest.raises(SAM3DError, match=r"no prediction CASE.nii.gz.*It holds case_1.nrrd"):
        evaluate_predictions(other, tmp_path / "evaluated", "711", "Others", "0")
