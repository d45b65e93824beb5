"""Processes that end when we end, however that happens, with every process that they have started.

A command runs in a process group of its own, and beside it runs a guard: this file as a script. The standard input of
the guard is a pipe of which only we hold the other end. The system closes it even if we are killed, and then the guard
ends the group. A long computation, which keeps Python from handling signals, can't delay a guard.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, parent_process
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
GRACE = 20.0  # seconds in which a command may clean up, such as Snakemake, which takes its jobs out of a queue


class Stopped(BaseException):
    """A signal has asked this process to end.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}.")
        self.signal = number

    @property
    def exit_code(self) -> int:
        """By the convention of shells."""
        return 128 + self.signal


@contextmanager
def stopped_by(number: int) -> Iterator[None]:
    """Raise `Stopped` in the body when a signal comes, unless it was ignored before, as nohup and shells do.

    Only the main thread of a process can set this. In other threads, the signal does what it did before; so does one
    whose handler is not Python's.
    """
    kept = signal.getsignal(number) in (signal.SIG_IGN, None)
    if threading.current_thread() is not threading.main_thread() or kept:
        yield
        return
    before = signal.signal(number, _raise_stopped)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def guarded(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Run a command that ends with the body, with all its processes; also when this process is killed.

    On Windows, only the command itself is ended, not what it has started. SIGTERM raises `Stopped` in the body, which
    would otherwise not end in order.

    Args:
        command: with its arguments; its standard input is empty.
        options: of `subprocess.Popen`.

    Yields:
        the process of the guard, whose output and exit code are those of the command; 128 + N if signal N ended it.
    """
    watched = [sys.executable, "-IS", __file__, *command]  # isolated: beside this file lies an io.py
    with stopped_by(signal.SIGTERM):
        guard = subprocess.Popen(watched, stdin=subprocess.PIPE, start_new_session=True, **options)
        try:
            yield guard
        finally:
            guard.stdin.close()
            guard.wait()


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end with the body; also when this process is killed. What has not begun is cancelled.

    An error or a signal in the body ends the workers at once.
    """
    others = set(active_children())
    # a fork would copy threads and a GPU's state
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker, which would otherwise wait for tasks forever. A terminal's Ctrl-C is the parent's to handle."""

    def end() -> NoReturn:
        parent_process().join()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end, daemon=True).start()


def _raise_stopped(number: int, *_: object) -> NoReturn:
    raise Stopped(number)


def _guard(command: Sequence[str]) -> int:
    """Run a command until it ends, our standard input is closed or a signal comes; then end what is left of it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the command gets the system's handlers, even if we ignored SIGINT
        signal.signal(number, _raise_stopped)
    _adopt_orphans()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    over = threading.Event()

    def watch(wait: Any) -> None:
        wait()
        over.set()

    try:
        for wait in (process.wait, sys.stdin.buffer.read):
            threading.Thread(target=watch, args=(wait,), daemon=True).start()
        over.wait()
    except Stopped:
        pass
    finally:
        _end_group(process)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_group(process: subprocess.Popen) -> None:
    if os.name == "nt":  # no process groups
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):  # nothing is left, or on macOS zombies
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # on SIGTERM alone, Snakemake waits for its jobs on a cluster
        os.killpg(process.pid, signal.SIGTERM)
        _wait_for_group(process, GRACE)
        os.killpg(process.pid, signal.SIGKILL)
        _wait_for_group(process, 1.0)  # the system needs a moment


def _wait_for_group(process: subprocess.Popen, seconds: float) -> None:
    """Wait until a group has ended, for so long at most.

    Raises:
        ProcessLookupError: it has ended.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _reap_orphans(process)
        os.killpg(process.pid, 0)
        time.sleep(0.05)


def _adopt_orphans() -> None:
    """Become the parent of processes whose parent ends, on Linux.

    Otherwise they go to process 1, which in many containers does not wait for them: they would stay in the group as
    zombies, and we would wait for them until `GRACE` is over.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans(process: subprocess.Popen) -> None:
    """Let ended processes of the group go, but for the command, whose exit code is still wanted."""
    if sys.platform != "linux":
        return
    with suppress(ChildProcessError):  # none is ours
        while ended := os.waitid(os.P_PGID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == process.pid:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


if __name__ == "__main__":
    # without waiting for threads: one may still read standard input
    os._exit(_guard(sys.argv[1:]))
