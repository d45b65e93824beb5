"""Is the first click faster on a CPU with int8 arithmetic in SAM's frozen linear layers, and what does it cost?

Examples:
    OMP_NUM_THREADS=1 python benchmarks/encoder_cpu.py --size 128 128 32
    python benchmarks/encoder_cpu.py --skip-speed --golden tests/data/golden
    python benchmarks/encoder_cpu.py --skip-speed --model MODEL_FOLDER --dataset nnUNet_raw/Dataset004_Hippocampus
"""

import argparse
import copy
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic
from tqdm import tqdm

from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.network.sam3d import SAM3D
from sam3d_nnunet.network.weights import translate_released
from sam3d_nnunet.prediction.cases import read_case
from sam3d_nnunet.prediction.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class

FROZEN = ("qkv", "proj", "lin1", "lin2")
ADAPTERS = ("down", "up")
WAYS = {"int8, frozen layers": FROZEN, "int8, adapters too": FROZEN + ADAPTERS}
TOKENS = 2048  # rows of a product: one group of windows on a CPU
RUNS = 3
SMALLER = 0.75  # side of a smaller window


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="vit_b")
    three_voxels = {"type": int, "nargs": 3, "default": (128, 128, 32), "metavar": ("D", "H", "W")}
    parser.add_argument("--size", **three_voxels, help="voxels of the window; default: 128 128 32")
    parser.add_argument("--engine", default="onednn", help="of torch's quantised layers: onednn, x86 or fbgemm")
    parser.add_argument("--skip-speed", action="store_true", help="measure errors alone")
    parser.add_argument("--golden", type=Path, help="folder of golden vectors: error of a whole pass in int8 (minutes)")
    parser.add_argument("--model", type=Path, help="trained model of one channel: change of its Dice")
    parser.add_argument("--dataset", type=Path, help="raw data set for --model")
    parser.add_argument("--fold", default="0", help="of --model; default: 0")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", help="of --model")
    parser.add_argument("--cases", type=int, default=20, help="the last so many of --dataset; default: 20")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # torch announces the end of these functions at each call
    torch.backends.quantized.engine = arguments.engine
    print(f"{processor()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {arguments.engine}")
    if not arguments.skip_speed:
        measure_layers()
        measure_click(arguments.preset, tuple(arguments.size))
    if arguments.golden:
        compare_golden(arguments.golden)
    if arguments.model:
        compare_dice(arguments)


def processor() -> str:
    """Its name, and how busy the machine is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def in_int8(network: nn.Module, layers: tuple[str, ...]) -> nn.Module:
    """A copy with some linear layers of the blocks quantised by torch: weights once, activations at each call."""
    names = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and "blocks." in name and name.endswith(layers)
    ]
    chosen = dict.fromkeys(names, default_dynamic_qconfig)
    return quantize_dynamic(copy.deepcopy(network), chosen, dtype=torch.qint8, inplace=True)


# --- speed ---


def cpu_seconds(function: Callable[[], object]) -> float:
    """Processor time of all threads, which other work on the machine changes less than the time by the clock."""
    start = time.process_time()
    function()
    return time.process_time() - start


@torch.inference_mode()
def measure_layers() -> None:
    """ViT-B's linear layers, one by one."""
    print(f"\nlayer, {TOKENS} tokens      float32 (GFLOP/s)      int8   error")
    for inputs, outputs in ((768, 2304), (768, 768), (768, 3072), (3072, 768)):
        layer, x = nn.Linear(inputs, outputs), torch.randn(TOKENS, inputs)
        quantised = quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
        exact, found = layer(x), quantised(x)
        turns = [partial(layer, x), partial(quantised, x)]
        plain, short = np.min([[cpu_seconds(turn) for turn in turns] for _ in range(2 * RUNS)], axis=0)
        rate = 2 * TOKENS * inputs * outputs / plain / 1e9
        ratio = f"{plain / short:13.2f} x  {error(found, exact):.1e}"
        print(f"{inputs:6} -> {outputs:<6}{plain:14.3f} s ({rate:3.0f}){ratio}")


@torch.inference_mode()
def measure_click(preset: str, size: tuple[int, int, int]) -> None:
    """Image encoder and first click. The contestants take turns; least processor time of each."""
    network = SAM3D.from_preset(preset, 1, 2, size, 4, precision="fp32").eval()
    contestants = {"float32": network} | {name: in_int8(network, layers) for name, layers in WAYS.items()}
    image = torch.randn(1, 1, *size)
    click = Prompts(torch.tensor([[[n / 3 for n in size]]]), torch.ones(1, 1, dtype=torch.long))
    found = {name: [] for name in contestants}
    for _, name in tqdm([(run, name) for run in range(RUNS) for name in contestants], desc="Clicking"):
        found[name].append(click_seconds(contestants[name], image, click))
    least = {name: np.min(times, axis=0) for name, times in found.items()}
    print(f"\n{preset}, {' x '.join(map(str, size))}        image encoder           first click")
    for name, (encoder, whole) in least.items():
        faster = least["float32"] / (encoder, whole)
        print(f"{name:24}{encoder:8.2f} s {faster[0]:5.2f} x    {whole:8.2f} s {faster[1]:5.2f} x")


