"""Mutated files of results and of models through the commands that read them: table, figures, evaluate, predict."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from good_files import NUMBER
from good_results import (
    METHODS,
    automatic,
    begun,
    beside_predictions,
    model,
    mutated_checkpoint,
    mutated_zip,
    released,
    result,
    weights,
)
from mutation_runner import Kind, campaign
from mutations import command
from mutators import mutated_json, mutated_table

import sam3d_nnunet
from sam3d_nnunet.baselines.slice_encoder import read_sam
from sam3d_nnunet.evaluation.evaluate import evaluate  # noqa: F401
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.network.weights import load_released_checkpoint
from sam3d_nnunet.prediction.model_folder import load_model_folder
from sam3d_nnunet.prediction.napari_folder import copy_for_napari
from sam3d_nnunet.report.tables import write_tables  # noqa: F401

os.environ["nnUNet_extTrainer"] = str(Path(sam3d_nnunet.__file__).parent / "nnunet_ext")

TEMPLATE = re.compile(rb"/[^\"]*/template_\d+_\d+")
"""Where good files are made, and copied from: data.json holds this path."""


def there(read: Callable[[Path], None]) -> Callable[[Path], None]:
    """A command on results whose data lie beside them."""

    def run(work: Path) -> None:
        file = work / "results" / "data.json"
        if file.is_file():
            file.write_bytes(TEMPLATE.sub(os.fsencode(work), file.read_bytes()))
        read(work)

    return run


TABLE = command("table", "@results", "--without-figures")
FIGURES = there(command("figures", "@results", "--case", "case_0", "--protocol", "volume_1"))
MEASURE = there(
    command(
        *("evaluate", "-d", NUMBER, "-f", 0, "-o", "@results", "--name", METHODS[1], "--predictions", "@predictions")
    )
)
MODEL = ("evaluate", "-d", NUMBER, "-f", 0, "-o", "@results", "-m", "@model", "--device", "cpu", "--disable_tta")
CLICKED, AUTOMATIC = command(*MODEL, "--protocol", "volume_1"), command(*MODEL)
PREDICT = command(
    *("predict", "-i", "@images", "-o", "@out", "-m", "@model", "--prompts", "@clicks", "--device", "cpu"),
    "--disable_tta",
)


def read_results(work: Path) -> None:
    """All that reports read, without their statistics."""
    found = Results(work / "results")
    for folder in found.folders:
        _ = folder.settings
    for method in found.methods:
        found.splits(method)
    _ = found.metrics, found.costs, found.scores, found.dataset_json, found.file_ending


def load(work: Path) -> None:
    load_model_folder(work / "model")


def export(work: Path) -> None:
    copy_for_napari(work / "model", work / "copy")


def load_released(work: Path) -> None:
    load_released_checkpoint(work / "weights.pth")


def load_sam(work: Path) -> None:
    read_sam(work / "weights.pth")


def kinds() -> Iterator[tuple[str, Kind]]:
    """All of them, by name."""
    tree, table, damaged = (mutated_json,), (mutated_table,), (mutated_checkpoint, mutated_checkpoint, mutated_zip)
    for name, share in (("data.json", 3), (f"{METHODS[1]}/method.json", 4), (f"{METHODS[1]}/splits_final.json", 2)):
        yield f"{Path(name).name}: read", Kind(partial(result, name), read_results, tree, (METHODS[1],), share=5)
        yield f"{Path(name).name}: table", Kind(partial(result, name), TABLE, tree, (METHODS[1],), share=share / 4)
        yield f"{Path(name).name}: figures", Kind(partial(result, name), FIGURES, tree, (METHODS[1],), share=0.05)
        yield f"{Path(name).name}: evaluate", Kind(partial(result, name), MEASURE, tree, (METHODS[1],), share=share / 4)
    for name in ("settings.json", "metrics.json"):
        yield f"{name}: read", Kind(partial(result, f"*/{name}"), read_results, tree, share=2)
        yield f"{name}: table", Kind(partial(result, f"*/{name}"), TABLE, tree, share=0.3)
        yield f"{name}: evaluate", Kind(partial(result, f"*/{name}"), MEASURE, tree, share=0.3)
    for name, share in (("metrics.csv", 4), ("prediction.csv", 2), ("scores.csv", 2)):
        yield f"{name}: read", Kind(partial(result, f"*/{name}"), read_results, table, (METHODS[1],), share=4)
        yield f"{name}: table", Kind(partial(result, f"*/{name}"), TABLE, table, (METHODS[1],), share=share / 4)
        yield f"{name}: figures", Kind(partial(result, f"*/{name}"), FIGURES, table, (METHODS[1],), share=0.05)
    yield "prediction.csv of others: evaluate", Kind(beside_predictions, MEASURE, table, share=0.3)
    clicks = "prompts/volume_1/trial_0/case_0.json"
    yield "prompts: figures", Kind(partial(result, clicks), FIGURES, tree, ("case_0",), share=0.05)
    for name, mutators in (("settings.json", tree), ("prediction.csv", table)):
        yield f"{name}: evaluate a model", Kind(partial(begun, name), CLICKED, mutators, share=0.05)
    for kind in ("model", "model_unet"):
        for name, mutators, share in (
            ("plans.json", tree, 4),
            ("dataset.json", tree, 2),
            ("checkpoint_final.pth", damaged, 4),
        ):
            make = partial(model, name, kind=kind)
            named = ("model",) if name == "plans.json" else ()
            yield f"{name} of {kind}: load", Kind(make, load, mutators, named, share=share)
            if kind == "model":
                yield f"{name} of {kind}: predict", Kind(make, PREDICT, mutators, named, share=0.1)
    make = partial(model, "checkpoint_final.pth")
    yield "checkpoint_final.pth: export-napari", Kind(make, export, damaged, share=0.5)
    yield "debug.json: evaluate", Kind(partial(model, "debug.json", with_data=True), CLICKED, tree, share=0.05)
    for name, mutators in (("checkpoint_final.pth", damaged), ("plans.json", tree), ("dataset.json", tree)):
        yield f"{name} of nnU-Net: evaluate", Kind(partial(automatic, name), AUTOMATIC, mutators, ("model",), share=0.1)
    sam = partial(
        weights, {"image_encoder.pos_embed": torch.ones(1, 2, 2, 4), "image_encoder.neck.0.weight": torch.ones(2)}
    )
    yield "SAM's file", Kind(sam, load_sam, damaged, share=3)
    yield "released checkpoint", Kind(released, load_released, damaged, share=3, good=False)


KINDS = dict(kinds())

if __name__ == "__main__":
    sys.exit(campaign(KINDS, __doc__))
