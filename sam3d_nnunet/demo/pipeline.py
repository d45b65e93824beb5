"""`sam3d demo`: nnU-Net's own commands, one after the other, on a synthetic data set."""

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from sam3d_nnunet.demo.figure import draw_figure
from sam3d_nnunet.demo.layout import BASELINE, OURS, DemoFolder
from sam3d_nnunet.demo.phantom import make_phantom, read_manifest
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import read_json, write_json, write_text
from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.planning.recipes import load_recipe

COMMANDS = {
    "sam3d": "from sam3d_nnunet.cli.main import main as run",
    "nnUNetv2_preprocess": (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import preprocess_entry as run"
    ),
    "nnUNetv2_train": "from nnunetv2.run.run_training import run_training_entry as run",
}
"""Started in this Python, since the commands themselves need not be on the PATH."""

ENVIRONMENT = {
    "nnUNet_extTrainer": str(EXT_FOLDER),  # found by nnU-Net whether registered or not
    "nnUNet_def_n_proc": "2",  # each process imports torch, which takes longer than the small cases do
    "nnUNet_compile": "f",  # would take longer than it saves
    "OMP_WAIT_POLICY": "PASSIVE",  # on a busy computer, threads that wait by spinning make each step 20 times slower
    "PYTHONUNBUFFERED": "1",
}
IN_PROCESS = {"nnUNet_n_proc_DA": "0"}  # small patches are augmented faster than they are sent to another process

EPOCH = re.compile(r": Epoch (\d+)\s*$")
SHARE = re.compile(r"(\d+)/(\d+) \[")  # a child's own progress bar
SCORE = re.compile(r"Pseudo dice \[.*?([\d.]+)\)?\]")
PREDICTING = re.compile(r": predicting (\S+)|Predicting \d+ cases with .* per class")


def run_demo(folder: Path, seed: int = 0, epochs: int | None = None, device: str = "cpu") -> None:
    """Make a data set, plan, preprocess, train nnU-Net and our trainer on fold 0, and compare them.

    Args:
        folder: where everything is written; new or empty.
        seed: of the synthetic data.
        epochs: of both trainings; as the recipe `demo` says by default.
        device: where to train: cpu, cuda or mps.

    Raises:
        SAM3DError: the folder is in use, or one of nnU-Net's commands failed.
    """
    demo = DemoFolder(folder.absolute())
    _claim(demo, seed, epochs)
    print(f"Everything that is printed goes to {demo.log}")
    _announce(1, "synthetic data set")
    make_phantom(demo.dataset, seed)
    _announce(2, "fingerprint and plan")
    _run(demo, 2, "sam3d", "plan", "-d", str(demo.number), "--recipe", str(_write_recipe(demo, epochs)))
    _announce(3, "preprocessing")
    _run(demo, 3, "nnUNetv2_preprocess", "-d", str(demo.number), "-plans_name", "SAM3DPlans", "-c", "3d_fullres")
    for step, trainer in ((4, BASELINE), (5, OURS)):
        _announce(step, f"training and validation, {trainer}")
        arguments = (str(demo.number), "3d_fullres", "0", "-p", "SAM3DPlans", "-tr", trainer, "-device", device)
        _run(demo, step, "nnUNetv2_train", *arguments, environment=IN_PROCESS)
    _announce(6, "table and picture")
    table = make_table(demo)
    write_text(demo.table, table)
    draw_figure(demo, demo.picture)
    print(f"\n{table}\ntable:   {demo.table}\npicture: {demo.picture}")


def make_table(demo: DemoFolder) -> str:
    """Mean Dice of the validation cases in Markdown, one row per method."""
    scores = {name: read_dice(folder / "summary.json") for name, folder in demo.predictions.items()}
    cases = sorted(next(iter(scores.values())))
    pairs = {name for name, case in read_manifest(demo.dataset).items() if case.lookalike is not None}
    groups = {
        "all": cases,
        "without look-alike": [c for c in cases if c not in pairs],
        "with look-alike": [c for c in cases if c in pairs],
    }
    lines = [
        " | ".join(["| Dice", *(f"{name} ({len(group)} cases)" for name, group in groups.items())]) + " |",
        "|---" + "|---:" * len(groups) + "|",
    ]
    for method, dice in scores.items():
        means = (f"{np.mean([dice[c] for c in group]):.3f}" if group else "-" for group in groups.values())
        lines.append(" | ".join([f"| {method}", *means]) + " |")
    return "\n".join(lines) + "\n"


