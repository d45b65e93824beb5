"""Turned image files: the network sees them as its training images lie, and all results lie as the file does."""

import pickle
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import to_grid
from sam3d_nnunet.geometry.turn import NO_TURN
from sam3d_nnunet.prediction.cases import read_case
from sam3d_nnunet.prediction.growth import BoxLogits
from sam3d_nnunet.prediction.model_folder import load_model_folder
from sam3d_nnunet.prediction.predictor import CasePrediction, SAM3DPredictor
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.prompt import Prompt

CODES = ["LPS", "RAS", "LPI", "RPS", "SAR", "PIR", "ASL", "ILP"]  # the last four exchange axes
READERS = {"SimpleITKIO": "LPS", "SimpleITKIOWithReorient": "RAS", "NibabelIO": "LPS", "NibabelIOWithReorient": "RAS"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> SimpleNamespace:
    """An image with an empty border and three different spacings, a label map and clicks on it."""
    rng = np.random.default_rng(0)
    array, labels = np.zeros((20, 18, 22), np.float32), np.zeros((20, 18, 22), np.uint8)
    array[3:, 1:-4, 2:-1] = rng.normal(10, 1, (17, 13, 19))
    labels[8:14, 4:9, 6:15], labels[9:12, 5:7, 8:11] = 2, 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 1.0, 1.3))
    image.SetOrigin((-30, 20, 7))
    truth = sitk.GetImageFromArray(labels)
    truth.CopyInformation(image)
    points = [image.TransformContinuousIndexToPhysicalPoint(voxel) for voxel in ((9, 6, 10), (14, 11, 5), (5, 3, 17))]
    folder = tmp_path_factory.mktemp("scene")

    def files(code: str) -> tuple[str, str]:
        """Image and label map, with their voxels in another order."""
        names = str(folder / f"{code}_0000.nii.gz"), str(folder / f"{code}.nii.gz")
        for whole, name in zip((image, truth), names):
            sitk.WriteImage(sitk.DICOMOrient(whole, code), name)
        return names

    return SimpleNamespace(files=files, prompt=Prompt(points, [1, 2, 0], "case"), labels=labels)


def predictor_of(folder) -> SAM3DPredictor:
    predictor = SAM3DPredictor("cpu", "fp32")
    predictor.initialize_from_trained_model_folder(folder)
    return predictor


