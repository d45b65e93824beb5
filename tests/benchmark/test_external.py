import os
import shutil

import pytest
import SimpleITK as sitk

from sam3d_nnunet.benchmark.external import evaluate_predictions
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results

CASES = ["Fall_Müller_病例", "case_2"]


@pytest.fixture
def dataset(prepared, monkeypatch):
    prepared = prepared("classes")
    monkeypatch.setenv("nnUNet_raw", str(prepared.root / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(prepared.root / "preprocessed"))
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
    assert evaluate_predictions(predictions, root, "711", "Others", "0", "volume_1", tolerances=[2]) == []
    results = Results(root)
    assert [(f.method, f.protocol, f.fold, f.trial) for f in results.folders] == [("Others", "volume_1", "0", 0)]
    assert results.methods["Others"]["kind"] == "prompted" and results.methods["Others"]["trainer"] is None
    assert set(results.metrics["case"]) == set(CASES)
    assert (results.metrics["dice"] == 1).all() and (results.metrics["nsd_2mm"] == 1).all()


def test_all_predictions_of_a_folder_are_measured_again(dataset, predictions, tmp_path):
    root = tmp_path / "evaluated"
    assert evaluate_predictions(predictions, root, dataset.name, "Others") == []
    assert {f.fold for f in Results(root).folders} == {"test"}
    assert len(set(Results(root).metrics["case"])) == 5
    # replaced by an older file
    changed = predictions / "case_2.nii.gz"
    image = sitk.ReadImage(str(changed))
    sitk.WriteImage(sitk.Cast(image == 2, image.GetPixelID()), str(changed))
    os.utime(changed, (0, 0))
    assert evaluate_predictions(predictions, root, dataset.name, "Others") == []
    table = Results(root).metrics.set_index(["case", "target"])
    assert table.loc[("case_2", "rim"), "dice"] == 0 and table.loc[("case_1", "rim"), "dice"] == 1


def test_a_test_set(dataset, predictions, tmp_path):
    labels = tmp_path / "labelsTs"
    labels.mkdir()
    shutil.copy(dataset.labels / "case_1.nii.gz", labels / "patient.nii.gz")
    shutil.copy(dataset.labels / "case_1.nii.gz", predictions / "patient.nii.gz")
    for case in (*CASES, "case_1", "case_3", "case_4"):
        (predictions / f"{case}.nii.gz").unlink()
    assert evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others", test=(labels, labels)) == []
    assert set(Results(tmp_path / "evaluated").metrics["case"]) == {"patient"}


def test_bad_predictions_do_not_cost_the_others(dataset, predictions, tmp_path, capsys):
    """One missing, one on other voxels."""
    (predictions / "case_2.nii.gz").unlink()
    failed = evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others", "0")
    assert failed == ["Others/automatic/fold_0/trial_0: case_2"]

    image = sitk.ReadImage(str(predictions / "case_1.nii.gz"))
    image.SetSpacing((1, 1, 2))
    sitk.WriteImage(image, str(predictions / "case_1.nii.gz"))
    failed = evaluate_predictions(predictions, tmp_path / "evaluated", "711", "Others")
    assert failed == ["Others/automatic/fold_test/trial_0: case_1"]
    assert "case_1 failed. " in capsys.readouterr().err
    assert set(Results(tmp_path / "evaluated").metrics["case"]) >= {"case_3", "case_4"}


def test_mistakes(dataset, predictions, tmp_path):
    for arguments, message in (
        ((tmp_path / "no", "711", "Others"), "holds no prediction CASE.nii.gz"),
        ((predictions, "711", "Others", "9"), "no fold 9"),
        ((predictions, "711", "a/b"), "can't be the name"),
        ((predictions, "711", "Others", "0", "iterated_5"), "one step only"),
        ((predictions, "711", "Others", "0", "clicks"), "There is no protocol"),
    ):
        folder, *more = arguments
        with pytest.raises(SAM3DError, match=message):
            evaluate_predictions(folder, tmp_path / "evaluated", *more)
