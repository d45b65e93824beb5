"""Does a click select one of several look-alikes, and which drawing of clicks learns it best?

Trains the prompted U-Net and our small network with target policy `clicked` from one plan, for the same number of steps
and with clicks alone, then clicks once on each object of unseen cases: Dice of the clicked object, share of each other
object that is marked.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

SIZE, RADIUS, DISTANCE = 32, 4.2, 11.0  # of the phantoms, voxels
PHANTOMS = {"two_balls": 2, "three_balls": 3}  # number of equal balls
PLANS, CONFIGURATION = "SAM3DPlans", "3d_fullres"
SMALLEST = 0.1  # objects are components of at least this share of the largest


@dataclass(frozen=True)
class Method:
    """A trainer, and what its plan's block says.

    Attributes:
        trainer: name of the class.
        block: what differs from the common block.
    """

    trainer: str
    block: dict[str, Any]


UNET = "PromptedUNetTrainer"
OURS = "SAM3DAdapterTrainer"
TINY = {"preset": "tiny", "optimizer": {"lr": 1e-3}}
METHODS = {
    "unet_voxel": Method(UNET, {"click_map": "gaussian", "click_unit": "voxel"}),
    "unet_gaussian": Method(UNET, {"click_map": "gaussian", "click_unit": "token"}),
    "unet_distance": Method(UNET, {"click_map": "distance", "click_unit": "token"}),
    "ours_gaussian": Method(OURS, TINY | {"click_map": "gaussian"}),
    "ours_distance": Method(OURS, TINY | {"click_map": "distance"}),
    "ours_convolutions": Method(OURS, TINY | {"click_map": "gaussian", "refine": "convolutions"}),
    "ours_coarse": Method(OURS, TINY | {"click_map": "gaussian", "refine": "none"}),
}
CLICKS_ONLY = {"mask_share": 0.0, "scribble_share": 0.0, "box_share": 0.0, "iterated_share": 0.0}


def main() -> None:
    arguments = parse_arguments()
    root = arguments.folder.absolute()
    root.mkdir(parents=True, exist_ok=True)
    set_folders(root)
    name = prepare(root, arguments)
    rows = []
    for seed in arguments.seeds:
        for method in arguments.methods:
            file = root / "measured" / f"{method}_{arguments.steps}_{seed}.json"
            if not file.is_file():  # a run that was stopped goes on here
                file.parent.mkdir(exist_ok=True)
                file.write_text(json.dumps(measure(name, method, seed, arguments)))
            rows.append({"method": method, "seed": seed} | json.loads(file.read_text()))
            print_table(rows, arguments.methods)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Examples:\n"
        "  python benchmarks/click_selection.py phantoms --steps 250\n"
        "  python benchmarks/click_selection.py spine --data ../shared/data/Dataset921_SpineMR \\\n"
        "      --spacing 2 2 2 --patch 24 64 64 --features 16 --methods unet_gaussian ours_gaussian --seeds 0 1",
    )
    parser.add_argument("folder", type=Path, help="to work in; what it holds already is not planned or trained again")
    parser.add_argument(
        "--data", default="two_balls", help=f"{', '.join(PHANTOMS)}, or a raw data set of nnU-Net (fold 0); two_balls"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help="all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the trainings; 0")
    parser.add_argument("--steps", type=int, default=250, help="of a training, in epochs of 50; 250")
    parser.add_argument("--batch", type=int, default=2, help="patches of a step; 2")
    parser.add_argument("--train", type=int, default=40, help="phantoms to train on; 40")
    parser.add_argument("--test", type=int, default=20, help="unseen phantoms; 20")
    parser.add_argument("--spacing", nargs=3, type=float, default=[1.0] * 3, help="mm; 1 1 1")
    parser.add_argument("--patch", nargs=3, type=int, default=[SIZE] * 3, help="voxels; 32 32 32")
    parser.add_argument("--stride", type=int, default=4, help="voxels a token covers; 4")
    parser.add_argument("--features", type=int, help="of the U-Net's first stage, doubled by each; as planned")
    parser.add_argument("--instances", action="store_true", help="also click on all at once; Dice of each instance")
    parser.add_argument("--windows", type=int, default=4, help="at most, for a prediction that grows; 4")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.data not in PHANTOMS and not (Path(arguments.data) / "dataset.json").is_file():
        parser.error(f"{arguments.data} is neither a kind of phantoms nor a raw data set with a dataset.json")
    return arguments


def set_folders(root: Path) -> None:
    """nnU-Net's folders, which it reads when it is imported."""
    from sam3d_nnunet.nnunet.registration import EXT_FOLDER

    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    os.environ |= {variable: str(root / folder) for variable, folder in folders.items()}
    os.environ |= {"nnUNet_extTrainer": str(EXT_FOLDER), "OMP_WAIT_POLICY": "PASSIVE", "nnUNet_def_n_proc": "2"}
    os.environ |= {"nnUNet_compile": "f"}
    for folder in folders.values():
        (root / folder).mkdir(exist_ok=True)


