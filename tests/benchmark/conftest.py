"""Untrained models whose data set nnU-Net finds, as for prediction."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

import sam3d_nnunet

spec = importlib.util.spec_from_file_location("inference_fixtures", Path(__file__).parents[1] / "inference/conftest.py")
inference_fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inference_fixtures)
make_model, make_trainer, prepared, one_thread = (
    getattr(inference_fixtures, name) for name in ("make_model", "make_trainer", "prepared", "one_thread")
)

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
