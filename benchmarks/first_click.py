"""Seconds and memory from an image file to the mask of the first click, stage by stage, on the CPU of a Linux machine.

Each way runs in a process of its own: `sam3d predict`, the same with the whole image preprocessed first, and
nnUNetv2_predict with a U-Net of the same plan; then a session, and the floor: reading the file and encoding one window.
Weights are random: the ways compute as trained networks do, but what they find means nothing.

Examples:
    python benchmarks/first_click.py --json first_click.json
    python benchmarks/first_click.py --volumes mr --models tiny --ways predict whole nnunet
    python benchmarks/first_click.py --volumes ct --shape 256 256 150 --unet-features 8
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tqdm import tqdm

MIB = 2**20
INTERVAL = 0.2  # seconds between two looks at the memory
DATASET, FOLD = "Dataset990_FirstClick", "0"
OURS, UNET = "SAM3DAdapterTrainer", "nnUNetTrainer"
WAYS = ("predict", "whole", "nnunet", "session", "floor")
TITLES = {"predict": "sam3d predict", "whole": "whole image first", "nnunet": "nnUNetv2_predict"}
STAGES = ("start", "model", "reading", "preprocessing", "encoding", "decoding", "resampling back", "writing")
NETWORK = ("encoding", "decoding")


@dataclass(frozen=True)
class Volume:
    """An image to make, with one bright object.

    Attributes:
        shape: voxels along x, y, z.
        spacing: mm along x, y, z.
        normalization: nnU-Net's name for it.
        outside, body, object, noise: intensities.
        radii: of the object, mm.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    normalization: str
    outside: int
    body: int
    object: int
    noise: int
    radii: tuple[float, float, float] = (25, 20, 15)

    @property
    def click(self) -> tuple[int, ...]:
        """(x, y, z) voxel in the middle of the object."""
        return tuple(int(n * share) for n, share in zip(self.shape, (0.4, 0.5, 0.55)))


