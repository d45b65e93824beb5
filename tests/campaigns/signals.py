"""Signals to every command that works for long: what is left of it 10 s later, and who may start it again meanwhile.

SIGHUP, SIGTERM and SIGKILL go to the command alone, as a scheduler sends them, and SIGINT to its group, as Ctrl-C does.
"close" closes the terminal in which it runs. Made-up images, small networks, Linux.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

DATA = Path(__file__).parents[1] / "data" / "before"
MARK = "SAM3D_SIGNALS"
"""An environment variable by which all processes of a command are found, whatever group and parent they have."""
LIMIT = 10.0  # seconds after which nothing may be left
SIGNALS = ("HUP", "TERM", "INT", "KILL", "close")
SAM3D = ("-c", "from sam3d_nnunet.cli.main import main; main()")
TRAIN = ("-c", "from nnunetv2.run.run_training import run_training_entry as run; run()")
FAMILY = """
import subprocess, sys
from pathlib import Path
from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.processes import guarded, shared_lock

@cli.app.command()
def family(lock: Path):
    wait = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    child = "import subprocess, sys; " + f"subprocess.Popen([sys.executable, '-c', {wait!r}]); " + wait
    with shared_lock(lock) as held, guarded([sys.executable, "-c", child], pass_fds=held) as process:
        process.wait()

cli.main()
"""
"""A command of ours that has started a process, which has started another."""
PREPARE = """
import sys
from pathlib import Path
from sam3d_nnunet.datasets.splits import draw_splits
from sam3d_nnunet.demo import pipeline
from sam3d_nnunet.demo.phantom import make_phantom
from sam3d_nnunet.demo.results import DemoFolder
if __name__ == "__main__":
    demo = DemoFolder(Path(sys.argv[1]))
    demo.logs.mkdir(parents=True)
    cases = make_phantom(demo.dataset, 0, 5)
    recipe = pipeline._write_recipe(demo, 1000)
    pipeline._run(demo, 2, pipeline.Command("plan", "sam3d", ("plan", "-d", "1", "--recipe", str(recipe))))
    arguments = ("-d", "1", "-plans_name", "SAM3DPlans", "-c", "3d_fullres", "-np", "1")
    pipeline._run(demo, 3, pipeline.Command("preprocess", "nnUNetv2_preprocess", arguments))
    draw_splits(cases, demo.splits)
"""
DEMO = """
import shutil, sys
from pathlib import Path
from sam3d_nnunet.cli.main import main
from sam3d_nnunet.demo import pipeline
prepared = Path(sys.argv.pop(1))
claim, run = pipeline._claim, pipeline._run

def claim_prepared(demo, *arguments):
    claim(demo, *arguments)
    shutil.copytree(prepared / "nnUNet_preprocessed", demo.root / "nnUNet_preprocessed")

