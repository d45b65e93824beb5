"""Kill commands at any moment of their course and start them again, until they are through.

Afterwards all files are those of a run that was never interrupted: none is cut off, none is missing, no temporary
folder is left, every prediction has its cost, and what was finished before a kill was not made again. Made-up images, a
small model, Linux.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from full_disk import exit_code, load
from signals import LIMIT, MARK, SAM3D, marked
from small_jobs import (
    Job,
    benchmark,
    evaluate,
    files_in,
    is_same,
    make_images,
    predict,
    temporary,
    variables,
    without_cost,
)

CASES = {"predict": 10, "evaluate": 4, "benchmark": 4}
KILLS = {"predict": 30, "evaluate": 20, "benchmark": 20}
IMPORTS = 10.0  # seconds
MOMENTS = {"benchmark": 60.0}
"""Seconds until which a command is killed, where its whole course is too long to begin again often: half of the times
after the start, else after it has finished a step, so that every step gets its kills."""
LOGS = (
    "training_log",
    "/debug.json",
    "/progress.png",
    "/logs/",
    "/done/",
    "/steps.json",
    "/.snakemake/",
    "/checkpoint_latest.pth",
    "/claim",
)
"""Parts of paths of what an interrupted run has more of, or less."""


def main() -> None:
    """Exit code 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--command", action="append", choices=KILLS, help="repeat for several; default: all")
    parser.add_argument("-n", "--kills", type=int, help=f"of each command; default: {KILLS}")
    parser.add_argument("--cases", type=int, help=f"images; default: {CASES}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work; whole runs that are there are not repeated")
    options = parser.parse_args()
    faults = []
    print("| command | kills | starts | courses | before the first file | files compared | faults |", flush=True)
    with tempfile.TemporaryDirectory(prefix="kills_") as folder:
        for command in options.command or KILLS:
            root = (options.folder or Path(folder)).absolute() / command
            if not root.is_dir():
                make_images(root, options.cases or CASES[command])
            campaign = Campaign(command, root, random.Random(options.seed))
            campaign.run(options.kills or KILLS[command])
            print(campaign.row(), flush=True)
            faults += campaign.faults
    print(*faults, f"{len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


@dataclass
class Campaign:
    """Kills one command again and again.

    Attributes:
        command: its name.
        root: folder with the images.
        rng: draws the moments.
    """

    command: str
    root: Path
    rng: random.Random
    faults: list[str] = field(default_factory=list)
    kills: int = 0
    starts: int = 0
    courses: int = 0
    early: int = 0
    compared: int = 0

    def run(self, kills: int) -> None:
        """Kill it so often, and let the last course end."""
        make: Callable[[Path], Job] = partial(JOBS[self.command], self.root)
        reference, note = self.root / "whole", self.root / "seconds.json"
        if self.command != "benchmark":  # whose work is done by other processes
            os.environ.update(variables(self.root))
            load()
        if not note.is_file():
            self._fresh(reference.name)
            start = time.monotonic()
            self._start(make(reference), None)
            note.write_text(json.dumps(time.monotonic() - start))
        whole = json.loads(note.read_text())
        latest = min(whole, MOMENTS.get(self.command, whole))
        with tqdm(total=kills, desc=self.command, unit="kill") as bar:
            while self.kills < kills:
                work, finished = self._fresh("work"), {}
                self.courses += 1
                while self._start(make(work), self.rng.uniform(0, latest) if self.kills < kills else None):
                    self.kills += 1
                    bar.update()
                    self._compare(make(work).output, make(reference).output, finished)
                self._compare(make(work).output, make(reference).output, finished, through=True)

    def row(self) -> str:
        """Of the table."""
        counts = self.kills, self.starts, self.courses, self.early, self.compared, len(self.faults)
        return f"| {self.command} | {' | '.join(map(str, counts))} |"

    def _fresh(self, name: str) -> Path:
        """An empty folder. All have paths of the same length, which stand in files."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _start(self, job: Job, moment: float | None) -> bool:
        """Start the command. Returns whether it was killed, at a moment in seconds; else it has ended well."""
        self.starts += 1
        mark = uuid.uuid4().hex
        log = self.root / "log.txt"
        steps = job.output / "results" / "workflow" / "done"
        shutil.rmtree(steps, ignore_errors=True)  # of an earlier start; the command does not read them
        child = os.fork()  # which saves the seconds in which Python imports
        if child == 0:
            run(self.command, job, mark, log)
        waits = self.command in MOMENTS and moment is not None and self.rng.random() < 0.5
        while waits and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            waits = not any(file.is_file() for file in steps.rglob("*"))
            time.sleep(0.1)
        end = math.inf if moment is None else time.monotonic() + moment
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.02)
        killed = not ended[0]
        if killed:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(ended[1])
        deadline = time.monotonic() + LIMIT
        while (left := marked(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.faults += [f"{self.command}: left {process.pid}" for process in left]
        text = log.read_text()
        if not killed and code != 0:
            self.faults.append(f"{self.command}: exit code {code}: {text[-3000:]}")
            raise SystemExit(self.faults[-1])
        for folder in job.output.rglob(".part_*"):  # as old as they are when Python has imported in the next start
            os.utime(folder, (time.time() - IMPORTS,) * 2)
        if "Traceback" in text:
            self.faults.append(f"{self.command}: {text[text.index('Traceback') :][:3000]}")
        return killed

    def _compare(self, found: Path, expected: Path, finished: dict[str, tuple], through: bool = False) -> None:
        """Look for faults in what a killed command has left, or one that is through."""
        there, wanted = files_in(found), files_in(expected)
        self.early += not there and not through
        for name, file in there.items():
            if varies(name):
                continue
            self.compared += 1
            if name not in wanted:
                self._fault(f"{name} is there, but not after a run without kills")
            elif not self._is_right(file, wanted[name], through):
                self._fault(f"{name} differs")
            if is_prediction(name) and self.command != "predict" and without_cost(file):
                self._fault(f"{name} has no cost")
        if through:
            for name in wanted.keys() - there.keys():
                if not varies(name):
                    self._fault(f"{name} is missing")
            for name in temporary(found):
                self._fault(f"{name} was left")
        for name, state in finished.items():
            if name not in there or state_of(there[name]) != state:
                self._fault(f"{name} was finished, and made again")
        finished.clear()
        finished.update({name: state_of(there[name]) for name in FINISHED[self.command](there, wanted)})

    def _is_right(self, file: Path, expected: Path, through: bool) -> bool:
        if self.command == "benchmark":  # an interrupted training goes on with other random numbers
            return (not through and "nnUNet_" in str(file)) or is_whole(file, expected)
        if file.name == "method.json" and not through:  # it does not name the device before the first prediction
            return is_whole(file, expected)
        return is_same(file, expected, through)

    def _fault(self, what: str) -> None:
        self.faults.append(f"{self.command}, after kill {self.kills}: {what}")
        tqdm.write(self.faults[-1])


def run(command: str, job: Job, mark: str, log: Path) -> NoReturn:
    """Run a command in this process: `sam3d benchmark` in place of it, as it starts others, which need the mark."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.setsid()
    if command == "benchmark":
        arguments = [sys.executable, *SAM3D, *job.arguments]
        os.execve(sys.executable, arguments, {**os.environ, **job.environment, MARK: mark})
    os._exit(exit_code(job))


JOBS = {"predict": predict, "evaluate": evaluate, "benchmark": benchmark}


def state_of(file: Path) -> tuple[int, int]:
    """Changes when a file is written again."""
    return file.stat().st_ino, file.stat().st_mtime_ns


def varies(name: str) -> bool:
    """Whether a file may come and go."""
    return any(part in f"/{name}" for part in LOGS)


def is_prediction(name: str) -> bool:
    return name.endswith(".nii.gz") and "fold_" in name and "trial_" in name


def is_whole(file: Path, expected: Path) -> bool:
    """Whether a file can be read to its end."""
    import torch  # which reads OMP_NUM_THREADS only once

    try:
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".pth":
            torch.load(file, weights_only=False)
        elif file.name != "prediction.csv":
            is_same(file, file)
    except (OSError, ValueError, RuntimeError, EOFError) as e:
        tqdm.write(f"{file}: {e}")
        return False
    return file.stat().st_size > 0 or expected.stat().st_size == 0


def finished_cases(there: dict[str, Path], wanted: dict[str, Path]) -> list[str]:
    """All files of those cases that have all of theirs."""
    cases = {Path(name).name.split(".")[0] for name in wanted if "case_" in name and "prompts/" not in name}
    files = {case: [n for n in wanted if Path(n).name.split(".")[0] == case and "prompts/" not in n] for case in cases}
    return [name for of_case in files.values() if all(name in there for name in of_case) for name in of_case]


def finished_evaluations(there: dict[str, Path], wanted: dict[str, Path]) -> list[str]:
    """Predictions of finished cases by protocol, clicks, and measurements."""
    names = []
    for protocol in {tuple(name.split("/")[:2]) for name in wanted if "trial_" in name and "prompts/" not in name}:
        place = "/".join(protocol) + "/"
        part = [{n: f for n, f in files.items() if n.startswith(place)} for files in (there, wanted)]
        names += finished_cases(*part)
    return names + [name for name in there if "prompts/" in name or name.endswith("/metrics.json")]


def finished_steps(there: dict[str, Path], wanted: dict[str, Path]) -> list[str]:
    """Of a benchmark: plans, preprocessed images, checkpoints, validations, predictions and measurements."""
    names = [name for name in there if name.endswith(("Plans.json", "fingerprint.json", "/checkpoint_final.pth"))]
    names = [name for name in names if "nnUNet_results/" not in name or name.endswith(".pth")]
    images = [name for name in wanted if "_3d_fullres/case_" in name or "gt_segmentations/" in name]
    names += images if all(name in there for name in images) else []
    for fold in {name.partition("validation")[0] for name in wanted if "/validation" in name}:
        summaries = [name for name in wanted if name.startswith(f"{fold}validation") and name.endswith("summary.json")]
        names += summaries if all(name in there for name in summaries) else []
    results = [{n: f for n, f in files.items() if n.startswith("results/")} for files in (there, wanted)]
    shorter = [{n.removeprefix("results/"): f for n, f in files.items()} for files in results]
    return names + [f"results/{name}" for name in finished_evaluations(*shorter)]


FINISHED = {"predict": finished_cases, "evaluate": finished_evaluations, "benchmark": finished_steps}
"""Which files must not change any more, from those that are there and those of a whole run."""


if __name__ == "__main__":
    main()
