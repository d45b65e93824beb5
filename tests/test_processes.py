"""Stub commands that start processes of their own, and what is left of them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sam3d_nnunet.processes import Stopped, guarded, shared_lock, stopped_by

WAITING = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STUBBORN = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)]; " + WAITING
FAMILY = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {code!r}]).pid, flush=True); {code}"
"""A process and its child."""


def family(code: str = WAITING) -> list[str]:
    return [sys.executable, "-c", FAMILY.format(code=code)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def read_pids(process: subprocess.Popen) -> list[int]:
    """The first line of a family is its child; then both print their own."""
    pids = {int(process.stdout.readline()) for _ in range(3)}
    assert len(pids) == 2 and all(map(alive, pids))
    return list(pids)


PARENT = """
import subprocess, sys
from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.processes import guarded

@cli.app.command()
def stub():
    with guarded({command!r}, stderr=subprocess.DEVNULL) as process:  # Python's own words on Ctrl-C
        process.wait()

sys.argv = ["sam3d", "stub"]
cli.main()
"""


def start(command: list, **options: Any) -> subprocess.Popen:
    """A process that Ctrl-C and SIGHUP reach, also if the tests run in the background of a shell or under nohup."""

    def reachable() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=reachable, **options)


def start_parent(command: list[str], *before: str) -> subprocess.Popen:
    return start([*before, sys.executable, "-c", PARENT.format(command=command)], text=True)


@pytest.mark.parametrize(
    "number, code, sentence",
    [
        (signal.SIGINT, 130, "Stopped by Ctrl-C.\n"),
        (signal.SIGTERM, 143, "Stopped by SIGTERM.\n"),
        (signal.SIGHUP, 129, "Stopped by SIGHUP.\n"),
        (signal.SIGKILL, -9, ""),
    ],
    ids=str,
)
def test_however_we_end_nothing_is_left(number, code, sentence):
    parent = start_parent(family())
    pids = read_pids(parent)
    parent.send_signal(number)
    assert parent.wait(timeout=20) == code
    waited_for = number != signal.SIGKILL  # otherwise only the guard is left to end them
    assert gone(pids, seconds=0 if waited_for else 10)
    assert parent.stderr.read() == sentence


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=str)
def test_ignored_signals_stay_ignored(number):
    """Shells ignore Ctrl-C for what runs in the background, and nohup SIGHUP."""
    parent = start_parent(family(), "bash", "-c", f'trap "" {number.value}; exec "$@"', "bash")
    pids = read_pids(parent)
    parent.send_signal(number)
    assert not gone(pids, seconds=0.5)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=20) == 143
    assert gone(pids, seconds=0)


def test_what_ignores_signals_is_killed():
    with guarded(family(STUBBORN), 0.3, stdout=subprocess.PIPE, text=True) as process:
        pids = read_pids(process)
    assert process.returncode == 128 + signal.SIGKILL
    assert gone(pids, seconds=0)


def test_a_command_may_clean_up(tmp_path):
    """As Snakemake does on Ctrl-C; on SIGTERM alone it waits for the jobs that run on a cluster."""
    code = f"""
import signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: None)
try:
    print("started", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    Path({str(tmp_path / "cleaned")!r}).touch()
"""
    with guarded([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
    assert (tmp_path / "cleaned").exists() and process.returncode == 0


@pytest.mark.parametrize("code, expected", [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_a_command_that_ends_leaves_nothing_but_its_exit_code(code, expected):
    start = f"import subprocess, sys, os; print(subprocess.Popen([sys.executable, '-c', {WAITING!r}]).pid, flush=True)"
    command = [sys.executable, "-c", f"{start}; {code}"]
    with guarded(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        assert process.wait(timeout=20) == expected
        assert gone([child], seconds=0)


def test_signals_are_handled_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, guarded([sys.executable, "-c", WAITING]):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone():
    with ThreadPoolExecutor() as pool:

        def enter() -> None:
            with stopped_by(signal.SIGTERM):
                pass

        pool.submit(enter).result()


def is_free(lock: Path) -> bool:
    try:
        with shared_lock(lock):
            return True
    except BlockingIOError:
        return False


LOCKED = """
import subprocess, sys
from pathlib import Path
from sam3d_nnunet.processes import guarded, shared_lock

with shared_lock(Path(sys.argv[1])) as lock, guarded({command!r}, pass_fds=lock) as process:
    process.wait()
"""


def test_a_lock_is_held_until_the_last_process_has_ended(tmp_path):
    """Also if the one that took it is killed, and a process ignores signals for a while."""
    command = [sys.executable, "-c", LOCKED.format(command=family(STUBBORN)), tmp_path / "lock"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pids = read_pids(parent)
    parent.kill()
    parent.wait()
    assert any(map(alive, pids)) and not is_free(tmp_path / "lock")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_free(tmp_path / "lock"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_lock_is_free_after_its_block(tmp_path):
    with shared_lock(tmp_path / "lock"):
        assert not is_free(tmp_path / "lock")
    assert is_free(tmp_path / "lock")


FORKS = """
import multiprocessing, os, time
from sam3d_nnunet.processes import forks_end_with_us

def wait():
    os.write(1, b"%d\\n" % os.getpid())  # at once, since others print, too
    time.sleep(60)

fork = multiprocessing.get_context("fork")
with forks_end_with_us():
    for _ in range(2):
        fork.Process(target=wait, daemon=True).start()
other = fork.Process(target=time.sleep, args=(5,))
other.start()
os.write(1, b"%d\\n" % -other.pid)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_forks_end_with_their_parent():
    """Unlike forks that were not asked to."""
    parent = subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, text=True)
    numbers = sorted(int(parent.stdout.readline()) for _ in range(3))
    assert all(alive(abs(number)) for number in numbers)
    parent.kill()
    parent.wait()
    assert gone(numbers[1:], seconds=2) and alive(-numbers[0])
    os.kill(-numbers[0], signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="the campaign reads /proc")
def test_the_campaign_leaves_nothing():
    """Its short version: all signals and a closed terminal, to stubs."""
    campaign = Path(__file__).parent / "campaigns" / "signals.py"
    run = [sys.executable, campaign, "-c", "family"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("5 commands interrupted, 0 faults\n")


POOL = """
import os, time
from sam3d_nnunet.processes import worker_pool
if __name__ == "__main__":
    with worker_pool(2) as pool:
        for pid in {pool.submit(os.getpid).result() for _ in range(20)}:
            print(pid)
        print("-", flush=True)
        time.sleep(60)
"""


def test_workers_of_a_pool_end_with_their_parent(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    parent = subprocess.Popen([sys.executable, tmp_path / "pool.py"], stdout=subprocess.PIPE, text=True)
    pids = [int(line) for line in iter(parent.stdout.readline, "-\n")]
    assert pids and all(map(alive, pids))
    parent.kill()
    parent.wait()
    assert gone(pids)


BUSY_POOL = """
import time
from sam3d_nnunet.processes import Stopped, stopped_by, worker_pool
if __name__ == "__main__":
    with stopped_by(2), worker_pool(1) as pool:
        pool.submit(print, "-", flush=True).result()
        pool.submit(time.sleep, 60).result()
"""


def test_ctrl_c_ends_workers_at_once(tmp_path):
    (tmp_path / "pool.py").write_text(BUSY_POOL)
    parent = start([sys.executable, tmp_path / "pool.py"])
    assert parent.stdout.readline() == b"-\n"
    time.sleep(0.3)
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=20)


PROCESS_1 = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to us, and we wait for none, as process 1 of many containers
start = time.monotonic()
code = subprocess.run([sys.executable, "-c", {code!r}], stdout=subprocess.DEVNULL).returncode
print(code, time.monotonic() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_zombies_are_not_waited_for():
    dies = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAITING!r}])"
    run = f"""
import sys
from sam3d_nnunet.processes import guarded
with guarded([sys.executable, "-c", {dies!r}], 40.0) as guard:
    guard.wait()
"""
    found = subprocess.run([sys.executable, "-c", PROCESS_1.format(code=run)], capture_output=True, text=True)
    code, seconds = found.stdout.split()
    assert code == "0" and float(seconds) < 20
