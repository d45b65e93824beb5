"""Round trips through nnU-Net's readers: from image files to models, predictions, ensembles and metrics.

`readers.py` prints a table of all of them, tests/test_readers.py runs some. Nothing is trained for long: each case has
a bright body, and its labels lie some voxels away from it, by another number along each axis. A network without other
weights learns these numbers from the preprocessed cases. It finds the labels exactly, but only where axes have the
order and direction that they had in training; where clicks are given, only if they lie on the right structures.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import nibabel
import numpy as np
import pandas as pd
import SimpleITK as sitk
import tifffile
import torch
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset, preprocess_dataset
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.evaluate import evaluate
from sam3d_nnunet.evaluation.external import evaluate_predictions
from sam3d_nnunet.evaluation.model import PredictionOptions
from sam3d_nnunet.network.prompts import Correct, Prompts
from sam3d_nnunet.planning.planner import SAM3DPlanner
from sam3d_nnunet.prediction.batch import predict_from_files
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.training.prompted_trainer import PromptedTrainer

CHOSEN = "nnU-Net's choice"
"""A data set that wishes no reader. nnU-Net takes SimpleITKIO."""
READERS = {
    CHOSEN: ".nii.gz",
    "SimpleITKIO": ".nii.gz",
    "SimpleITKIOWithReorient": ".nii.gz",
    "NibabelIO": ".nii.gz",
    "NibabelIOWithReorient": ".nii.gz",
    "Tiff3DIO": ".tif",
}
"""All of nnU-Net 2.8.1 for volumes, with the files that they read. It has none for NPY: its predictor takes arrays from
memory, which `Cell.predict_array` gives it."""
CODES = ("LPS", "RAS", "LPI", "RPS", "SAR", "PIR", "ASL", "ILP")
"""Of nnU-Net's training images; the last four exchange axes."""

DATASET, ID = "Dataset731_Readers", 731
VALIDATION = ("usual", "fine")
"""The fine case has voxels of half the width along i."""
SPACING = (1.0, 1.2, 1.5)  # mm along i, j, k of images in LPS
HEADER_OFF = (8.0, 8.0, 6.0)  # mm
LEVELS = (10.0, 20.0, 30.0)  # intensities of background, body and core
OFFSET = (1, 2, 3)  # voxels from the bright body to its labels, along d, h, w of images in LPS
SCALE = 2 / 255  # of label maps with scaled values: 127 and 254 become 0.996 and 1.992


# --- network and trainers ---


class ShiftedLevels(nn.Module):
    """Labels by intensity, some voxels away. All is background where a click is not near a voxel of its label."""

    num_classes = len(LEVELS)
    takes_maps = False
    precision = "fp32"

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # no optimizer goes without
        self.register_buffer("offset", torch.zeros(3, dtype=torch.int64))

    def learn(self, image: np.ndarray, labels: np.ndarray) -> None:
        """The offset, from (D, H, W) arrays of a preprocessed case."""
        centres = [np.argwhere(mask).mean(axis=0) for mask in (labels > 0, image > np.mean(LEVELS[:2]))]
        self.offset.copy_(torch.from_numpy(np.rint(centres[0] - centres[1])))

    def forward(self, image: Tensor, prompts: Prompts | None = None, correct: Correct | None = None) -> Tensor:
        return self.decode(self.encode(image), prompts)

    def encode(self, image: Tensor) -> Tensor:
        levels = image.new_tensor(LEVELS).reshape(1, -1, 1, 1, 1)
        return torch.roll(-(image - levels).abs(), self.offset.tolist(), (2, 3, 4))

    def decode(self, embedding: Tensor, prompts: Prompts | None = None) -> Tensor:
        logits = embedding.clone()
        for of_image, points, labels in zip(logits, *prompts[:2]) if prompts else ():
            found = of_image.argmax(0)
            for point, label in zip(points[labels >= 0].round().int().tolist(), labels[labels >= 0].tolist()):
                near = found[tuple(slice(max(n - 1, 0), n + 2) for n in point)]
                if not (near == label).any():
                    of_image[1:] = -1000
        return logits


