"""Small trainings by nnU-Net's command for the campaigns, and checks of what they have written.

`Trainings` runs the command in forks of a process that has imported everything, which saves the seconds of each start.
"""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import psutil
import torch
from PIL import Image
from signals import LIMIT, MARK, TRAIN, marked, prepare

MODEL = "Dataset001_Phantom/SAM3DAdapterTrainer_demo__SAM3DPlans__3d_fullres"
EPOCHS, VALIDATED = 3, ("phantom_003", "phantom_004")
ARGUMENTS = ("1", "3d_fullres", "0", "-p", "SAM3DPlans", "-tr", "SAM3DAdapterTrainer_demo", "-device", "cpu")
WARM = """
import json, os, sys, time

def next_training():
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            output = os.open(request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for number in (1, 2):
                os.dup2(output, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.update(request["environment"])
            sys.argv = ["nnUNetv2_train", *request["arguments"]]
            if request["slow"]:
                fsync = os.fsync
                os.fsync = lambda number: (time.sleep(request["slow"]), fsync(number))
            if request["largest"] is not None:
                import resource
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], resource.RLIM_INFINITY))
            return True
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

if __name__ == "__main__":
    from nnunetv2.run.run_training import run_training_entry
    from sam3d_nnunet.training import variants
    if next_training():
        run_training_entry()
"""


@dataclass
class Run:
    """A training that runs.

    Attributes:
        pid: of its process.
        mark: by which `marked` finds all its processes.
        output: file with what it prints.
        folder: of the fold.
        process: if it was not forked.
    """

    pid: int
    mark: str
    output: Path
    folder: Path
    process: subprocess.Popen | None = None

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace") if self.output.is_file() else ""

    @property
    def phase(self) -> str:
        """What it does, by what it has printed."""
        text = self.text
        if "Predicting 2 cases with 1 click" in text:
            return "validation_1click"
        if "predicting phantom" in text:
            return "validation"
        return "epochs" if ": Epoch " in text else "startup"

    def is_alive(self) -> bool:
        """Whether the command itself runs; zombies don't."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def kill(self) -> None:
        """By SIGKILL, which nothing can handle."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Trainings:
    """Runs trainings one after the other."""

    def __init__(self, prepared: Path, work: Path) -> None:
        """
        Args:
            prepared: folder of `signals.prepare`; filled if it does not exist.
            work: for all files of the trainings.
        """
        prepare(prepared)
        self.work = work
        shutil.copytree(prepared / "nnUNet_preprocessed", work / "preprocessed")
        base = work / "preprocessed" / "Dataset001_Phantom"
        plans = json.loads((base / "SAM3DPlans.json").read_text())
        plans["configurations"]["3d_fullres"]["sam3d"] |= {
            "num_epochs": EPOCHS,
            "steps_per_epoch": 2,
            "validation_steps": 1,
        }
        (base / "SAM3DPlans.json").write_text(json.dumps(plans))
        split = {"train": [f"phantom_{n:03}" for n in range(3)], "val": list(VALIDATED)}
        (base / "splits_final.json").write_text(json.dumps([split] * 5))
        self.environment = {
            "nnUNet_raw": str(prepared.absolute() / "nnUNet_raw"),
            "nnUNet_preprocessed": str(work / "preprocessed"),
            "nnUNet_n_proc_DA": "2",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",  # nnU-Net takes all cores, and others may need them
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        script = work / "warm.py"  # spawned processes import it again
        script.write_text(WARM)
        self._warm = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment,
        )
        self._count = 0

    def start(
        self, results: Path, *flags: str, cold: bool = False, slow: float = 0.0, largest: int | None = None
    ) -> Run:
        """Start `nnUNetv2_train`.

        Args:
            results: for nnUNet_results.
            flags: such as --c.
            cold: in a new process, which imports everything first.
            slow: seconds that each fsync takes longer.
            largest: size of files in bytes.
        """
        self._count += 1
        mark, output = uuid.uuid4().hex, self.work / f"output_{self._count:03}.txt"
        given = {"nnUNet_results": str(results), MARK: mark}
        folder = self.fold(results)
        if cold:
            process = subprocess.Popen(
                [sys.executable, *TRAIN, *ARGUMENTS, *flags],
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment | given,
                start_new_session=True,
            )
            return Run(process.pid, mark, output, folder, process)
        request = {"arguments": [*ARGUMENTS, *flags], "environment": given, "output": str(output)}
        self._warm.stdin.write(json.dumps(request | {"slow": slow, "largest": largest}) + "\n")
        self._warm.stdin.flush()
        return Run(int(self._warm.stdout.readline()), mark, output, folder)

    @staticmethod
    def fold(results: Path) -> Path:
        """The folder of the fold that is trained."""
        return results / MODEL / "fold_0"

    def wait(self, run: Run) -> int:
        """The exit code of a training, once it has ended."""
        return run.process.wait() if run.process else int(self._warm.stdout.readline())

    def close(self) -> None:
        """End the process that forks."""
        self._warm.stdin.close()
        self._warm.wait()


