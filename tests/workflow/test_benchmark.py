"""`sam3d benchmark` with steps that touch files, run by the real Snakemake."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.processes import Stopped, shared_lock
from sam3d_nnunet.workflow import benchmark as workflow
from sam3d_nnunet.workflow.steps import Step

ODD = 'c++, it\'s "odd" [a*b?] (1) 病例 50% #1 & $HOME'
"""The name of a method that is full of characters with a meaning in shells, patterns and Snakemake."""

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11")


@pytest.fixture
def dataset(write_names):
    return write_names([f"case_{n}" for n in range(5)])


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Four steps, each finished when its file is there; `b` fails while there is no `key`."""
    (tmp_path / "made").mkdir()

    def touch(name: str) -> list[str]:
        return ["touch", str(tmp_path / "made" / name)]

    needs_key = ["cp", str(tmp_path / "made" / "key"), str(tmp_path / "made" / "b, tiny")]
    everything = [
        Step("prepare/a", [["echo", "preparing {this}", "it's"], touch("a")], []),
        Step("train/b, tiny/fold_0", [touch("tried"), needs_key], ["prepare/a"]),
        Step(f"train/{ODD}/fold_0", [touch(ODD)], ["prepare/a"]),
        Step("evaluate/b, tiny/fold_0", [touch("d")], ["train/b, tiny/fold_0"]),
    ]

    class Steps:
        def __init__(self, *arguments):
            self.arguments = arguments

        def left(self):
            left = [step for step in everything if not os.path.exists(step.commands[-1][-1])]
            names = {step.name for step in left}
            return [Step(s.name, s.commands, [n for n in s.needs if n in names]) for s in left]

    monkeypatch.setattr(workflow, "Steps", Steps)
    return tmp_path / "made"


def benchmark(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["benchmark", "hippocampus", "-d", "220", *map(str, arguments)])


def test_a_failed_step_blocks_only_those_that_depend_on_it_until_it_succeeds(dataset, steps, tmp_path):
    results = tmp_path / "measured [a] {b} 'c' 病例 50% #1"
    given = ("-o", results, "--device", "cpu")
    done = benchmark(*given)
    assert done.exit_code == 1, done.output
    assert {file.name for file in steps.iterdir()} == {"a", "tried", ODD}
    logs = results / "workflow" / "logs"
    assert (logs / "prepare" / "a.txt").read_text() == "preparing {this} it's\n"
    assert f"train/b, tiny/fold_0. See {logs / 'train/b, tiny/fold_0.txt'}." in done.output
    assert "evaluate/b, tiny/fold_0. It was not started" in done.output
    assert done.output.splitlines()[-1].startswith("Error: 2 step")

    (steps / "key").touch()
    done = benchmark(*given)
    assert done.exit_code == 0, done.output
    assert {"b, tiny", "d"} <= {file.name for file in steps.iterdir()}
    # what was finished was not done again
    listed = json.loads((results / "workflow" / "steps.json").read_text())
    assert [step["name"] for step in listed] == ["train/b, tiny/fold_0", "evaluate/b, tiny/fold_0"]

    before = (results / "workflow" / "steps.json").stat().st_mtime_ns
    assert benchmark(*given).exit_code == 0
    assert (results / "workflow" / "steps.json").stat().st_mtime_ns == before


