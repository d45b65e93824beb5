"""Labels and images whose headers differ, and spacing that no header tells: places and sizes are those of the image."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import tifffile

from sam3d_nnunet.evaluation.drawn_prompts import draw_prompts
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.external import evaluate_predictions
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class
from sam3d_nnunet.training import prompted_validation
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_smoke

SHIFT = np.array([8, 8, 6])  # mm along (x, y, z)
CASE = "case_2"


def move(file: Path, target: Path | None = None) -> None:
    image = sitk.ReadImage(str(file))
    image.SetOrigin((np.array(image.GetOrigin()) + SHIFT).tolist())
    sitk.WriteImage(image, str(target or file))


@pytest.fixture
def raw(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of a raw data set; nnU-Net's variables are set."""
    original = prepared("classes")
    folder = tmp_path / "raw" / original.name
    shutil.copytree(original.root / "raw" / original.name, folder)
    monkeypatch.setenv("nnUNet_preprocessed", str(original.root / "preprocessed"))
    monkeypatch.setenv("nnUNet_raw", str(folder.parent))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    return folder


@pytest.fixture
def moved(raw) -> Path:
    """A raw data set whose label maps lie elsewhere by their headers."""
    for file in (raw / "labelsTr").iterdir():
        move(file)
    return raw


def test_clicks_lie_on_the_image(moved, tmp_path, capsys):
    assert draw_prompts("711", tmp_path / "results", ["volume_1", "margin_1"], folds=["0"]) == []
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(moved / "labelsTr" / f"{CASE}.nii.gz")))
    expected = clicks_per_class(truth, [1, 2], 1, case_generator(CASE)).points
    image = sitk.ReadImage(str(moved / "imagesTr" / f"{CASE}_0000.nii.gz"))
    clicks = read_prompt(tmp_path / "results" / "prompts" / "volume_1" / "trial_0" / f"{CASE}.json")
    voxels = [image.TransformPhysicalPointToIndex(point.tolist())[::-1] for point in clicks.points]
    assert voxels == [tuple(voxel) for voxel in expected.astype(int).tolist()]
    lines = [line for line in capsys.readouterr().err.splitlines() if f"{CASE}: By its header" in line]
    assert len(lines) == 1  # for two protocols
    assert "its origin is (8, 8, 6) instead of (0, 0, 0), and a corner is 8 voxels away" in lines[0]


def test_an_evaluation_is_that_of_equal_headers(make_evaluated, moved, monkeypatch, tmp_path, capsys):
    """Automatic, with clicks and with corrections."""
    model = make_evaluated()
    monkeypatch.setenv("nnUNet_raw", str(moved.parent))
    asked = ["0"], ["automatic", "iterated_2"], 1, PredictionOptions("cpu", mirroring=False)
    assert evaluate(model.folder, tmp_path / "moved", *asked) == []
    assert capsys.readouterr().err.count(f"{CASE}: By its header") == 1
    shutil.copytree(model.labels, moved / "labelsTr", dirs_exist_ok=True)
    assert evaluate(model.folder, tmp_path / "equal", *asked) == []
    found, expected = Results(tmp_path / "moved").metrics, Results(tmp_path / "equal").metrics
    pd.testing.assert_frame_equal(found, expected)
    files = [file.relative_to(tmp_path / "equal") for file in (tmp_path / "equal" / "prompts").rglob("*.json")]
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "moved" / file).read_bytes() == (tmp_path / "equal" / file).read_bytes()


@pytest.mark.parametrize("with_raw", [True, False])
def test_the_final_validation(make_trainer, prepared, moved, tmp_path, monkeypatch, with_raw):
    """With and without the raw images, which training can do without; it ended in an error about the clicks."""
    monkeypatch.setattr(prompted_validation, "_summarise", lambda *a: None)  # it starts processes
    if not with_raw:
        monkeypatch.delenv("nnUNet_raw")
    trainer = make_trainer(trainer_class=SAM3DAdapterTrainer_smoke)
    trainer.initialize()
    truths = tmp_path / "gt_segmentations"
    shutil.copytree(moved / "labelsTr", truths)
    shutil.copy(prepared("classes").base / "splits_final.json", tmp_path)
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    prompted_validation.validate_prompted(trainer, 1)
    folder = Path(trainer.output_folder) / "validation_1click"
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(truths / f"{CASE}.nii.gz")))
    expected = clicks_per_class(truth, [1, 2], 1, case_generator(CASE)).points
    assert (read_prompt(folder / f"{CASE}.json").points == expected[:, ::-1]).all()  # of an image at 0, with 1 mm
    log = next(Path(trainer.output_folder).glob("training_log*.txt")).read_text()
    assert log.count(f"{CASE}: By its header") == 1


