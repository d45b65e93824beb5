"""Does a lifted encoder train better from SAM's own features (start "sam") or from the published start?

A proxy takes the place of SAM's weights: SAM's own encoder (segment_anything) at the sizes of the preset `tiny`,
trained to segment slices of every third case. Its file is lifted to 3-D both ways, and each network then learns from
clicks on another third. Dice and loss are those of fixed patches of the last third, with one click each.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sam3d_nnunet.baselines.slice_encoder import SliceEncoder
from sam3d_nnunet.network.image_encoder import STARTS
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.network.sam3d import PRESETS, SAM3D
from sam3d_nnunet.network.weights import lift_sam
from sam3d_nnunet.simulation.draw import clicks_per_class
from sam3d_nnunet.simulation.simulator import ClickSimulator

PATCH, STRIDE = (32, 32, 32), 4  # voxels, and voxels of a token
NOT_LIFTED = "not lifted"  # start "sam" with random frozen weights: what the lifted weights are worth


class Case(NamedTuple):
    """An image with mean 0 and deviation 1, its label map, and its foreground voxels; arrays (d, h, w)."""

    image: np.ndarray
    truth: np.ndarray
    foreground: np.ndarray


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cases = [read_case(file, arguments.spacing) for file in tqdm(label_files(arguments), desc="Reading")]
    parts = cases[::3], cases[1::3], cases[2::3]
    numbers = [len(part) for part in parts]
    print("{}: slices of {} cases, training on {}, {} held out".format(arguments.dataset.name, *numbers))
    arguments.output.mkdir(parents=True, exist_ok=True)
    sam, file = arguments.output / "sam.pth", arguments.output / "measured.json"
    if not sam.is_file():
        train_on_slices(parts[0], parts[2], sam, arguments.slice_steps)
    records = json.loads(file.read_text()) if file.is_file() else []
    for seed in arguments.seeds:
        for start in arguments.starts:
            if not any((r["seed"], r["start"]) == (seed, start) for r in records):
                records += train_lifted(start, sam, parts[1], parts[2], seed, arguments)
                file.write_text(json.dumps(records, indent=1))
    print_table(records, arguments.starts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python benchmarks/start.py ../shared/data/Dataset921_SpineMR --spacing 2 -o spine",
    )
    parser.add_argument("dataset", type=Path, help="folder of a data set in nnU-Net's raw layout, with one channel")
    parser.add_argument("--spacing", type=float, required=True, help="to which images are resampled, in mm")
    parser.add_argument(
        "--starts", nargs="+", default=STARTS, choices=(*STARTS, NOT_LIFTED), help="default: sam published"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--slice-steps", type=int, default=500, help="of 16 slices each; default: 500")
    parser.add_argument("--steps", type=int, default=60, help="of the lifted networks, 2 patches each; default: 60")
    parser.add_argument("--every", type=int, default=15, help="steps between measurements; default: 15")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the start, of AdamW; default: 1e-3")
    parser.add_argument("--patches", type=int, default=8, help="held out, to measure on; default: 8")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, help="folder for results; what it holds is not trained again"
    )
    return parser.parse_args()


def label_files(arguments: argparse.Namespace) -> list[Path]:
    return sorted((arguments.dataset / "labelsTr").glob("*.nii.gz"))


def read_case(label_file: Path, spacing: float) -> Case:
    """Resampled, and filled up to the size of a patch where it is smaller."""
    image_file = label_file.parents[1] / "imagesTr" / label_file.name.replace(".nii.gz", "_0000.nii.gz")
    image = resample(sitk.ReadImage(str(image_file), sitk.sitkFloat32), spacing, sitk.sitkLinear)
    truth = resample(sitk.ReadImage(str(label_file), sitk.sitkUInt8), spacing, sitk.sitkNearestNeighbor)
    image = (image - image.mean()) / image.std()
    padding = [(0, max(0, p - n)) for p, n in zip(PATCH, truth.shape)]
    image, truth = np.pad(image, padding, mode="edge"), np.pad(truth, padding)
    truth = (truth > 0).astype(np.int16)
    return Case(image.astype(np.float32), truth, np.argwhere(truth))


def resample(image: sitk.Image, spacing: float, interpolator: int) -> np.ndarray:
    size = [max(1, round(n * s / spacing)) for n, s in zip(image.GetSize(), image.GetSpacing())]
    grid = image.GetOrigin(), (spacing,) * 3, image.GetDirection()
    return sitk.GetArrayFromImage(sitk.Resample(image, size, sitk.Transform(), interpolator, *grid))


def cut(case: Case, rng: np.random.Generator, foreground_share: float) -> tuple[np.ndarray, np.ndarray]:
    """A random patch of image and truth, mirrored at random; some are centred on a foreground voxel."""
    highest = np.array(case.truth.shape) - PATCH
    corner = rng.integers(highest + 1)
    if rng.random() < foreground_share:
        corner = np.clip(rng.choice(case.foreground) - np.array(PATCH) // 2, 0, highest)
    window = tuple(slice(c, c + p) for c, p in zip(corner, PATCH))
    axes = tuple(np.flatnonzero(rng.random(3) < 0.5))
    return np.flip(case.image[window], axes).copy(), np.flip(case.truth[window], axes).copy()


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of the foreground."""
    probability = logits.softmax(1)[:, 1]
    overlap, total = (probability * target).sum(), probability.sum() + target.sum()
    return F.cross_entropy(logits, target) + 1 - (2 * overlap + 1) / (total + 1)


