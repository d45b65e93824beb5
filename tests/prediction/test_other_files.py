"""`sam3d predict` on files that nnU-Net's own commands refuse: other endings, names without numbers, sheared axes."""

import unicodedata

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import read_header
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

CASE = "case_1"


def predict(model, *arguments: object) -> Result:
    given = ("predict", "--device", "cpu", "--disable_tta", "--dtype", "fp32", "-m", model.folder)
    return CliRunner().invoke(cli.app, [*map(str, (*given, *arguments))])


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def image(model):
    return sitk.ReadImage(str(model.images / f"{CASE}_0000.nii.gz"))


def test_whatever_itk_opens_gives_the_same_segmentation(model, image, tmp_path):
    """As a single image, and as folders of images without numbers or with the numbers of patients."""
    masks = {}
    for ending in (".nii.gz", ".nii", ".mhd", ".nhdr", ".mha", ".img"):
        out = tmp_path / f"out{ending}"
        sitk.WriteImage(image, str(tmp_path / f"liver (late) v1.2{ending}"))
        done = predict(model, "-i", tmp_path / f"liver (late) v1.2{ending}", "-o", out, "--click", "9,8,7")
        assert done.exit_code == 0, done.output
        masks[ending] = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "liver (late) v1.2.nii.gz")))
    assert masks[".nii.gz"].any()
    assert all((mask == masks[".nii.gz"]).all() for mask in masks.values())

    patients, prompts = tmp_path / "patients", tmp_path / "prompts"
    for folder in (patients, prompts):
        folder.mkdir()
    for name in ("liver_0001", "liver_0002"):
        sitk.WriteImage(image, str(patients / f"{name}.nii"))
        write_prompt(Prompt(image.TransformIndexToPhysicalPoint((9, 8, 7)), [1], name), prompts / f"{name}.json")
    (patients / "._liver_0001.nii").touch()
    done = predict(model, "-i", patients, "-o", tmp_path / "out", "--prompts", prompts)
    assert done.exit_code == 0, done.output
    assert "each file is a case, such as liver_0001" in done.output
    for name in ("liver_0001", "liver_0002"):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz")))
        assert (mask == masks[".nii.gz"]).all()


def test_a_segmentation_to_refine_in_another_format(model, image, tmp_path):
    mask = sitk.ReadImage(str(model.labels / f"{CASE}.nii.gz"))
    sitk.WriteImage(mask, str(tmp_path / f"{CASE}.nrrd"))  # as 3D Slicer saves it
    done = predict(model, "-i", model.images / f"{CASE}_0000.nii.gz", "-o", tmp_path / "out", "--refine-from", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / f"{CASE}.nii.gz").is_file()


def test_prompts_are_found_by_the_look_of_their_name(model, image, tmp_path):
    """Names of files and names in them come from other computers; macOS writes ü as u and two dots."""
    composed, taken_apart = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    sitk.WriteImage(image, str(tmp_path / f"{composed}_0000.nii.gz"))
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    point = image.TransformIndexToPhysicalPoint((9, 8, 7))
    for ending in (".json", ".csv"):
        file = prompts / f"{taken_apart}{ending}"
        write_prompt(Prompt(point, [1], taken_apart), file)
        done = predict(model, "-i", tmp_path / f"{composed}_0000.nii.gz", "-o", tmp_path / ending, "--prompts", prompts)
        assert done.exit_code == 0, done.output
        assert read_prompt(tmp_path / ending / f"{composed}.json").image == composed
        file.unlink()


def test_a_name_that_itk_would_cut_is_refused(model, image, tmp_path):
    """ITK writes scan.nii.gz instead of scan.nii.gz.nii.gz."""
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz_0000.nii.gz"))
    done = predict(model, "-i", tmp_path / "scan.nii.gz_0000.nii.gz", "-o", tmp_path / "out", "--click", "9,8,7")
    assert isinstance(done.exception, SAM3DError)
    assert "'scan.nii.gz': the name ends in .nii.gz, which ITK takes" in str(done.exception)


def test_sheared_image(make_model, tmp_path):
    """nnU-Net takes nibabel's reader where ITK refuses the images; clicks and output keep the sheared axes."""
    sheared = np.array([[-1, 0.3, 0, 5], [0, -1, 0, 7], [0, 0, 1, -3], [0, 0, 0, 1.0]])
    file = tmp_path / "sheared.nii.gz"
    voxels = np.random.default_rng(0).normal(10, 1, (18, 20, 16)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, sheared), file)
    with pytest.raises(SAM3DError, match="sheared.nii.gz.* Resample it"):
        read_header(file)

    done = predict(make_model(), "-i", file, "-o", tmp_path / "itk", "--click", "9,8,7")
    assert done.exit_code == 1 and "sheared.nii.gz" in done.output and "Resample it" in done.output

    done = predict(make_model(reader="NibabelIO"), "-i", file, "-o", tmp_path / "out", "--click", "9,8,7")
    assert done.exit_code == 0, done.output
    right, anterior, superior, _ = sheared @ [9, 8, 7, 1]
    assert read_prompt(tmp_path / "out" / "sheared.json").points == pytest.approx(
        np.array([[-right, -anterior, superior]])
    )
    assert nibabel.load(tmp_path / "out" / "sheared.nii.gz").affine == pytest.approx(sheared)