# --- data and plan ---


def prepare(root: Path, arguments: argparse.Namespace) -> str:
    """Write or link the raw data set, plan and preprocess it; returns its name."""
    if arguments.data in PHANTOMS:
        name = f"Dataset981_{arguments.data}"
        if not (root / "raw" / name).exists():
            write_phantoms(root / "raw" / name, arguments.train + arguments.test, PHANTOMS[arguments.data])
    else:
        source = Path(arguments.data).absolute()
        name = source.name
        if not (root / "raw" / name).exists():
            (root / "raw" / name).symlink_to(source)
    number = name[len("Dataset") : len("Dataset") + 3]
    preprocessed = root / "preprocessed" / name
    if (preprocessed / f"{PLANS}_{CONFIGURATION}").is_dir():
        return name
    recipe = {
        "target_spacing": arguments.spacing,
        "patch_size": arguments.patch,
        "sam3d": {"stride": arguments.stride, "target_policy": "clicked", "clicks": CLICKS_ONLY},
    }
    (root / "recipe.json").write_text(json.dumps(recipe))
    run(root, "sam3d", "plan", "-d", number, "--recipe", str(root / "recipe.json"))
    if arguments.features:
        narrow(preprocessed / f"{PLANS}.json", arguments.features)
    run(root, "nnUNetv2_preprocess", "-d", number, "-plans_name", PLANS, "-c", CONFIGURATION, "-np", "2")
    if arguments.data in PHANTOMS:
        cases = sorted(file.name[: -len(".nii.gz")] for file in (root / "raw" / name / "labelsTr").iterdir())
        split = {"train": cases[: arguments.train], "val": cases[arguments.train :]}
        (preprocessed / "splits_final.json").write_text(json.dumps([split]))
    return name


def write_phantoms(folder: Path, count: int, balls: int) -> None:
    """Images (SIZE, SIZE, SIZE) with equal balls in noise, as a raw data set."""
    rng = np.random.default_rng(0)
    for number in range(count):
        centres = np.zeros((0, 3))
        while len(centres) < balls:
            centre = rng.uniform(RADIUS + 1, SIZE - RADIUS - 2, 3)
            if (np.linalg.norm(centres - centre, axis=1) > DISTANCE).all():
                centres = np.concatenate([centres, centre[None]])
        voxels = np.stack(np.indices((SIZE,) * 3), -1)
        label = sum(((voxels - centre) ** 2).sum(-1) <= RADIUS**2 for centre in centres)
        image = 2.0 * label + rng.normal(0, 0.6, (SIZE,) * 3)
        write_image(folder / "imagesTr" / f"case_{number:03d}_0000.nii.gz", image.astype(np.float32))
        write_image(folder / "labelsTr" / f"case_{number:03d}.nii.gz", label.astype(np.uint8))
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": count}))


