"""Processes that end when we end, however that happens, with every process that they have started.

A command runs in a process group of its own, and beside it runs a guard: this file as a script. The standard input of
the guard is a pipe of which only we hold the other end. The system closes it even if we are killed, and then the guard
ends the group. A long computation, which keeps Python from handling signals, can't delay a guard.
"""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
GRACE = 5.0  # seconds in which a command may clean up
ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]  # Windows has no SIGHUP
"""Signals that ask a process to end, besides Ctrl-C. The system sends SIGHUP when a terminal is closed."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PARENT: ContextVar[int | None] = ContextVar("_PARENT", default=None)  # of the processes that this thread forks


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
def guarded(command: Sequence[str], grace: float = GRACE, **options: Any) -> Iterator[subprocess.Popen]:
    """Run a command that ends with the body, with all its processes; also when this process is killed.

    On Windows, only the command itself is ended, not what it has started. SIGTERM and SIGHUP raise `Stopped` in the
    body, which would otherwise not end in order.

    Args:
        command: with its arguments; its standard input is empty.
        grace: seconds in which it may clean up before it is killed.
        options: of `subprocess.Popen`. The command inherits the files of `pass_fds`, too: a `shared_lock` is held until
            the last process has ended, even if this process is killed.

    Yields:
        the process of the guard, whose output and exit code are those of the command; 128 + N if signal N ended it.
    """
    watched = [sys.executable, "-IS", __file__, str(grace), *command]  # isolated: beside this file lies an io.py
    with ExitStack() as handlers:
        for number in ENDING:
            handlers.enter_context(stopped_by(number))
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
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=end_with_parent)
    try:
        yield pool
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def shared_lock(path: Path, wait: float = 0.0) -> Iterator[tuple[int, ...]]:
    """Hold a lock together with the processes that inherit it, until the last of them has ended.

    On Windows, this process alone holds it.

    Args:
        path: a folder, or a file, which is made if it does not exist, and stays.
        wait: seconds to wait for others.

    Yields:
        for `pass_fds` of `guarded`.

    Raises:
        BlockingIOError: others hold the lock.
        OSError: the path can't be opened or locked; no folder can on Windows, and some network shares lock nothing.
    """
    if os.name == "nt":
        with _lock_on_windows(path, wait):
            yield ()
        return
    import fcntl  # not on Windows

    # network file systems lock only what is open for writing, and folders can't be
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
        yield (descriptor,)
    finally:
        os.close(descriptor)  # unlocked explicitly, it would be unlocked for all who hold it


@contextmanager
def _lock_on_windows(path: Path, wait: float) -> Iterator[None]:
    if path.is_dir():
        raise OSError(errno.ENOTSUP, "folders can't be locked", str(path))
    from filelock import FileLock, Timeout  # a guard is run without installed packages

    with ExitStack() as held:
        try:
            held.enter_context(FileLock(path, timeout=wait))
        except Timeout as e:
            raise BlockingIOError(f"{path} is locked") from e
        yield


@contextmanager
def forks_end_with_us() -> Iterator[None]:
    """Processes that this thread forks in the body end with the thread, however that happens; on Linux.

    On other systems multiprocessing forks nothing.
    """
    if sys.platform == "linux":
        _hook_forks()
    before = _PARENT.set(os.getpid())
    try:
        yield
    finally:
        _PARENT.reset(before)


@cache
def _hook_forks() -> None:
    """Once in a process, which can't take it back."""
    os.register_at_fork(after_in_child=_end_fork_with_parent)


def _end_fork_with_parent() -> None:
    parent = _PARENT.get()
    if parent is None:
        return
    _PARENT.set(None)  # what is forked from here has other parents
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(128 + signal.SIGKILL)


@cache
def end_with_parent() -> None:
    """Call it in a process that multiprocessing has started, which may otherwise go on. Its parent handles Ctrl-C."""
    parent = parent_process()
    if parent is None:  # nothing has started us
        return

    def end() -> NoReturn:
        parent.join()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end, daemon=True).start()


def _raise_stopped(number: int, *_: object) -> NoReturn:
    raise Stopped(number)


def _guard(grace: float, command: Sequence[str]) -> int:
    """Run a command until it ends, our standard input is closed or a signal comes; then end what is left of it."""
    for number in (signal.SIGINT, *ENDING):  # the command gets the system's handlers, even if we ignored SIGINT
        signal.signal(number, _raise_stopped)
    _adopt_orphans()
    # with the files that we have inherited
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, close_fds=False)
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
        _end_group(process, grace)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_group(process: subprocess.Popen, grace: float) -> None:
    if os.name == "nt":  # no process groups
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):  # nothing is left, or on macOS zombies
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # on SIGTERM alone, Snakemake waits for its jobs on a cluster
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace / 5)  # on both at once, it would wait for a lock of its own
        os.killpg(process.pid, signal.SIGTERM)
        _wait_for_group(process, grace * 4 / 5)
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
    zombies, and we would wait for them in vain.
    """
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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
    os._exit(_guard(float(sys.argv[1]), sys.argv[2:]))
