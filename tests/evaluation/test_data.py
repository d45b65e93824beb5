import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from sam3d_nnunet.datasets.splits import splits_file
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData, spacing_of
from sam3d_nnunet.evaluation.protocol_prediction import NO_ERROR, IteratedPrediction
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.simulation.protocols import Protocol


@pytest.fixture
def data(nnunet_folders, write_dataset) -> EvaluationData:
    rng = np.random.default_rng(0)
    cases = {f"case_{i}": (rng.normal(size=(5, 6, 7)), rng.integers(0, 4, (5, 6, 7))) for i in range(4)}
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    write_dataset(
        nnunet_folders.raw, "Dataset720_Some", cases, labels, spacing=(3.0, 1.0, 0.5), regions_class_order=[1, 2]
    )
    splits = nnunet_folders.preprocessed / "Dataset720_Some" / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text(json.dumps([{"train": ["case_0"], "val": ["case_2", "case_1"]}]))
    return EvaluationData.from_nnunet("720")


def test_cases(data, tmp_path):
    assert data.name == "Dataset720_Some"
    assert data.cases_of_fold("0") == ["case_1", "case_2"]
    (data.truth / "._case_0.nii.gz").touch()  # by macOS
    assert data.cases_with_truth() == ["case_0", "case_1", "case_2", "case_3"]
    assert data.image_files("case_1") == [tmp_path / "raw/Dataset720_Some/imagesTr/case_1_0000.nii.gz"]
    assert list(data.labels.foreground_labels) == [1, 2]
    for fold in ("1", "all", "-1"):
        with pytest.raises(SAM3DError, match="fold"):
            data.cases_of_fold(fold)
    splits_file(data.name).write_text(json.dumps([{"train": ["elsewhere"], "val": ["case_1", "nobody"]}]))
    with pytest.raises(SAM3DError, match=r"Fold 0 of .* names 1 case\(s\) that are not in .*Dataset720_Some: nobody"):
        data.cases_of_fold("0")
    splits_file(data.name).unlink()
    with pytest.raises(SAM3DError, match="no file .*splits_final.json"):
        data.cases_of_fold("0")


def test_files_that_dataset_json_lists(data, nnunet_folders, tmp_path):
    """Images lie anywhere; the truth is nnU-Net's copy, as in its own validation."""
    folder = nnunet_folders.raw / "Dataset720_Some"
    listing = {"case_1": {"images": ["../any.nii.gz"], "label": "/l.nii.gz"}}
    (folder / "dataset.json").write_text(json.dumps(data.dataset_json | {"dataset": listing}))
    listed = EvaluationData.from_nnunet("720")
    assert listed.image_files("case_1") == [nnunet_folders.raw / "any.nii.gz"]
    assert listed.truth_file("case_1") == nnunet_folders.preprocessed / folder.name / "gt_segmentations/case_1.nii.gz"
    assert listed.dataset_json["dataset"]["case_1"]["images"] == [str(nnunet_folders.raw / "any.nii.gz")]
    with pytest.raises(SAM3DError, match="lists no files of the case case_2"):
        listed.image_files("case_2")
    test = listed.test_set(data.images, data.truth)
    assert test.image_files("case_2") == data.image_files("case_2")


def test_truth_is_read_as_its_file_lies(data):
    for file in (data.truth_file("case_1"), data.image_file("case_1")):
        image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "SAR")
        sitk.WriteImage(image, str(file))
    image = sitk.ReadImage(str(data.truth_file("case_1")))
    segmentation, geometry = data.read_truth("case_1")
    assert (segmentation == sitk.GetArrayFromImage(image)).all()
    assert spacing_of(geometry) == pytest.approx(image.GetSpacing()[::-1])
    voxel = (4, 3, 2)
    place = geometry.to_world(np.array([voxel[::-1]]))[0]
    assert place == pytest.approx(image.TransformIndexToPhysicalPoint(voxel))


def test_truth_in_tiff_lies_where_its_image_does(data, tmp_path):
    """What tells the spacing need not lie beside the label map, and beside nnU-Net's copy it doesn't."""
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[2:4, 3:5, 4:6] = 1
    for folder, name in (("imagesTr", "case_1_0000"), ("labelsTr", "case_1")):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / f"{name}.tif", labels, photometric="minisblack", resolution=(2.0, 2.0))
    (tmp_path / "imagesTr" / "case_1.json").write_text(json.dumps({"spacing": [2.5, 0.5, 0.75]}))
    content = data.dataset_json | {"file_ending": ".tif", "overwrite_image_reader_writer": "Tiff3DIO"}
    tiff = replace(data, dataset_json=content, raw=None, images=tmp_path / "imagesTr", truth=tmp_path / "labelsTr")
    segmentation, geometry = tiff.read_truth("case_1")
    assert (segmentation == labels).all()
    assert spacing_of(geometry) == [2.5, 0.5, 0.75]
    assert geometry.to_world(np.array([[2, 3, 4]])) == pytest.approx(np.array([[3, 1.5, 5]]))


def test_unreadable_truth(data):
    data.truth_file("case_1").write_text("nothing")
    data.truth_file("case_2").unlink()
    for case, message in (("case_1", "can't be read"), ("case_2", "There is no label map")):
        with pytest.raises(SAM3DError, match=message):
            data.read_truth(case)


