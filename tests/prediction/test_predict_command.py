"""`sam3d predict` from its arguments to its files."""

import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.cli.options import Windows
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prediction.windows import RULES
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["predict", "--device", "cpu", *map(str, arguments)])


def test_without_a_device_it_takes_the_gpu_or_says_that_there_is_none(model, tmp_path, monkeypatch):
    fixed = ("-i", model.images / "case_1_0000.nii.gz", "-o", tmp_path, "-m", model.folder, "--click", "9,8,7")
    arguments = ["predict", *map(str, fixed), "--windows", "single", "--disable_tta"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "device: cpu (no CUDA GPU found)"
    assert (tmp_path / "case_1.nii.gz").is_file()
    refused = CliRunner().invoke(cli.app, [*arguments, "--device", "cuda"])
    assert isinstance(refused.exception, SAM3DError) and "cuda can't be used here" in str(refused.exception)

    def stop(self: SAM3DPredictor, device: str, *_: object, **__: object) -> None:
        raise SAM3DError(device)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(SAM3DPredictor, "__init__", stop)
    chosen = CliRunner().invoke(cli.app, arguments)
    assert str(chosen.exception) == "cuda" and "device:" not in chosen.output


@pytest.fixture
def model(make_model):
    return make_model()


def test_typed_clicks_and_a_table(model, tmp_path):
    image, out, table = model.images / "case_1_0000.nii.gz", tmp_path / "out", tmp_path / "clicks.CSV"
    table.write_text("label,r,a,s,defined\nF-1,-8,-7,6,1\n")
    done = predict(
        *("-i", image, "-o", out, "-m", model.folder, "--click", "9,8,7", "--click", "3,4,5=background"),
        *("--click-mm", "11,10,9=rim", "--prompts", table, "--dtype", "fp32", "--disable_tta"),
    )
    assert done.exit_code == 0, done.output
    assert "case_1: 4 click(s), " in done.output
    note = "clicks.CSV: columns r, a, s (RAS), 1 click(s) name no class and have the label 1 (core)"
    assert note in " ".join(done.output.split())
    clicks = read_prompt(out / "case_1.json")
    assert clicks.points.tolist() == [[8, 7, 6], [9, 8, 7], [3, 4, 5], [11, 10, 9]]
    assert clicks.labels.tolist() == [1, 1, 0, 2]
    segmentation = sitk.ReadImage(str(out / "case_1.nii.gz"))
    assert segmentation.GetSize() == sitk.ReadImage(str(image)).GetSize()


def test_a_single_window(model, tmp_path):
    """Of patches of 16 voxels; the image has 22 x 18 x 20 (x, y, z)."""
    fixed = ("-i", model.images / "case_1_0000.nii.gz", "-m", model.folder, "--click", "1,9,9", "--click", "20,9,9")
    done = predict(*fixed, "-o", tmp_path / "one", "--windows", "single")
    assert done.exit_code == 0, done.output
    assert "case_1: 2 click(s), 1 window(s)" in done.output
    assert "2 of 2 click(s) outside the window were not used" in " ".join(done.output.split())
    done = predict(*fixed, "-o", tmp_path / "two", "--max-windows", 2)
    assert "case_1: 2 click(s), 2 window(s)" in done.output and "outside" not in done.output


def test_rules_for_windows_are_those_of_the_predictor():
    assert [rule.value for rule in Windows] == list(RULES)
    with pytest.raises(SAM3DError, match="no rule 'none' for windows. Give one of follow, single"):
        SAM3DPredictor(windows="none")


def test_voxels_of_a_turned_file(model, tmp_path):
    """A click by its voxel names the same place as in the world, whatever the order of the file's axes."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(model.images / "case_1_0000.nii.gz")), "SAR")
    sitk.WriteImage(image, str(tmp_path / "any name.nrrd"))
    voxel = (4, 5, 6)
    done = predict(
        *("-i", tmp_path / "any name.nrrd", "-o", tmp_path, "-m", model.folder),
        *("--click", "4,5,6", "--click-mm", ",".join(map(str, image.TransformIndexToPhysicalPoint(voxel)))),
    )
    assert done.exit_code == 0, done.output
    first, second = read_prompt(tmp_path / "any name.json").points
    assert first == pytest.approx(second)
    assert (tmp_path / "any name.nii.gz").is_file()


def test_folder_with_a_bad_case(model, tmp_path):
    prompts, out = tmp_path / "prompts", tmp_path / "out"
    prompts.mkdir()
    for case in ("case_1", "case_2", "case_3", "case_4"):
        write_prompt(Prompt([[9, 9, 9]], [1], case), prompts / f"{case}.json")
    done = predict("-i", model.images, "-o", out, "-m", model.folder, "--prompts", prompts)
    assert done.exit_code == 1
    assert "Error: 1 of 5 case(s) failed: Fall_Müller_病例" in done.output
    assert "Traceback" not in done.output
    assert (out / "case_4.nii.gz").is_file()

    write_prompt(Prompt([[9, 9, 9]], [1], "Fall_Müller_病例"), prompts / "Fall_Müller_病例.json")
    done = predict("-i", model.images, "-o", out, "-m", model.folder, "--prompts", prompts, "--continue")
    assert done.exit_code == 0, done.output
    assert "case_4: " not in done.output and "Fall_Müller_病例: 1 click(s)" in done.output


def test_model_by_names_and_refinement(model, results, tmp_path):
    # the trainer of these models is a short variant
    (results / model.folder.parent.name / "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres").symlink_to(model.folder)
    coarse = tmp_path / "coarse"
    coarse.mkdir()
    shutil.copy(model.labels / "case_1.nii.gz", coarse)
    done = predict(
        *("-i", model.images / "case_1_0000.nii.gz", "-o", tmp_path / "out", "-d", 711, "-f", 0),
        *("--refine-from", coarse, "--per-lesion", "--instances", "--save_probabilities", "--max-windows", 1),
    )
    assert done.exit_code == 0, done.output
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("case_1*")}
    assert found == {"case_1.nii.gz", "case_1.json", "case_1.npz", "case_1.pkl", "instances/case_1.nii.gz"}


def test_image_in_the_output_folder(model, tmp_path, monkeypatch):
    shutil.copy(model.images / "case_1_0000.nii.gz", tmp_path / "ct.nii.gz")
    before = (tmp_path / "ct.nii.gz").read_bytes()
    monkeypatch.chdir(tmp_path)
    done = predict("-i", "ct.nii.gz", "-o", ".", "-m", model.folder, "--click", "9,9,9")
    assert done.exit_code == 1
    assert "ct: failed. The prediction would overwrite ct.nii.gz" in done.output
    assert (tmp_path / "ct.nii.gz").read_bytes() == before


@pytest.mark.parametrize(
    "value, place, message",
    [
        (np.nan, (2, 3, 4), "nothing.nrrd .* finite"),
        (np.inf, (2, 3, 4), "nothing.nrrd .* finite"),
        (0, ..., "nothing.nrrd .* 0"),
    ],
)
def test_images_of_nothing_are_refused(model, tmp_path, value, place, message):
    """One NaN is enough to make nnU-Net's normalised image NaN, in which a network finds nothing."""
    image = sitk.ReadImage(str(model.images / "case_1_0000.nii.gz"), sitk.sitkFloat32)
    voxels = sitk.GetArrayFromImage(image)
    voxels[place] = value
    changed = sitk.GetImageFromArray(voxels)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(tmp_path / "nothing.nrrd"))
    done = predict("-i", tmp_path / "nothing.nrrd", "-o", tmp_path, "-m", model.folder, "--click", "9,9,9")
    assert done.exit_code == 1
    assert re.search(message, done.output)
    assert not (tmp_path / "nothing.nii.gz").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--click", "9,9"], "'9,9'"),
        (["--click", "9,9,9", "-f", "4"], "fold_4"),
        (["--click", "9,9,9", "-chk", "a.pth"], "a.pth"),
        ([], "no clicks"),
    ],
)
def test_mistakes_are_sentences(model, tmp_path, arguments, message):
    done = predict("-i", model.images / "case_1_0000.nii.gz", "-o", tmp_path / "out", "-m", model.folder, *arguments)
    assert isinstance(done.exception, SAM3DError)
    assert message in str(done.exception)
    assert not any((tmp_path / "out").iterdir())
