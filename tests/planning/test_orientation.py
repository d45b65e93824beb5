"""The reader of the plans, and the orientation that they note."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nibabel.eulerangles import euler2mat
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from sam3d_nnunet.planning.orientation import shared_orientation
from sam3d_nnunet.planning.planner import SAM3DPlanner

LABELS = {"background": 0, "lesion": 1}
SHAPE = (20, 24, 28)
READERS = {
    "SimpleITKIO": SimpleITKIO,
    "SimpleITKIOWithReorient": SimpleITKIOWithReorient,
    "NibabelIO": NibabelIO,
    "NibabelIOWithReorient": NibabelIOWithReorient,
}


def images(count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {f"case_{i}": (rng.normal(50, 20, SHAPE), np.ones(SHAPE)) for i in range(count)}


@pytest.fixture
def turned(nnunet_folders, write_dataset, write_fingerprint):
    """A data set of three images, in the orientations that are asked for: its name, and its raw folder."""

    def write(*orientations: str, **more) -> tuple[str, Path]:
        name = "Dataset719_Turned"
        folder = write_dataset(nnunet_folders.raw, name, images(3), LABELS, **more)
        for number, code in enumerate(orientations):
            for file in folder.rglob(f"case_{number}*.nii.gz"):
                sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), code), str(file))
        write_fingerprint(nnunet_folders.preprocessed / name, [SHAPE] * 3)
        return name, folder

    return write


def planned(name: str, planner: type[ExperimentPlanner] = SAM3DPlanner) -> dict:
    return planner(name).plan_experiment()


@pytest.mark.parametrize("wanted", [None, *READERS])
def test_reader_is_nnunets(turned, wanted):
    """Its tools average the arrays of plans without asking how they lie."""
    name, _ = turned("LPS", "LPS", "LPS", **({"overwrite_image_reader_writer": wanted} if wanted else {}))
    theirs, ours = planned(name, ExperimentPlanner), planned(name)
    assert ours["image_reader_writer"] == theirs["image_reader_writer"] == (wanted or "SimpleITKIO")
    assert ours["transpose_forward"] == theirs["transpose_forward"]


@pytest.mark.parametrize(
    ("orientations", "expected"),
    [
        (("LPS", "LPS", "LPS"), "LPS"),
        (("RAS", "RAS", "RAS"), "RAS"),
        (("PIR", "PIR", "PIR"), "PIR"),  # axes exchanged
        (("LPS", "LPS", "RAS"), None),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_shared_orientation(turned, capsys, reader, orientations, expected):
    _, folder = turned(*orientations)
    if reader.endswith("Reorient"):
        expected = "RAS"
    files = {file.name: file for file in sorted((folder / "imagesTr").iterdir())}
    found = shared_orientation(files, READERS[reader]())
    assert found == expected
    assert ("Training images lie in different orientations" in capsys.readouterr().out) == (expected is None)
    if found is not None:  # of the arrays as the reader returns them
        for file in files.values():
            array, _ = READERS[reader]().read_images([str(file)])
            in_it = sitk.DICOMOrient(sitk.ReadImage(str(file), sitk.sitkFloat32), found)
            assert (array[0] == sitk.GetArrayFromImage(in_it)).all()


@pytest.mark.parametrize(("code", "expected"), [("RAS", "RAS"), ("LPS", None)])
def test_orientation_is_noted_in_the_plans(turned, capsys, code, expected):
    name, _ = turned(code, code, "RAS")
    assert planned(name)["configurations"]["3d_fullres"]["sam3d"]["orientation"] == expected
    assert ("(LPS: case_0, case_1; RAS: case_2)" in capsys.readouterr().out) == (expected is None)


def test_oblique_images_count_as_the_nearest_orientation(turned):
    name, folder = turned("LPS", "LPS", "LPS")
    file = str(next((folder / "imagesTr").iterdir()))
    image = sitk.ReadImage(file)
    image.SetDirection(euler2mat(0.3, -0.2, 0.4).ravel())
    sitk.WriteImage(image, file)
    assert planned(name)["configurations"]["3d_fullres"]["sam3d"]["orientation"] == "LPS"


def test_sheared_images_have_an_orientation_too(turned):
    """ITK refuses their headers."""
    name, folder = turned("RAS", "RAS", "RAS", overwrite_image_reader_writer="NibabelIO")
    file = next((folder / "imagesTr").iterdir())
    image = nibabel.load(file)
    affine = image.affine @ [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(), affine), file)
    assert planned(name)["configurations"]["3d_fullres"]["sam3d"]["orientation"] == "RAS"


def test_pictures_have_no_orientation(nnunet_folders, write_fingerprint):
    name = "Dataset720_Tiff"
    folder = nnunet_folders.raw / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in ("a", "b"):
        tifffile.imwrite(folder / "imagesTr" / f"{case}_0000.tif", np.ones(SHAPE, np.uint8))
        tifffile.imwrite(folder / "labelsTr" / f"{case}.tif", np.ones(SHAPE, np.uint8))
    description = {"channel_names": {"0": "a"}, "labels": LABELS, "file_ending": ".tif", "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps(description))
    write_fingerprint(nnunet_folders.preprocessed / name, [SHAPE] * 2)
    assert planned(name)["configurations"]["3d_fullres"]["sam3d"]["orientation"] is None