VOLUMES = {
    "ct": Volume((512, 512, 600), (0.7, 0.7, 0.7), "CTNormalization", -1024, 40, 130, 15),
    "mr": Volume((320, 320, 40), (0.6, 0.6, 4.0), "ZScoreNormalization", 0, 400, 700, 40),
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.task is not None:
        child(json.loads(arguments.task))
        return
    records = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in arguments.volumes:
            volume = VOLUMES[name]
            if arguments.shape:
                volume = Volume(**{**asdict(volume), "shape": tuple(arguments.shape)})
            done = []
            for record in measure_volume(name, volume, Path(folder) / name, arguments):
                done.append(record)
                if arguments.json:  # after each way: they take minutes
                    found = {"machine": machine(), "records": records + done}
                    arguments.json.write_text(json.dumps(found, indent=1))
            show(name, volume, done, arguments)
            records += done


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several = {"nargs": "+"}
    parser.add_argument("--volumes", **several, choices=list(VOLUMES), default=list(VOLUMES), help="default: both")
    parser.add_argument("--models", **several, choices=("tiny", "vit_b"), default=["tiny", "vit_b"])
    parser.add_argument("--ways", **several, choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument(
        "--endings",
        **several,
        choices=(".nii.gz", ".nii", ".mha"),
        default=[".nii.gz"],
        help="of the image file; sam3d predict and the floor take all of them, other ways the first; default: .nii.gz",
    )
    parser.add_argument("--shape", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels; default: as in a clinic")
    parser.add_argument("--patch", type=int, default=128, help="side of a window in voxels of 1 mm; default: 128")
    parser.add_argument(
        "--unet-features",
        type=int,
        default=32,
        help="of the U-Net's first stage; its time grows with their square. nnU-Net plans 32, the default",
    )
    parser.add_argument("--folder", type=Path, help="for the images; default: where temporary files go")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    parser.add_argument("--task", help=argparse.SUPPRESS)  # of a process of its own
    return parser.parse_args()


def machine() -> str:
    """Processor, threads and load."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")] or [platform.machine()]
    avx512 = any("avx512f" in line for line in lines)
    return (
        f"{os.cpu_count()} cores of {names[0]} ({'AVX-512' if avx512 else 'no AVX-512'}), load {os.getloadavg()[0]:.1f}"
    )


def measure_volume(name: str, volume: Volume, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record for each way on one image, as soon as it has been measured.

    The models share the plan and the image, so only the first one is run in ways that differ in nothing but these.
    """
    files = write_images(volume, folder / "images", arguments.endings)
    tasks = list(tasks_of(arguments))
    for model in {model for _, model, _ in tasks}:
        write_model(folder / "results", model, volume, arguments.endings[0], arguments)
    for way, model, ending in (bar := tqdm(tasks, desc=name)):
        bar.set_postfix_str(f"{way}, {model}, {ending}")
        task = {"way": way, "model": str(model_folder(folder / "results", model)), "image": str(files[ending])}
        task |= {
            "click": volume.click,
            "output": str(folder / f"{way}_{model}"),
            "files": list(map(str, files.values())),
            "unet_features": arguments.unet_features,
        }
        yield {"volume": name, "way": way, "model": model, "ending": ending} | run_task(task, folder)


def tasks_of(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """What to run: way, model and ending of the image file."""
    first_model, first_ending = arguments.models[0], arguments.endings[0]
    for way in arguments.ways:
        if way == "nnunet":
            yield way, "U-Net", first_ending
        elif way == "whole":
            yield way, first_model, first_ending
        else:
            yield from ((way, model, first_ending) for model in arguments.models)
    if "predict" in arguments.ways:
        yield from (("predict", first_model, ending) for ending in arguments.endings[1:])


# --- image and models ---


def write_images(volume: Volume, folder: Path, endings: list[str]) -> dict[str, Path]:
    """A body with one bright object, int16; returns the file of each ending.

    The noise of each slice is that of the first, shifted, so that it packs no better than noise.
    """
    import SimpleITK as sitk

    shape, spacing = np.array(volume.shape), np.array(volume.spacing)
    centre = np.array(volume.click)
    x, y = np.arange(shape[0], dtype=np.float32), np.arange(shape[1], dtype=np.float32)[:, None]
    inside = ((x / shape[0] - 0.5) / 0.45) ** 2 + ((y / shape[1] - 0.5) / 0.4) ** 2 < 1
    planar = ((x - centre[0]) * spacing[0] / volume.radii[0]) ** 2
    planar = planar + ((y - centre[1]) * spacing[1] / volume.radii[1]) ** 2
    rng = np.random.default_rng(0)
    noise = rng.normal(0, volume.noise, inside.shape).astype(np.int16)
    voxels = np.empty(volume.shape[::-1], np.int16)
    for number, plane in enumerate(voxels):
        height = ((number - centre[2]) * spacing[2] / volume.radii[2]) ** 2
        content = np.where(planar + height < 1, volume.object, volume.body)
        plane[:] = np.where(inside, content + np.roll(noise, rng.integers(noise.size)), volume.outside)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing.tolist())
    folder.mkdir(parents=True)
    for ending in endings:
        (folder / ending).mkdir()
        sitk.WriteImage(image, str(folder / ending / f"case_0000{ending}"), useCompression=ending == ".nii.gz")
    return {ending: folder / ending / f"case_0000{ending}" for ending in endings}


def model_folder(results: Path, model: str) -> Path:
    trainer, plans = (UNET, "SAM3DPlans") if model == "U-Net" else (OURS, model)
    return results / DATASET / f"{trainer}__{plans}__3d_fullres"


def plans_for(volume: Volume, patch: int, features: int) -> dict[str, Any]:
    """The plan of all models: that of the published ones, see `released_plans`, with nnU-Net's U-Net for the patch.

    Args:
        features: of the U-Net's first stage.
    """
    from sam3d_nnunet.planning.planner import unet_topology
    from sam3d_nnunet.prediction.import_released import released_plans

    plans = released_plans("kits21_tumor") | {"dataset_name": DATASET, "image_reader_writer": "SimpleITKIO"}
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [patch] * 3, "normalization_schemes": [volume.normalization]}
    _, strides, kernels, _, _ = unet_topology(configuration["spacing"], configuration["patch_size"])
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": len(strides),
        "features_per_stage": [min(10 * features, features * 2**i) for i in range(len(strides))],
        "strides": strides,
        "kernel_sizes": kernels,
        "n_conv_per_stage": [2] * len(strides),
        "n_conv_per_stage_decoder": [2] * (len(strides) - 1),
    }
    del configuration["sam3d"]["orientation"]  # the images lie as those of the training
    return plans


def write_model(results: Path, model: str, volume: Volume, ending: str, arguments: argparse.Namespace) -> None:
    """A folder as after a training, with random weights."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from sam3d_nnunet.planning.networks import BUILDERS

    torch.manual_seed(0)
    plans = plans_for(volume, arguments.patch, arguments.unet_features)
    dataset = {"channel_names": {"0": "image"}, "labels": {"background": 0, "object": 1}, "file_ending": ending}
    if model == "U-Net":
        trainer, build = UNET, nnUNetTrainer.build_network_architecture
    else:
        trainer, build = OURS, BUILDERS[OURS]
        plans["configurations"]["3d_fullres"]["sam3d"] |= {"preset": model}
    manager = PlansManager(plans)
    network = build(manager, manager.get_configuration("3d_fullres"), 1, 2, False)
    folder = model_folder(results, model)
    (folder / f"fold_{FOLD}").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    content = {
        "network_weights": network.state_dict(),
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(content, folder / f"fold_{FOLD}" / "checkpoint_final.pth")


def unet_work(volume: Volume, patch: int, features: int) -> tuple[int, float]:
    """Windows of nnU-Net's prediction, and TFLOP of its U-Net for one of them, counted without computing it."""
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from torch.utils.flop_counter import FlopCounterMode

    manager = PlansManager(plans_for(volume, patch, features))
    configuration = manager.get_configuration("3d_fullres")
    with torch.device("meta"):
        network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, 2, False)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, patch, patch, patch, device="meta"))
    lengths = np.round(np.array(volume.shape) * volume.spacing / configuration.spacing).astype(int)
    steps = compute_steps_for_sliding_window(tuple(np.maximum(lengths, patch)), (patch,) * 3, 0.5)
    return int(np.prod([len(along) for along in steps])), counter.get_total_flops() / 1e12