def test_other_shapes_are_an_error_that_names_both(moved, tmp_path, capsys):
    file = moved / "labelsTr" / f"{CASE}.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file))[1:], str(file))
    assert draw_prompts("711", tmp_path / "results", ["volume_1"], folds=["0"]) == [f"prompts/volume_1/trial_0: {CASE}"]
    assert f"{CASE}.nii.gz has (12, 18, 13) voxels (d, h, w), but its image {moved}" in capsys.readouterr().err


# --- predictions of other tools ---


@pytest.fixture
def predictions(raw, tmp_path) -> Path:
    """The truth with the headers of the images."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for file in (raw / "labelsTr").iterdir():
        image = sitk.ReadImage(str(file))
        image.SetOrigin((0, 0, 0))
        sitk.WriteImage(image, str(folder / file.name))
    return folder


def measured(predictions: Path, root: Path) -> pd.DataFrame:
    assert evaluate_predictions(predictions, root, "711", "Other", "0") == []
    return Results(root).metrics


def test_predictions_lie_where_the_image_does(moved, predictions, tmp_path, capsys):
    assert (measured(predictions, tmp_path / "results")["dice"] == 1).all()
    move(predictions / f"{CASE}.nii.gz")  # where the truth lies by its header
    failed = evaluate_predictions(predictions, tmp_path / "more", "711", "Other", "0")
    assert failed == [f"Other/automatic/fold_0/trial_0: {CASE}"]
    assert (
        f"lies elsewhere than its image {moved / 'imagesTr'}/{CASE}_0000.nii.gz: its origin" in capsys.readouterr().err
    )
    shutil.rmtree(moved / "imagesTr")  # then the header of the truth has to do
    shutil.copytree(moved / "labelsTr", predictions, dirs_exist_ok=True)
    assert (measured(predictions, tmp_path / "gone")["dice"] == 1).all()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
def test_two_micrometres_by_all_readers(raw, predictions, tmp_path, reader):
    """What ITK's reader that reorients tells was compared as a whole, which ended in a DTypePromotionError."""
    description = json.loads((raw / "dataset.json").read_text()) | {"overwrite_image_reader_writer": reader}
    (raw / "dataset.json").write_text(json.dumps(description))
    image = sitk.ReadImage(str(predictions / f"{CASE}.nii.gz"))
    image.SetOrigin((0.002, 0, 0))
    sitk.WriteImage(image, str(predictions / f"{CASE}.nii.gz"))
    assert (measured(predictions, tmp_path / "results")["dice"] == 1).all()


