"""Images on disk, and nnU-Net's own check of a data set."""

import multiprocessing.dummy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk


@pytest.fixture
def write_image() -> Callable[..., sitk.Image]:
    """Writes an array (axes as files have them reversed) as an image with an oblique, shifted grid."""

    def write(file: Path, array: np.ndarray, spacing=(0.75, 1.0, 2.5), origin=(-20.0, 13.5, 7.0)) -> sitk.Image:
        image = sitk.GetImageFromArray(array, isVector=False)
        axes = image.GetDimension()
        image.SetSpacing([*spacing, 1.0][:axes])
        image.SetOrigin([*origin, 0.0][:axes])
        direction = np.eye(axes)
        direction[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
        image.SetDirection(direction.ravel().tolist())
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(file))
        return image

    return write


@pytest.fixture
def verify(monkeypatch) -> Callable[[Path], None]:
    """nnU-Net's own check of a raw data set, in threads, since starting processes takes it most of a minute."""
    from nnunetv2.experiment_planning import verify_dataset_integrity as module
    from nnunetv2.utilities import utils

    monkeypatch.setattr(module, "multiprocessing", SimpleNamespace(get_context=lambda kind: multiprocessing.dummy))
    monkeypatch.setattr(utils, "Pool", multiprocessing.dummy.Pool)
    return lambda folder: module.verify_dataset_integrity(str(folder), 1)


@pytest.fixture
def small_hippocampus(hippocampus, nnunet_folders) -> Path:
    """The first cases of the real data set, in nnUNet_raw."""
    folder = nnunet_folders.raw / hippocampus.name
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / part).mkdir(parents=True)
        for file in sorted((hippocampus / part).glob(f"*{ending}"))[:4]:
            shutil.copyfile(file, folder / part / file.name)
    description = (hippocampus / "dataset.json").read_text()
    (folder / "dataset.json").write_text(description.replace('"numTraining": 6', '"numTraining": 4'))
    return folder