class Learnt:
    """Mixin before a trainer of nnU-Net's: an epoch of learning, in no time."""

    def initialize(self) -> None:
        self.enable_deep_supervision = False
        super().initialize()

    def on_train_start(self) -> None:
        self.initialize()
        training_set, _ = self.get_tr_and_val_datasets()
        image, labels, _, _ = training_set.load_case(training_set.identifiers[0])
        self.network.learn(image[0], labels[0])
        self.num_epochs = 0
        super().on_train_start()

    def get_dataloaders(self) -> tuple[None, None]:
        return None, None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        pass

    def plot_network_architecture(self) -> None:
        pass

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return ShiftedLevels()


class LearntPromptedTrainer(Learnt, PromptedTrainer):
    """Of our plans: takes clicks."""


class LearntTrainer(Learnt, nnUNetTrainer):
    """Of nnU-Net's own plans."""


# --- data ---


def body(case: str) -> tuple[sitk.Image, sitk.Image, dict[int, tuple[int, int, int]]]:
    """Image and label map in LPS, and a voxel (i, j, k) inside each label.

    The border of the image is empty, so that nnU-Net crops it.
    """
    labels = np.zeros((20, 24, 28), np.uint8)
    d, h, w = {"one": (7, 8, 9), "two": (8, 7, 8), "usual": (7, 9, 10), "fine": (8, 9, 9)}[case]
    labels[d : d + 6, h : h + 5, w : w + 9] = 1
    labels[d : d + 3, h : h + 8, w : w + 4] = 1  # an L, so that it looks another way after any turn
    labels[d + 1 : d + 4, h + 1 : h + 4, w + 5 : w + 8] = 2
    inside = {1: (w + 1, h + 5, d + 1), 2: (w + 6, h + 2, d + 2)}
    image = np.zeros(labels.shape, np.float32)
    image[2:-1, 1:-2, 3:-1] = np.take(LEVELS, np.roll(labels, np.negative(OFFSET), (0, 1, 2)))[2:-1, 1:-2, 3:-1]
    spacing = SPACING
    if case == "fine":
        image, labels = np.repeat(image, 2, axis=2), np.repeat(labels, 2, axis=2)
        inside, spacing = {k: (2 * i, j, n) for k, (i, j, n) in inside.items()}, (SPACING[0] / 2, *SPACING[1:])
    pair = [sitk.GetImageFromArray(array) for array in (image, labels)]
    for part in pair:
        part.SetSpacing(spacing)
        part.SetOrigin((-30, 20, 7))
    return *pair, inside


@dataclass
class Case:
    """A case in one orientation."""

    image: sitk.Image
    labels: sitk.Image
    clicks: Prompt

    @classmethod
    def make(cls, name: str, code: str, placed: bool) -> "Case":
        """`placed`: whether its format knows positions in the world."""
        image, labels, inside = body(name)
        points = [image.TransformIndexToPhysicalPoint(voxel) for voxel in inside.values()]
        turned = sitk.DICOMOrient(image, code)
        labels = sitk.DICOMOrient(labels, code)
        if not placed:
            voxels = [turned.TransformPhysicalPointToIndex(point) for point in points]
            for part in (turned, labels):
                part.SetOrigin((0, 0, 0))
                part.SetDirection(np.eye(3).ravel())
            points = [turned.TransformIndexToPhysicalPoint(voxel) for voxel in voxels]
        return cls(turned, labels, Prompt(points, list(inside), name))


