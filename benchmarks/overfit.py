"""Can every trainer learn one case by heart? Steps until Dice exceeds 0.9 on it.

The data set has to be planned with networks small enough for a CPU, and preprocessed:

    sam3d plan -d 4 --recipe hippocampus && nnUNetv2_preprocess -d 4 -plans_name SAM3DPlans -c 3d_fullres
    python benchmarks/overfit.py -d 4 --case hippocampus_001
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sam3d_nnunet.nnunet.names import CONTROL, NETWORK, TUNING, class_lookup, trainers_in
from sam3d_nnunet.training.prompted_batches import PackedPrompts

OTHERS = [name for name in trainers_in(NETWORK, TUNING, CONTROL) if not name.endswith("epochs")]  # same network
DEFAULT = ("nnUNetTrainer_planned", *OTHERS, "SAM3DAdapterTrainer")
EVERY = 25  # steps between two measurements of Dice


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python benchmarks/overfit.py -d 4 --case hippocampus_001 --trainers UXNet3DTrainer",
    )
    parser.add_argument("-d", dest="dataset", required=True, help="id or name of a preprocessed data set")
    parser.add_argument("-p", dest="plans", default="SAM3DPlans", help="default: SAM3DPlans")
    parser.add_argument("--case", required=True)
    parser.add_argument("--trainers", nargs="+", default=DEFAULT, metavar="NAME", help="default: all")
    parser.add_argument("--steps", type=int, default=2000, help="at most; default: 2000")
    parser.add_argument("--dice", type=float, default=0.9, help="to be exceeded; default: 0.9")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results  # read when nnU-Net is imported
        print(f"{'trainer':<28} {'parameters':>12} {'steps':>6} {'Dice':>7} {'seconds':>8}")
        for name in arguments.trainers:
            trainer = make_trainer(name, arguments)
            start = time.perf_counter()
            steps, dice = learn(trainer, case_batch(trainer, arguments.case), arguments.steps, arguments.dice)
            parameters = sum(p.numel() for p in trainer.network.parameters())
            seconds = time.perf_counter() - start
            print(f"{name:<28} {parameters:>12,} {steps:>6} {dice:>7.4f} {seconds:>8.0f}", flush=True)
            failed += [name] if dice <= arguments.dice else []
    if failed:
        sys.exit(f"Dice of at most {arguments.dice}: {', '.join(failed)}")


def make_trainer(name: str, arguments: argparse.Namespace) -> Any:
    """The trainer as nnUNetv2_train builds it, with random weights."""
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    folder = Path(nnUNet_preprocessed) / maybe_convert_to_dataset_name(arguments.dataset)
    plans = load_json(str(folder / f"{arguments.plans}.json")) | {"continue_training": False}
    plans["configurations"]["3d_fullres"].setdefault("sam3d", {})["sam_checkpoint"] = "none"
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = class_lookup(__name__)(name)(
        plans, "3d_fullres", 0, load_json(str(folder / "dataset.json")), torch.device(arguments.device)
    )
    trainer.initialize()
    return trainer


def case_batch(trainer: Any, case: str) -> dict[str, Any]:
    """The middle of a case as a batch of nnU-Net's loader without augmentation, with prompts for prompted trainers."""
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case])
    data, segmentation, _, _ = dataset.load_case(case)
    patch_size = trainer.configuration_manager.patch_size
    image, label_map = (middle(np.asarray(array[:]), patch_size) for array in (data, np.maximum(segmentation[:], 0)))
    return make_batch(trainer, image, label_map)


def make_batch(trainer: Any, image: np.ndarray, label_map: np.ndarray) -> dict[str, Any]:
    """A batch of one patch, from an image (C, D, H, W) and a label map (1, D, H, W)."""
    transforms = trainer.get_validation_transforms(
        trainer._get_deep_supervision_scales(),
        is_cascaded=False,
        foreground_labels=trainer.label_manager.foreground_labels,
        regions=trainer.label_manager.foreground_regions if trainer.label_manager.has_regions else None,
        ignore_label=trainer.label_manager.ignore_label,
    )
    given = {"image": torch.from_numpy(image).float(), "segmentation": torch.from_numpy(label_map).to(torch.int16)}
    done = transforms(**given)
    target = done["segmentation"]
    batch = {
        "data": done["image"][None],
        "target": [t[None] for t in target] if isinstance(target, list) else target[None],
    }
    if hasattr(trainer, "_prompt_simulator"):
        prompts, _ = trainer._prompt_simulator()(label_map[0].astype(np.int16), np.random.default_rng(0))
        batch["prompts"] = PackedPrompts.pack([prompts])
    return batch


def learn(trainer: Any, batch: dict[str, Any], steps: int, wanted: float) -> tuple[int, float]:
    """Train on one batch until its Dice is high enough: number of steps, and the Dice."""
    dice = 0.0
    with tqdm(range(1, steps + 1), desc=type(trainer).__name__, leave=False) as bar:
        for step in bar:
            trainer.network.train()
            trainer.train_step(batch)
            if step % EVERY == 0:
                dice = mean_dice(trainer, batch)
                bar.set_postfix(Dice=f"{dice:.3f}")
                if dice > wanted:
                    break
    return step, dice


@torch.inference_mode()
def mean_dice(trainer: Any, batch: dict[str, Any]) -> float:
    """Mean over the foreground labels or regions of the batch."""
    trainer.network.eval()
    prompts = [trainer._prompts(batch)] if "prompts" in batch else []
    output = trainer.network(batch["data"].to(trainer.device), *prompts)
    logits = (output[0] if isinstance(output, (list, tuple)) else output).cpu()
    target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
    if trainer.label_manager.has_regions:
        found, truth = logits > 0, target[:, : logits.shape[1]] > 0
    else:
        labels = torch.arange(1, logits.shape[1])[None, :, None, None, None]
        found, truth = logits.argmax(1, keepdim=True) == labels, target == labels
    return float(_dice(found, truth).nanmean())


def _dice(found: Tensor, truth: Tensor) -> Tensor:
    both, sizes = (found & truth).sum((0, 2, 3, 4)), found.sum((0, 2, 3, 4)) + truth.sum((0, 2, 3, 4))
    return torch.where(truth.sum((0, 2, 3, 4)) > 0, 2 * both / sizes, torch.nan)


def middle(array: np.ndarray, size: list[int]) -> np.ndarray:
    """The middle of (C, D, H, W), cut to a size or padded with 0."""
    for axis, n in enumerate(size, start=1):
        missing = max(0, n - array.shape[axis])
        padding = [(0, 0)] * array.ndim
        padding[axis] = (missing // 2, missing - missing // 2)
        array = np.pad(array, padding)
        first = (array.shape[axis] - n) // 2
        array = array.take(range(first, first + n), axis)
    return array


if __name__ == "__main__":
    main()
