"""`sam3d demo`: run nnU-Net's commands one after another on a synthetic data set."""

import json
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import TextIO

from tqdm import tqdm

from sam3d_nnunet.datasets.splits import draw_splits
from sam3d_nnunet.demo.phantom import make_phantom
from sam3d_nnunet.demo.results import BASELINE, OURS, DemoFolder, draw_figure, make_table
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import read_json, write_json, write_text
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.processes import guarded, usable_cores

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
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait must not spin: on a busy computer, others need the cores
    "PYTHONUNBUFFERED": "1",
}
TRAINING = {
    "nnUNet_n_proc_DA": "0",  # sending a patch to another process takes longer than augmenting it
    "nnUNet_def_n_proc": "1",  # the cores are busy with the other training
}

EPOCH = re.compile(r": Epoch (\d+)\s*$")
SHARE = re.compile(r"(\d+)/(\d+) \[")  # the progress bar of a command
SCORE = re.compile(r"Pseudo dice \[.*?([\d.]+)\)?\]")
PREDICTING = re.compile(r": predicting (\S+)|Predicting \d+ cases with .* per class")


@dataclass(frozen=True)
class Command:
    """A command of the demo.

    Attributes:
        name: of its progress bar and its log.
        program: a key of COMMANDS.
        arguments: of the program.
    """

    name: str
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.program, *self.arguments))


def run_demo(folder: Path, seed: int = 0, epochs: int | None = None, device: str = AUTO) -> None:
    """Make a data set, plan, preprocess, train nnU-Net and our trainer side by side on fold 0, and compare them.

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
    number = str(demo.number)
    print(f"The complete output of all commands is in {demo.logs}")
    _announce(1, "synthetic data set")
    cases = make_phantom(demo.dataset, seed)
    _announce(2, "fingerprint and plan")
    _run(demo, 2, Command("plan", "sam3d", ("plan", "-d", number, "--recipe", str(_write_recipe(demo, epochs)))))
    _announce(3, "preprocessing")
    arguments = ("-d", number, "-plans_name", "SAM3DPlans", "-c", "3d_fullres")
    _run(demo, 3, Command("preprocess", "nnUNetv2_preprocess", arguments))
    _announce(4, "training and validation, both side by side")
    draw_splits(cases, demo.splits)  # not by both trainings at once
    arguments = (number, "3d_fullres", "0", "-p", "SAM3DPlans", "-device", device, "-tr")
    trainings = {"nnU-Net": (*arguments, BASELINE), "ours": (*arguments, OURS)}
    _run(demo, 4, *(Command(name, "nnUNetv2_train", given) for name, given in trainings.items()), environment=TRAINING)
    _announce(5, "table and figure")
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
    demo.logs.mkdir(parents=True, exist_ok=True)
    write_text(demo.mark, json.dumps({"seed": seed, "epochs": epochs}) + "\n")


def _write_recipe(demo: DemoFolder, epochs: int | None) -> Path:
    """Write the recipe of the demo, with another number of epochs if asked for. Both trainers follow it."""
    recipe = load_recipe("demo")
    if epochs is not None:
        recipe["sam3d"]["num_epochs"] = epochs
    write_json(demo.recipe, recipe, indent=1)
    return demo.recipe


def _announce(step: int, name: str) -> None:
    print(f"\nStep {step} of 5: {name}", flush=True)


def _run(demo: DemoFolder, step: int, *commands: Command, environment: Mapping[str, str] | None = None) -> None:
    """Run commands side by side, each with a progress bar and a log.

    Raises:
        SAM3DError: one of them failed. The others are ended.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // len(commands))))
    given = os.environ | demo.environment | ENVIRONMENT | {"OMP_NUM_THREADS": threads} | (environment or {})
    for command in commands:
        print("$", command, flush=True)
    # on leaving, commands are ended before the threads, which read their output to its end
    with ThreadPoolExecutor(len(commands)) as pool, ExitStack() as running:
        followed = [
            pool.submit(_follow, demo, step, command, running.enter_context(_start(demo, command, given)), position)
            for position, command in enumerate(commands)
        ]
        for done in as_completed(followed):
            done.result()


def _start(demo: DemoFolder, command: Command, environment: Mapping[str, str]) -> AbstractContextManager[Popen]:
    return guarded(
        [sys.executable, "-c", f"{COMMANDS[command.program]}; run()", *command.arguments],
        env=environment,
        cwd=demo.root,  # Python would import modules of the user from the current folder
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _follow(demo: DemoFolder, step: int, command: Command, process: Popen, position: int) -> None:
    file, last = demo.log(command.name), deque(maxlen=15)
    with file.open("w", encoding="utf-8") as log:
        log.write(f"$ {command}\n")
        _show_progress(_record(process.stdout, log, last), _epochs(demo), command.name, position)
    code = process.wait()
    if code != 0:
        raise SAM3DError(
            f"Step {step} of the demo ({command.program}) failed with exit code {code}. See {file}, which ends:\n"
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


def _show_progress(lines: Iterable[str], epochs: int, name: str, position: int = 0) -> None:
    """Show the progress of a command from its output: its progress bar, or its epochs and its validation."""
    bar_format = "{desc:<32}{percentage:3.0f}%|{bar:30}| {elapsed}{postfix}"
    with tqdm(bar_format=bar_format, desc=f"{name}: starting", total=1, position=position) as bar:

        def show(text: str, done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.set_description_str(f"{name}: {text}")

        for line in lines:
            if found := EPOCH.search(line):
                show(f"epoch {int(found[1]) + 1} of {epochs}", int(found[1]), epochs)
            elif found := SHARE.search(line):
                show(f"{found[1]} of {found[2]}", int(found[1]), int(found[2]))
            elif found := SCORE.search(line):
                bar.set_postfix_str(f"Dice of validation patches {float(found[1]):.2f}")
            elif found := PREDICTING.search(line):
                bar.set_postfix_str("", refresh=False)
                show(f"predicting {found[1] or 'with clicks'}", bar.total, bar.total)
        show("done", bar.total, bar.total)