def click_seconds(network: SAM3D, image: Tensor, click: Prompts) -> tuple[float, float]:
    """Of the image encoder, which `encode` contains, and of the whole first click."""
    inside = []
    encoder = network.image_encoder.forward

    def timed(x: Tensor) -> list[Tensor]:
        start = time.process_time()
        levels = encoder(x)
        inside.append(time.process_time() - start)
        return levels

    network.image_encoder.forward = timed
    whole = cpu_seconds(lambda: network.decode(network.encode(image), click))
    del network.image_encoder.forward
    return inside[0], whole


# --- errors ---


def error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm."""
    return float((found - exact).norm() / exact.norm())


@torch.inference_mode()
def compare_golden(folder: Path) -> None:
    """A whole pass with the weights, the image and the click of the golden vectors."""
    spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    golden = np.load(folder / "full_seed0.npz")
    network = SAM3D.from_preset("paper", 1, 2, (128, 128, 128), 4, precision="fp32").eval()
    weights = {}
    for part, key in (("encoder", "encoder_dict"), ("prompt3", "feature_dict"), ("decoder", "decoder_dict")):
        layout = {name: shape for name, shape in recipe.layout()[part].items() if not name.endswith("attn_mask")}
        tensors = {name: torch.from_numpy(a) for name, a in recipe.state_dict(part, layout, 0).items()}
        weights |= translate_released(key, tensors)
    network.load_state_dict(weights, strict=False)
    network = in_int8(network, FROZEN)
    levels = []
    network.image_encoder.register_forward_hook(lambda module, args, out: levels.extend(out))
    embedding = network.encode(torch.from_numpy(recipe.image(128, 0))[None, None])
    points = torch.from_numpy(recipe.clicks(1, 128, 0))[None].float()
    logits = network.decode(embedding, Prompts(points, torch.ones(1, 1, dtype=torch.long)))
    print("\nint8 in the frozen layers, relative error against the golden vectors")
    for name, found in [*((f"features/{i}", level) for i, level in enumerate(levels)), ("logits/1_clicks", logits)]:
        places = torch.from_numpy(golden[f"{name}/index"]).long()
        values = found.contiguous().flatten()[places]
        print(f"{name:20} {error(values, torch.from_numpy(golden[f'{name}/value'])):.1e}")


def compare_dice(arguments: argparse.Namespace) -> None:
    """Mean Dice of one click a class, in float32, in int8, and in float32 with smaller windows."""
    predictor = SAM3DPredictor("cpu", use_mirroring=False)
    predictor.initialize_from_trained_model_folder(arguments.model, arguments.fold, arguments.checkpoint)
    model = predictor.model
    networks = {"float32": model.networks[0], "int8": in_int8(model.networks[0], FROZEN)}
    networks["smaller window"] = networks["float32"]
    block = model.configuration.configuration
    sizes = dict.fromkeys(networks, block["patch_size"])
    sizes["smaller window"] = [round(SMALLER * n) for n in block["patch_size"]]
    ending = json.loads((arguments.model / "dataset.json").read_text())["file_ending"]
    names = sorted(file.name.removesuffix(ending) for file in (arguments.dataset / "labelsTr").glob(f"*{ending}"))
    labels, found = [int(label) for label in model.labels.foreground_labels], []
    for name in tqdm(names[-arguments.cases :], desc="Predicting"):
        case = read_case([arguments.dataset / "imagesTr" / f"{name}_0000{ending}"], model)
        truth = read_image(
            [arguments.dataset / "labelsTr" / f"{name}{ending}"], model.plans.image_reader_writer_class()
        )[0][0].astype(int)
        clicks = clicks_per_class(truth, np.intersect1d(labels, truth).tolist(), 1, case_generator(name))
        prompt = Prompt(case.geometry.to_world(clicks.points), clicks.labels, name)
        row = []
        for way, network in networks.items():
            model.networks[0], block["patch_size"] = network, sizes[way]
            row.append(mean_dice(predictor.predict_read(case, prompt).segmentation(), truth, labels))
        found.append(row)
    print(f"\nDice of one click a class, {len(found)} cases, {arguments.model.name}")
    for way, dice in zip(networks, np.array(found).T):
        change = dice - np.array(found)[:, 0]
        print(
            f"{way:16} {dice.mean():.4f}, changed by {change.mean():+.4f} ({change.min():+.4f} to {change.max():+.4f})"
        )


def mean_dice(segmentation: np.ndarray, truth: np.ndarray, labels: list[int]) -> float:
    """Over the classes that the truth has."""
    pairs = [(segmentation == label, truth == label) for label in labels if (truth == label).any()]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


if __name__ == "__main__":
    main()