pipeline._claim = claim_prepared
pipeline.make_phantom = lambda *arguments: [f"phantom_{n:03}" for n in range(5)]
pipeline._run = lambda demo, step, *commands, **options: run(demo, step, *commands, **options) if step == 4 else None
main()
"""
"""The demo from its training on: with the plan and the preprocessed images of another."""


@dataclass(frozen=True)
class Job:
    """A command, in a folder of its own.

    Attributes:
        arguments: of Python.
        works: whether it does what shall be interrupted, from the lines it has printed and the number of processes.
        lock: of which others are kept as long as it has processes, if any.
        environment: more variables.
    """

    arguments: Sequence[str]
    works: Callable[[str, int], bool]
    lock: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def main() -> None:
    """Exit code 1 if a process was left, or a lock was free while processes worked."""
    jobs = {"train": train, "validate": validate, "demo": demo, "benchmark": benchmark, "predict": predict}
    jobs |= {"evaluate": evaluate, "serve": serve, "family": family}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--command", action="append", choices=jobs, help="repeat for several; default: all")
    parser.add_argument("-s", "--signal", action="append", choices=SIGNALS, help="repeat for several; default: all")
    parser.add_argument("-n", "--times", type=int, default=1, help="how often each signal is sent to each command")
    parser.add_argument("--prepared", type=Path, help="folder in which the images were prepared, or shall be")
    options = parser.parse_args()
    wrong, runs = [], 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = options.prepared or Path(folder) / "prepared"
        for command in options.command or jobs:
            if command not in ("predict", "serve", "family"):
                prepare(prepared)
            for name in (options.signal or SIGNALS) * options.times:
                work = Path(folder) / "work"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                result = interrupt(jobs[command](prepared, work), name)
                print(f"{command:<10} {name:<6} {result}", flush=True)
                runs += 1
                wrong += [f"{command} {name}: {line}" for line in result.wrong]
    print(*wrong, f"{runs} commands interrupted, {len(wrong)} faults", sep="\n")
    sys.exit(bool(wrong))


def prepare(folder: Path) -> None:
    """Images, a plan and preprocessed images for all commands."""
    if (folder / "recipe.json").is_file():
        return
    script = folder.with_suffix(".py")  # spawned processes import it again
    folder.mkdir(parents=True)
    script.write_text(PREPARE)
    subprocess.run([sys.executable, script, folder.absolute()], check=True, stdout=sys.stderr)


def folders(prepared: Path, work: Path) -> dict[str, str]:
    """nnU-Net's variables: the prepared data, and models in a folder of this job."""
    given = {name: str(prepared.absolute() / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    return given | {"nnUNet_results": str(work / "models"), "nnUNet_n_proc_DA": "2", "nnUNet_compile": "f"}


def train(prepared: Path, work: Path) -> Job:
    """nnU-Net's command with a trainer of ours, once its loaders have given a batch."""
    arguments = ("1", "3d_fullres", "0", "-p", "SAM3DPlans", "-tr", "SAM3DAdapterTrainer_demo", "-device", "cpu")
    return Job(
        (*TRAIN, *arguments), lambda text, count: "Epoch 0" in text and count > 2, environment=folders(prepared, work)
    )


def validate(prepared: Path, work: Path) -> Job:
    """nnU-Net's command in its final validation, after a training of one step, with processes that write."""
    shutil.copytree(prepared / "nnUNet_preprocessed", work / "preprocessed")
    file = work / "preprocessed" / "Dataset001_Phantom" / "SAM3DPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["sam3d"] |= {"num_epochs": 1, "steps_per_epoch": 1, "validation_steps": 1}
    file.write_text(json.dumps(plans))
    return Job(
        train(prepared, work).arguments,
        lambda text, _: "predicting phantom" in text,
        environment=folders(prepared, work) | {"nnUNet_preprocessed": str(work / "preprocessed")},
    )


def demo(prepared: Path, work: Path) -> Job:
    """While both trainings run, each with a guard."""
    logs = [work / "demo" / "logs" / f"{name}.txt" for name in ("nnU-Net", "ours")]
    return Job(
        ("-c", DEMO, str(prepared.absolute()), "demo", "-o", str(work / "demo"), "--device", "cpu"),
        lambda *_: all(log.is_file() and "Epoch 0" in log.read_text() for log in logs),
    )


def benchmark(prepared: Path, work: Path) -> Job:
    """While Snakemake trains a fold."""
    recipe = json.loads((prepared / "recipe.json").read_text())
    method = {"name": "ours", "trainer": "SAM3DAdapterTrainer", "plans": "SAM3DPlans"}
    recipe["benchmark"] = {"methods": [method], "folds": [0], "protocols": ["automatic"], "trials": 1}
    (work / "recipe.json").write_text(json.dumps(recipe))
    logs = work / "results" / "workflow" / "logs"
    return Job(
        (*SAM3D, "benchmark", str(work / "recipe.json"), "-d", "1", "-o", str(work / "results"), "--device", "cpu"),
        lambda *_: any("Epoch 0" in log.read_text() for log in logs.glob("train/**/*.txt")),
        work / "results" / "workflow" / "lock",
        folders(prepared, work),
    )


def predict(prepared: Path, work: Path) -> Job:
    """Once the first of many images is segmented."""
    for folder in ("images", "clicks"):
        (work / folder).mkdir()
    clicks = (DATA / "prompts" / "ball_json.json").read_text()
    for number in range(200):
        shutil.copy(DATA / "images" / "ball_json_0000.nii.gz", work / "images" / f"ball_{number:03}_0000.nii.gz")
        (work / "clicks" / f"ball_{number:03}.json").write_text(clicks.replace("ball_json", f"ball_{number:03}"))
    arguments = ("predict", "-i", str(work / "images"), "-o", str(work / "out"), "-m", str(DATA / "model"))
    given = ("--prompts", str(work / "clicks"), "--device", "cpu")
    return Job((*SAM3D, *arguments, *given), lambda *_: any((work / "out").glob("*.nii.gz")))


def evaluate(prepared: Path, work: Path) -> Job:
    """While processes measure."""
    labels = prepared.absolute() / "nnUNet_raw" / "Dataset001_Phantom" / "labelsTr"
    test = work / "test"
    (test / "imagesTs").mkdir(parents=True)
    (test / "labelsTs").mkdir()
    (test / "predicted").mkdir()
    for number in range(40):
        for target in (test / "imagesTs" / f"case_{number}_0000.nii.gz", *cases(test, number)):
            source = labels.parent / "imagesTr" / "phantom_000_0000.nii.gz" if "images" in str(target.parent) else None
            shutil.copy(source or labels / "phantom_000.nii.gz", target)
    given = ("--test", str(test / "imagesTs"), str(test / "labelsTs"), "--predictions", str(test / "predicted"))
    return Job(
        (*SAM3D, "evaluate", "-d", "1", *given, "--name", "mine", "-o", str(work / "results"), "--device", "cpu"),
        lambda text, count: count > 2,
        environment=folders(prepared, work),
    )


def cases(test: Path, number: int) -> list[Path]:
    return [test / folder / f"case_{number}.nii.gz" for folder in ("labelsTs", "predicted")]


def serve(prepared: Path, work: Path) -> Job:
    """A server that waits for clients."""
    return Job(
        (*SAM3D, "serve", str(DATA / "model"), "--port", "0", "--device", "cpu"), lambda text, _: "Ready: " in text
    )


def family(prepared: Path, work: Path) -> Job:
    """Stubs that start at once, for CI."""
    return Job(("-c", FAMILY, "family", str(work / "lock")), lambda text, _: text.count("\n") >= 2, work / "lock")


@dataclass
class Result:
    """What a signal has done.

    Attributes:
        processes: that worked before.
        seconds: until the last one had ended.
        left: lines of commands that had not after LIMIT.
        free: seconds after the signal at which the lock was free although a process worked.
    """

    processes: int
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    free: list[float] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """What must not be."""
        lines = [f"left: {line}" for line in self.left]
        return lines + [f"lock free with processes at work, after {seconds:.1f} s" for seconds in self.free[:1]]

    def __str__(self) -> str:
        free = ", lock freed too early" if self.free else ""
        return f"{self.processes} processes, {len(self.left)} left after {self.seconds:.1f} s{free}"


def interrupt(job: Job, name: str) -> Result:
    """Start a job, wait until it works, send it a signal, and look what is left."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, **job.environment, MARK: mark, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"nnUNet_def_n_proc": "2"}
    with tempfile.TemporaryFile("w+") as output, contextlib.ExitStack() as stack:
        ours, terminal = pty.openpty()
        child = subprocess.Popen(
            [sys.executable, *job.arguments],
            stdin=terminal,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=partial(set_up, name == "close"),
        )
        os.close(terminal)
        stack.callback(end_all, mark, child)
        deadline = time.monotonic() + 400
        while not job.works(text_of(output), len(marked(mark))):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{job.arguments} does not work:\n{text_of(output)[-3000:]}")
            time.sleep(0.1)
        result = Result(len(marked(mark)))
        start = time.monotonic()
        if name == "close":
            os.close(ours)
        elif name == "INT":
            os.killpg(child.pid, signal.SIGINT)
        else:
            child.send_signal(getattr(signal, f"SIG{name}"))
        while (there := marked(mark)) and result.seconds < LIMIT:
            child.poll()
            # the command itself says good-bye after it has given back the lock
            at_work = {process for process in there if process.pid != child.pid}
            if job.lock is not None and is_free(job.lock) and at_work & marked(mark):
                result.free.append(time.monotonic() - start)
            time.sleep(0.05)
            result.seconds = time.monotonic() - start
        result.left = [line for process in marked(mark) if (line := command_of(process))]
        if name != "close":
            os.close(ours)
    return result


def set_up(with_terminal: bool) -> None:
    """In a new session; signals do what they do in a shell.

    Without a terminal, as under a shell that goes on: the system stops the group of whoever leads a terminal's session.
    """
    if with_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def text_of(output: object) -> str:
    """All that was printed so far; the child writes at its own place in the file, which is also ours."""
    return os.pread(output.fileno(), 1 << 22, 0).decode(errors="replace")


def marked(mark: str) -> set[psutil.Process]:
    """The living processes of a command."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def command_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    return ""


def is_free(lock: Path) -> bool:
    """Whether a second start would be let in."""
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def end_all(mark: str, child: subprocess.Popen) -> None:
    while there := marked(mark):
        for process in there:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    child.wait()


if __name__ == "__main__":
    main()