def left_of(run: Run) -> list[str]:
    """Commands of processes that are left after `LIMIT`; they are ended.

    nnU-Net's workers look for their parent once they have imported everything, which takes long on a busy machine.
    """
    deadline = time.monotonic() + LIMIT
    while (there := _marked(run)) and time.monotonic() < deadline:
        time.sleep(0.05)
    lines = []
    for process in there:
        with contextlib.suppress(Exception):
            lines.append(" ".join(process.cmdline())[:120])
            process.kill()
    return lines


def _marked(run: Run) -> set:
    """A fork's environment is that of the process it was forked from, so it is found by its session."""
    found = marked(run.mark)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == run.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def faults_of_files(results: Path) -> list[str]:
    """What is wrong with files of a model, whenever its training was ended."""
    faults = []
    for file in sorted(results.rglob("*")):
        if not file.is_file() or any(part.startswith(".part_") for part in file.relative_to(results).parts):
            continue
        try:
            _read(file)
        except Exception as e:
            faults.append(f"{file.relative_to(results)}: {type(e).__name__}: {str(e)[:100]}")
    return faults


def _read(file: Path) -> None:
    if file.suffix == ".pth":
        weights = torch.load(file, map_location="cpu", weights_only=False)["network_weights"]
        assert all(tensor.isfinite().all() for tensor in weights.values()), "not finite"
    elif file.suffix == ".json":
        json.loads(file.read_text())
    elif file.name.endswith(".nii.gz"):
        np.asarray(nibabel.load(file).dataobj)
    elif file.suffix == ".npz":
        np.load(file)["probabilities"]
    elif file.suffix == ".pkl":
        pickle.loads(file.read_bytes())
    elif file.suffix == ".png":
        Image.open(file).load()


def parts_in(results: Path) -> list[str]:
    """Temporary folders that are left."""
    return [str(path.relative_to(results)) for path in results.rglob(".part_*")]


def epochs_in(folder: Path) -> int:
    """Epochs that --c would not repeat."""
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"):
        if (folder / name).is_file():
            return torch.load(folder / name, map_location="cpu", weights_only=False)["current_epoch"]
    return 0


def faults_of_end(folder: Path, validated: Sequence[str] = VALIDATED) -> list[str]:
    """What a training that has ended in order has not written, or written twice."""
    faults = []
    if not (folder / "checkpoint_final.pth").is_file() or (folder / "checkpoint_latest.pth").exists():
        return [f"{folder} has not ended: {sorted(file.name for file in folder.iterdir())}"]
    noted = torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    if noted["current_epoch"] != EPOCHS or {len(values) for values in noted["logging"].values()} != {EPOCHS}:
        faults.append(f"epochs: {noted['current_epoch']}, {[len(v) for v in noted['logging'].values()]} logged")
    for name in ("validation", "validation_1click"):
        summary = folder / name / "summary.json"
        content = json.loads(summary.read_text())["metric_per_case"] if summary.is_file() else []
        measured = sorted(Path(case["prediction_file"]).name for case in content)
        if measured != [f"{case}.nii.gz" for case in validated]:
            faults.append(f"{name}: measured {measured}")
    return faults