def read_dice(summary: Path) -> dict[str, float]:
    """Dice of the lesion in each case, from nnU-Net's summary.json."""
    cases = read_json(summary)["metric_per_case"]
    return {Path(c["prediction_file"]).name.removesuffix(".nii.gz"): c["metrics"]["1"]["Dice"] for c in cases}


def _claim(demo: DemoFolder, seed: int, epochs: int | None) -> None:
    """Take an empty folder and mark it as the demo's."""
    if demo.root.is_file():
        raise SAM3DError(f"{demo.root} is a file; give sam3d demo a folder.")
    if demo.mark.is_file():
        raise SAM3DError(f"{demo.root} holds an earlier demo: delete it, or give sam3d demo another folder.")
    if demo.root.is_dir() and any(demo.root.iterdir()):
        raise SAM3DError(f"{demo.root} holds other files: give sam3d demo a new or an empty folder.")
    demo.root.mkdir(parents=True, exist_ok=True)
    write_text(demo.mark, json.dumps({"seed": seed, "epochs": epochs}) + "\n")


def _write_recipe(demo: DemoFolder, epochs: int | None) -> Path:
    """The recipe of the demo with another length, which both trainers read from the plan."""
    recipe = load_recipe("demo")
    if epochs is not None:
        recipe["sam3d"]["num_epochs"] = epochs
    write_json(demo.recipe, recipe, indent=1)
    return demo.recipe


def _announce(step: int, name: str) -> None:
    print(f"\nStep {step} of 6: {name}", flush=True)


def _run(demo: DemoFolder, step: int, command: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run a command to its end, with its output in the log and condensed into a progress bar."""
    print("$", command, *arguments, flush=True)
    with demo.log.open("a", encoding="utf-8") as log:
        log.write(f"$ {command} {' '.join(arguments)}\n")
        process = subprocess.Popen(
            [sys.executable, "-c", f"{COMMANDS[command]}; run()", *arguments],
            env=os.environ | demo.environment | ENVIRONMENT | (environment or {}),
            cwd=demo.root,  # Python would import a user's files from the current folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        last = deque(maxlen=15)
        try:
            _follow(_record(process.stdout, log, last), _epochs(demo))
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if code != 0:
        raise SAM3DError(
            f"Step {step} of the demo ({command}) ended with code {code}; see {demo.log}. It ends:\n{''.join(last)}"
        )


def _record(lines: Iterable[str], log: TextIO, last: deque[str]) -> Iterator[str]:
    for line in lines:
        log.write(line)
        log.flush()
        last.append(line)
        yield line


def _epochs(demo: DemoFolder) -> int:
    return read_json(demo.recipe)["sam3d"]["num_epochs"]


def _follow(lines: Iterator[str], epochs: int) -> None:
    """Show a bar for what a command prints: its own bar, or its epochs and then its validation."""
    with tqdm(bar_format="{desc:<24}{percentage:3.0f}%|{bar:30}| {elapsed}{postfix}", desc="starting", total=1) as bar:
        for line in lines:
            if found := EPOCH.search(line):
                _show(bar, f"epoch {int(found[1]) + 1} of {epochs}", int(found[1]), epochs)
            elif found := SHARE.search(line):
                _show(bar, f"{found[1]} of {found[2]}", int(found[1]), int(found[2]))
            elif found := SCORE.search(line):
                bar.set_postfix_str(f"Dice of validation patches {float(found[1]):.2f}")
            elif found := PREDICTING.search(line):
                bar.set_postfix_str("", refresh=False)
                _show(bar, f"predicting {found[1] or 'with clicks'}", bar.total, bar.total)
        _show(bar, "done", bar.total, bar.total)


def _show(bar: tqdm, text: str, done: int, total: int) -> None:
    bar.total, bar.n = total, done
    bar.set_description_str(text)
