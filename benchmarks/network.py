"""Seconds and peak memory of the network, beside the straightforward formulation in the same run.

Example: python benchmarks/network.py --preset vit_b --size 128 128 128
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "network"))
import reference

from sam3d_nnunet.network import PRESETS, SAM3D, Prompts
from sam3d_nnunet.network.device import has_bf16_arithmetic
from sam3d_nnunet.network.refinement import REFINEMENTS

REFERENCE = "reference"
STEPS = ("image encoder", "encode", "decode", "training step")
UNETS = ("U-Net", "ResEnc-L")


class Contestant:
    """A network in one formulation and precision; each step of work is a method."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        """
        Args:
            name: "reference", or the precision of ours.
            arguments: of the command line.
        """
        torch.manual_seed(0)
        self.device = torch.device(arguments.device)
        size = tuple(arguments.size)
        options = {"refine": arguments.refine} | ({} if name == REFERENCE else {"precision": name})
        self.net = SAM3D.from_preset(arguments.preset, 1, 2, size, arguments.stride, **options).to(self.device).eval()
        self.image = torch.randn(1, 1, *size, device=self.device)
        points = torch.tensor([[[n / 3 for n in size]]], device=self.device)
        self.click = Prompts(points, torch.ones(1, 1, dtype=torch.long, device=self.device))
        self.target = (torch.rand(1, *size, device=self.device) < 0.5).long()
        self.encode_image = partial(reference.encode, self.net) if name == REFERENCE else self.net.encode
        self.decode_clicks = self._decode_reference if name == REFERENCE else self.net.decode
        self.embedding = None
        self.name = name

    def image_encoder(self) -> None:
        """The four levels of features; the reference can keep nothing else."""
        with torch.inference_mode():
            if self.name == REFERENCE:
                self.embedding = reference.encode(self.net, self.image)
                return
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.name == "bf16"):
                self.net.image_encoder(self.image)

    def encode(self) -> None:
        """Everything that does not depend on clicks."""
        with torch.inference_mode():
            self.embedding = self.net.encode(self.image)

    def decode(self) -> Tensor:
        """Logits from the click and the embedding of the last `encode`."""
        with torch.inference_mode():
            return self.decode_clicks(self.embedding, self.click)

    def training_step(self) -> None:
        """Forward, backward, optimiser."""
        self.embedding = None
        tuned = [p for p in self.net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(tuned)
        logits = self.decode_clicks(self.encode_image(self.image), self.click)  # without the levels of deep supervision
        F.cross_entropy(logits, self.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    def _decode_reference(self, levels: list[Tensor], prompts: Prompts) -> Tensor:
        return reference.decode(self.net, levels, self.image, prompts)


class UNet:
    """nnU-Net's plain U-Net or its large residual-encoder U-Net (ResEnc-L), as planned for CT; GPU only."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

        self.device = torch.device(arguments.device)
        sizes = {
            "n_stages": 6,
            "features_per_stage": [32, 64, 128, 256, 320, 320],
            "conv_op": nn.Conv3d,
            "kernel_sizes": 3,
            "strides": [1, 2, 2, 2, 2, 2],
            "num_classes": 2,
            "n_conv_per_stage_decoder": 2 if name == "U-Net" else 1,
            "conv_bias": True,
            "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
        }
        if name == "U-Net":
            net = PlainConvUNet(1, n_conv_per_stage=2, **sizes)
        else:
            net = ResidualEncoderUNet(1, n_blocks_per_stage=[1, 3, 4, 6, 6, 6], **sizes)
        self.net = net.to(self.device)
        self.image = torch.randn(1, 1, *arguments.size, device=self.device)
        self.target = (torch.rand(1, *arguments.size, device=self.device) < 0.5).long()

    def encode(self) -> None:
        """The whole forward pass."""
        with torch.inference_mode(), torch.autocast(self.device.type):
            self.net(self.image)

    def training_step(self) -> None:
        """Forward, backward, optimiser."""
        optimizer = torch.optim.SGD(self.net.parameters(), 1e-2)
        with torch.autocast(self.device.type):
            loss = F.cross_entropy(self.net(self.image), self.target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python benchmarks/network.py --preset vit_b --size 128 128 128",
    )
    parser.add_argument("--preset", default="vit_b", choices=list(PRESETS))
    parser.add_argument("--size", type=int, nargs=3, default=(128, 128, 128), help="voxels of the patch")
    parser.add_argument("--stride", type=int, help="voxels a token covers; default: chosen from the patch")
    parser.add_argument(
        "--refine", choices=["none", *REFINEMENTS], help="stage at full resolution; default: the preset's"
    )
    parser.add_argument("--runs", type=int, default=5, help="alternating runs; medians are printed")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    names = [REFERENCE, "fp32"] + ["bf16"] * has_bf16_arithmetic(device)
    others = list(UNETS) if device.type == "cuda" else []
    peak = {name: peaks(name, arguments) for name in names + others}
    flops, seconds = measure(names + others, peak, arguments)
    rates = machine_rates(device)
    print(f"\n{arguments.preset}, {' x '.join(map(str, arguments.size))}, {describe(device)}, {arguments.runs} runs")
    print_table(names, others, seconds, peak)
    print_rates(flops, seconds, rates)