def write(image: sitk.Image, file: Path) -> None:
    """An image file; TIFF with its spacing beside it, as nnU-Net wants it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix != ".tif":
        sitk.WriteImage(image, str(file))
        return
    tifffile.imwrite(file, sitk.GetArrayFromImage(image))
    name = file.name.removesuffix(".tif").removesuffix("_0000")
    file.with_name(f"{name}.json").write_text(json.dumps({"spacing": image.GetSpacing()[::-1]}))


def write_off(labels: sitk.Image, file: Path) -> None:
    """A label map whose header is not that of its image: another origin, or the only thing TIFF knows, the spacing."""
    moved = sitk.Image(labels)
    moved.SetOrigin(np.add(labels.GetOrigin(), HEADER_OFF))
    if file.suffix == ".tif":
        moved.SetSpacing(np.multiply(labels.GetSpacing(), 2))
    write(moved, file)


def write_scaled(labels: sitk.Image, file: Path) -> None:
    """A label map that holds 0.996 and 1.992 for 1 and 2: as nibabel writes it, or float32 in TIFF."""
    write(labels, file)
    if file.suffix == ".tif":
        tifffile.imwrite(file, sitk.GetArrayFromImage(labels) * np.float32(127 * SCALE))
        return
    exact = nibabel.load(file)
    scaled = nibabel.Nifti1Image(127 * np.asarray(exact.dataobj).astype(np.uint8), exact.affine, exact.header)
    scaled.header.set_slope_inter(SCALE, 0)
    nibabel.save(scaled, file)


def read(file: Path) -> sitk.Image:
    """An image file. TIFF gets the spacing beside it, or none."""
    if file.suffix != ".tif":
        return sitk.ReadImage(str(file))
    image = sitk.GetImageFromArray(tifffile.imread(file))
    beside = file.with_suffix(".json")
    if beside.is_file():
        image.SetSpacing(json.loads(beside.read_text())["spacing"][::-1])
    return image


def same_voxels(found: sitk.Image, wanted: sitk.Image) -> bool:
    """Whether both have the same header."""
    return found.GetSize() == wanted.GetSize() and all(
        np.allclose(getattr(found, name)(), getattr(wanted, name)(), atol=1e-4)
        for name in ("GetSpacing", "GetOrigin", "GetDirection")
    )


def dice(found: sitk.Image, wanted: sitk.Image) -> float:
    """The lower one of both labels, from SimpleITK."""
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    wanted, found = (sitk.Cast(image, sitk.sitkUInt8) for image in (wanted, found))
    found.CopyInformation(wanted)  # SimpleITK's tolerance is finer than NIfTI's float32
    overlap.Execute(wanted, found)
    return min(overlap.GetDiceCoefficient(k) for k in (1, 2))


class RoundTripError(Exception):
    """What a check found to be wrong."""


def _header(image: sitk.Image) -> str:
    return f"{image.GetSize()} voxels of {np.round(image.GetSpacing(), 3)} mm at {np.round(image.GetOrigin(), 2)}"


# --- a cell of the table ---

CHECKS = (
    "plan",
    "train",
    "predict",
    "turned",
    "refine",
    "validation",
    "1click",
    "array",
    "ensemble",
    "evaluate",
    "others",
)
"""The methods of `Cell` say what they do."""
RIGHT, REFUSED = "right", "refused"
EXPECTED = {
    "same header": dict.fromkeys(CHECKS, RIGHT),
    # a segmentation to refine must lie on its image, unlike a label map to train on or to measure with
    "label header off": dict.fromkeys(CHECKS, RIGHT) | {"refine": REFUSED},
    # nnU-Net's preprocessing would cut 0.996 to 0, and so would its validation, after which validation_1click comes;
    # all else is that of a model of exact labels, measured with scaled ones
    "scaled values": dict.fromkeys(CHECKS, RIGHT) | dict.fromkeys(("plan", "train", "validation", "1click"), REFUSED),
}
"""By variation of the label maps and check. "right" is Dice 1 of both labels, with the right headers, volumes and
distances."""
VARIATIONS = tuple(EXPECTED)


class Cell:
    """One reader, training images of one orientation, one variation of the label maps."""

    def __init__(self, folder: Path, reader: str, code: str, variation: str, turned: Sequence[str] = CODES) -> None:
        """
        Args:
            folder: for everything, empty.
            reader: of `READERS`.
            code: orientation of the training images.
            variation: of `VARIATIONS`.
            turned: orientations of further images to predict.
        """
        self.folder, self.reader, self.code, self.variation, self.turned = folder, reader, code, variation, turned
        self.ending = READERS[reader]
        self.placed = self.ending != ".tif"
        self.cases = {name: Case.make(name, code, self.placed) for name in ("one", "two", *VALIDATION)}
        self.raw, self.preprocessed = folder / "raw" / DATASET, folder / "preprocessed" / DATASET
        self.results = folder / "results" / DATASET
        self.ours = self.results / "LearntPromptedTrainer__SAM3DPlans__3d_fullres"
        self.theirs = self.results / "LearntTrainer__nnUNetPlans__3d_fullres"
        self.write_labels = {"same header": write, "label header off": write_off, "scaled values": write_scaled}

    @property
    def expected(self) -> dict[str, str]:
        """What `run` should find. Turned images of a format without positions can't be told from others."""
        return {name: e for name, e in EXPECTED[self.variation].items() if self.placed or name != "turned"}

    def run(self) -> dict[str, str]:
        """By check: "right", "refused", or what is wrong."""
        checks = {
            "plan": self.plan,
            "train": self.train,
            "predict": self.predict,
            "turned": self.predict_turned,
            "refine": self.refine,
            "validation": self.validation,
            "1click": self.validation_from_clicks,
            "array": self.predict_array,
            "ensemble": self.ensembles,
            "evaluate": self.evaluate,
            "others": self.measure_others,
        }
        found = {}
        with environment(self.folder):
            self.write_data()
            for name in self.expected:
                if self.variation == "scaled values" and name in ("plan", "train"):
                    found[name] = self._with_scaled_labels(checks[name])
                else:
                    found[name] = outcome(checks[name])
        return found

    def _with_scaled_labels(self, check: Callable[[], None]) -> str:
        """What a check finds that should refuse scaled labels; then do the same with exact ones."""
        found = outcome(check)
        self._write_labels(write)
        check()
        self._write_labels(write_scaled)
        return found

    def write_data(self) -> None:
        """The raw data set."""
        for name, case in self.cases.items():
            write(case.image, self.raw / "imagesTr" / f"{name}_0000{self.ending}")
        self._write_labels(self.write_labels[self.variation])
        content = {
            "channel_names": {"0": "noNorm"},
            "labels": {"background": 0, "body": 1, "core": 2},
            "numTraining": len(self.cases),
            "file_ending": self.ending,
        }
        if self.reader != CHOSEN:
            content["overwrite_image_reader_writer"] = self.reader
        (self.raw / "dataset.json").write_text(json.dumps(content))

    def _write_labels(self, write_labels: Callable[[sitk.Image, Path], None]) -> None:
        """Into the raw data set and, once it is preprocessed, beside nnU-Net's copies."""
        for name, case in self.cases.items():
            file = self.raw / "labelsTr" / f"{name}{self.ending}"
            write_labels(case.labels, file)
            copies = self.preprocessed / "gt_segmentations"
            if copies.is_dir():
                shutil.copy(file, copies)

    # --- checks ---

    def plan(self) -> None:
        """Plan and preprocess with both planners. The reader must be that of dataset.json, the spacing the images'."""
        fingerprint = DatasetFingerprintExtractor(ID, num_processes=1)
        fingerprint.num_foreground_voxels_for_intensitystats = 1000  # instead of 10^8, which takes seconds
        fingerprint.run(overwrite_existing=True)
        splits = [{"train": sorted(self.cases.keys() - set(VALIDATION)), "val": list(VALIDATION)}]
        (self.preprocessed / "splits_final.json").write_text(json.dumps(splits))
        plan_experiment_dataset(ID, ExperimentPlanner)
        plan_experiment_dataset(ID, SAM3DPlanner, overwrite_target_spacing=self._spacing())
        for plans in ("SAM3DPlans", "nnUNetPlans"):
            preprocess_dataset(ID, plans, ("3d_fullres",), (1,), show_progress_bar=False)
        for plans in ("SAM3DPlans", "nnUNetPlans"):
            planned = PlansManager(str(self.preprocessed / f"{plans}.json"))
            reader = planned.image_reader_writer_class.__name__
            if reader != ("SimpleITKIO" if self.reader == CHOSEN else self.reader):
                raise RoundTripError(f"{plans} have the reader {reader}")
            self._check_spacing(planned)

    def _spacing(self) -> tuple[float, ...]:
        """mm along (d, h, w) as the reader has the training images."""
        return (SPACING if self.reader.endswith("Reorient") else self.cases["one"].image.GetSpacing())[::-1]

    def _check_spacing(self, planned: PlansManager) -> None:
        spacing = np.array(planned.get_configuration("3d_fullres").spacing)[planned.transpose_backward]
        if not np.allclose(spacing, self._spacing(), atol=1e-4):
            raise RoundTripError(f"voxels of {spacing} instead of {self._spacing()} mm (d, h, w)")

    def train(self) -> None:
        """Both trainers with their final validation."""
        self._nnunet_train("LearntPromptedTrainer", "SAM3DPlans")
        self._nnunet_train("LearntTrainer", "nnUNetPlans")

    def _nnunet_train(self, trainer: str, plans: str, only_val: bool = False) -> None:
        run_training(
            DATASET,
            "3d_fullres",
            "0",
            trainer,
            plans,
            export_validation_probabilities=True,
            only_run_validation=only_val,
            device=torch.device("cpu"),
        )

    def predict(self) -> None:
        """Predict images of the training's orientation from clicks."""
        self._predict(self.code)

    def predict_turned(self) -> None:
        """Predict the same images in other orientations."""
        for code in self.turned:
            self._predict(code)

    def refine(self) -> None:
        """Predict from label maps, whose components are clicked."""
        self._predict(self.code, refine=True)

    def _predict(self, code: str, refine: bool = False) -> None:
        folder = self.folder / f"predicted_{code}_{refine}"
        shutil.rmtree(folder, ignore_errors=True)
        cases = {name: Case.make(name, code, self.placed) for name in VALIDATION}
        (folder / "clicks").mkdir(parents=True)
        for name, case in cases.items():
            write(case.image, folder / "images" / f"{name}_0000{self.ending}")
            write_prompt(case.clicks, folder / "clicks" / f"{name}.json")
        predictor = SAM3DPredictor("cpu")
        predictor.initialize_from_trained_model_folder(self.ours)
        prompts = (None, self.raw / "labelsTr") if refine else (folder / "clicks", None)
        reports = predict_from_files(predictor, folder / "images", folder / "out", *prompts)
        for report in reports:
            if report.error:
                raise SAM3DError(report.error)
        self._check_files(folder / "out", cases)

    def validation(self) -> None:
        """nnU-Net's final validation of both models: Dice in its summary, and Dice of its files."""
        self._validate_scaled()
        for model in (self.ours, self.theirs):
            self._check_validation(model / "fold_0" / "validation")

    def validation_from_clicks(self) -> None:
        """Our validation from one click on each class."""
        self._validate_scaled()
        self._check_validation(self.ours / "fold_0" / "validation_1click")

    def _validate_scaled(self) -> None:
        """The trainings were validated with exact labels."""
        if self.variation == "scaled values":
            self._nnunet_train("LearntPromptedTrainer", "SAM3DPlans", only_val=True)

    def _check_validation(self, folder: Path) -> None:
        summary = json.loads((folder / "summary.json").read_text())
        for label, of_label in summary["mean"].items():
            if of_label["Dice"] != 1:
                raise RoundTripError(f"Dice {of_label['Dice']:.3f} of label {label} in {folder.name}/summary.json")
        self._check_files(folder)

    def predict_array(self) -> None:
        """nnU-Net's predictor with an array in memory, which nnU-Net's own reader of its own plans has read."""
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(self.ours), (0,))
        reader = PlansManager(str(self.theirs / "plans.json")).image_reader_writer_class()
        folder = self.folder / "arrays"
        folder.mkdir()
        for name in VALIDATION:
            image, properties = reader.read_images([str(self.raw / "imagesTr" / f"{name}_0000{self.ending}")])
            found = predictor.predict_single_npy_array(image, properties, None, None, False)
            reader.write_seg(found, str(folder / f"{name}{self.ending}"), properties)
        self._check_files(folder)

    def ensembles(self) -> None:
        """Means of our probabilities and those of nnU-Net's own plans, whichever comes first; and their metrics."""
        theirs = self.theirs / "fold_0" / "validation"
        for validation in ("validation", "validation_1click"):
            ours = self.ours / "fold_0" / validation
            for first, members in {"ours": [ours, theirs], "theirs": [theirs, ours]}.items():
                name = f"{validation}_{first}_first"
                folder, model = self.folder / "ensembles" / name, members[0].parents[1]
                files = {
                    "dataset_json_file_or_dict": str(model / "dataset.json"),
                    "plans_json_file_or_dict": str(model / "plans.json"),
                }
                ensemble_folders(list(map(str, members)), str(folder), **files)
                self._check_files(folder)
        table = self._measure(folder, "ensemble")
        if not (table["dice"] == 1).all():
            raise RoundTripError(f"Dice {table['dice'].min():.3f} of an ensemble by sam3d evaluate-predictions")

    def evaluate(self) -> None:
        """`sam3d evaluate` without clicks and with one on each class."""
        results, options = self.folder / "evaluated", PredictionOptions(device="cpu")
        failed = evaluate(self.ours, results, protocols=("automatic", "volume_1"), options=options, name="ours")
        failed += evaluate(self.theirs, results, options=options, name="theirs")
        if failed:
            raise RoundTripError(f"failed: {failed}")
        folders = [file.parent for file in results.rglob("metrics.csv")]
        if len(folders) != 3:
            raise RoundTripError(f"{len(folders)} metrics.csv instead of 3")
        for folder in folders:
            self._check_files(folder)
            self._check_metrics(folder)

    def measure_others(self) -> None:
        """Measure another program's predictions, two voxels off along d and with values as the label maps have them."""
        folder = self.folder / "others"
        write_labels = write_scaled if self.variation == "scaled values" else write
        for name in VALIDATION:
            labels = self.cases[name].labels
            moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(labels), 2, axis=0))
            moved.CopyInformation(labels)
            write_labels(moved, folder / f"{name}{self.ending}")
        table = self._measure(folder, "others")
        distances = [2 * self.cases[case].image.GetSpacing()[2] for case in table["case"]]
        if not np.allclose(table["hd95_mm"], distances, atol=0.01):
            raise RoundTripError(f"surfaces are {table['hd95_mm'].tolist()} instead of {distances} mm apart")

    def _measure(self, predictions: Path, name: str) -> pd.DataFrame:
        results = self.folder / "measured"
        with contextlib.redirect_stderr(io.StringIO()) as said:
            failed = evaluate_predictions(predictions, results, DATASET, name, "0")
        if len(failed) == len(VALIDATION):
            raise SAM3DError(said.getvalue())
        if failed:
            raise RoundTripError(f"failed: {failed}")
        (file,) = (results / name).rglob("metrics.csv")
        return self._check_metrics(file.parent)

    def _check_metrics(self, folder: Path) -> pd.DataFrame:
        """Dice and volumes in metrics.csv must be those of the voxels that were written into the data set."""
        table = pd.read_csv(folder / "metrics.csv")
        if len(table) != 2 * len(VALIDATION):
            raise RoundTripError(f"{len(table)} rows in metrics.csv")
        for row in table.itertuples():
            label = {"body": 1, "core": 2}[row.target]
            wanted = sitk.GetArrayFromImage(self.cases[row.case].labels) == label
            found = np.rint(sitk.GetArrayFromImage(read(folder / f"{row.case}{self.ending}"))) == label
            millilitres = np.prod(self.cases[row.case].image.GetSpacing()) / 1000
            expected = {
                "dice": 2 * (wanted & found).sum() / (wanted.sum() + found.sum()),
                "truth_ml": wanted.sum() * millilitres,
                "prediction_ml": found.sum() * millilitres,
            }
            for name, value in expected.items():
                if not np.isclose(getattr(row, name), value, rtol=1e-4):
                    raise RoundTripError(f"{name} of {row.case} is {getattr(row, name):.3f} instead of {value:.3f}")
        return table

    def _check_files(self, folder: Path, cases: dict[str, Case] | None = None) -> None:
        """Predictions of the validation cases must be their labels, with the headers of their images."""
        for name in VALIDATION:
            labels = (cases or self.cases)[name].labels
            found = read(folder / f"{name}{self.ending}")
            if not same_voxels(found, labels):
                raise RoundTripError(f"{folder.name}/{name} has {_header(found)} instead of {_header(labels)}")
            score = dice(found, labels)
            if score != 1:
                raise RoundTripError(f"Dice {score:.3f} of {folder.name}/{name}")


def outcome(check: Callable[[], None]) -> str:
    """What a check found: "right", "refused" because of a label map, or what is wrong."""
    try:
        check()
    except RoundTripError as e:
        return str(e)
    except SAM3DError as e:
        names_label_map = "labelsTr" in str(e) or "gt_segmentations" in str(e)
        return REFUSED if names_label_map else f"refused: {e}"
    except Exception as e:  # goes into the table
        return f"{type(e).__name__}: {e}".strip().splitlines()[0]
    return RIGHT


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[None]:
    """nnU-Net's folders and trainers, threads in place of its processes (which take seconds to start), and no words."""
    variables = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    variables |= {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
    trainers = {trainer.__name__: trainer for trainer in (LearntPromptedTrainer, LearntTrainer)}
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.multiple("nnunetv2.training.nnUNetTrainer.nnUNetTrainer", create=True, **trainers),  # looks there
        mock.patch("multiprocessing.get_context", lambda *_: SimpleNamespace(Pool=ThreadPool)),
        mock.patch("nnunetv2.utilities.utils.Pool", lambda processes: ThreadPool(1)),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
