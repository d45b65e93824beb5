"""`sam3d benchmark` through a real SLURM, with steps that wait for files: what is lost, and what runs twice."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.processes import shared_lock
from sam3d_nnunet.workflow import benchmark as workflow
from sam3d_nnunet.workflow.steps import Step

pytestmark = pytest.mark.slurm
FOLDS = [f"{method}/fold_{fold}" for method in ("ours", 'nnU-Net, it\'s "$HOME" `id` 50% #1') for fold in (0, 1)]
# two of one fold at once would fail to lock its file
TRAIN = 'exec 9> "$0.lock"; flock -n 9 || touch "$0.twice"; touch "$0.begun"; while [ ! -e "$1" ]; do sleep 0.1; done; '
TRAIN += 'touch "$0.trained"'


class Folder:
    """Files by which steps tell what they do, and are told to go on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def go(self) -> None:
        """Let trainings end."""
        (self.root / "go").touch()

    def names(self, ending: str) -> set[str]:
        return {file.name for file in self.root.glob(f"*{ending}")}

    def steps(self) -> list[Step]:
        """For each fold a training and an evaluation. Each is finished when its file is there."""
        steps = {}
        for number, fold in enumerate(FOLDS):
            trained, measured = (self.root / f"{number}.{done}" for done in ("trained", "measured"))
            train = ["bash", "-c", TRAIN, str(self.root / str(number)), str(self.root / "go")]
            steps[trained] = Step(f"train/{fold}", [train], [])
            steps[measured] = Step(f"evaluate/{fold}", [["cp", str(trained), str(measured)]], [f"train/{fold}"])
        left = [step for file, step in steps.items() if not file.exists()]
        names = {step.name for step in left}
        return [Step(step.name, step.commands, [need for need in step.needs if need in names]) for step in left]


@pytest.fixture
def folder(tmp_path, write_names, monkeypatch) -> Folder:
    write_names([f"case_{n}" for n in range(5)])
    folder = Folder(tmp_path / "made")

    class Steps:
        def __init__(self, *_):
            self.left = lambda: folder.steps()

    monkeypatch.setattr(workflow, "Steps", Steps)
    return folder


@pytest.fixture
def job(folder, tmp_path) -> workflow.Benchmark:
    return workflow.Benchmark("hippocampus", "220", tmp_path / "measured", device="cpu")


def queue(form: str) -> list[str]:
    """Lines of the queue about jobs that have not ended."""
    done = subprocess.run(["squeue", "--noheader", "--format", form], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start(job: workflow.Benchmark, folder: Folder, profile: Path) -> BaseProcess:
    """Run it in a process that can be killed, until as many trainings run as fit, and the others wait in the queue."""
    for name in folder.names(".begun"):
        (folder.root / name).unlink()
    process = get_context("fork").Process(target=job.run, args=(str(profile),))
    process.start()
    wait_for(lambda: len(queue("%i")) == len(FOLDS) and queue("%T").count("RUNNING") == 2)
    wait_for(lambda: len(folder.names(".begun")) == 2)
    return process


def finish(job: workflow.Benchmark, folder: Folder, profile: Path) -> None:
    """Run what is left, and look whether all is there and no fold was trained by two at once."""
    folder.go()
    assert job.run(str(profile)) == []
    assert len(folder.names(".measured")) == len(FOLDS) and not folder.names(".twice")


def test_a_cancelled_job_is_named_and_the_others_go_on(job, folder, profile):
    process = start(job, folder, profile)
    (cancelled,) = [line.split()[0] for line in queue("%i %k") if "train_wildcards_ours_fold_0" in line]
    has_begun = "0.begun" in folder.names(".begun")  # two of the four trainings have
    subprocess.run(["scancel", cancelled], check=True)
    folder.go()
    process.join()
    assert folder.names(".measured") == {"1.measured", "2.measured", "3.measured"}
    training, evaluation = job.left()
    assert (training.name, evaluation.name) == ("train/ours/fold_0", "evaluate/ours/fold_0")
    assert ("workflow/logs/train/ours/fold_0.txt" if has_begun else "Snakemake's output") in job.explain(training)
    assert "not started" in job.explain(evaluation)
    finish(job, folder, profile)


def test_no_fold_is_trained_twice_whatever_ends_the_scheduling(job, folder, profile):
    lock = job.results / "workflow" / "lock"
    for number in (signal.SIGINT, signal.SIGKILL):  # it takes its jobs out of the queue, and so does its guard
        process = start(job, folder, profile)
        os.kill(process.pid, number)
        process.join()
        wait_for(lambda: not queue("%i"))
        wait_for(lambda: is_free(lock))
        assert len(folder.names(".begun")) == 2

    process = start(job, folder, profile)
    for lost in [process, *psutil.Process(process.pid).children(recursive=True)]:  # as a machine without power
        os.kill(lost.pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: is_free(lock))
    assert len(queue("%i")) == len(FOLDS)
    with pytest.raises(SAM3DError, match="SLURM still has jobs .* scancel") as refused:
        job.run(str(profile))
    subprocess.run(["scancel", *str(refused.value).split("scancel ")[1].split()], check=True)
    wait_for(lambda: not queue("%i"))
    finish(job, folder, profile)


def is_free(lock: Path) -> bool:
    with suppress(BlockingIOError), shared_lock(lock):
        return True
    return False


def test_trainings_and_evaluations_get_a_gpu_each(job, folder, profile, monkeypatch):
    """Generic resources of SLURM, without there being a GPU."""
    told = "echo $CUDA_VISIBLE_DEVICES; scontrol show job $SLURM_JOB_ID"
    kinds = ("prepare", "train", "evaluate")
    steps = [Step(f"{kind}/a", [["bash", "-c", f"({told}) > {folder.root}/{kind}"]], []) for kind in kinds]
    monkeypatch.setattr(
        folder, "steps", lambda: [step for step in steps if not (folder.root / step.name[:-2]).exists()]
    )
    assert replace(job, device="cuda").run(str(profile)) == []
    device, text = zip(*((folder.root / kind).read_text().split("\n", 1) for kind in kinds))
    assert device[0] == "" and {device[1], device[2]} <= {"0", "1"}
    assert ["gres:gpu:1" in told for told in text] == [False, True, True]
    assert all("NumCPUs=12" in told and "mem=32000M" in told and "Partition=gpu" in told for told in text)
