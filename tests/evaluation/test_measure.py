import json
import os
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from summary_dice import read_summary

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.measure import measure, measure_folder, up_to_date

LABELS = {"background": 0, "organ": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2], "tumour": 2}
SPACING = (0.7, 0.9, 3.0)  # along (x, y, z)
CASES = ["case_1", "case_2", "case_3"]


def dataset(labels: dict = LABELS) -> dict:
    return {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}


def write(array: np.ndarray, file: Path, **changes) -> None:
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(changes.get("spacing", SPACING))
    image.SetOrigin(changes.get("origin", (10.0, -20.0, 30.0)))
    image.SetDirection(changes.get("direction", np.eye(3).ravel()))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Predictions and truth; the last case has no tumour."""
    rng = np.random.default_rng(0)
    for case in CASES:
        truth, found = rng.integers(0, 3, (2, 8, 12, 10))
        if case == CASES[-1]:
            truth[truth == 2] = 0
        write(truth, tmp_path / "truth" / f"{case}.nii.gz")
        write(found, tmp_path / "predictions" / f"{case}.nii.gz")
    return tmp_path / "predictions", tmp_path / "truth"


def nnunet_summary(predictions: Path, truth: Path, labels: list, ignore: int | None = None) -> Path:
    file = predictions / "summary.json"
    compute_metrics_on_folder(str(truth), str(predictions), str(file), SimpleITKIO(), ".nii.gz", labels, ignore, 1)
    return file


@pytest.mark.parametrize(
    ("labels", "in_nnunet"), [(LABELS, [1, 2]), (REGIONS, [(1, 2), 2]), (LABELS | {"ignore": 3}, [1, 2])]
)
def test_dice_and_volumes_are_nnunets(folders, labels, in_nnunet):
    predictions, truth = folders
    ignore = labels.get("ignore")
    if ignore is not None:
        for case in CASES:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(truth / f"{case}.nii.gz")))
            array[:, :3] = ignore
            write(array, truth / f"{case}.nii.gz")
    rows = measure_folder(predictions, truth, dataset(labels), processes=1).rows
    theirs = read_summary(nnunet_summary(predictions, truth, in_nnunet, ignore), dataset(labels))
    assert len(rows) == len(CASES) * 2
    common = ["case", "target", "truth_voxels", "prediction_voxels", "dice"]
    pd.testing.assert_frame_equal(rows[common], theirs[common], check_dtype=False)


def test_undefined_where_the_truth_is_empty(folders):
    rows = measure_folder(*folders, dataset(), processes=1).rows
    row = rows[(rows["case"] == CASES[-1]) & (rows["target"] == "tumour")].iloc[0]
    assert np.isnan(row["dice"])
    assert row["false_positive_ml"] == pytest.approx(row["prediction_voxels"] * np.prod(SPACING) / 1000)


def test_files(folders):
    rows = measure_folder(*folders, dataset(), tolerances=(1, 2.5), processes=1).rows
    in_csv = pd.read_csv(folders[0] / "metrics.csv", dtype={"case": str})
    pd.testing.assert_frame_equal(in_csv, rows, check_dtype=False)
    content = json.loads((folders[0] / "metrics.json").read_text())
    assert content["tolerances_mm"] == [1.0, 2.5] and content["failed"] == {}
    assert content["labels"] == dataset()["labels"]
    first = rows.iloc[0]
    assert content["cases"][first["case"]][first["target"]]["nsd_2.5mm"] == first["nsd_2.5mm"]
    assert content["cases"][CASES[-1]]["tumour"]["dice"] is None


def test_metrics_by_earlier_rules_are_computed_again(folders):
    predictions, truth = folders
    data = EvaluationData("Dataset001_A", predictions, truth, dataset())
    assert measure(predictions, data, CASES, (1.0,)) == {}
    later(predictions / "metrics.json")
    assert up_to_date(predictions, data, CASES, (1.0,))
    content = json.loads((predictions / "metrics.json").read_text())
    (predictions / "metrics.json").write_text(json.dumps(content | {"version": 1}))
    later(predictions / "metrics.json")
    assert not up_to_date(predictions, data, CASES, (1.0,))


def later(file: Path) -> None:
    """As if it had been written a while after the other files."""
    os.utime(file, (time.time() + 0.2,) * 2)


@pytest.mark.parametrize("what", ["truth", "predictions"])
def test_files_with_an_older_date_are_measured_again(folders, what):
    """As tar and rsync unpack them."""
    predictions, truth = folders
    data = EvaluationData("Dataset001_A", predictions, truth, dataset())
    assert measure(predictions, data, CASES, (1.0,)) == {}
    later(predictions / "metrics.json")
    assert up_to_date(predictions, data, CASES, (1.0,))
    time.sleep(0.3)
    file = predictions.parent / what / f"{CASES[0]}.nii.gz"
    write(np.ones((8, 12, 10)), file)
    os.utime(file, (1, 1))
    assert not up_to_date(predictions, data, CASES, (1.0,))


def test_truth_with_other_labels_fails(folders):
    """A tumour that is stored as 255 is no background."""
    predictions, truth = folders
    write(np.full((8, 12, 10), 255), truth / f"{CASES[0]}.nii.gz")
    write(np.full((8, 12, 10), 3), truth / f"{CASES[1]}.nii.gz")
    report = measure_folder(predictions, truth, dataset(LABELS | {"ignore": 3}), processes=1)
    assert list(report.failed) == [CASES[0]]
    assert "has the label 255, which is not among the known labels 0, 1, 2, 3. Correct" in report.failed[CASES[0]]
    data = EvaluationData("Dataset001_A", predictions, truth, dataset(LABELS | {"ignore": 3}))
    data.read_truth(CASES[1])
    with pytest.raises(SAM3DError, match="has the label 255"):
        data.read_truth(CASES[0])


def test_where_no_case_can_be_measured_nothing_old_is_left(folders):
    predictions, truth = folders
    data = EvaluationData("Dataset001_A", predictions, truth, dataset())
    assert measure(predictions, data, CASES[:1], (1.0,)) == {}
    (truth / f"{CASES[0]}.nii.gz").write_bytes(b"no image")
    assert "can't be read" in measure(predictions, data, CASES[:1], (1.0,))[CASES[0]]
    assert not list(predictions.glob("metrics.*"))


def test_a_process_that_is_ended_is_said(folders, monkeypatch):
    def broken(count):
        raise BrokenProcessPool

    monkeypatch.setattr("sam3d_nnunet.evaluation.measure.worker_pool", broken)
    with pytest.raises(SAM3DError, match="2 processes that measure .*predictions was ended.*nnUNet_def_n_proc=1"):
        measure_folder(*folders, dataset(), processes=2)


def test_several_processes_measure_the_same(folders):
    one = measure_folder(*folders, dataset(), processes=1).rows
    pd.testing.assert_frame_equal(measure_folder(*folders, dataset(), processes=2).rows, one)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda file: write(np.zeros((8, 12, 10)), file, origin=(10.0, -20.0, 31.0)), "origin is"),
        (lambda file: write(np.zeros((8, 12, 10)), file, spacing=(0.7, 0.9, 3.1)), "spacing is"),
        (lambda file: write(np.zeros((8, 12, 10)), file, direction=np.diag([1.0, -1, -1]).ravel()), "direction is"),
        (lambda file: write(np.zeros((8, 12, 11)), file), "(8, 12, 11) voxels"),
        (lambda file: write(np.full((8, 12, 10), 7), file), "has the label 7"),
        (lambda file: file.write_bytes(b"no image"), "can't be read"),
        (lambda file: file.unlink(), "There is no"),
    ],
)
def test_a_bad_case_costs_no_other(folders, break_it, said):
    predictions, truth = folders
    break_it(predictions / f"{CASES[1]}.nii.gz")
    report = measure_folder(predictions, truth, dataset(), cases=CASES, processes=1)
    assert list(report.failed) == [CASES[1]] and said in report.failed[CASES[1]]
    assert sorted(report.rows["case"].unique()) == [CASES[0], CASES[2]]
    assert json.loads((predictions / "metrics.json").read_text())["failed"] == report.failed


def test_an_affine_is_compared_as_nibabel_tells_it(folders):
    predictions, truth = folders
    told = dataset() | {"overwrite_image_reader_writer": "NibabelIO"}
    file = predictions / f"{CASES[0]}.nii.gz"
    image = nibabel.load(file)
    affine = image.affine.copy()
    affine[:3, :3] *= [1, 1.01, 1]  # the spacing agrees to 1e-2 mm, the affine does not
    affine[0, 3] += 2
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), file)
    failed = measure_folder(predictions, truth, told, processes=1).failed
    assert "lies elsewhere" in failed[CASES[0]] and len(failed) == 1


def test_nothing_to_measure(folders, tmp_path):
    with pytest.raises(SAM3DError, match="holds no prediction"):
        measure_folder(tmp_path / "nowhere", folders[1], dataset(), processes=1)
    with pytest.raises(SAM3DError, match=r"None of 3 case\(s\).*There is no"):
        measure_folder(folders[0], tmp_path / "nowhere", dataset(), processes=1)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"metric_per_case": [{"metrics": {"9": {}}, "prediction_file": "a"}]}']
)
def test_no_summary(tmp_path, content):
    file = tmp_path / "summary.json"
    file.write_text(content)
    with pytest.raises(SAM3DError, match=str(file)):
        read_summary(file, dataset())