def upright(file) -> np.ndarray:
    """The voxels of a file in the orientation LPS."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS"))


@pytest.mark.parametrize("reader", READERS)
def test_turned_files_are_segmented_alike(make_model, scene, tmp_path, reader):
    model = make_model(reader=reader, settings={"orientation": READERS[reader]})
    predictor = predictor_of(model.folder)
    writer = CaseWriter(tmp_path, predictor.model, probabilities=True, instances=True)
    expected = {}
    for code in CODES:
        file, _ = scene.files(code)
        prediction = predictor.predict_case([file], scene.prompt, per_lesion=True)
        writer.write(code, prediction)
        written = sitk.ReadImage(str(tmp_path / f"{code}.nii.gz"))
        original = sitk.ReadImage(file)
        assert written.GetSize() == original.GetSize()
        for kind in ("GetDirection", "GetSpacing", "GetOrigin"):
            np.testing.assert_allclose(getattr(written, kind)(), getattr(original, kind)(), atol=1e-5)
        # the arrays that nnU-Net's tools average lie as its reader reads the file
        there, _ = predictor.model.plans.image_reader_writer_class().read_images([file])
        probabilities = np.load(tmp_path / f"{code}.npz")["probabilities"]
        assert probabilities.shape[1:] == there.shape[1:]
        segmentation, _ = predictor.model.plans.image_reader_writer_class().read_seg(str(tmp_path / f"{code}.nii.gz"))
        assert (probabilities.argmax(0) == segmentation[0]).mean() > 0.999  # but for ties
        found = upright(tmp_path / f"{code}.nii.gz"), upright(tmp_path / "instances" / f"{code}.nii.gz")
        for key, array in zip(("segmentation", "instances"), found):
            assert len(np.unique(array)) == 3
            assert (array == expected.setdefault(key, array)).all(), code
        turned = any("turned from" in note for note in prediction.notes)
        assert turned == (not reader.endswith("Reorient") and code != "LPS")


def test_nnunets_tools_find_what_they_would_have_written(make_model, scene):
    """Beside probabilities: shapes, crop and spacing of the image as it lies."""
    model = load_model_folder(make_model(settings={"orientation": "LPS"}).folder)
    for code in CODES:
        file, _ = scene.files(code)
        found = read_case([file], model)
        _, _, expected = DefaultPreprocessor(verbose=False).run_case(
            [file], None, model.plans, model.configuration, model.dataset_json
        )
        assert found.properties.keys() == expected.keys()
        for key in ("spacing", "shape_before_cropping", "shape_after_cropping_and_before_resampling"):
            assert tuple(found.properties[key]) == tuple(expected[key])
        assert np.array_equal(found.properties["bbox_used_for_cropping"], expected["bbox_used_for_cropping"])
        assert found.properties["sitk_stuff"] == expected["sitk_stuff"]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_ensemble_with_a_model_of_nnunets_plans(make_model, scene, tmp_path, first):
    """Both members know the truth. Their arrays must lie alike, or their mean is nothing."""
    model = load_model_folder(make_model().folder)
    reader = determine_reader_writer_from_dataset_json(model.dataset_json, scene.files("LPS")[0], verbose=False)
    plans = PlansManager(model.plans.plans | {"image_reader_writer": reader.__name__})
    for code in CODES:
        file, label_file = scene.files(code)
        folders = {name: tmp_path / f"{code}_{name}" for name in ("ours", "theirs")}
        folders["theirs"].mkdir(exist_ok=True)
        case = read_case([file], model)
        truth, _ = model.plans.image_reader_writer_class().read_seg(label_file)
        logits = BoxLogits(knowing(to_grid(truth[0], case.grid)), (0, 0, 0), case.on_grid.shape, regions=False)
        writer = CaseWriter(folders["ours"], model, probabilities=True)
        writer.prepare()
        writer.write("case", CasePrediction(case, scene.prompt, logits, None, [], model))
        preprocessor = DefaultPreprocessor(verbose=False)
        data, labels, properties = preprocessor.run_case(
            [file], label_file, plans, model.configuration, model.dataset_json
        )
        export_prediction_from_logits(
            knowing(np.maximum(labels[0], 0)),
            properties,
            model.configuration,
            plans,
            model.dataset_json,
            str(folders["theirs"] / "case"),
            save_probabilities=True,
        )
        expected = sitk.GetArrayFromImage(sitk.ReadImage(label_file))
        assert dice(folders["ours"] / "case.nii.gz", expected) > 0.8  # resampled labels
        assert dice(folders["theirs"] / "case.nii.gz", expected) > 0.8
        order = [first, *({"ours", "theirs"} - {first})]
        members = [str(folders[name] / "case.npz") for name in order]
        merge_files(members, str(tmp_path / code), ".nii.gz", reader(), model.labels)
        assert dice(tmp_path / f"{code}.nii.gz", expected) > 0.8


def knowing(labels: np.ndarray) -> torch.Tensor:
    """Logits (3, D, H, W) of a network that knows the labels."""
    return torch.from_numpy(np.stack([10.0 * (labels == k) for k in range(3)])).float()


def dice(file, truth: np.ndarray) -> float:
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    return min(2 * ((found == k) & (truth == k)).sum() / ((found == k).sum() + (truth == k).sum()) for k in (1, 2))


def test_segmentations_to_refine_are_turned_too(make_model, scene):
    predictor = predictor_of(make_model(settings={"orientation": "LPS"}).folder)
    clicks, maps = [], []
    for code in CODES:
        file, label_file = scene.files(code)
        prediction = predictor.predict_case([file], refine_from=label_file)
        clicks.append(prediction.prompt.points)
        maps.append(sitk.GetImageFromArray(prediction.segmentation()))
        maps[-1].CopyInformation(sitk.ReadImage(file))
    for points, found in zip(clicks, maps):
        np.testing.assert_allclose(points, clicks[0], atol=1e-4)
        assert (sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS")) == sitk.GetArrayFromImage(maps[0])).all()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_models_without_an_orientation_take_images_as_they_lie(make_model, scene, reader):
    model = load_model_folder(make_model(reader=reader, settings={"orientation": None}).folder)
    for code in CODES[:5]:
        file, _ = scene.files(code)
        found = read_case([file], model)
        expected, _, properties = DefaultPreprocessor(verbose=False).run_case(
            [file], None, model.plans, model.configuration, model.dataset_json
        )
        assert found.turn == NO_TURN
        np.testing.assert_allclose(found.on_grid.cut(found.grid.box), expected, atol=1e-5)
        assert pickle.dumps(found.properties["sitk_stuff"]) == pickle.dumps(properties["sitk_stuff"])


# --- sessions ---


def session_mask(session: SAM3DSession, array: np.ndarray, properties: dict, point: np.ndarray) -> np.ndarray:
    session.set_image(array, properties)
    session.set_target_buffer(np.zeros(array.shape[1:], np.uint8))
    changed = session.add_point_interaction(tuple(point), include_interaction=True)
    mask = session.target_buffer
    assert changed == [[int(i.min()), int(i.max()) + 1] for i in np.nonzero(mask)]
    return mask


KINDS = ("SimpleITKIO", "NibabelIO", "direction", "matrix", "affine")


def arrays_in_memory(file: str) -> dict[str, tuple[np.ndarray, dict, tuple[int, int, int]]]:
    """What programs give a session: array, properties, and which axis of the array is along i, j, k of the file."""
    image, loaded = sitk.ReadImage(file), nibabel.load(file)
    array, reversed_axes = sitk.GetArrayFromImage(image)[None], (2, 1, 0)
    direction = {"spacing": image.GetSpacing()[::-1], "direction": image.GetDirection()}
    return {
        "SimpleITKIO": (*SimpleITKIO().read_images([file]), reversed_axes),
        "NibabelIO": (*NibabelIO().read_images([file]), reversed_axes),
        "direction": (array, direction, reversed_axes),
        "matrix": (array, direction | {"direction": np.reshape(image.GetDirection(), (3, 3))}, reversed_axes),
        "affine": (loaded.get_fdata()[None], {"affine": loaded.affine}, (0, 1, 2)),
    }


def test_sessions_turn_arrays_whose_place_they_know(make_model, scene):
    model = make_model(settings={"orientation": "LPS"})
    session = SAM3DSession("cpu", do_autozoom=False)
    session.initialize_from_trained_model_folder(model.folder)
    expected = None
    for code, kinds in (("LPS", ["SimpleITKIO"]), ("RAS", ["direction"]), ("ASL", KINDS)):
        file, _ = scene.files(code)
        image = sitk.ReadImage(file)
        voxel = np.rint(image.TransformPhysicalPointToContinuousIndex(scene.prompt.points[0])).astype(int)
        for kind in kinds:
            array, properties, axes = arrays_in_memory(file)[kind]
            mask = session_mask(session, array, properties, voxel[list(axes)])
            found = sitk.GetImageFromArray(mask if axes == (2, 1, 0) else mask.transpose())
            found.CopyInformation(image)
            found = sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS"))
            assert found.any()
            expected = found if expected is None else expected
            assert (found == expected).all(), (code, kind)


def test_arrays_with_a_spacing_alone_are_taken_as_they_lie(make_model, scene):
    session = SAM3DSession("cpu", do_autozoom=False)
    session.initialize_from_trained_model_folder(make_model(settings={"orientation": "LPS"}).folder)
    array, properties = SimpleITKIO().read_images([scene.files("LPS")[0]])
    known = session_mask(session, array, properties, np.array([10, 6, 9]))
    unknown = session_mask(session, array, {"spacing": properties["spacing"]}, np.array([10, 6, 9]))
    assert (known == unknown).all()


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"direction": (1, 0, 0, 1)}, "The direction of the image is .* 3 x 3 numbers"),
        ({"affine": [1, 2]}, "The affine of the image is .* 4 x 4 numbers"),
        ({"affine": np.zeros((4, 4))}, "unusable affine"),
        ({"direction": [np.nan] * 9}, "unusable affine"),
        ({"direction": "LPS"}, "The direction of the image is LPS"),
    ],
)
def test_unusable_places_are_refused(make_model, properties, message):
    session = SAM3DSession("cpu")
    session.initialize_from_trained_model_folder(make_model().folder)
    with pytest.raises(SAM3DError, match=message):
        session.set_image(np.ones((1, 9, 9, 9)), {"spacing": (1, 1, 1), **properties})
