"""Parameters, seconds per training step and per patch, and peak memory of every method, side by side in one run.

Examples:
    python benchmarks/methods.py --count
    python benchmarks/methods.py --device cuda --size 64 160 160
    python benchmarks/methods.py --device cpu --size 32 32 32 --stride 4 --precision fp32
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import Prompts
from sam3d_nnunet.nnunet.names import ABLATION, CONTROL, NETWORK, TUNING, class_lookup, trainers_in
from sam3d_nnunet.planning.networks import PLAIN, RESIDUAL, residual
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings
from sam3d_nnunet.training.planned_trainer import PlannedTrainer

PUBLISHED_SIZE = (64, 160, 160)  # the paper's table counts parameters for this patch
PAPER = {  # the paper's millions of parameters; for tuning methods those tuned in the encoder
    "nnUNetTrainer": 30.76,
    "TransBTSTrainer": 32.33,
    "NNFormerTrainer": 149.49,
    "SwinUNETRTrainer": 62.19,
    "UNETRPPTrainer": 55.70,
    "UXNet3DTrainer": 53.01,
    "SAM3DAdapterTrainer_paper": 25.46,
    "SAM3DFullFineTuneTrainer": 89.67,
    "SAM3DHoulsbyAdapterTrainer": 7.61,
    "SAM3DProTuningTrainer": 7.17,
    "SAM3DSTAdapterTrainer": 7.15,
    "SAM3DMedTuningTrainer": 11.10,
    "SAM3DAdapterAutoTrainer": 15.21,
}
RESENC = "nnUNetTrainer, ResEnc-L"
OTHER_NECKS = {
    f"{name}, neck {neck}": (name, {"neck": neck})
    for name, neck in {**dict.fromkeys(trainers_in(TUNING), "3d"), "SAM3DAdapterAutoTrainer": "sam"}.items()
}
"""Each way of tuning SAM with the neck that is not its default: the trainer and the arguments of its network."""
METHODS = (
    "nnUNetTrainer",
    RESENC,
    *(name for name in trainers_in(NETWORK, TUNING, CONTROL) if not name.endswith("epochs")),  # the same network
    *OTHER_NECKS,
    "SAM3DAdapterTrainer",
    "SAM3DAdapterTrainer_paper",
    *trainers_in(ABLATION),
)
GIB = 2**30


@dataclass
class Cost:
    """What a method costs; None where it was not measured.

    Attributes:
        parameters, tuned, tuned_in_encoder: how many; the last one of networks with an image encoder of SAM's.
        step_seconds: of a training step of batch 1, with AdamW for all and a loss at each resolution that is trained.
        patch_seconds: of a forward pass in inference, with one click where the network takes clicks.
        memory_gib: at the peak of a training step.
    """

    parameters: int
    tuned: int
    tuned_in_encoder: int | None = None
    step_seconds: float | None = None
    patch_seconds: float | None = None
    memory_gib: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=int, nargs=3, default=PUBLISHED_SIZE, help="voxels of the patch")
    parser.add_argument("--channels", type=int, default=1, help="of the image")
    parser.add_argument("--classes", type=int, default=2, help="background included")
    parser.add_argument("--count", action="store_true", help="only count parameters")
    parser.add_argument("--preset", default="vit_b", help="of the SAM methods")
    parser.add_argument("--stride", type=int, help="voxels a token of the SAM methods covers; default: by the patch")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp32"),
        help="of the methods that choose it themselves (ours, the tuning methods, the control); the others have fp32 "
        "on a CPU and nnU-Net's fp16 on a GPU",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=3, help="medians are printed")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="NAME", help="default: all")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    size = " x ".join(map(str, arguments.size))
    print(f"{size} voxels, {arguments.channels} channel(s), {arguments.classes} classes, {device_name(arguments)}")
    published = (*arguments.size, arguments.channels, arguments.classes) == (*PUBLISHED_SIZE, 1, 2)
    paper = {method: PAPER.get(method) for method in METHODS} if published else {}
    heading = f"{'method':<36} {'parameters':>12} {'tuned':>12} {'(encoder)':>11}"
    print(heading + (f" {'paper':>8}" if paper else ""), end="")
    print("" if arguments.count else f" {'s a step':>9} {'s a patch':>9} {'GiB':>6}")
    costs = {}
    for method in tqdm(arguments.methods, disable=arguments.count, leave=False):
        # one process for each method, so that each has its own peak of memory
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost = pool.apply(partial(measure, method, arguments))
        costs[method] = cost if isinstance(cost, str) else asdict(cost)
        tqdm.write(line(method, cost, paper))
    if arguments.json:
        arguments.json.write_text(json.dumps(costs, indent=2) + "\n")


def line(method: str, cost: Cost | str, paper: dict[str, float | None]) -> str:
    """A row of the table, with the paper's count if it is for patches of this size."""
    if isinstance(cost, str):
        return f"{method:<36} {cost}"
    encoder = f"{cost.tuned_in_encoder:,}" if cost.tuned_in_encoder else "-"
    text = f"{method:<36} {cost.parameters:>12,} {cost.tuned:>12,} {encoder:>11}"
    if paper:
        text += f" {f'{paper[method]:.2f} M' if paper[method] else '-':>8}"
    if cost.step_seconds is not None:
        text += f" {cost.step_seconds:9.2f} {cost.patch_seconds:9.2f} {cost.memory_gib:6.2f}"
    return text


