"""Compare with the straightforward formulation at several patch sizes and strides: error, and seconds per token.

Example: python benchmarks/patch_sizes.py --sizes 96,128,160 64,64,64 40,56,40 --strides 2 4 8
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "network"))
import reference

from sam3d_nnunet.network import PRESETS, SAM3D, Prompts
from sam3d_nnunet.network.window_attention import WINDOW


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python benchmarks/patch_sizes.py --sizes 96,128,160 64,64,64 40,56,40 --strides 2 4 8",
    )
    parser.add_argument("--preset", default="tiny", choices=list(PRESETS))
    parser.add_argument("--sizes", nargs="+", type=voxels, default=[(96, 128, 160), (64, 64, 64), (40, 56, 40)])
    parser.add_argument("--strides", nargs="+", type=int, default=[2, 4, 8], choices=(2, 4, 8))
    parser.add_argument("--runs", type=int, default=5, help="medians of so many runs are printed")
    arguments = parser.parse_args()
    pairs = [(size, stride) for size in arguments.sizes for stride in arguments.strides]
    rows = [(size, stride, *compare(arguments, size, stride)) for size, stride in tqdm(pairs)]
    print(f"\n{arguments.preset}, image encoder, fp32, {torch.get_num_threads()} CPU threads")
    print("patch             stride   padded tokens   error      seconds   ms per 1000 padded tokens   reference")
    for size, stride, tokens, error, seconds, slow in rows:
        print(
            f"{' x '.join(map(str, size)):16s} {stride:7d} {tokens:15d}   {error:7.1e} {seconds:10.3f} "
            f"{1e6 * seconds / tokens:27.2f}   {slow:7.3f} s"
        )


def voxels(text: str) -> tuple[int, ...]:
    """'96,128,160' -> (96, 128, 160)"""
    size = tuple(map(int, text.split(",")))
    if len(size) != 3:
        raise argparse.ArgumentTypeError(f"{text} is not like 96,128,160")
    return size


@torch.inference_mode()
def compare(arguments: argparse.Namespace, size: tuple[int, ...], stride: int) -> tuple[int, float, float, float]:
    """Padded tokens, relative error of the logits, median seconds of our encoder, seconds of the reference's."""
    torch.manual_seed(0)
    net = SAM3D.from_preset(arguments.preset, 1, 2, size, stride).eval()
    for name, parameter in net.named_parameters():
        if not parameter.any():  # weights at zero could hide an error
            parameter.normal_(std=0.02)
        if "rel_pos" in name:
            parameter.normal_(std=0.1)
    image = torch.randn(1, 1, *size)
    click = Prompts(torch.tensor([[[n / 3 for n in size]]]), torch.ones(1, 1, dtype=torch.long))
    logits = net(image, click)
    seconds = []
    for _ in range(arguments.runs):
        start = time.perf_counter()
        net.image_encoder(image)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    levels = reference.encode(net, image)
    slow = time.perf_counter() - start
    expected = reference.decode(net, levels, image, click)
    tokens = math.prod(-(-n // (stride * WINDOW)) * WINDOW for n in size)
    return tokens, reference.relative_error(logits, expected), statistics.median(seconds), slow


if __name__ == "__main__":
    main()