# --- processes ---


def run_task(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a way in a process of its own; returns seconds, processor time, memory, and what the process measured."""
    found = folder / "found.json"
    found.unlink(missing_ok=True)
    image, results = Path(task["image"]), folder / "results"
    bin_folder = Path(sys.executable).parent
    if task["way"] == "nnunet":
        command = [bin_folder / "nnUNetv2_predict", "-i", image.parent, "-o", task["output"], "-d", DATASET]
        command += ["-p", "SAM3DPlans", "-tr", UNET, "-c", "3d_fullres", "-f", FOLD, "--disable_tta", "-device", "cpu"]
    else:
        command = [sys.executable, Path(__file__).resolve(), "--task", json.dumps(task | {"found": str(found)})]
    folders = {"nnUNet_raw": folder, "nnUNet_preprocessed": folder, "nnUNet_results": results}
    whole = measure(list(map(str, command)), os.environ | {name: str(path) for name, path in folders.items()})
    return whole | (json.loads(found.read_text()) if found.is_file() else {})


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command, and look at the memory of all its processes together.

    Returns:
        "seconds" by the clock, "cpu_seconds" of all processes, "mib" at most at any moment. (The system's own figure,
        `ru_maxrss`, begins with the memory of this process, and knows single processes only.)
    """
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output:
        # a session of its own, by which its children are found even after their parent has gone
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            peak = max(peak, in_memory(processes_of(process.pid)))
            time.sleep(INTERVAL)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read()[-3000:]}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "mib": peak / MIB}


def processes_of(session: int) -> Iterator[int]:
    """Ids of the processes of a session."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name of the program, in brackets, may hold blanks
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            yield int(stat.parent.name)


def in_memory(processes: Iterable[int]) -> int:
    """Bytes that processes hold together. Of what is shared (libraries, tensors that are passed on), the most of one
    counts: to ask the system for exact shares takes a quarter of a core."""
    held = []
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        held.append([1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")])  # own, files, shared
    own, files, shared = zip(*filter(None, held)) if any(held) else ((0,),) * 3
    return sum(own) + max(files) + max(shared)


# --- in a process of its own ---


@dataclass
class Stage:
    """Cost of a part of the work, without the stages inside it; memory is the most in use at any moment of it."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    mib: float = 0.0


