"""How many files of the package four typical jobs pass through, and which.

A file counts if at least one function that is written in it runs during the job. Code that runs while modules are
imported doesn't count, nor does code that Python generates (methods of dataclasses). Each job runs twice and the second
run is counted, so that imports and caches are done with. All jobs run in this process, on a tiny data set.

    image to loss                from nnU-Net's look-up of SAM3DAdapterTrainer_smoke to backward, over training steps
    click file to segmentation   `sam3d predict` of one image with one prompt file, from the command to the written file
    session click to mask        `add_point_interaction` of a SAM3DSession: a further click in a window that is encoded
    recipe to table              list a recipe's steps, evaluate one fold of a prompted model (automatic and volume_1),
                                 write the tables; files of "click file to segmentation" are not counted again

Examples:
    python benchmarks/hops.py
    python benchmarks/hops.py --only "session click to mask"
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import sam3d_nnunet

PACKAGE = Path(sam3d_nnunet.__file__).parent
PLACES = {
    "app": "cli.main",
    "SAM3DPlanner": "planning.planner",
    "SAM3DAdapterTrainer_smoke": "training.variants",
    "SAM3DSession": "prediction.session",
    "Prompt": "prompts.prompt",
    "write_prompt": "prompts.files",
    "Benchmark": "workflow.benchmark",
    "evaluate": "evaluation.evaluate",
    "PredictionOptions": "evaluation.model",
    "Results": "evaluation.results",
    "write_tables": "report.tables",
}
"""Modules of the package, by what is used of them."""
DATASET = "Dataset717_Hops"
TRAINER = "SAM3DAdapterTrainer_smoke"
LABELS = {"background": 0, "core": 1, "rim": 2}
SHAPE = (20, 18, 22)
CASES = [f"case_{n}" for n in range(5)]
RECIPE = {
    "description": "Two methods.",
    "patch_size": [16, 16, 16],
    "sam3d": {"preset": "tiny"},
    "benchmark": {
        "methods": [{"name": "adapter", "trainer": TRAINER}, {"name": "nnU-Net", "trainer": "nnUNetTrainer_smoke"}],
        "folds": [0],
        "protocols": ["automatic", "volume_1"],
        "trials": 1,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("A file counts") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=JOBS, help="one of the jobs; default: all")
    parser.add_argument("--quiet", action="store_true", help="print counts only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = {arguments.only, "click file to segmentation"} if arguments.only == "recipe to table" else {arguments.only}
    counted: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        for name, job in JOBS.items():
            if arguments.only is None or name in wanted:
                counted[name] = quietly(lambda job=job: files_of(job(data)))
    for name, files in counted.items():
        again = files & counted["click file to segmentation"] if name == "recipe to table" else set()
        rooms = Counter(file.partition("/")[0] for file in files - again)
        print(f"{name}: {len(files - again)} files{f' and {len(again)} of prediction' if again else ''}")
        print("    " + ", ".join(f"{room} {count}" for room, count in sorted(rooms.items())))
        for file in () if arguments.quiet else sorted(files - again):
            print(f"        {file}")


def quietly(run: Callable[[], set[str]]) -> set[str]:
    """Without what the package and nnU-Net print, unless it fails."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            return run()
        except Exception:
            sys.__stderr__.write(errors.getvalue())
            raise


def ours(name: str) -> Any:
    """A class or function of the package."""
    return getattr(importlib.import_module(f"sam3d_nnunet.{PLACES[name]}"), name)


# --- counting ---


def files_of(job: Iterator[Callable[[], Any]]) -> set[str]:
    """Files that a job passes through; a job prepares and yields what is to be counted, twice."""
    next(job)()
    counted = next(job)
    seen: set[CodeType] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        counted()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    # bodies of modules and of classes are no functions: they have no CO_OPTIMIZED
    functions = [code for code in seen if code.co_flags & inspect.CO_OPTIMIZED]
    files = {Path(code.co_filename) for code in functions if code.co_filename.startswith(str(PACKAGE) + os.sep)}
    return {str(file.relative_to(PACKAGE)) for file in files if file.suffix == ".py"}  # not compiled templates


# --- jobs ---


def image_to_loss(data: "Data") -> Iterator[Callable[[], Any]]:
    """Several steps, so that all kinds of simulated prompts and the correction of a first mask come up."""

    def train() -> None:
        trainer = data.trainer(recursive_find_trainer_class_by_name(TRAINER))
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        for _ in range(20):
            trainer.train_step(next(trainer.dataloader_train))

    yield train
    yield train


def click_file_to_segmentation(data: "Data") -> Iterator[Callable[[], Any]]:
    app = ours("app")
    image = data.raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz"
    prompts = data.root / f"{CASES[0]}.json"
    ours("write_prompt")(ours("Prompt")([[9.0, 9.0, 9.0]], [1], CASES[0]), prompts)
    for run in range(2):
        arguments = ["predict", "-i", image, "-o", data.root / f"predicted_{run}", "-m", data.model()]
        arguments += ["--prompts", prompts, "--device", "cpu"]
        yield lambda given=arguments: app(list(map(str, given)), standalone_mode=False)


