"""A small folder of results, as `sam3d evaluate` leaves it, with made-up predictions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from sam3d_nnunet.evaluation.metrics import case_metrics
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

UNET = "nnUNetTrainer__SAM3DPlans__3d_fullres"
ADAPTER = "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres"
TARGETS = {"Anterior": 1, "Posterior": 2}
CASES = [f"case_{i:02}" for i in range(12)]
SPLITS = [{"train": CASES[6:], "val": CASES[:6]}, {"train": CASES[:6], "val": CASES[6:]}]
EMPTY = "case_07"  # has no Posterior
TRIALS = 3
STEPS = 3  # of the iterated protocol
SHAPE = (8, 12, 10)
SPACING = (3.0, 1.0, 0.8)
PROTOCOLS = {UNET: ("automatic",), ADAPTER: ("automatic", "volume_1", "volume_3", "volume_10", f"iterated_{STEPS}")}
NOISE = {"automatic": 0.12, "volume_1": 0.08, "volume_3": 0.06, "volume_10": 0.04, f"iterated_{STEPS}": 0.1}


@pytest.fixture(scope="session")
def made_results(tmp_path_factory) -> Path:
    """Two methods, two folds, twelve cases, two targets; one case has no Posterior. Not to be changed."""
    folder = tmp_path_factory.mktemp("made_results")
    rng = np.random.default_rng(0)
    truths = {case: _truth(case, rng) for case in CASES}
    for case, truth in truths.items():
        image = truth + rng.normal(scale=0.3, size=SHAPE)
        _write(image.astype(np.float32), folder / "imagesTr" / f"{case}_0000.nii.gz")
        _write(truth, folder / "labelsTr" / f"{case}.nii.gz")
    root = folder / "results"
    root.mkdir()
    _write_data(root)
    for protocol in PROTOCOLS[ADAPTER][1:]:
        _write_prompts(root / "prompts" / protocol, protocol, truths, rng)
    for method, protocols in PROTOCOLS.items():
        _write_method(root / method, method)
        for protocol in protocols:
            _write_predictions(root / method / protocol, protocol, truths, method == ADAPTER, rng)
    return root


@pytest.fixture
def results_folder(made_results, tmp_path) -> Path:
    """A copy of `made_results`, to be changed; images and truth are shared."""
    return Path(shutil.copytree(made_results, tmp_path / "results"))


def _truth(case: str, rng: np.random.Generator) -> np.ndarray:
    truth = np.zeros(SHAPE, np.uint8)
    d, h, w = rng.integers(0, 3, 3)
    truth[1 + d : 5 + d, 2 + h : 5 + h, 1 + w : 7 + w] = 1
    if case != EMPTY:
        truth[1 + d : 5 + d, 5 + h : 8 + h, 1 + w : 7 + w] = 2
    return truth


def _predict(truth: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """The truth with wrong voxels."""
    wrong = rng.random(SHAPE) < noise
    return np.where(wrong, rng.integers(0, 3, SHAPE), truth).astype(np.uint8)


def _write_data(root: Path) -> None:
    data = {
        "format": "sam3d_results",
        "version": 1,
        "dataset": "Dataset004_Hippocampus",
        "images": str(root.parent / "imagesTr"),
        "truth": str(root.parent / "labelsTr"),
        "dataset_json": {
            "labels": {"background": 0, **TARGETS},
            "channel_names": {"0": "MRI"},
            "numTraining": len(CASES),
            "file_ending": ".nii.gz",
        },
    }
    (root / "data.json").write_text(json.dumps(data))


def _write_method(folder: Path, method: str) -> None:
    trainer, plans, configuration = method.split("__")
    prompted = method == ADAPTER
    folder.mkdir()
    facts = {
        "name": method,
        "trainer": trainer,
        "plans": plans,
        "configuration": configuration,
        "kind": "prompted" if prompted else "automatic",
        "parameters": 114_000_000 if prompted else 30_760_000,
        "tuned_parameters": 25_198_976 if prompted else 30_760_000,
        "training_hours": 20.5 if prompted else 9.25,
        "peak_memory_gib": 11.5 if prompted else None,
        "device": "NVIDIA H100" if prompted else "cpu",
    }
    (folder / "method.json").write_text(json.dumps(facts))
    (folder / "splits_final.json").write_text(json.dumps(SPLITS))


def _write_prompts(folder: Path, protocol: str, truths: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Clicks on each class; of the iterated protocol one click."""
    clicks = 1 if protocol.startswith("iterated") else int(protocol.split("_")[1])
    for trial in range(TRIALS):
        (folder / f"trial_{trial}").mkdir(parents=True)
        for case, truth in truths.items():
            labels = [label for label in TARGETS.values() if (truth == label).any() for _ in range(clicks)]
            voxels = np.array([rng.choice(np.argwhere(truth == label)) for label in labels])
            points = (voxels * SPACING)[:, ::-1]
            write_prompt(Prompt(points, np.array(labels), case), folder / f"trial_{trial}" / f"{case}.json")


def _write_predictions(
    folder: Path, protocol: str, truths: dict[str, np.ndarray], adapter: bool, rng: np.random.Generator
) -> None:
    steps = range(1, STEPS + 1) if protocol.startswith("iterated") else (None,)
    for fold, split in enumerate(SPLITS):
        for trial in range(1 if protocol == "automatic" else TRIALS):
            for step in steps:
                place = folder / f"fold_{fold}" / f"trial_{trial}" / (f"after_{step}" if step else "")
                noise = NOISE[protocol] / (step or 1) + (0 if adapter else 0.02)
                _write_fold(place, {case: truths[case] for case in split["val"]}, noise, rng)


def _write_fold(folder: Path, truths: dict[str, np.ndarray], noise: float, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    rows, costs = [], []
    for case, truth in truths.items():
        prediction = _predict(truth, noise, rng)
        _write(prediction, folder / f"{case}.nii.gz")
        for target, label in TARGETS.items():
            rows.append({"case": case, "target": target, **case_metrics(truth == label, prediction == label, SPACING)})
        costs.append({"case": case, "clicks": 1, "windows": 2, "seconds": round(rng.uniform(0.5, 2), 3)})
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    pd.DataFrame(costs).to_csv(folder / "prediction.csv", index=False)


def _write(array: np.ndarray, file: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))
