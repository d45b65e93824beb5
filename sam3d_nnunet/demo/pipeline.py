"""`sam3d demo`: run nnU-Net's commands one after another on a synthetic data set."""

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from sam3d_nnunet.demo.phantom import make_phantom
from sam3d_nnunet.demo.results import BASELINE, OURS, DemoFolder, draw_figure, make_table
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import read_json, write_json, write_text
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.planning.recipes import load_recipe

COMMANDS = {
    "sam3d": "from sam3d_nnunet.cli.main import main as run",
    "nnUNetv2_preprocess": (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import preprocess_entry as run"
    ),
    "nnUNetv2_train": "from nnunetv2.run.run_training import run_training_entry as run",
}
"""Code that runs each command in this Python; the commands themselves need not be on the PATH."""

ENVIRONMENT = {
    "nnUNet_extTrainer": str(EXT_FOLDER),  # nnU-Net finds our trainers even if they are not registered
    "nnUNet_def_n_proc": "2",  # each process imports torch, which takes longer than a small case
    "nnUNet_compile": "f",  # compiling takes longer than it saves
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make steps 20 times slower on a busy computer
    "PYTHONUNBUFFERED": "1",
}
IN_PROCESS = {"nnUNet_n_proc_DA": "0"}  # sending a patch to another process takes longer than augmenting it

EPOCH = re.compile(r": Epoch (\d+)\s*$")
SHARE = re.compile(r"(\d+)/(\d+) \[")  # the progress bar of a command
SCORE = re.compile(r"Pseudo dice \[.*?([\d.]+)\)?\]")
PREDICTING = re.compile(r": predicting (\S+)|Predicting \d+ cases with .* per class")


def run_demo(folder: Path, seed: int = 0, epochs: int | None = None, device: str = AUTO) -> None:
    """Make a data set, plan, preprocess, train nnU-Net and our trainer on fold 0, and compare them.

    Args:
        folder: new or empty folder for all files.
        seed: of the synthetic data.
        epochs: of both trainings. Default: as in the recipe `demo`.
        device: where to train: cpu, cuda, mps, or auto for the GPU if there is one, else the CPU.

    Raises:
        SAM3DError: there is no such device, the folder is in use, or one of nnU-Net's commands failed.
    """
    device = usable_device(device).type  # what nnUNetv2_train takes
    demo = DemoFolder(folder.absolute())
    _claim(demo, seed, epochs)
    print(f"The complete output of all commands is in {demo.log}")
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
    _announce(6, "table and figure")
    table = make_table(demo)
    write_text(demo.table, table)
    draw_figure(demo, demo.figure)
    print(f"\n{table}\ntable:  {demo.table}\nfigure: {demo.figure}")


def _claim(demo: DemoFolder, seed: int, epochs: int | None) -> None:
    """Mark an empty folder as that of this demo. Refuses a folder in use."""
    if demo.root.is_file():
        raise SAM3DError(f"{demo.root} is a file. Give sam3d demo a folder.")
    if demo.mark.is_file():
        raise SAM3DError(f"{demo.root} holds an earlier demo. Delete it, or give sam3d demo another folder.")
    if demo.root.is_dir() and any(demo.root.iterdir()):
        raise SAM3DError(f"{demo.root} holds other files. Give sam3d demo a new or an empty folder.")
    demo.root.mkdir(parents=True, exist_ok=True)
    write_text(demo.mark, json.dumps({"seed": seed, "epochs": epochs}) + "\n")


def _write_recipe(demo: DemoFolder, epochs: int | None) -> Path:
    """Write the recipe of the demo, with another number of epochs if asked for. Both trainers follow it."""
    recipe = load_recipe("demo")
    if epochs is not None:
        recipe["sam3d"]["num_epochs"] = epochs
    write_json(demo.recipe, recipe, indent=1)
    return demo.recipe


def _announce(step: int, name: str) -> None:
    print(f"\nStep {step} of 6: {name}", flush=True)


def _run(demo: DemoFolder, step: int, command: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run a command with a progress bar, and append its output to the log. Raises SAM3DError if it fails."""
    print("$", command, *arguments, flush=True)
    with demo.log.open("a", encoding="utf-8") as log:
        log.write(f"$ {command} {' '.join(arguments)}\n")
        process = subprocess.Popen(
            [sys.executable, "-c", f"{COMMANDS[command]}; run()", *arguments],
            env=os.environ | demo.environment | ENVIRONMENT | (environment or {}),
            cwd=demo.root,  # Python would import modules of the user from the current folder
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
            f"Step {step} of the demo ({command}) failed with exit code {code}. See {demo.log}, which ends:\n"
            f"{''.join(last)}"
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
    """Show the progress of a command from its output: its progress bar, or its epochs and its validation."""
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