def test_dry_run(dataset, steps, tmp_path):
    done = benchmark("-o", tmp_path / "measured", "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"train/{ODD}/fold_0\n  {shlex.join(['touch', f'{steps}/{ODD}'])}\n" in done.output
    assert "prepare/a\n  echo 'preparing {this}' " in done.output
    assert done.output.endswith("4 step(s) left to run\n")
    assert not list(steps.iterdir()) and not (tmp_path / "measured").exists()


def test_a_profile_says_how(dataset, steps, tmp_path):
    (tmp_path / "profile").mkdir()
    # Snakemake would refuse to run without knowing of any cores
    (tmp_path / "profile" / "config.yaml").write_text("cores: 1\nset-threads:\n  train: 1\n")
    (steps / "key").touch()
    given = ("-o", tmp_path / "measured", "--device", "cpu", "--profile")
    assert benchmark(*given, tmp_path / "profile").exit_code == 0
    assert {"a", "b, tiny", ODD, "d"} <= {file.name for file in steps.iterdir()}

    (steps / "d").unlink()
    (tmp_path / "profile" / "config.yaml").write_text("")
    done = benchmark(*given, tmp_path / "profile")
    assert done.exit_code == 1
    assert "evaluate/b, tiny/fold_0. See Snakemake's output" in done.output

    done = benchmark(*given, tmp_path / "nowhere")
    assert isinstance(done.exception, SAM3DError) and str(tmp_path / "nowhere") in str(done.exception)


@pytest.mark.parametrize(("jobs", "patience", "shares"), [(1, 1, "5"), (2, 60, "2 2")])
def test_steps_at_once(dataset, monkeypatch, tmp_path, jobs, patience, shares):
    """Each of two steps fails unless the other one begins while it waits."""
    monkeypatch.setattr(workflow, "usable_cores", lambda: 5)
    for name in workflow.SHARED:
        monkeypatch.delenv(name, raising=False)

    def step(name: str, other: str) -> Step:
        say = f"echo $OMP_NUM_THREADS $nnUNet_n_proc_DA > {name}"
        wait = f"for n in $(seq {patience * 10}); do [ -f {other} ] && exit 0; sleep 0.1; done; exit 1"
        return Step(f"train/{name}/fold_0", [["sh", "-c", f"cd {shlex.quote(str(tmp_path))}; {say}; {wait}"]], [])

    left = iter([[step("a", "b"), step("b", "a")], []])
    monkeypatch.setattr(workflow, "Steps", lambda *arguments: SimpleNamespace(left=lambda: next(left)))
    benchmark("-o", tmp_path / "measured", "--device", "cpu", "--jobs", jobs)
    done = [file.name for file in (tmp_path / "measured" / "workflow" / "done" / "train").iterdir()]
    assert len(done) == jobs  # one at a time, the first one waits in vain
    assert {(tmp_path / name).read_text().strip() for name in "ab"} == {shares}


def test_jobs_are_those_of_this_machine(dataset, steps, tmp_path):
    done = benchmark("-o", tmp_path / "measured", "--profile", tmp_path, "--jobs", "2")
    assert done.exit_code == 2 and "--jobs" in done.output
    assert not list(steps.iterdir())


def test_no_scheduler_runs_what_the_path_of_the_results_holds(dataset, steps, tmp_path):
    (tmp_path / "profile").mkdir()
    done = benchmark("-o", tmp_path / "`id`", "--device", "cpu", "--profile", tmp_path / "profile")
    assert isinstance(done.exception, SAM3DError) and "another folder of results" in str(done.exception)
    assert not list(steps.iterdir())


def test_results_in_a_file(dataset, steps, tmp_path):
    (tmp_path / "measured").touch()
    done = benchmark("-o", tmp_path / "measured", "--device", "cpu")
    assert isinstance(done.exception, SAM3DError) and str(tmp_path / "measured") in str(done.exception)


def test_what_ends_us_ends_the_steps(dataset, tmp_path, monkeypatch):
    """Snakemake, its shell and the step."""
    script = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    step = Step("prepare/a", [["bash", "-c", script]], [])
    monkeypatch.setattr(workflow, "Steps", lambda *_: SimpleNamespace(left=lambda: [step]))

    def end() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=end).start()
    with pytest.raises(Stopped):
        workflow.Benchmark("hippocampus", "220", tmp_path / "measured", device="cpu").run()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace
from sam3d_nnunet.workflow import benchmark as workflow
from sam3d_nnunet.workflow.steps import Step

