import json
import sys

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from skimage.io import imsave
from small_sam import make_sam
from typer.testing import CliRunner, Result

from sam3d_nnunet.baselines.sam2d import SliceCases, SliceSAM, load_sam, to_grey
from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

DATASET = {"labels": {"background": 0, "organ": 1, "lesion": 2}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
SPACING = (0.8, 0.9, 3.0)  # mm along x, y, z
ORIGIN = (-20.0, 30.0, 100.0)
SHAPE = (5, 20, 30)


@pytest.fixture(scope="module")
def sam() -> Sam:
    return make_sam()


@pytest.fixture
def slices() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


def directly(sam: Sam, image: np.ndarray, xy: list, point_labels: list, multimask: bool) -> np.ndarray:
    """Logits of the best mask by segment-anything's own predictor."""
    predictor = SamPredictor(sam)
    predictor.set_image(np.stack([image] * 3, axis=-1))
    masks, quality, _ = predictor.predict(
        np.array(xy, float), np.array(point_labels), multimask_output=multimask, return_logits=True
    )
    return masks[np.argmax(quality)]


def test_one_click_takes_the_best_of_three_masks(sam, slices):
    found = SliceSAM(sam).predict(slices, np.array([[2.2, 7.0, 11.5]]), np.array([2]))
    expected = directly(sam, slices[2], [[11.5, 7.0]], [1], multimask=True) > 0
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(found[2], 2 * expected)
    assert not found[[0, 1, 3, 4]].any()


def test_several_clicks_make_one_mask_and_background_clicks_belong_to_it(sam, slices):
    points = np.array([[1, 7.0, 11.0], [1, 9.0, 3.0], [1, 15.0, 25.0], [3, 0.0, 0.0]])
    found = SliceSAM(sam).predict(slices, points, np.array([1, 1, 0, 0]))
    expected = directly(sam, slices[1], [[11, 7], [3, 9], [25, 15]], [1, 1, 0], multimask=False) > 0
    assert expected.any()
    assert np.array_equal(found[1], expected)
    assert not found[3].any()  # background clicks alone


def test_the_higher_logit_wins(sam, slices):
    points = np.array([[4, 3.0, 4.0], [4, 15.0, 25.0]])
    found = SliceSAM(sam).predict(slices, points, np.array([1, 2]))
    first = directly(sam, slices[4], [[4, 3]], [1], multimask=True)
    second = directly(sam, slices[4], [[25, 15]], [1], multimask=True)
    both = (first > 0) & (second > 0)
    assert both.any()
    assert np.array_equal(found[4] == 2, (second > 0) & (second > first))
    assert np.array_equal(found[4] == 1, (first > 0) & ~((second > 0) & (second > first)))


def test_without_clicks_all_is_background(sam, slices):
    assert not SliceSAM(sam).predict(slices, np.zeros((0, 3)), np.zeros(0, int)).any()


def test_labels_above_255(sam, slices):
    found = SliceSAM(sam).predict(slices, np.array([[2, 7.0, 11.0]]), np.array([300]))
    assert set(np.unique(found)) == {0, 300}


def test_grey_values():
    volume = np.array([-1000, -54, 96.5, 247, 3000])
    assert to_grey(volume, (-54, 247)).tolist() == [0, 0, 128, 255, 255]
    assert not to_grey(np.full(5, 7.0)).any()


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_grey_values_by_percentiles_know_no_units(seed, scale, offset):
    volume = np.random.default_rng(seed).normal(size=(4, 5, 6))
    grey, other = (to_grey(v).astype(int) for v in (volume, scale * volume + offset))
    assert np.abs(grey - other).max() <= 1
    assert (grey.min(), grey.max()) == (0, 255)


def write_image(file, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(image, file)


@pytest.fixture
def folder(tmp_path):
    """Two images with clicks, a third whose clicks are elsewhere, and one without clicks."""
    for name in ("images", "prompts"):
        (tmp_path / name).mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    places = {
        "a": [[2, 7, 11], [3, 9, 20]],
        "b": [[1, 4, 5], [1, 12, 22]],
        "outside": [[50, 7, 11], [2, 3, 4]],
        "no": [],
    }
    for seed, (name, voxels) in enumerate(places.items()):
        array = np.random.default_rng(seed).normal(0, 100, SHAPE).astype(np.float32)
        file = tmp_path / "images" / f"{name}_0000.nii.gz"
        write_image(file, array)
        world = ImageGeometry.from_file(file).to_world(np.reshape(voxels, (-1, 3)))
        write_prompt(Prompt(world, [1, 2][: len(voxels)], name), tmp_path / "prompts" / f"{name}.json")
    return tmp_path


def test_folder(sam, folder):
    (folder / "images" / "._a_0000.nii.gz").touch()
    cases = SliceCases(folder / "images", folder / "deep" / "out", DATASET)
    assert cases.names == ["a", "b", "no", "outside"]  # without what macOS leaves beside them
    reports = list(cases.predict(SliceSAM(sam), cases.names, folder / "prompts", (-150, 150)))
    assert [(r.name, r.clicks, r.slices) for r in reports] == [
        ("a", 2, 2),
        ("b", 2, 1),
        ("no", 0, 0),
        ("outside", 0, 0),
    ]
    assert [r.error is None for r in reports] == [True, True, True, False]
    assert "outside the image of 30 x 20 x 5 voxels" in reports[3].error
    assert {file.name for file in (folder / "deep" / "out").iterdir()} == {"a.nii.gz", "b.nii.gz", "no.nii.gz"}

    image = sitk.ReadImage(folder / "images" / "a_0000.nii.gz")
    written = sitk.ReadImage(folder / "deep" / "out" / "a.nii.gz")
    assert written.GetSpacing() == pytest.approx(image.GetSpacing())
    assert written.GetOrigin() == pytest.approx(image.GetOrigin())
    grey = to_grey(sitk.GetArrayFromImage(image), (-150, 150))
    expected = np.zeros(SHAPE, int)
    expected[2] = directly(sam, grey[2], [[11, 7]], [1], multimask=True) > 0
    expected[3] = 2 * (directly(sam, grey[3], [[20, 9]], [1], multimask=True) > 0)
    assert np.array_equal(sitk.GetArrayFromImage(written), expected)
    assert not sitk.GetArrayFromImage(sitk.ReadImage(folder / "deep" / "out" / "no.nii.gz")).any()


def test_sagittal_image_is_cut_axially(sam, folder):
    """An image that is stored sagittally gets the segmentation of the same image stored axially, turned."""
    axial = SliceCases(folder / "images", folder / "axial", DATASET)
    assert next(axial.predict(SliceSAM(sam), ["b"], folder / "prompts")).error is None

    image = sitk.ReadImage(folder / "images" / "b_0000.nii.gz")
    (folder / "turned").mkdir()
    sitk.WriteImage(sitk.PermuteAxes(image, [1, 2, 0]), folder / "turned" / "b_0000.nii.gz")
    sagittal = SliceCases(folder / "turned", folder / "sagittal", DATASET)
    assert next(sagittal.predict(SliceSAM(sam), ["b"], folder / "prompts")).error is None

    expected = sitk.ReadImage(folder / "axial" / "b.nii.gz")
    found = sitk.PermuteAxes(sitk.ReadImage(folder / "sagittal" / "b.nii.gz"), [2, 0, 1])
    assert found.GetOrigin() == pytest.approx(expected.GetOrigin())
    assert found.GetSize() == expected.GetSize()
    first, second = (sitk.GetArrayFromImage(i) for i in (expected, found))
    assert first.any()
    assert np.array_equal(first, second)


def test_missing_clicks_and_broken_image_cost_their_cases_only(sam, folder):
    (folder / "prompts" / "a.json").unlink()
    (folder / "images" / "b_0000.nii.gz").write_bytes(b"no image")
    cases = SliceCases(folder / "images", folder / "out", DATASET)
    reports = {r.name: r for r in cases.predict(SliceSAM(sam), ["a", "b", "no"], folder / "prompts")}
    assert "1 case(s): a" in reports["a"].error
    assert "can't be read" in reports["b"].error and "\n" not in reports["b"].error
    assert reports["no"].error is None
    assert cases.is_finished("no") and not cases.is_finished("a")
    assert [f.name for f in (folder / "out").iterdir()] == ["no.nii.gz"]


def test_unusable_folders(folder):
    with pytest.raises(SAM3DError, match="There is no folder"):
        SliceCases(folder / "nowhere", folder / "out", DATASET)
    with pytest.raises(SAM3DError, match="holds no image CASE_0000.nii.gz"):
        SliceCases(folder / "prompts", folder / "out", DATASET)
    with pytest.raises(SAM3DError, match="no reader"):
        SliceCases(folder / "images", folder / "out", DATASET | {"file_ending": ".xyz"})


@pytest.fixture
def checkpoint(sam, folder, monkeypatch):
    """A file of weights that fit what stands for vit_b."""
    torch.save(sam.state_dict(), folder / "sam.pth")
    monkeypatch.setitem(sam_model_registry, "vit_b", make_sam)
    return folder / "sam.pth"


def test_weights_are_loaded(sam, checkpoint):
    torch.save({name: t + 1 for name, t in sam.state_dict().items()}, checkpoint)
    loaded = load_sam("vit_b", checkpoint)
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, sam.state_dict()[name] + 1)


def test_unusable_weights(sam, checkpoint):
    torch.save({"a": torch.zeros(1)}, checkpoint)
    with pytest.raises(SAM3DError, match="doesn't hold SAM's vit_b: Missing key"):
        load_sam("vit_b", checkpoint)
    torch.save({1: torch.zeros(1)}, checkpoint)
    with pytest.raises(SAM3DError, match="doesn't hold SAM's vit_b"):
        load_sam("vit_b", checkpoint)
    torch.save(make_sam, checkpoint)  # code
    with pytest.raises(SAM3DError, match="could run code"):
        load_sam("vit_b", checkpoint)


def test_missing_package(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(SAM3DError, match=r'pip install "sam3d_nnunet\[baselines\]"'):
        load_sam("vit_b", checkpoint)


def invoke(folder, *more) -> Result:
    fixed = ["-i", folder / "images", "-o", folder / "out", "--prompts", folder / "prompts", "--device", "cpu"]
    return CliRunner().invoke(cli.app, ["predict-sam2d", *map(str, [*fixed, *more])])


def test_command(folder, checkpoint):
    arguments = ["--dataset-json", folder / "dataset.json", "--checkpoint", checkpoint, "--clip", -150, 150]
    done = invoke(folder, *arguments)
    assert done.exit_code == 1
    assert "Error: 1 of 4 case(s) failed: outside" in done.output
    assert (folder / "out" / "a.nii.gz").is_file()

    (folder / "images" / "outside_0000.nii.gz").unlink()
    before = (folder / "out" / "a.nii.gz").stat().st_mtime_ns
    (folder / "out" / "b.nii.gz").unlink()
    done = invoke(folder, *arguments, "--continue")
    assert done.exit_code == 0, done.output
    assert "b: 2 click(s), 1 slice(s)" in done.output
    assert (folder / "out" / "a.nii.gz").stat().st_mtime_ns == before
    costs = pd.read_csv(folder / "out" / "prediction.csv")
    assert costs[["case", "clicks"]].values.tolist() == [["a", 2], ["b", 2], ["no", 0]]
    assert (costs["seconds"] > 0).all()


def test_command_leaves_out_cases_without_clicks(folder, checkpoint):
    arguments = ["--dataset-json", folder / "dataset.json", "--checkpoint", checkpoint]
    for case in ("b", "outside"):
        (folder / "prompts" / f"{case}.json").unlink()
    for more in ([], ["--continue"]):
        done = invoke(folder, *arguments, *more)
        assert done.exit_code == 0, done.output
        assert f"2 of 4 case(s) have no clicks in {folder / 'prompts'} and were left out." in done.output
        assert {file.name for file in (folder / "out").glob("*.nii.gz")} == {"a.nii.gz", "no.nii.gz"}

    for case in ("a", "no"):
        (folder / "prompts" / f"{case}.json").unlink()
    done = invoke(folder, *arguments)
    assert isinstance(done.exception, SAM3DError)
    assert "holds no prompt file of the 4 case(s)" in str(done.exception)


def test_command_refuses_one_prompt_file_for_several_images(folder):
    asked = ["--dataset-json", folder / "dataset.json", "--prompts", folder / "prompts" / "a.json"]
    done = invoke(folder, *asked)
    assert isinstance(done.exception, SAM3DError)
    assert "a.json" in str(done.exception) and "4 images" in str(done.exception)


@pytest.mark.parametrize(
    "array, message", [(np.full(SHAPE, np.nan), "not finite"), (np.zeros((2, *SHAPE)), "has 2 time points")]
)
def test_images_that_sam_would_misread(sam, folder, array, message):
    for name, voxels in (("a", array), ("b", np.zeros(SHAPE))):  # as NRRD, since ITK reads no NaN from NIfTI
        image = sitk.GetImageFromArray(voxels.astype(np.float32), isVector=False)
        image.SetSpacing((*SPACING, 1)[: voxels.ndim])
        image.SetOrigin((*ORIGIN, 0)[: voxels.ndim])
        sitk.WriteImage(image, str(folder / "images" / f"{name}_0000.nrrd"))
    cases = SliceCases(folder / "images", folder / "out", DATASET | {"file_ending": ".nrrd"})
    first, second = cases.predict(SliceSAM(sam), ["a", "b"], folder / "prompts")
    assert message in first.error and "a_0000.nrrd" in first.error
    assert second.error is None


def test_colours_are_refused(sam, folder):
    imsave(folder / "images" / "a_0000.png", np.zeros((9, 9, 3), np.uint8), check_contrast=False)
    cases = SliceCases(folder / "images", folder / "out", DATASET | {"file_ending": ".png"})
    (report,) = cases.predict(SliceSAM(sam), ["a"], folder / "prompts")
    assert "a_0000.png holds 3 volumes" in report.error


@pytest.mark.parametrize("labels", [["background", "organ"], {"background": 0, "whole": [1, 2], "lesion": 2}])
def test_labels_that_cannot_be_used(folder, labels):
    with pytest.raises(SAM3DError, match="labels in dataset.json can't be used"):
        SliceCases(folder / "images", folder / "out", DATASET | {"labels": labels})


def test_the_output_is_no_folder(sam, folder):
    (folder / "out").touch()
    cases = SliceCases(folder / "images", folder / "out", DATASET)
    with pytest.raises(SAM3DError, match="out can't be the folder for segmentations: File exists"):
        next(cases.predict(SliceSAM(sam), ["a"], folder / "prompts"))


def test_command_finds_weights_by_the_variable(folder, checkpoint, monkeypatch):
    monkeypatch.setenv("SAM3D_CHECKPOINT", str(checkpoint))
    done = invoke(folder, "--dataset-json", folder / "dataset.json")
    assert "a: 2 click(s), 2 slice(s)" in done.output


# --- the window of a data set ---

ORGAN, LESION = 40, 100  # HU
FOREGROUND = (-54, 247)  # percentiles 0.5 and 99.5 of the labelled voxels


def ct(air: float) -> tuple[np.ndarray, np.ndarray]:
    """An image with a share of air, and the label map of the rest: a ramp, with an organ and a lesion in it."""
    image = np.full(SHAPE, -1000.0)
    rows = round(air * SHAPE[1])
    image[:, rows:] = np.linspace(*FOREGROUND, image[:, rows:].size).reshape(image[:, rows:].shape)
    image[:, -1, :2] = ORGAN, LESION
    return image, (image > -1000).astype(np.uint8)


@pytest.fixture
def make_dataset(nnunet_folders, write_dataset, folder, checkpoint):
    """Writes two images of one modality into nnUNet_raw, as images of the command, too. Returns its -d and so on."""

    def make(channel: str = "CT") -> list:
        cases = {"a": ct(air=0.5), "b": ct(air=0.7)}
        raw = write_dataset(nnunet_folders.raw, "Dataset004_Some", cases, DATASET["labels"], channel=channel)
        for image in (raw / "imagesTr").iterdir():
            image.rename(folder / "images" / image.name)
        for case in cases:
            write_prompt(Prompt([[3, 4, 2]], [1], case), folder / "prompts" / f"{case}.json")
        for case in ("no", "outside"):
            (folder / "images" / f"{case}_0000.nii.gz").unlink()
        return ["-d", "4", "--checkpoint", checkpoint]

    return make


@pytest.fixture
def shown(monkeypatch) -> list[np.ndarray]:
    """The grey slices that SAM sees."""
    seen = []

    def predict(sam, slices, *_):
        seen.append(slices.astype(int))
        return np.zeros(slices.shape, np.uint8)

    monkeypatch.setattr(SliceSAM, "predict", predict)
    return seen


def write_percentiles(folders, **more: float) -> None:
    """What nnU-Net finds out about the foreground of the data set of `make_dataset`."""
    statistics = dict.fromkeys(("mean", "median", "std", "min", "max"), 0.0)
    statistics |= {"percentile_00_5": FOREGROUND[0], "percentile_99_5": FOREGROUND[1]} | more
    images = {"spacings": [[1.0] * 3], "shapes_after_crop": [[4] * 3], "median_relative_size_after_cropping": 1.0}
    file = folders.preprocessed / "Dataset004_Some" / "dataset_fingerprint.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(images | {"foreground_intensity_properties_per_channel": {"0": statistics}}))


def contrasts(shown: list[np.ndarray]) -> list[int]:
    """Between lesion and organ, in grey values."""
    return [image[0, -1, 1] - image[0, -1, 0] for image in shown]


def test_ct_is_shown_as_nnunet_clips_it(folder, make_dataset, shown, nnunet_folders):
    """With the percentiles of each image, air takes three quarters of the grey values."""
    asked = make_dataset()
    write_percentiles(nnunet_folders)
    done = invoke(folder, *asked)
    assert done.exit_code == 0, done.output
    assert "black and white: -54 and 247" in done.output
    expected = 255 * (LESION - ORGAN) / (FOREGROUND[1] - FOREGROUND[0])
    assert contrasts(shown) == pytest.approx([expected] * 2, abs=1)
    shown.clear()
    assert invoke(folder, "--dataset-json", folder / "dataset.json", *asked[2:]).exit_code == 0
    assert max(contrasts(shown)) <= 0.25 * expected
    shown.clear()
    assert invoke(folder, *asked, "--clip", 0, 200).exit_code == 0
    assert contrasts(shown) == pytest.approx([255 * (LESION - ORGAN) / 200] * 2, abs=1)


def test_images_without_a_common_scale_are_shown_one_by_one(folder, make_dataset, shown, nnunet_folders):
    asked = make_dataset("T1")
    write_percentiles(nnunet_folders)
    done = invoke(folder, *asked)
    assert done.exit_code == 0, done.output
    assert "black and white: percentiles of each image" in done.output
    for image, grey in zip((ct(0.5)[0], ct(0.7)[0]), shown):
        assert np.array_equal(grey, to_grey(image.astype(np.float32)))


def test_ct_without_a_window(folder, make_dataset, nnunet_folders):
    asked = make_dataset()
    done = invoke(folder, *asked)
    assert isinstance(done.exception, SAM3DError)
    assert "nnUNetv2_extract_fingerprint -d 4" in str(done.exception)
    for wrong in ({"percentile_99_5": -60}, {"percentile_00_5": float("nan")}, {"percentile_99_5": None}):
        write_percentiles(nnunet_folders, **wrong)
        done = invoke(folder, *asked)
        assert isinstance(done.exception, SAM3DError)
        assert "dataset_fingerprint.json" in str(done.exception) and "percentile" in str(done.exception)


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "either by -d or by its --dataset-json"),
        (["-d", "4", "--clip", "5", "5"], "the lower one first"),
        (["-d", "4", "--clip", "nan", "nan"], "two finite intensities"),
        (["-d", "4", "--clip", "0", "inf"], "two finite intensities"),
    ],
)
def test_command_refuses(folder, more, message):
    done = invoke(folder, *more)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