def device_name(arguments: argparse.Namespace) -> str:
    if torch.device(arguments.device).type == "cuda":
        return torch.cuda.get_device_name(arguments.device)
    return f"{torch.get_num_threads()} CPU threads"


def measure(method: str, arguments: argparse.Namespace) -> Cost | str:
    """The cost of a method, measured in a separate process; or a sentence that says why this is impossible."""
    try:
        torch.manual_seed(0)
        network = make_network(method, arguments)
        cost = count(network)
        if not arguments.count:
            time_steps(network, cost, arguments)
        return cost
    except (RuntimeError, MemoryError) as e:
        if "memory" not in str(e).lower() and not isinstance(e, MemoryError):
            raise
        return "too large for this machine"


def make_network(method: str, arguments: argparse.Namespace) -> nn.Module:
    """The network that nnU-Net builds for a training from the plan."""
    name, _ = OTHER_NECKS.get(method, (method, {}))
    trainer = nnUNetTrainer if name in ("nnUNetTrainer", RESENC) else class_lookup(__name__)(name)
    plans = PlansManager(plan(method, trainer, arguments))
    configuration = plans.get_configuration("3d_fullres")
    return trainer.build_network_architecture(plans, configuration, arguments.channels, arguments.classes, True)


def plan(method: str, trainer: type, arguments: argparse.Namespace) -> dict:
    """A plan of isotropic CT, with nnU-Net's U-Net for the patch."""
    _, strides, kernel_sizes, size, _ = get_pool_and_conv_props((1.0, 1.0, 1.0), arguments.size, 4, 999999)
    if tuple(size) != tuple(arguments.size):
        # no sys.exit: the parent process would wait forever
        raise SAM3DError(f"nnU-Net would not take patches of {tuple(arguments.size)}, but of {tuple(map(int, size))}.")
    stages = len(strides)
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [min(320, 32 * 2**stage) for stage in range(stages)],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": kernel_sizes,
        "strides": strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": RESIDUAL if method == RESENC else PLAIN,
        "arch_kwargs": residual(PLAIN, kwargs) if method == RESENC else kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    block = {"preset": arguments.preset, "stride": arguments.stride, "num_click_labels": arguments.classes}
    block["precision"] = arguments.precision
    if arguments.preset == "paper":  # its clicks have no labels
        block["clicks"] = {"policy": "paper"}
    block |= getattr(trainer, "changes", {})
    if method in OTHER_NECKS:
        name, network = OTHER_NECKS[method]
        block["networks"] = {name: network}
    settings = SAM3DSettings.model_validate(block)
    if issubclass(trainer, PlannedTrainer):
        settings = trainer.completed(settings)
    configuration = {"patch_size": list(arguments.size), "architecture": architecture, BLOCK: settings.model_dump()}
    return {"plans_name": "benchmark", "configurations": {"3d_fullres": configuration}}


def count(network: nn.Module) -> Cost:
    def numel(module: nn.Module, tuned: bool) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not tuned)

    encoder = getattr(network, "image_encoder", None)
    return Cost(numel(network, False), numel(network, True), None if encoder is None else numel(encoder, True))


def time_steps(network: nn.Module, cost: Cost, arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    network.to(device).train()
    image = torch.randn(1, arguments.channels, *arguments.size, device=device)
    target = torch.randint(arguments.classes, (1, 1, *arguments.size), device=device)
    prompts = ()
    if hasattr(network, "decode"):
        points = torch.tensor([[[n / 3 for n in arguments.size]]], device=device)
        prompts = (Prompts(points, torch.ones(1, 1, device=device).long()),)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])

    def step() -> None:
        # nnU-Net's precision; networks with a precision of their own ignore it
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            output = network(image, *prompts)
        levels = output if isinstance(output, (list, tuple)) else [output]
        targets = (F.interpolate(target.float(), level.shape[2:])[:, 0].long() for level in levels)
        sum(F.cross_entropy(level.float(), t) for level, t in zip(levels, targets)).backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def forward() -> Tensor | list[Tensor]:
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            return network(image, *prompts)

    cost.step_seconds = median_seconds(step, device, arguments.runs)
    cost.memory_gib = peak_memory(device)
    network.eval()
    cost.patch_seconds = median_seconds(forward, device, arguments.runs)


def median_seconds(work, device: torch.device, runs: int) -> float:
    """Median seconds of several runs, after one run to warm up."""
    seconds = []
    for _ in range(runs + 1):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB; on a CPU that of the whole process, with Python and torch (0.5 GiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


if __name__ == "__main__":
    main()