def test_no_such_data(data, monkeypatch):
    for name in ("721", "x", "Dataset721_No"):
        with pytest.raises(SAM3DError, match="721|x"):
            EvaluationData.from_nnunet(name)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SAM3DError, match="nnUNet_raw"):
        EvaluationData.from_nnunet("Dataset720_Some")


@pytest.fixture
def test_data(data, tmp_path) -> EvaluationData:
    """A test set with one case, new_1."""
    copies = {"images/new_1_0000": data.image_file("case_1"), "labels/new_1": data.truth_file("case_1")}
    for name, source in copies.items():
        copy = tmp_path / f"{name}.nii.gz"
        copy.parent.mkdir()
        shutil.copy(source, copy)
    return data.test_set(tmp_path / "images", tmp_path / "labels")


@pytest.mark.parametrize("stray", ["template.nii.gz", "new_1_0001.nii.gz"])
def test_other_images_beside_those_of_a_test_set(test_data, stray):
    image = test_data.images / "new_1_0000.nii.gz"
    shutil.copy(image, image.with_name(stray))
    assert test_data.image_file("new_1") == image
    with pytest.raises(SAM3DError, match=stray):
        test_data.image_file("new_2")


def test_test_set_whose_images_are_gone(test_data):
    (test_data.images / "new_1_0000.nii.gz").unlink()
    assert test_data.image_file("new_1") is None


@pytest.mark.parametrize(
    "channels, number", [(["CT", "FDG-PET"], 1), (["SUV", "CT"], 0), (["T1", "T2", "FLAIR"], 2), (["MRI"], 0)]
)
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIOWithReorient])
def test_channel_in_which_lesions_are_bright(data, channels, number, reader):
    """With the axes of the truth, whatever the reader."""
    names = {str(place): name for place, name in enumerate(channels)}
    data = replace(data, raw=None, dataset_json=data.dataset_json | {"channel_names": names})
    data.__dict__["reader"] = reader()
    image = sitk.ReadImage(str(data.image_file("case_1")))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    for place in range(len(channels)):
        sitk.WriteImage(image + 100 * place, str(data.images / f"case_1_{place:04}.nii.gz"))
    expected = sitk.GetArrayFromImage(image) + 100 * number
    assert data.read_uptake("case_1") == pytest.approx(expected)


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_corrections_are_drawn_where_the_first_clicks_are(data, tmp_path, reader):
    """In the axes of the file, whatever the reader."""
    data.__dict__["reader"] = reader()
    for file in (data.truth_file("case_1"), data.image_file("case_1")):
        image = sitk.ReadImage(str(file))
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        sitk.WriteImage(image, str(file))
    iterated = IteratedPrediction(SimpleNamespace(takes_background=True), data, Protocol.parse("iterated_2"), 0, [])
    truth, geometry = iterated._truth("case_1")
    labels, wanted = data.read_truth("case_1")
    assert np.array_equal(truth, np.where(labels == 3, NO_ERROR, labels))
    assert (geometry.affine == wanted.affine).all()


@pytest.fixture
def with_wrong_direction(data) -> Callable[[str], EvaluationData]:
    """The data set with a label map whose axes, by its header, run otherwise than its image's; for a reader."""
    file, image_file = data.truth_file("case_1"), data.image_file("case_1")
    label_map, image = sitk.ReadImage(str(file)), sitk.ReadImage(str(image_file))
    label_map.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    label_map.SetOrigin((3, 0, 0))
    sitk.WriteImage(label_map, str(file))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(image_file))
    return lambda reader: replace(data, dataset_json=data.dataset_json | {"overwrite_image_reader_writer": reader})


@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_truth_that_a_reader_turns_by_a_wrong_direction_is_refused(with_wrong_direction, reader):
    with pytest.raises(SAM3DError, match="case_1.*RPS instead of LAS"):
        with_wrong_direction(reader).read_truth("case_1")


@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_truth_in_another_orientation_may_be_a_little_off(data, reader, capsys):
    """Its header is right but for half a voxel, so the reader pairs the right voxels."""
    file = data.truth_file("case_1")
    before, geometry = data.read_truth("case_1")
    turned = sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAI")
    turned.SetOrigin(np.array(turned.GetOrigin()) + (0.25, 0, 0))
    sitk.WriteImage(turned, str(file))
    data = replace(data, dataset_json=data.dataset_json | {"overwrite_image_reader_writer": reader})
    labels, found = data.read_truth("case_1")
    assert "0.5 voxels away" in capsys.readouterr().err
    assert np.array_equal(labels, before) and np.allclose(found.affine, geometry.affine)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_truth_whose_direction_differs_is_paired_as_nnunet_trains(with_wrong_direction, reader, capsys):
    """By the index in the arrays of the reader."""
    data = with_wrong_direction(reader)
    file, image_file = data.truth_file("case_1"), data.image_file("case_1")
    segmentation, geometry = data.read_truth("case_1")
    assert "case_1: By its header" in capsys.readouterr().err
    in_training = data.reader.read_seg(str(file))[0][0]
    _, properties = data.reader.read_images([str(image_file)])
    of_reader = ImageGeometry.from_file(image_file, properties)
    for label in (1, 2):
        voxels = of_reader.to_voxels(geometry.to_world(np.argwhere(segmentation == label))).round().astype(int)
        assert len(voxels) and (in_training[tuple(voxels.T)] == label).all()
    assert (geometry.affine == ImageGeometry.from_file(image_file).affine).all()