def optimize(
    network: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float, title: str, measure: Callable[[int], str]
) -> None:
    """AdamW with linear decay to a tenth and clipped gradients, as our trainers have; measures before each step."""
    tuned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr, weight_decay=1e-5)
    bar = tqdm(range(steps), desc=title)
    for step in bar:
        bar.set_postfix_str(measure(step))
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
    print(f"{title}: {measure(steps)}", flush=True)


def train_on_slices(cases: list[Case], held_out: list[Case], file: Path, steps: int) -> None:
    """Train SAM's own encoder on slices, and write it as a SAM file. A linear layer reads masks off its output."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    preset = PRESETS["tiny"]
    encoder = SliceEncoder(preset, 1, STRIDE, activation_checkpointing=False, tuning=None)
    head = nn.Sequential(nn.Conv2d(preset.feature_channels, 2 * STRIDE**2, 1), nn.PixelShuffle(STRIDE))
    unseen = draw_slices(held_out, 64, np.random.default_rng(1))

    def segment(slices: Tensor) -> Tensor:
        volume = slices[:, None, None].expand(-1, -1, STRIDE, -1, -1)  # one token thick
        return head(encoder(volume)[-1][:, :, 0])

    def loss() -> Tensor:
        slices, target = draw_slices(cases, 16, rng)
        return loss_of(segment(slices), target)

    @torch.no_grad()
    def measure(step: int) -> str:
        if step < steps:
            return ""
        mask = segment(unseen[0]).argmax(1)
        return f"Dice {2 * (mask * unseen[1]).sum() / (mask + unseen[1]).sum():.3f} on 64 held-out slices"

    optimize(nn.ModuleList([encoder, head]), loss, steps, 1e-3, "slices", measure)
    torch.save({f"image_encoder.{name}": tensor for name, tensor in encoder.sam.state_dict().items()}, file)


def draw_slices(cases: list[Case], count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Slices (count, h, w) with some foreground, and their truth."""
    patches = [cut(cases[rng.integers(len(cases))], rng, foreground_share=1) for _ in range(count)]
    numbers = [rng.choice(np.flatnonzero(truth.any((1, 2)))) for _, truth in patches]
    images, truths = (np.stack([a[i] for a, i in zip(arrays, numbers)]) for arrays in zip(*patches))
    return torch.from_numpy(images), torch.from_numpy(truths).long()


def train_lifted(
    start: str, sam: Path, cases: list[Case], held_out: list[Case], seed: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train a lifted network; returns what was measured, as records."""
    torch.manual_seed(seed)
    network = SAM3D.from_preset(
        "tiny",
        1,
        2,
        PATCH,
        STRIDE,
        takes_maps=False,
        start=STARTS[0] if start == NOT_LIFTED else start,
        refine="none",  # with a U-Net, logits would not come from the lifted features alone
    )
    if start != NOT_LIFTED:
        lift_sam(network.image_encoder, sam)
    rng = np.random.default_rng([seed, 1])
    simulate = ClickSimulator("default", [1], labelled=True, no_click_share=0.15)
    unseen = held_out_patches(held_out, arguments.patches)
    records = []
    began = time.process_time()

    def loss() -> Tensor:
        patches = [cut(cases[rng.integers(len(cases))], rng, foreground_share=0.5) for _ in range(2)]
        images, truths = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*patches))
        prompts = Prompts.from_voxels([simulate(truth, rng) for _, truth in patches])
        return loss_of(network(images[:, None], prompts), truths.long())

    @torch.no_grad()
    def measure(step: int) -> str:
        if step % arguments.every == 0 or step == arguments.steps:
            image, truth, prompts = unseen
            logits = network(image, prompts)
            mask = logits.argmax(1)
            dice = 2 * (mask * truth).sum((1, 2, 3)) / (mask + truth).sum((1, 2, 3))
            found = {"loss": float(loss_of(logits, truth)), "dice": float(dice.mean())}
            seconds = time.process_time() - began
            records.append({"start": start, "seed": seed, "step": step, "cpu_seconds": seconds} | found)
        return f"loss {records[-1]['loss']:.3f}, Dice {records[-1]['dice']:.3f}"

    optimize(network, loss, arguments.steps, arguments.lr, f"seed {seed}, start {start}", measure)
    return records


def held_out_patches(cases: list[Case], count: int) -> tuple[Tensor, Tensor, Prompts]:
    """The same for all networks: patches centred on foreground, their truth, and one foreground click in each."""
    rng = np.random.default_rng(0)
    patches = [cut(cases[i % len(cases)], rng, foreground_share=1) for i in range(count)]
    images, truths = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*patches))
    clicks = [clicks_per_class(truth, [1], 1, rng) for _, truth in patches]
    return images[:, None], truths.long(), Prompts.from_voxels(clicks)


def print_table(records: list[dict[str, Any]], starts: list[str]) -> None:
    """Mean and range over the seeds, by step."""
    print("\n| steps | " + " | ".join(f"Dice, {s} | loss, {s}" for s in starts) + " |")
    print("| ---: |" + " --- | --- |" * len(starts))
    for step in sorted({record["step"] for record in records}):
        cells = []
        for start in starts:
            for name in ("dice", "loss"):
                values = [r[name] for r in records if (r["step"], r["start"]) == (step, start)]
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"| {step} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