def steps_of(name: str) -> tuple[str, ...]:
    """The steps that a contestant has. The reference has no `encode`, because it keeps nothing of the decoder."""
    if name in UNETS:
        return ("encode", "training step")
    return tuple(step for step in STEPS if name != REFERENCE or step != "encode")


def encoding(name: str) -> str:
    """The step that `decode` needs."""
    return "image encoder" if name == REFERENCE else "encode"


def encode_first(contestant: Contestant | UNet, step: str) -> None:
    """What `decode` needs."""
    if step == "decode" and contestant.embedding is None:
        work(contestant, encoding(contestant.name))()


def make(name: str, arguments: argparse.Namespace) -> Contestant | UNet:
    return (UNet if name in UNETS else Contestant)(name, arguments)


def work(contestant: Contestant | UNet, step: str) -> Callable[[], object]:
    return getattr(contestant, step.replace(" ", "_"))


# --- time ---


def measure(
    names: list[str], peak: dict[str, dict[str, float | None]], arguments: argparse.Namespace
) -> tuple[int, dict[str, dict[str, list[float]]]]:
    """Operations of our image encoder, and seconds of each step of each contestant that fits into memory.

    Run after run, the contestants take turns.
    """
    device = torch.device(arguments.device)
    contestants = {name: make(name, arguments) for name in names}
    with FlopCounterMode(display=False) as counter:
        contestants["fp32"].image_encoder()
    seconds = {name: {step: [] for step, gigabytes in peak[name].items() if gigabytes is not None} for name in names}
    turns = [(run, step, name) for run in range(arguments.runs) for step in arguments.steps for name in names]
    for _, step, name in tqdm(turns, desc="Timing"):
        if step not in seconds[name]:
            continue
        encode_first(contestants[name], step)
        seconds[name][step].append(timed(work(contestants[name], step), device))
    return counter.get_total_flops(), seconds


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# --- memory ---


def peaks(name: str, arguments: argparse.Namespace) -> dict[str, float | None]:
    """Peak memory of each step of a contestant; clicks and training are measured in separate processes."""
    steps = [step for step in arguments.steps if step in steps_of(name)]
    found = {}
    for phase in ([s for s in steps if s != "training step"], [s for s in steps if s == "training step"]):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found |= pool.apply(peaks_here, (name, phase, arguments))
    return found


def peaks_here(name: str, steps: list[str], arguments: argparse.Namespace) -> dict[str, float | None]:
    """Peak memory of each step in GiB, weights included; None if the machine has too little memory.

    On a CPU this is resident memory of the process (its libraries included), on a GPU what torch has allocated.
    """
    device = torch.device(arguments.device)
    if device.type == "cpu":
        limit = int(0.9 * available_memory())
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # an error before the kernel kills the process
    found: dict[str, float | None] = dict.fromkeys(steps)
    try:
        contestant = make(name, arguments)
        for step in steps:
            encode_first(contestant, step)
            reset_peak(device)
            work(contestant, step)()
            found[step] = read_peak(device)
    except RuntimeError as e:
        if "memory" not in str(e):
            raise
    return found


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def read_peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return read_kilobytes("/proc/self/status", "VmHWM") / 2**20


