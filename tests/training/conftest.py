"""Tiny preprocessed data sets, and trainers on them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sam3d_nnunet.planning.planner import SAM3DPlanner
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_smoke

PATCH = [16, 16, 16]
KINDS = {
    "classes": ("Dataset711_Classes", {"background": 0, "core": 1, "rim": 2}, {}),
    "one class": ("Dataset712_OneClass", {"background": 0, "core": 1}, {}),
    "ignore": ("Dataset713_Ignore", {"background": 0, "core": 1, "rim": 2, "ignore": 3}, {}),
    "regions": (
        "Dataset714_Regions",
        {"background": 0, "whole": [1, 2], "core": 1, "ignore": 3},
        {"regions_class_order": [2, 1]},
    ),
    "nothing": ("Dataset715_Nothing", {"background": 0, "core": 1, "ignore": 2}, {}),
}


def case_of(
    labels: dict, shape: tuple[int, ...], rng: np.random.Generator, foreground: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A core within a rim somewhere, and a slab that is ignored."""
    centre = [rng.integers(5, n - 5) for n in shape]
    distance = np.linalg.norm(np.stack(np.indices(shape), -1) - centre, axis=-1)
    segmentation = np.zeros(shape, np.uint8)
    if foreground:
        segmentation[distance < 4.5] = 2 if {"rim", "whole"} & labels.keys() else 1
        segmentation[distance < 2.5] = 1
    if "ignore" in labels:
        segmentation[:, :, -4:] = labels["ignore"]
    return rng.normal(10, 1, shape) + 5 * (distance < 4.5), segmentation


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, write_dataset, write_fingerprint) -> Callable[[str], SimpleNamespace]:
    """The data set of a kind, planned and preprocessed as nnU-Net does, but without starting processes."""
    root = tmp_path_factory.mktemp("training")
    done: dict[str, SimpleNamespace] = {}

    def prepare(kind: str) -> SimpleNamespace:
        if kind in done:
            return done[kind]
        name, labels, more = KINDS[kind]
        rng = np.random.default_rng(0)
        # one image is smaller than a patch, one has a name in other scripts
        shapes = {"case_1": (20, 18, 22), "case_2": (12, 18, 14), "case_3": (20, 20, 20), "case_4": (18, 22, 24)}
        shapes["Fall_Müller_病例"] = (20, 24, 18)
        cases = {case: case_of(labels, shape, rng, kind != "nothing") for case, shape in shapes.items()}
        raw, base = write_dataset(root / "raw", name, cases, labels, **more), root / "preprocessed" / name
        write_fingerprint(base, list(shapes.values()))
        with pytest.MonkeyPatch.context() as variables:
            variables.setenv("nnUNet_n_proc_DA", "1")  # planning takes it for a number of threads
            variables.setenv("nnUNet_raw", str(root / "raw"))
            variables.setenv("nnUNet_preprocessed", str(root / "preprocessed"))
            planner = SAM3DPlanner(name)
            planner.patch_size, planner.settings = PATCH, {"preset": "tiny"}
            planner.plan_experiment()
        plans = json.loads((base / "SAM3DPlans.json").read_text())
        configuration = PlansManager(plans).get_configuration("3d_fullres")
        folder = base / configuration.data_identifier
        folder.mkdir()
        shutil.copytree(raw / "labelsTr", base / "gt_segmentations")
        for case in cases:
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case),
                [str(raw / "imagesTr" / f"{case}_0000.nii.gz")],
                str(raw / "labelsTr" / f"{case}.nii.gz"),
                PlansManager(plans),
                configuration,
                str(raw / "dataset.json"),
            )
        validation = ["Fall_Müller_病例", "case_2"]
        split = {"train": [case for case in cases if case not in validation], "val": validation}
        (base / "splits_final.json").write_text(json.dumps([split] * 5))
        done[kind] = SimpleNamespace(
            root=root, name=name, base=base, dataset_json=json.loads((raw / "dataset.json").read_text())
        )
        return done[kind]

    return prepare


@pytest.fixture
def make_trainer(prepared, tmp_path, monkeypatch) -> Callable[..., nnUNetTrainer]:
    """A trainer as nnUNetv2_train makes it; `settings` go into the plan's block, `plan` into its configuration."""
    results = tmp_path / "results"
    monkeypatch.setenv("nnUNet_results", str(results))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    loaders = []

    def make(
        kind: str = "classes",
        trainer_class: type[nnUNetTrainer] = SAM3DAdapterTrainer_smoke,
        configuration: str = "3d_fullres",
        settings: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        continue_training: bool = False,
    ) -> nnUNetTrainer:
        dataset = prepared(kind)
        monkeypatch.setenv("nnUNet_preprocessed", str(dataset.base.parent))
        plans = json.loads((dataset.base / "SAM3DPlans.json").read_text())
        plans["configurations"]["3d_fullres"]["sam3d"] |= settings or {}
        plans["configurations"][configuration] |= plan or {}
        plans["continue_training"] = continue_training
        trainer = trainer_class(plans, configuration, 0, dataset.dataset_json, torch.device("cpu"))
        loaders.append(trainer)
        return trainer

    yield make
    for trainer in loaders:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()


@pytest.fixture
def results(tmp_path) -> Path:
    """The folder that nnUNet_results names."""
    return tmp_path / "results"


@pytest.fixture(autouse=True)
def one_thread():
    """On these small tensors more threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.set_num_threads(threads)