@dataclass
class Stages:
    """Measures stages of the work of a process, which follow each other or lie in each other."""

    found: dict[str, Stage] = field(default_factory=dict)
    _open: list[Stage] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Its part of the work is what the block does."""
        self._account()
        self._open.append(self.found.setdefault(name, Stage()))
        try:
            yield
        finally:
            self._account()
            self._open.pop()

    @contextmanager
    def watch(self, *functions: tuple[Any, str, str]) -> Iterator[None]:
        """Each call of these functions (module or class, name, name of the stage) is a stage, as long as this lasts."""
        with ExitStack() as stack:
            for owner, function, name in functions:
                stack.enter_context(patch.object(owner, function, self._watched(getattr(owner, function), name)))
            yield

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"stages": {name: asdict(stage) for name, stage in self.found.items()}}

    def _watched(self, function: Callable, name: str) -> Callable:
        def watched(*args: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*args, **options)

        return watched

    def _account(self) -> None:
        """Book what has passed to the innermost stage, and the memory to all that are open."""
        now, peak = (time.perf_counter(), time.process_time()), peak_memory()
        if self._open:
            inner = self._open[-1]
            inner.seconds += now[0] - self._since[0]
            inner.cpu_seconds += now[1] - self._since[1]
        for stage in self._open:
            stage.mib = max(stage.mib, peak)
        self._since = now


def peak_memory() -> float:
    """MiB at most in use since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak / 1024


def child(task: dict[str, Any]) -> None:
    """Do a task and write what it took to the file that it names."""
    ways = {"predict": predict, "whole": predict_whole, "session": click_in_session, "floor": measure_floor}
    found = ways[task["way"]](task)
    Path(task["found"]).write_text(json.dumps(found))


def predict(task: dict[str, Any]) -> dict[str, Any]:
    """`sam3d predict` with one click and one window, as the command does it."""
    stages = Stages()
    with stages.stage("start"):
        from sam3d_nnunet.cli.main import main as sam3d
        from sam3d_nnunet.network.sam3d import SAM3D
        from sam3d_nnunet.prediction import batch, cases, grid_image, predictor

        watched = (
            (predictor.SAM3DPredictor, "initialize_from_trained_model_folder", "model"),
            (cases, "read_stored_image", "reading"),
            (cases, "preprocess", "preprocessing"),
            (grid_image.LocalImage, "cut", "preprocessing"),
            (SAM3D, "encode", "encoding"),
            (SAM3D, "decode", "decoding"),
            (predictor.CasePrediction, "segmentation", "resampling back"),
            (batch, "_write", "writing"),
        )
        command = ["sam3d", "predict", "-i", task["image"], "-o", task["output"], "-m", task["model"], "-f", FOLD]
        command += ["--click", ",".join(map(str, task["click"])), "--disable_tta", "--device", "cpu"]
        # random weights: without a limit, a mask that means nothing grows from window to window
        command += ["--max-windows", "1"]
        with stages.watch(*watched), patch.object(sys, "argv", command):
            try:
                sam3d()
            except SystemExit as e:
                if e.code:
                    raise
    return stages.as_dict()


def predict_whole(task: dict[str, Any]) -> dict[str, Any]:
    """The same with the whole image preprocessed, as for plans whose resampling is not known."""
    from sam3d_nnunet.prediction import preprocessing

    with patch.object(preprocessing, "_whole_image_note", lambda *_: "the whole image was preprocessed for comparison"):
        return predict(task)


def click_in_session(task: dict[str, Any]) -> dict[str, Any]:
    """A session: model, image, and two clicks in the same window; beside them, a copy of the image."""
    import SimpleITK as sitk
    import torch

    from sam3d_nnunet.prediction.session import SAM3DSession

    stages = Stages()
    session = SAM3DSession("cpu", torch_n_threads=torch.get_num_threads(), do_autozoom=False)
    with stages.stage("model"):
        session.initialize_from_trained_model_folder(task["model"], FOLD)
    with stages.stage("warm-up"):
        session.warmup()
    with stages.stage("reading"):
        image = sitk.ReadImage(task["image"])
        array, spacing = sitk.GetArrayFromImage(image)[None], image.GetSpacing()[::-1]
        del image
    with stages.stage("copy of the image"):
        array.copy()
    with stages.stage("set_image"):
        session.set_image(array, {"spacing": spacing})
    session.set_target_buffer(np.zeros(array.shape[1:], np.uint8))
    click = np.array(task["click"][::-1])
    for name, place in (("first click", click), ("second click", click + 3)):
        with stages.stage(name):
            session.add_point_interaction(place.tolist(), True)
    return stages.as_dict()


