"""Untrained models whose data set nnU-Net finds, as for prediction."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

import sam3d_nnunet

CASES = ["Fall_Müller_病例", "case_2"]
"""The validation cases of each fold."""


@pytest.fixture
def make_evaluated(make_model, prepared, monkeypatch) -> Callable[..., SimpleNamespace]:
    """As `make_model`, with nnU-Net's variables set; `.dataset` is the name, `.root` the raw data set."""
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(sam3d_nnunet.__file__).parent / "nnunet_ext"))

    def make(kind: str = "classes", **options) -> SimpleNamespace:
        model = make_model(kind, **options)
        monkeypatch.setenv("nnUNet_raw", str(prepared(kind).root / "raw"))
        model.dataset = prepared(kind).name
        return model

    return make


@pytest.fixture(scope="session")
def read() -> Callable[[Path], np.ndarray]:
    """Reads a label map as its file lies."""
    return lambda file: sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