def session_click_to_mask(data: "Data") -> Iterator[Callable[[], Any]]:
    session = ours("SAM3DSession")("cpu", torch_n_threads=1)
    session.initialize_from_trained_model_folder(data.model())
    image = np.random.default_rng(0).normal(10, 1, (1, *SHAPE)).astype(np.float32)
    session.set_image(image, {"spacing": (1.0, 1.0, 1.0)})
    session.set_target_buffer(np.zeros(SHAPE, np.uint8))
    yield lambda: session.add_point_interaction((9, 9, 9), True)
    yield lambda: session.add_point_interaction((9, 9, 11), True)


def recipe_to_table(data: "Data") -> Iterator[Callable[[], Any]]:
    recipe = data.root / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    model = data.model()

    def run(results: Path) -> None:
        ours("Benchmark")(str(recipe), DATASET, results, device="cpu").left()
        options = ours("PredictionOptions")("cpu", mirroring=False)
        failed = ours("evaluate")(model, results, ["0"], ["automatic", "volume_1"], 1, options, name="adapter")
        assert not failed, failed
        ours("write_tables")(ours("Results")(results), results / "table", figures=False)

    yield lambda: run(data.root / "results_1")
    yield lambda: run(data.root / "results_2")


JOBS = {
    "image to loss": image_to_loss,
    "click file to segmentation": click_file_to_segmentation,
    "session click to mask": session_click_to_mask,
    "recipe to table": recipe_to_table,
}


# --- data ---


class Data:
    """A tiny data set that is planned and preprocessed as nnU-Net does, and an untrained model of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw, self.base = root, root / "raw" / DATASET, root / "preprocessed" / DATASET
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(root / name)
        os.environ["nnUNet_def_n_proc"] = "1"  # what another process runs can't be counted
        os.environ["nnUNet_extTrainer"] = str(PACKAGE / "nnunet_ext")
        with contextlib.redirect_stdout(io.StringIO()):
            self._write_raw()
            self._plan()
            self._preprocess()

    def trainer(self, trainer_class: type) -> Any:
        """As nnUNetv2_train makes it."""
        plans = json.loads((self.base / "SAM3DPlans.json").read_text()) | {"continue_training": False}
        dataset_json = json.loads((self.raw / "dataset.json").read_text())
        os.environ["nnUNet_n_proc_DA"] = "0"
        return trainer_class(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))

    def model(self) -> Path:
        """Folder of a model with random weights, those that start at zero too."""
        trainer = self.trainer(ours(TRAINER))
        folder = Path(trainer.output_folder_base)
        file = folder / "fold_0" / "checkpoint_final.pth"
        if not file.is_file():
            trainer.initialize()
            for parameter in trainer.network.parameters():
                parameter.data = torch.where(parameter == 0, 0.1 * torch.randn(parameter.shape), parameter)
            file.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(str(file))
            (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
            (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
        return folder

    def _write_raw(self) -> None:
        rng = np.random.default_rng(0)
        for case in CASES:
            centre = [rng.integers(6, n - 6) for n in SHAPE]
            distance = np.linalg.norm(np.stack(np.indices(SHAPE), -1) - centre, axis=-1)
            truth = np.select([distance < 2.5, distance < 4.5], [1, 2]).astype(np.uint8)
            image = (rng.normal(10, 1, SHAPE) + 5 * (truth > 0)).astype(np.float32)
            for array, file in ((image, f"imagesTr/{case}_0000.nii.gz"), (truth, f"labelsTr/{case}.nii.gz")):
                (self.raw / file).parent.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(sitk.GetImageFromArray(array), str(self.raw / file))
        content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 5, "file_ending": ".nii.gz"}
        (self.raw / "dataset.json").write_text(json.dumps(content))

    def _plan(self) -> None:
        names = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
        fingerprint = {
            "spacings": [(1.0, 1.0, 1.0)] * len(CASES),
            "shapes_after_crop": [SHAPE] * len(CASES),
            "median_relative_size_after_cropping": 1.0,
            "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(names, 1.0)},
        }
        self.base.mkdir(parents=True)
        (self.base / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        planner = ours("SAM3DPlanner")(DATASET)
        planner.patch_size, planner.settings = [16, 16, 16], {"preset": "tiny"}
        planner.plan_experiment()
        split = {"train": CASES[2:], "val": CASES[:2]}
        (self.base / "splits_final.json").write_text(json.dumps([split] * 5))

    def _preprocess(self) -> None:
        plans = PlansManager(str(self.base / "SAM3DPlans.json"))
        configuration = plans.get_configuration("3d_fullres")
        folder = self.base / configuration.data_identifier
        folder.mkdir()
        for case in CASES:
            image, label = self.raw / "imagesTr" / f"{case}_0000.nii.gz", self.raw / "labelsTr" / f"{case}.nii.gz"
            preprocessor, description = DefaultPreprocessor(verbose=False), str(self.raw / "dataset.json")
            preprocessor.run_case_save(str(folder / case), [str(image)], str(label), plans, configuration, description)


if __name__ == "__main__":
    main()