step = Step("prepare/a", [["bash", "-c", "trap '' INT TERM; echo $$ > " + sys.argv[2] + "; exec sleep 60"]], [])
workflow.Steps = lambda *_: SimpleNamespace(left=lambda: [step])
workflow.Benchmark("hippocampus", "220", Path(sys.argv[1]), device="cpu").run()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_second_start_waits_for_what_a_killed_one_has_left(dataset, steps, tmp_path):
    """The step ignores signals for a while."""
    pid = tmp_path / "pid"
    killed = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "measured", pid])
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    again = workflow.Benchmark("hippocampus", "220", tmp_path / "measured", device="cpu")
    with pytest.raises(SAM3DError, match="one that was stopped has not ended"):
        again.run()
    assert not list(steps.iterdir())
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert is_free(tmp_path / "measured" / "workflow" / "lock", seconds=10)


def is_free(lock: Path, seconds: float) -> bool:
    """Whether it can be taken within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(BlockingIOError), shared_lock(lock):
            return True
        time.sleep(0.05)
    return False


def test_steps_run_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", "raw")
    monkeypatch.setenv("nnUNet_extTrainer", f"mine{os.pathsep}/others")
    monkeypatch.delenv("nnUNet_results", raising=False)
    environment = workflow._environment()
    assert environment["nnUNet_raw"] == str(tmp_path / "raw")
    assert environment["nnUNet_extTrainer"] == f"{tmp_path / 'mine'}{os.pathsep}/others"
    assert "nnUNet_results" not in environment


def test_recipes_by_name_and_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    expected = {"hippocampus": "hippocampus", "mine": str(tmp_path / "mine"), "nothing": "nothing"}
    assert {name: workflow.Benchmark(name, "220", tmp_path)._recipe for name in expected} == expected


def test_one_at_a_time(dataset, steps, tmp_path):
    folder = tmp_path / "measured" / "workflow"
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        done = benchmark("-o", tmp_path / "measured", "--device", "cpu")
    assert isinstance(done.exception, SAM3DError) and "sam3d benchmark is running" in str(done.exception)


def test_no_gpu_is_said_first(dataset, steps, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = benchmark("-o", tmp_path / "measured", "--device", "cuda")
    assert isinstance(done.exception, SAM3DError) and "cuda" in str(done.exception)
    assert not list(steps.iterdir())


def test_auto_is_this_machine_or_the_cluster(dataset, steps, tmp_path, monkeypatch):
    devices = []

    class Steps(workflow.Steps):
        def __init__(self, *arguments):
            devices.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr(workflow, "Steps", Steps)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    given = ("-o", tmp_path / "measured", "--dry-run")
    assert benchmark(*given).output.startswith("device: cpu (no CUDA GPU found)\n")
    assert "device:" not in benchmark(*given, "--profile", tmp_path).output
    workflow.Benchmark("hippocampus", "220", tmp_path / "measured").left()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "device:" not in benchmark(*given).output
    assert devices == ["cpu", "cuda", "cpu", "cuda"]


def test_without_snakemake(dataset, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "find_spec", lambda name: None)
    done = benchmark("-o", tmp_path / "measured", "--device", "cpu")
    assert 'pip install "sam3d_nnunet[benchmark]"' in str(done.exception)


def test_folds_are_nnunets_own(dataset, steps, tmp_path):
    """Drawn before several trainings start at once, each of which would draw them."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    benchmark("-o", tmp_path / "measured", "--dry-run")
    ours = json.loads((dataset / "splits_final.json").read_text())
    theirs = generate_crossval_split([f"case_{n}" for n in range(5)], seed=12345, n_splits=5)
    assert [set(fold["val"]) for fold in ours] == [set(fold["val"]) for fold in theirs]


def test_folds_of_the_raw_data_are_taken(dataset, steps, tmp_path, nnunet_folders):
    """nnU-Net's planners copy them, too."""
    cases = [f"case_{n}" for n in range(5)]
    folds = [{"train": cases[:3], "val": cases[3:]}]
    (nnunet_folders.raw / dataset.name / "splits_final.json").write_text(json.dumps(folds))
    benchmark("-o", tmp_path / "measured", "--dry-run")
    assert json.loads((dataset / "splits_final.json").read_text()) == folds


def test_steps_find_the_commands():
    path = workflow._environment()["PATH"].split(os.pathsep)[0]
    done = subprocess.run([os.path.join(path, "sam3d"), "--version"], capture_output=True)
    assert done.returncode == 0 and path == os.path.dirname(sys.executable)