def write_image(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def narrow(file: Path, features: int) -> None:
    """Give the U-Net of plans fewer features; nnU-Net's own starts at 32."""
    plans = json.loads(file.read_text())
    architecture = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [min(features * 2**i, 320) for i in range(architecture["n_stages"])]
    file.write_text(json.dumps(plans))


def run(root: Path, command: str, *arguments: str) -> None:
    """One of the installed commands."""
    print("$", command, *arguments, flush=True)
    with (root / "log.txt").open("a") as log:
        subprocess.run([Path(sys.executable).parent / command, *arguments], stdout=log, stderr=log, check=True)


# --- training and measuring ---


def measure(name: str, method: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a method and click on all objects of the unseen cases."""
    start = time.process_time()
    trainer = train(name, method, seed, arguments)
    trained = time.process_time()
    clicked, others, instances = [], [], []  # by case
    for case in tqdm(trainer.do_split()[1], desc=method):
        clicks = Clicks(name, case, Path(trainer.output_folder_base), arguments)
        found = list(clicks.one_by_one())
        clicked.append([score for score, _ in found])
        others.append([share for _, shares in found for share in shares])
        if arguments.instances:
            instances.append(clicks.together())
    return {
        "clicked": clicked,
        "others": others,
        "instances": instances,
        "parameters": sum(p.numel() for p in trainer.plain_network().parameters()),
        "training_seconds": trained - start,
        "prediction_seconds": time.process_time() - trained,
    }


def train(name: str, method: str, seed: int, arguments: argparse.Namespace) -> Any:
    """The trainer of nnU-Net's command, after its training on fold 0."""
    import torch

    from sam3d_nnunet.nnunet.names import find_trainer
    from sam3d_nnunet.planning.settings import merge

    os.environ["nnUNet_n_proc_DA"] = "0"  # sending a patch to another process takes longer than augmenting it
    folder = Path(os.environ["nnUNet_preprocessed"]) / name
    plans = json.loads((folder / f"{PLANS}.json").read_text()) | {"plans_name": f"{method}{arguments.steps}seed{seed}"}
    epochs, rest = divmod(arguments.steps, 50)
    lengths = {"num_epochs": epochs + bool(rest), "steps_per_epoch": min(50, arguments.steps), "validation_steps": 1}
    own = METHODS[method].block | lengths | {"batch_size": arguments.batch}
    entry = plans["configurations"][CONFIGURATION]
    entry["sam3d"] = merge(entry["sam3d"], own)
    torch.manual_seed(seed)
    np.random.seed(seed)
    trainer = find_trainer(METHODS[method].trainer)(
        plans | {"continue_training": False},
        CONFIGURATION,
        0,
        json.loads((folder / "dataset.json").read_text()),
        torch.device(arguments.device),
    )
    trainer.run_training()
    return trainer


class Clicks:
    """A random click on each object of an unseen case, the same for all methods."""

    def __init__(self, name: str, case: str, model: Path, arguments: argparse.Namespace) -> None:
        """
        Args:
            name: of the data set.
            case: one of its cases.
            model: folder of the trained model.
            arguments: of the command line.
        """
        from sam3d_nnunet.prediction.cases import read_case
        from sam3d_nnunet.prediction.predictor import SAM3DPredictor
        from sam3d_nnunet.simulation.draw import case_generator

        self.case = case
        self.predictor = SAM3DPredictor(arguments.device, use_mirroring=False, max_windows=arguments.windows)
        self.predictor.initialize_from_trained_model_folder(model, use_folds=(0,))
        raw = Path(os.environ["nnUNet_raw"]) / name
        ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
        self.image = read_case([raw / "imagesTr" / f"{case}_0000{ending}"], self.predictor.model)
        truth = sitk.ReadImage(str(raw / "labelsTr" / f"{case}{ending}"))
        self.objects = components(sitk.GetArrayFromImage(truth))
        rng = case_generator(case)
        voxels = [rng.choice(np.argwhere(chosen)) for chosen in self.objects]
        self.points = [truth.TransformIndexToPhysicalPoint([int(n) for n in voxel[::-1]]) for voxel in voxels]

    def one_by_one(self) -> Iterator[tuple[float, list[float]]]:
        """For a click on each object: Dice of this object, and the share of each other object that is marked."""
        for chosen, point in zip(self.objects, self.points, strict=True):
            mask = self.predictor.predict_read(self.image, self._prompt([point])).segmentation() > 0
            shares = [float((mask & other).sum() / other.sum()) for other in self.objects if other is not chosen]
            yield dice(mask, chosen), shares

    def together(self) -> list[float]:
        """Dice of each object in the instance map of all clicks."""
        prediction = self.predictor.predict_read(self.image, self._prompt(self.points), per_lesion=True)
        numbers = prediction.instances(prediction.segmentation())
        return [dice(numbers == number, chosen) for number, chosen in enumerate(self.objects, start=1)]

    def _prompt(self, points: list[tuple[float, ...]]) -> Any:
        from sam3d_nnunet.prompts.prompt import Prompt

        return Prompt(points, [1] * len(points), self.case)


def components(truth: np.ndarray) -> list[np.ndarray]:
    """(D, H, W) bool each: the connected components of the foreground, without specks."""
    numbers, count = cc3d.connected_components(truth > 0, connectivity=26, return_N=True)
    masks = [numbers == number + 1 for number in range(count)]
    largest = max(mask.sum() for mask in masks)
    return [mask for mask in masks if mask.sum() >= SMALLEST * largest]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def print_table(rows: list[dict[str, Any]], methods: list[str]) -> None:
    """Means over all objects of all seeds, and the standard error of the mean over cases and seeds."""
    columns = f"{'Dice of the clicked':>20} {'others marked':>16} {'instances':>16} {'CPU s':>7} {'parameters':>11}"
    print(f"\n{'method':<16} {'runs':>4} {columns}")
    for method in methods:
        runs = [row for row in rows if row["method"] == method]
        if not runs:
            continue
        clicked, others = ([values for row in runs for values in row[key]] for key in ("clicked", "others"))
        instances = [values for row in runs for values in row["instances"]]
        seconds = np.mean([row["training_seconds"] for row in runs])
        print(
            f"{method:<16} {len(runs):>4} {mean(clicked):>20} {mean(others, percent=True):>16} "
            f"{mean(instances) if instances else '-':>16} {seconds:>7.0f} {runs[0]['parameters']:>11,}",
            flush=True,
        )


def mean(by_case: list[list[float]], percent: bool = False) -> str:
    everything = np.concatenate([np.asarray(values) for values in by_case])
    error = np.std([np.mean(values) for values in by_case], ddof=1) / np.sqrt(len(by_case))
    if percent:
        return f"{everything.mean():.1%} +- {error:.1%}"
    return f"{everything.mean():.3f} +- {error:.3f}"


if __name__ == "__main__":
    main()