def test_a_changed_header_of_the_image_is_measured_again(raw, predictions, tmp_path):
    before = measured(predictions, tmp_path / "results")
    for folder in (raw / "imagesTr", predictions):  # the label maps stay as they are
        for file in folder.iterdir():
            image = sitk.ReadImage(str(file))
            image.SetSpacing((2, 1, 1))
            sitk.WriteImage(image, str(file))
    after = measured(predictions, tmp_path / "results")
    assert (after["truth_ml"] == 2 * before["truth_ml"]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: sitk.JoinSeries([image, image]), "has 2 time points"),
        (lambda image: sitk.Compose(image, image, image), "has 3 components per voxel"),
        (lambda image: sitk.Cast(image, sitk.sitkComplexFloat32), "has complex numbers"),
        (lambda image: image[:, :, 4], "has 2 axes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("what", ["prediction", "truth", "image"])
def test_files_that_are_not_one_volume(raw, predictions, tmp_path, capsys, change, said, what):
    files = {
        "prediction": predictions / f"{CASE}.nii.gz",
        "truth": raw / "labelsTr" / f"{CASE}.nii.gz",
        "image": raw / "imagesTr" / f"{CASE}_0000.nii.gz",
    }
    image = change(sitk.ReadImage(str(files[what]), sitk.sitkFloat32))
    sitk.WriteImage(image, str(files[what]))
    failed = evaluate_predictions(predictions, tmp_path / "results", "711", "Other", "0")
    assert failed == [f"Other/automatic/fold_0/trial_0: {CASE}"]
    assert f"{files[what].name} {said}" in capsys.readouterr().err


# --- spacing beside the image ---

TIFF_SPACING = [2.0, 1.0, 1.0]


@pytest.fixture
def tiff(tmp_path, nnunet_folders) -> Path:
    """A raw data set of TIFF, whose spacing lies beside the images only, as nnU-Net's documentation has it."""
    raw = nnunet_folders.raw / "Dataset730_Tiff"
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in "abc":
        labels = np.zeros((9, 10, 11), np.uint8)
        labels[2:5, 2:10, 3:10] = 1  # 168 voxels
        image = rng.normal(0, 1, labels.shape).astype(np.float32) + labels
        tifffile.imwrite(raw / "imagesTr" / f"{case}_0000.tif", image, photometric="minisblack")
        tifffile.imwrite(raw / "labelsTr" / f"{case}.tif", labels, photometric="minisblack")
        (raw / "imagesTr" / f"{case}.json").write_text(json.dumps({"spacing": TIFF_SPACING}))
    content = {"channel_names": {"0": "x"}, "labels": {"background": 0, "cell": 1}, "numTraining": 3}
    (raw / "dataset.json").write_text(json.dumps(content | {"file_ending": ".tif"}))
    base = nnunet_folders.preprocessed / raw.name
    base.mkdir()
    (base / "splits_final.json").write_text(json.dumps([{"train": ["c"], "val": ["a", "b"]}]))
    return raw


@pytest.mark.parametrize("beside", [True, False])
def test_volumes_and_distances_in_tiff(tiff, tmp_path, capsys, beside):
    """Volumes were half of what they are, and predictions with their spacing beside them were refused."""
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for case in ("a", "b"):
        labels = np.roll(tifffile.imread(tiff / "labelsTr" / f"{case}.tif"), 1, axis=0)
        tifffile.imwrite(predictions / f"{case}.tif", labels, photometric="minisblack")
        if beside:
            (predictions / f"{case}.json").write_text(json.dumps({"spacing": TIFF_SPACING}))
    assert evaluate_predictions(predictions, tmp_path / "results", "730", "Other", "0", tolerances=[1.5]) == []
    metrics = Results(tmp_path / "results").metrics
    assert metrics["truth_ml"].tolist() == pytest.approx([0.336, 0.336])
    assert (metrics["hd95_mm"] == 2).all() and (metrics["nsd_1.5mm"] < 1).all()
    assert "Traceback" not in capsys.readouterr().err


def test_clicks_in_tiff(tiff, tmp_path):
    """nnU-Net takes TIFF for volumes when it has looked at one."""
    assert draw_prompts("730", tmp_path / "results", ["volume_1"]) == []
    labels = tifffile.imread(tiff / "labelsTr" / "a.tif")
    expected = clicks_per_class(labels, [1], 1, case_generator("a")).points * TIFF_SPACING
    clicks = read_prompt(tmp_path / "results" / "prompts" / "volume_1" / "trial_0" / "a.json")
    assert (clicks.points == expected[:, ::-1]).all()


def test_refused_geometry_is_that_of_the_reader(raw, predictions, tmp_path):
    """ITK refuses sheared axes; nibabel's reader, which nnU-Net takes then, tells where they lie."""
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    for folder in (raw / "imagesTr", raw / "labelsTr", predictions):
        for file in folder.iterdir():
            values = np.asarray(nibabel.load(file).dataobj)
            nibabel.save(nibabel.Nifti1Image(values, sheared), file)
    assert (measured(predictions, tmp_path / "results")["dice"] == 1).all()
    assert draw_prompts("711", tmp_path / "results", ["volume_1"], folds=["0"]) == []


def test_no_reader(raw, tmp_path, capsys):
    description = json.loads((raw / "dataset.json").read_text()) | {"file_ending": ".xyz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    (raw / "labelsTr" / "a.xyz").touch()
    assert draw_prompts("711", tmp_path / "results", ["volume_1"]) == ["prompts/volume_1/trial_0: a"]
    assert "no reader for the data set's files, which end in .xyz" in capsys.readouterr().err