def read_kilobytes(file: str, key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
    return int(lines[key].split()[0])


def available_memory() -> int:
    """Bytes that can be used without swapping."""
    return 1024 * read_kilobytes("/proc/meminfo", "MemAvailable")


# --- the machine ---


def machine_rates(device: torch.device) -> dict[str, float]:
    """FLOP/s of the faster of a large matrix product and a large convolution, by precision."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "bf16" and not has_bf16_arithmetic(device):
            continue
        a, b = (torch.randn(n, m, device=device, dtype=dtype) for n, m in ((16384, 1024), (4096, 1024)))
        x = torch.randn(1, 128, 64, 64, 64, device=device, dtype=dtype)
        w = torch.randn(128, 128, 3, 3, 3, device=device, dtype=dtype)
        x, w = (t.to(memory_format=torch.channels_last_3d) for t in (x, w))
        product, convolution = 2 * 16384 * 4096 * 1024, 2 * 64**3 * 128 * 128 * 27
        rates[name] = max(
            product / min(timed(lambda a=a, b=b: F.linear(a, b), device) for _ in range(5)),
            convolution / min(timed(lambda x=x, w=w: F.conv3d(x, w, padding=1), device) for _ in range(5)),
        )
    return rates


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads ({torch.backends.cpu.get_cpu_capability()})"


# --- output ---


def print_table(names: list[str], others: list[str], seconds: dict, peak: dict) -> None:
    """One row for each step: seconds, GiB, and the speed of ours relative to the reference."""
    median = {name: {step: statistics.median(s) for step, s in by_step.items()} for name, by_step in seconds.items()}
    for name, by_step in median.items():
        if {encoding(name), "decode"} <= by_step.keys():
            by_step["first click"] = by_step[encoding(name)] + by_step["decode"]
    if "first click" in median[REFERENCE]:  # each click of the reference needs a whole pass
        median[REFERENCE]["second click"] = median[REFERENCE]["first click"]
        for name in names[1:]:
            median[name]["second click"] = median[name]["decode"]
    for name, by_step in peak.items():
        if {encoding(name), "decode"} <= by_step.keys():
            by_step["second click"] = by_step["decode"]
            by_step["first click"] = by_step["decode"] and max(by_step[encoding(name)], by_step["decode"])
    if "first click" in peak[REFERENCE]:
        peak[REFERENCE]["second click"] = peak[REFERENCE]["first click"]

    print(f"{'':14s}" + "".join(f"{name:>26s}" for name in names) + "".join(f"{name:>18s}" for name in others))
    for step in ("image encoder", "encode", "first click", "second click", "training step"):
        row = f"{step:14s}"
        for name in names + others:
            gigabytes = peak[name].get(step)
            if median[name].get(step) is None:
                cell = "too large" if gigabytes is None and step in peak[name] else "-"
            else:
                cell = f"{median[name][step]:8.3f} s {gigabytes:5.1f} GiB"
                if name in names[1:] and median[REFERENCE].get(step):
                    cell += f" {median[REFERENCE][step] / median[name][step]:5.1f} x"
            row += f"{cell:>26s}" if name in names else f"{cell:>18s}"
        print(row)
    for name in names[1:]:
        if "first click" in median[name]:
            ratio = median[name]["first click"] / median[name]["second click"]
            print(f"{name}: a second click is {ratio:.1f} times as fast as a full pass")


def print_rates(flops: int, seconds: dict, rates: dict[str, float]) -> None:
    """The speed of the image encoder relative to the machine's limit."""
    for name, rate in rates.items():
        if seconds.get(name, {}).get("image encoder"):
            achieved = flops / statistics.median(seconds[name]["image encoder"])
            print(
                f"{name}: the image encoder does {flops / 1e12:.2f} TFLOP at {achieved / 1e9:.0f} GFLOP/s, "
                f"{achieved / rate:.0%} of the {rate / 1e9:.0f} GFLOP/s of a large matrix product or convolution"
            )


if __name__ == "__main__":
    main()