def measure_floor(task: dict[str, Any]) -> dict[str, Any]:
    """What no way can do without: reading each file, with SimpleITK alone, and one window of each network."""
    import SimpleITK as sitk
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from sam3d_nnunet.prediction.model_folder import load_model_folder

    stages = Stages()
    for file in task["files"]:
        with stages.stage(f"reading {Path(file).parent.name}"):
            sitk.ReadImage(file)
    model = load_model_folder(task["model"], FOLD)
    patch = torch.randn(1, 1, *model.configuration.patch_size)
    with torch.inference_mode(), stages.stage("encoding one window"):
        model.networks[0].encode(patch)
    manager = PlansManager(plans_for(next(iter(VOLUMES.values())), patch.shape[-1], task["unet_features"]))
    configuration = manager.get_configuration("3d_fullres")
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 1, 2, False).eval()
    with torch.inference_mode(), stages.stage("one window of the U-Net"):
        network(patch)
    return stages.as_dict()


# --- output ---


def show(name: str, volume: Volume, records: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """A table of the ways for each model, then ratios, sessions and the floor."""
    shape, spacing = (" x ".join(map(str, numbers)) for numbers in (volume.shape, volume.spacing))
    print(f"\n## {name}: {shape} voxels of {spacing} mm\n\n{machine()}; windows of {arguments.patch}^3 voxels of 1 mm")
    theirs = next((r for r in records if r["way"] == "nnunet"), None)
    if theirs:
        windows, work = unet_work(volume, arguments.patch, arguments.unet_features)
        print(
            f"nnU-Net: {windows} windows, {work:.3f} TFLOP each with {arguments.unet_features} features in the first "
            "stage; no mirroring in any way"
        )
    for model in arguments.models:
        ours = [r for r in records if r["model"] == model and r["way"] in TITLES]
        if ours:
            print_ways(model, ours, theirs)
    for record in records:
        if record["way"] in ("session", "floor"):
            parts = [f"{stage} {cost['seconds']:.2f} s" for stage, cost in record["stages"].items()]
            print(f"\n{record['way']}, {record['model']}: {', '.join(parts)}; {record['mib']:.0f} MiB")


def print_ways(model: str, ours: list[dict[str, Any]], theirs: dict[str, Any] | None) -> None:
    """Seconds and MiB by stage, in columns: one for each way."""
    ways = ours + ([theirs] if theirs else [])
    print(f"\n| {model}: s by the clock (MiB) | " + " | ".join(title(way) for way in ways) + " |")
    print("| --- |" + " ---: |" * len(ways))
    for stage in STAGES:
        print(f"| {stage} | " + " | ".join(cell(way.get("stages", {}).get(stage)) for way in ways) + " |")
    print("| **in all** | " + " | ".join(f"**{cell(way)}**" for way in ways) + " |")
    print("| processor time | " + " | ".join(f"{way['cpu_seconds']:.1f}" for way in ways) + " |")
    for what, left_out in (
        ("reading and network", ("reading", *NETWORK)),
        ("these, start and model", ("start", "model", "reading", *NETWORK)),
    ):
        rest = [f"{besides(way, left_out):.2f}" if "stages" in way else "" for way in ways]
        print(f"| all but {what} | " + " | ".join(rest) + " |")
    if theirs:
        for key, what in (("seconds", "seconds"), ("cpu_seconds", "processor time"), ("mib", "memory")):
            ratios = [f"{way[key] / theirs[key]:.3f}" for way in ways]
            print(f"| {what} / nnU-Net's | " + " | ".join(ratios) + " |")


def title(way: dict[str, Any]) -> str:
    return f"{TITLES[way['way']]}, {way['ending']}"


def cell(cost: dict[str, float] | None) -> str:
    return f"{cost['seconds']:.2f} ({cost['mib']:.0f})" if cost else ""


def besides(way: dict[str, Any], left_out: Sequence[str]) -> float:
    """Seconds of all stages but some."""
    return sum(cost["seconds"] for stage, cost in way["stages"].items() if stage not in left_out)


if __name__ == "__main__":
    main()
