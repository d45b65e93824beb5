"""What prompts cost a training in CPU time: one training step, corrective clicks, and the data loader beside nnU-Net's.

Seconds are CPU seconds of the process, so that other work on the machine disturbs them little.

Examples:
    python benchmarks/training_overheads.py step --size 128 128 128
    python benchmarks/training_overheads.py parts
    python benchmarks/training_overheads.py corrections
    python benchmarks/training_overheads.py loader --workers 8 --batches 4
"""

import argparse
import multiprocessing
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from sam3d_nnunet.network import PRESETS, SAM3D, Prompts
from sam3d_nnunet.network.prompt_encoder import _shares
from sam3d_nnunet.network.window_attention import WindowLayout, distance_index
from sam3d_nnunet.planning.settings import ClickSettings
from sam3d_nnunet.prompts.prompt import KINDS, NOTHING
from sam3d_nnunet.simulation.draw import correction_click
from sam3d_nnunet.simulation.maps import MapSimulator
from sam3d_nnunet.simulation.simulator import POLICIES, ClickSimulator, PromptSimulator
from sam3d_nnunet.training.prompted_batches import Correction, PackedPrompts, PromptedDataLoader, _most_likely
from sam3d_nnunet.training.trainer import LevelsLoss

BATCH = 2
ROTATION = (-np.pi / 6, np.pi / 6)  # nnU-Net's, of 3-D patches
LABELS = {"background": 0, "organ": 1, "lesion": 2}
CLASSES = [1, 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step", help="one training step, with and without a corrective click")
    parts = commands.add_parser("parts", help="single parts of a step, beside the plain way")
    corrections = commands.add_parser("corrections", help="corrective clicks on several kinds of errors, a sample")
    loader = commands.add_parser("loader", help="a batch of our loader and of nnU-Net's, with the same augmentation")
    for command in (step, parts, corrections, loader):
        command.add_argument("--size", type=int, nargs=3, default=(128, 128, 128), help="voxels of a patch")
    for command in (step, parts, corrections):
        command.add_argument("--runs", type=int, default=5, help="the fastest one is printed")
    step.add_argument("--preset", default="tiny", choices=list(PRESETS))
    loader.add_argument("--workers", type=int, default=8, help="processes, as nnU-Net starts them")
    loader.add_argument("--batches", type=int, default=4, help="batches of each loader and worker")
    loader.add_argument("--policy", default="default", choices=list(POLICIES), help="how clicks are drawn")
    loader.add_argument("--select", action="store_true", help="target policy clicked")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, one thread a process, torch {torch.__version__}")
    {"step": time_steps, "parts": time_parts, "corrections": time_corrections, "loader": compare_loaders}[
        arguments.command
    ](arguments)


def processor() -> str:
    """Its name, where Linux tells."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def fastest(function: Callable[[], object], runs: int) -> float:
    """CPU seconds of the fastest of several calls."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


# --- a training step ---


def time_steps(arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    size = tuple(arguments.size)
    net = SAM3D.from_preset(arguments.preset, 1, 2, size)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    image, target = torch.randn(BATCH, 1, *size), (torch.rand(BATCH, 1, *size) < 0.5).to(torch.int16)
    points = torch.rand(BATCH, 32, 3) * torch.tensor(size)
    maps = torch.full((BATCH, KINDS, *size), NOTHING, dtype=torch.int16)
    prompts = Prompts(points, torch.ones(BATCH, 32, dtype=torch.long), maps).with_free_clicks()

    loss = LevelsLoss(torch.nn.CrossEntropyLoss(), net.level_weights)

    def step(corrects: bool) -> None:
        correct = Correction(target, None, None, np.random.default_rng(0)) if corrects else None
        loss(net(image, prompts, correct), target[:, 0].long()).backward()
        optimizer.step()
        optimizer.zero_grad()

    for corrects in (False, True):
        seconds = fastest(lambda corrects=corrects: step(corrects), arguments.runs)
        print(f"step of {arguments.preset}, batch {BATCH}, correction {corrects!s:5s}: {seconds:.3f} s")


# --- parts of a step ---


def time_parts(arguments: argparse.Namespace) -> None:
    """What is built once, and what is computed in a shorter way than PyTorch's own."""
    stride, device = 4, torch.device("cpu")
    grid = tuple(-(-n // stride) for n in arguments.size)
    logits = torch.randn(BATCH, 2, *arguments.size)
    mask = torch.rand(BATCH, KINDS, *arguments.size) < 0.5
    parts = {
        "window layouts, built once for a shape": lambda: [WindowLayout(grid, s, BATCH, device) for s in (True, False)],
        "distance index, built once": distance_index,
        "most likely label: argmax": lambda: logits.argmax(dim=1),
        "most likely label: ours": lambda: _most_likely(logits),
        "shares of tokens, a label: average pooling": lambda: F.avg_pool3d(mask.float(), stride),
        "shares of tokens, a label: ours": lambda: _shares(mask, stride),
    }
    for name, part in parts.items():
        print(f"{name:44s} {1000 * fastest(part, arguments.runs):8.2f} ms")


# --- corrective clicks ---


def errors(size: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What is wrong, the prediction (D, H, W) and the truth."""
    rng = np.random.default_rng(0)
    middle = np.array(size) / 2
    truth, nothing = ball(size, middle, 15), np.zeros(size, np.int16)
    noise = rng.random(size)
    yield "mask of 30 voxels shifted by 3", ball(size, middle + (3, 0, 0), 15), truth
    yield "mask of 30 voxels missed", nothing, truth
    others = [ball(size, rng.uniform(10, np.array(size) - 10), 6) for _ in range(10)]
    yield "the same, and 10 false positives", np.maximum.reduce([nothing, *others]), truth
    yield "1 % of the voxels are wrong", np.where(noise < 0.01, 1 - truth, truth), truth
    yield "half of the voxels are wrong", np.where(noise < 0.5, 1 - truth, truth), truth
    blobs = gaussian_filter(rng.normal(size=size), 2) > 0
    yield "smooth noise, half is wrong", blobs.astype(np.int16), truth
    yield "everything is foreground", np.ones(size, np.int16), truth
    yield "nothing is wrong", truth, truth


def ball(size: tuple[int, int, int], centre: np.ndarray, radius: float) -> np.ndarray:
    squares = [((np.arange(n) - c) ** 2) for n, c in zip(size, centre)]
    return (squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius**2).astype(np.int16)


def time_corrections(arguments: argparse.Namespace) -> None:
    size = tuple(arguments.size)
    print("CPU ms a sample: the click, and beside it everything that a correction does")
    for name, prediction, truth in errors(size):
        found = torch.from_numpy(prediction)
        logits = torch.stack([(found == k).float() for k in (0, 1)])[None].expand(BATCH, -1, -1, -1, -1).clone()
        target = torch.from_numpy(truth)[None, None].expand(BATCH, -1, -1, -1, -1).clone()
        maps = torch.full((BATCH, KINDS, *size), NOTHING, dtype=torch.int16)
        prompts = Prompts(torch.zeros(BATCH, 33, 3), torch.full((BATCH, 33), -1), maps)
        click = fastest(lambda p=prediction, t=truth: correction_click(p, t, np.random.default_rng(0)), arguments.runs)
        everything = fastest(
            lambda t=target, s=logits, p=prompts: Correction(t, None, None, np.random.default_rng(0))(s, p),
            arguments.runs,
        )
        print(f"{name:34s} {1000 * click:7.1f} {1000 * everything / BATCH:7.1f}")


# --- the data loader ---


class SameNumbers(BasicTransform):
    """Draws from np.random what drawing prompts does, so that both loaders augment alike."""

    def apply(self, data_dict: dict, **params: object) -> dict:
        np.random.randint(2**31)
        return data_dict


def compare_loaders(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_cases(Path(folder))
        jobs = [(folder, seed, arguments) for seed in range(arguments.workers)]
        with multiprocessing.Pool(arguments.workers) as pool:
            times = list(tqdm(pool.imap_unordered(load, jobs), total=len(jobs), desc="Loading"))
    nnunet, ours, prompts = np.sum(times, axis=0) / (arguments.workers * arguments.batches)
    print(
        f"CPU seconds a batch ({arguments.workers} workers, {arguments.batches} batches each, policy "
        f"{arguments.policy}{', target clicked' if arguments.select else ''})\n"
        f"nnU-Net's loader {nnunet:8.3f}\nours             {ours:8.3f}   {ours / nnunet - 1:+.1%}\n"
        f"drawing prompts, packing them and handing them over {1000 * prompts:.1f} ms, {prompts / nnunet:.1%}"
    )


def write_cases(folder: Path, count: int = 2, size: int = 200) -> None:
    """Preprocessed cases with an organ and lesions."""
    rng = np.random.default_rng(0)
    shape = (size,) * 3
    for case in range(count):
        organ = ball(shape, np.full(3, size / 2), size / 4)
        lesions = np.maximum.reduce([ball(shape, rng.uniform(60, size - 60, 3), rng.uniform(4, 15)) for _ in range(6)])
        segmentation = np.where(lesions > 0, 2, organ).astype(np.int8)[None]
        image = (gaussian_filter(rng.normal(size=shape), 1) + segmentation[0]).astype(np.float32)[None]
        locations = {c: np.argwhere(segmentation == c) for c in CLASSES}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nnU-Net's, about sizes of blocks that it chooses itself
            nnUNetDatasetBlosc2.save_case(
                image, segmentation, {"class_locations": locations}, str(folder / f"case_{case}")
            )


def load(job: tuple[str, int, argparse.Namespace]) -> tuple[float, float, float]:
    """CPU seconds of nnU-Net's batches, of ours, and of our work on prompts, in one worker."""
    folder, seed, arguments = job
    torch.set_num_threads(1)  # as nnU-Net's workers
    shares = ClickSettings()
    maps = MapSimulator(CLASSES, shares.mask_share, shares.scribble_share, shares.box_share)
    simulator = PromptSimulator(
        ClickSimulator(arguments.policy, CLASSES, True, shares.no_click_share),
        maps if arguments.policy == "default" else None,
        select=arguments.select,
    )
    nnunet, ours = (
        make_loader(nnUNetDataLoader, folder, arguments),
        make_loader(PromptedDataLoader, folder, arguments, simulator=simulator),
    )
    steps = nnunet.transforms.transforms
    steps.insert([type(step) for step in steps].index(RemoveLabelTansform), SameNumbers())
    seconds = {nnunet: 0.0, ours: 0.0}
    prompts = Timed(ours)
    for loader in (nnunet, ours):
        loader.generate_train_batch()
    prompts.seconds = 0.0
    for batch in range(arguments.batches):
        for loader in (nnunet, ours)[:: 1 if batch % 2 else -1]:
            np.random.seed(1000 * seed + batch)
            torch.manual_seed(1000 * seed + batch)
            start = time.process_time()
            made = loader.generate_train_batch()
            prompts.timed(share_memory)(made.pop("prompts", ()))
            share_memory(tuple(made.values()))
            seconds[loader] += time.process_time() - start
    return seconds[nnunet], seconds[ours], prompts.seconds


class Timed:
    """Adds up the CPU seconds of a loader's work on prompts: disturbed far less than the difference of two totals."""

    def __init__(self, loader: PromptedDataLoader) -> None:
        self.seconds = 0.0
        loader.draw_prompts.apply = self.timed(loader.draw_prompts.apply)
        PackedPrompts.pack = self.timed(PackedPrompts.pack)

    def timed(self, function: Callable) -> Callable:
        def run(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            result = function(*args, **kwargs)
            self.seconds += time.process_time() - start
            return result

        return run


def make_loader(kind: type[nnUNetDataLoader], folder: str, arguments: argparse.Namespace, **more: object):
    size = tuple(arguments.size)
    transforms = nnUNetTrainer.get_training_transforms(
        size, ROTATION, None, (0, 1, 2), False, use_mask_for_norm=[False], foreground_labels=CLASSES
    )
    labels = LabelManager(LABELS, None)
    start_size = get_patch_size(size, ROTATION, ROTATION, ROTATION, (0.85, 1.25))
    return kind(
        nnUNetDatasetBlosc2(folder), BATCH, start_size, size, labels, 0.5,
        probabilistic_oversampling=True, transforms=transforms, **more,
    )  # fmt: skip


def share_memory(values: tuple) -> None:
    """What a worker does with the tensors of a batch to hand them to the training process."""
    for value in values:
        if isinstance(value, torch.Tensor):
            value.share_memory_()


if __name__ == "__main__":
    main()
