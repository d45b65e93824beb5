from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.protocol_prediction import predict_automatic


class PredictorOfTIFF:
    """Writes what nnU-Net's predictor does, with the spacing in a file of its own."""

    plans_manager = SimpleNamespace(image_reader_writer_class=Tiff3DIO)

    def predict_from_files_sequential(self, images: list[list[str]], outputs: list[str]) -> None:
        output = Path(outputs[0])
        for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
            (output.parent / name).write_text("{}")
        for ending in (".tif", ".json"):
            Path(f"{output}{ending}").write_text(images[0][0])


def test_tiff_in_tiles_is_predicted(tmp_path):
    """ITK takes it for a coloured image, nnU-Net's reader does not."""
    description = {"file_ending": ".tif", "channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    data = EvaluationData("Dataset001_A", tmp_path, tmp_path / "truth", description)
    volume = np.zeros((6, 32, 32), np.uint8)
    tifffile.imwrite(tmp_path / "case_1_0000.tif", volume, tile=(16, 16), planarconfig="separate")
    (tmp_path / "predictions").mkdir()
    (report,) = predict_automatic(PredictorOfTIFF(), data, ["case_1"], tmp_path / "predictions")
    assert report.error is None


def test_automatic_predictions_keep_their_spacing_and_nothing_else_of_nnunets(tmp_path):
    description = {"file_ending": ".tif", "channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    data = EvaluationData("Dataset001_A", tmp_path / "images", tmp_path / "truth", description)
    data.images.mkdir()
    (data.images / "case_1_0000.tif").touch()
    folder = tmp_path / "predictions"
    folder.mkdir()
    reports = list(predict_automatic(PredictorOfTIFF(), data, ["case_1", "case_2"], folder))
    assert [file.name for file in sorted(folder.iterdir())] == ["case_1.json", "case_1.tif", "prediction.csv"]
    assert reports[0].error is None and "case_2_0000.tif" in reports[1].error


@pytest.mark.parametrize("reader, noted", [(SimpleITKIO, True), (SimpleITKIOWithReorient, False)])
@pytest.mark.parametrize("orientation", ["LPS", "LAS", None])
def test_an_image_that_lies_otherwise_is_noted(tmp_path, capsys, reader, noted, orientation):
    description = {"file_ending": ".nii.gz", "channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    data = EvaluationData("Dataset001_A", tmp_path, tmp_path / "truth", description)
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "case_1_0000.nii.gz"))
    predictor = SimpleNamespace(
        plans_manager=SimpleNamespace(image_reader_writer_class=reader),
        configuration_manager=SimpleNamespace(configuration={"sam3d": {"orientation": orientation}}),
        predict_from_files_sequential=lambda images, outputs: Path(f"{outputs[0]}.nii.gz").write_text(""),
    )
    (tmp_path / "predictions").mkdir()
    (report,) = predict_automatic(predictor, data, ["case_1"], tmp_path / "predictions")
    assert report.error is None
    assert ("case_1_0000.nii.gz lies as LAS" in capsys.readouterr().err) == (noted and orientation == "LPS")


def test_a_prediction_that_nnunet_left_cut_off_does_not_get_its_name(tmp_path, capsys):
    """ITK raises nothing on a full disk."""
    description = {"file_ending": ".nii.gz", "channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    data = EvaluationData("Dataset001_A", tmp_path, tmp_path / "truth", description)
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32))
    file = tmp_path / "case_1_0000.nii.gz"
    sitk.WriteImage(image, str(file))
    predictor = SimpleNamespace(
        plans_manager=SimpleNamespace(image_reader_writer_class=SimpleITKIO),
        configuration_manager=SimpleNamespace(configuration={}),
        predict_from_files_sequential=lambda images, outputs: Path(f"{outputs[0]}.nii.gz").write_bytes(
            file.read_bytes()[:-40]
        ),
    )
    folder = tmp_path / "predictions"
    folder.mkdir()
    (report,) = predict_automatic(predictor, data, ["case_1"], folder)
    assert f"{folder}/case_1.nii.gz: it was cut off" in report.error
    assert "Traceback" not in capsys.readouterr().err and list(folder.iterdir()) == []
