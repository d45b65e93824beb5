"""Small data sets in nnU-Net's format, and its three folders."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

# Before torch is imported: processes side by side, and the commands that they start, share the cores. Threads that wait
# for a core that another process has spin, and cost more than they gain.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(workers))))

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, settings

from sam3d_nnunet.io import kept_locale

# nnU-Net reads it when it is imported; each of its processes imports torch, which takes longer than a small case
os.environ.setdefault("nnUNet_def_n_proc", "1")

# beside these, tests import helpers and benchmarks by name: pyproject.toml says where they lie
pytest_plugins = ["data_fixtures", "training_fixtures", "model_fixtures", "evaluated_fixtures", "results_fixtures"]

# how long an example takes tells of the machine, not of the code
in_ci = bool(os.environ.get("CI"))  # where the same commit must pass or fail each time
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=in_ci)
settings.load_profile("any_machine")

MAY_BE_MISSING = (
    "pdflatex is not installed",
    "Snakemake needs Python 3.11",
    "this CPU does not compute in bfloat16",
    "Chromium or playwright is not installed",
    "the page's viewer is not built",
    "npm is not installed",
    "napari-nninteractive is not installed",
    "napari needs a display",
    "SLURM is not installed",
)
"""Reasons for which a test may be skipped in CI. A test that is skipped for another reason fails there."""


def pytest_collection_modifyitems(items):
    """Slow ones first: where tests run side by side, none of them is left to run alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return fail_skipped_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return fail_skipped_in_ci((yield))


def fail_skipped_in_ci(report):
    """With the variable CI set, a test or module that was skipped for a reason not in MAY_BE_MISSING has failed."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if not any(known in reason for known in MAY_BE_MISSING):
            report.outcome, report.longrepr = "failed", f"In CI no test may be skipped. {reason}"
    return report


@pytest.fixture(autouse=True)
def same_locale():
    """ITK sets the locale of the process when it reads VTK files, which some tests let it do without our functions."""
    with kept_locale():
        yield


@pytest.fixture(autouse=True)
def seeded():
    """Random weights and images differ from test to test, not from run to run."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def one_thread(request):
    """On small tensors more threads mostly wait for each other, long so on a busy machine."""
    threads = torch.get_num_threads()
    if not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch) -> SimpleNamespace:
    """nnU-Net's three variables, set to new folders `raw`, `preprocessed` and `results`."""
    folders = SimpleNamespace(**{name: tmp_path / name for name in ("raw", "preprocessed", "results")})
    for name, folder in vars(folders).items():
        folder.mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    monkeypatch.setenv("nnUNet_def_n_proc", "2")
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return folders


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command of this Python's environment: output as text, no exception for a non-zero exit."""

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess:
        program, *arguments = command
        program = Path(sys.executable).parent / program
        return subprocess.run(
            [program, *map(str, arguments)], env=os.environ | variables, capture_output=True, text=True, timeout=1800
        )

    return run


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Writes a data set of one channel into nnUNet_raw."""

    def write(
        raw: Path,
        name: str,
        cases: dict[str, tuple[np.ndarray, np.ndarray]],
        labels: dict[str, int | list[int]],
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        channel: str = "MRI",
        **more: object,
    ) -> Path:
        """`cases` holds image and label map by name; `spacing` is in the order of the arrays' axes."""
        for case, arrays in cases.items():
            files = (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
            for file, array, kind in zip(files, arrays, (np.float32, np.uint8)):
                image = sitk.GetImageFromArray(array.astype(kind))
                image.SetSpacing(spacing[::-1])
                (raw / name / file).parent.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(image, str(raw / name / file))
        content = {
            "channel_names": {"0": channel},
            "labels": labels,
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            **more,
        }
        (raw / name / "dataset.json").write_text(json.dumps(content))
        return raw / name

    return write


@pytest.fixture
def write_names(nnunet_folders) -> Callable[..., Path]:
    """Writes a data set of files that are nothing but names; returns its folder in nnUNet_preprocessed."""

    def write(cases: list[str], name: str = "Dataset220_Some") -> Path:
        folder = nnunet_folders.raw / name
        for part, channel in (("labelsTr", ""), ("imagesTr", "_0000")):
            (folder / part).mkdir(parents=True)
            for case in [*cases, "._" + cases[0]]:
                (folder / part / f"{case}{channel}.nii.gz").touch()
        description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(description))
        return nnunet_folders.preprocessed / name

    return write


@pytest.fixture(scope="session")
def write_fingerprint() -> Callable[..., None]:
    """Writes what nnU-Net would find out about a data set; doing so takes it seconds, to start processes."""

    def write(
        folder: Path, shapes: list[tuple[int, ...]], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), channels: int = 1
    ) -> None:
        names = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
        intensities = dict(zip(names, (1.0, 1.0, 0.5, 0.0, 2.0, 0.0, 2.0)))
        content = {
            "spacings": [spacing] * len(shapes),
            "shapes_after_crop": shapes,
            "median_relative_size_after_cropping": 1.0,
            "foreground_intensity_properties_per_channel": {str(n): intensities for n in range(channels)},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset_fingerprint.json").write_text(json.dumps(content))

    return write
