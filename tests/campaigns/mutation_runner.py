"""What runs a campaign of mutated files: each input through a command in a process of its own kind, and the counts.

A kind is one file that the product reads, and one command that reads it. To add some, write a script beside this one:

    KINDS = {"clicks.csv: predict": Kind(make, read, (mutated_table,))}

    if __name__ == "__main__":
        sys.exit(campaign(KINDS, __doc__))

`make(folder)` writes all that the command needs into an empty folder and returns the one file that is mutated.
`read(folder)` runs the command on a copy of that folder, as `sam3d("predict", "-i", folder / "image.nii.gz", ...)`
does, or calls a function of the package. nnU-Net's variables name the folders `raw`, `preprocessed` and `models` in it.
Mutators are in `mutators.py`; `mutated_bytes` always takes part.

An input is answered well if the command succeeds, or refuses it with a message that names the file, or a word of the
kind's `named`. Faults are other exceptions, tracebacks in the output, messages without the name, lines of more than
LONGEST_LINE characters, more than MEMORY bytes, more than LIMIT seconds, and processes that die.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from unittest import mock

import psutil
from mutators import Mutator, mutated_bytes
from tqdm import tqdm

os.environ.setdefault("nnUNet_def_n_proc", "1")  # nnU-Net reads it when it is imported

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError

LIMIT = 20.0  # seconds of a processor for an input
PATIENCE = 5  # as many of LIMIT may pass by the clock: on a busy machine, a process waits for its turn
MEMORY = 2 << 30  # bytes that an input may take
LONGEST_LINE = 2000  # characters that a person can still read
REPLACED = 1 << 30  # bytes by which a process may grow before another one takes its place
SUCCESS, REFUSED = "success", "refused"


@dataclass(frozen=True)
class Kind:
    """A file that the product reads, and what reads it.

    Attributes:
        make: writes what the command needs into an empty folder; returns the file to mutate.
        read: runs the command on such a folder.
        mutators: of this format.
        named: words of which a message may hold one instead of the file's name.
        share: of the inputs, compared with other kinds; small for slow commands.
        bytes_share: how often `mutated_bytes` is taken.
        good: whether the command succeeds with the file as it was made.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mutators: Sequence[Mutator] = ()
    named: Sequence[str] = ()
    share: float = 1.0
    bytes_share: float = 0.25
    good: bool = True


@dataclass(frozen=True)
class Outcome:
    """What an input came to: SUCCESS, REFUSED or a fault, and its message or place."""

    what: str
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        return self.what not in (SUCCESS, REFUSED)


def sam3d(*arguments: object) -> None:
    """Run the command `sam3d` in this process, as a shell does."""
    with mock.patch.object(sys, "argv", ["sam3d", *map(str, arguments)]):
        cli.main()


class Inputs:
    """Mutated inputs of kinds, in a folder of their own."""

    def __init__(self, kinds: Mapping[str, Kind], root: Path, seed: int) -> None:
        self.kinds, self.root, self.seed = kinds, root, seed
        self._made: dict[str, tuple[Path, Path]] = {}

    def attempt(self, name: str, number: int, keep: bool = False) -> Outcome:
        """Make an input and run its command.

        Args:
            name: of the kind.
            number: of the input; 0 is the good file.
            keep: whether the folder stays, for a look at it.
        """
        kind = self.kinds[name]
        template, file = self._template(name)
        work = self.root / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work, symlinks=True)
        if number:
            rng = Random(f"{self.seed} {name} {number}")
            use_bytes = not kind.mutators or rng.random() < kind.bytes_share
            mutate = mutated_bytes if use_bytes else rng.choice(kind.mutators)
            (work / file).write_bytes(mutate((template / file).read_bytes(), rng))
        outcome = _run(kind, work, file.name)
        if not keep:
            shutil.rmtree(work)
        return outcome

    def _template(self, name: str) -> tuple[Path, Path]:
        """A folder with a good file of a kind, and the file's path in it."""
        if name not in self._made:
            folder = self.root / f"template_{len(self._made)}_{os.getpid()}"
            folder.mkdir()
            with mock.patch.dict(os.environ, environment(folder)), _output():
                file = self.kinds[name].make(folder)
            self._made[name] = folder, file.relative_to(folder)
        return self._made[name]


def environment(folder: Path) -> dict[str, str]:
    """nnU-Net's variables for a folder of inputs."""
    places = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "models"}
    return {name: str(folder / place) for name, place in places.items()} | {"nnUNet_n_proc_DA": "1"}


def _run(kind: Kind, work: Path, file: str) -> Outcome:
    code, message = 0, ""
    with _output() as printed:
        try:
            with mock.patch.dict(os.environ, environment(work)):
                kind.read(work)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else int(e.code is not None)
        except SAM3DError as e:
            code, message = 1, str(e)
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            return Outcome("exception", _place(e))
    text = printed.getvalue() + message
    if "Traceback (most recent" in text:
        return Outcome("traceback", text[text.rindex("Traceback") :].strip().splitlines()[-1][:200])
    if not code:
        return Outcome(SUCCESS)
    longest = max(text.replace("\r", "\n").split("\n"), key=len)
    if len(longest) > LONGEST_LINE:
        return Outcome("long", f"{len(longest)} characters: {longest[:120]!a}")
    if not any(word in text for word in (file, file.split(".")[0], *kind.named)):
        return Outcome("unnamed", f"exit code {code}: {text.strip()[-200:]!a}")
    return Outcome(REFUSED, text[-3000:])


@contextlib.contextmanager
def _output() -> Iterator[io.StringIO]:
    """All that is printed, by libraries and child processes, too."""
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:
        before = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in before:
                os.dup2(file.fileno(), number)
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield text
        finally:
            for number, old in before.items():
                os.dup2(old, number)
                os.close(old)
            file.seek(0)
            printed = text.getvalue()
            text.seek(0)
            text.write(file.read().decode(errors="replace") + printed)  # the last words are those of the command


def _place(error: BaseException) -> str:
    """The kind of an error, where it was raised and which of our lines led there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "sam3d_nnunet/" in f.filename] or frames
    places = dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in (ours[-1], frames[-1]))
    message = str(error).strip().splitlines()[-1:] or [""]
    return f"{type(error).__name__} at {' <- '.join(places)}: {message[0][:120]!a}"


# --- the process that works ---


class Worker:
    """A process that runs inputs one after the other. It is replaced where it hangs, dies or grows."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._process: multiprocessing.Process | None = None

    def attempt(self, name: str, number: int) -> Outcome:
        """As `Inputs.attempt`, within the limits."""
        if self._process is None:
            self._start()
        self._connection.send((name, number))
        start, used, ended = time.monotonic(), self._seconds(), None
        while time.monotonic() - start < PATIENCE * LIMIT and self._seconds() - used < LIMIT:
            if self._connection.poll(0.2):
                try:
                    outcome, grown = self._connection.recv()
                except EOFError:
                    ended = Outcome("died", name)
                    break
                if grown > MEMORY:
                    outcome = Outcome("memory", f"{grown >> 20} MB, {outcome.what} {outcome.detail[:100]}")
                if psutil.Process(self._process.pid).memory_info().rss - self._begun > REPLACED:
                    self.stop()
                return outcome
            if self._bytes() - self._begun > MEMORY + REPLACED:
                ended = Outcome("memory", f"more than {self._bytes() - self._begun >> 20} MB")
                break
        taken = f"{self._seconds() - used:.0f} s of a processor, {time.monotonic() - start:.0f} s by the clock"
        self.stop()
        return ended or Outcome("hang", taken)

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # what is imported is there at once
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(self.inputs, theirs))
        self._process.start()
        theirs.close()
        self._begun = self._connection.recv()

    def _seconds(self) -> float:
        """What the process and its children have taken of a processor."""
        with contextlib.suppress(psutil.Error):
            return sum(psutil.Process(self._process.pid).cpu_times()[:4])
        return 0.0

    def _bytes(self) -> int:
        """Memory of the process and its children."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            total = process.memory_info().rss
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_full_info().pss  # what they share with it is counted once
        return total

    def stop(self) -> None:
        """End the process and all that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.join()
            self._connection.close()
            self._process = None


def _work(inputs: Inputs, connection: Connection) -> None:
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nnU-Net ends its forks by it, which a handler of Python can miss
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    inputs._made.clear()
    connection.send(psutil.Process().memory_info().rss)
    while True:
        name, number = connection.recv()
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        outcome = inputs.attempt(name, number)
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        connection.send((outcome, peak - before))


# --- campaigns ---


def campaign(kinds: Mapping[str, Kind], about: str) -> int:
    """Run a campaign by its arguments; the exit code: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--count", type=int, default=1000, help="inputs of all kinds together")
    parser.add_argument("-k", "--kind", action="append", help="kinds whose names hold this text; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--one", type=int, help="run only this input of a kind, here, and keep its folder")
    options = parser.parse_args()
    chosen = {n: k for n, k in kinds.items() if not options.kind or any(text in n for text in options.kind)}
    root = Path(tempfile.mkdtemp(prefix="mutations_"))
    inputs = Inputs(chosen, root, options.seed)
    if options.one is not None:
        print(inputs.attempt(next(iter(chosen)), options.one, keep=True), root / "work", sep="\n")
        return 0
    worker = Worker(inputs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # in the background, shells have Ctrl-C ignored
    try:
        return report(count(worker.attempt, chosen, options.count))
    finally:
        worker.stop()
        shutil.rmtree(root, ignore_errors=True)


Counts = dict[str, Counter]
Faults = dict[tuple[str, str, str], list[int]]


def count(
    attempt: Callable[[str, int], Outcome], kinds: Mapping[str, Kind], inputs: int, quiet: bool = False
) -> tuple[Counts, Faults, float]:
    """Run inputs of all kinds, the good files first. Ctrl-C ends it early.

    Returns:
        outcomes by kind; numbers of the inputs with faults by kind, fault and detail; seconds of the slowest input.
    """
    shares = sum(kind.share for kind in kinds.values())
    counts: Counts = {name: Counter() for name in kinds}
    faults: Faults = {}
    slowest = 0.0
    jobs = [(n, i) for n, k in kinds.items() for i in range(1 + max(1, round(inputs * k.share / shares)))]
    Random(0).shuffle(jobs)  # what is interrupted has met all kinds
    jobs.sort(key=lambda job: job[1] > 0)
    for name, number in tqdm(jobs, unit="input", disable=quiet, smoothing=0.02, mininterval=5):
        start = time.monotonic()
        try:
            outcome = attempt(name, number)
        except KeyboardInterrupt:
            break
        slowest = max(slowest, time.monotonic() - start)
        if number == 0 and outcome.what != SUCCESS and kinds[name].good:
            outcome = Outcome("the good file is refused", outcome.detail[-300:])
        counts[name]["fault" if outcome.is_fault else outcome.what] += number > 0 or outcome.is_fault
        if outcome.is_fault:
            if not quiet:
                tqdm.write(f"{outcome.what}, {name}, input {number}: {outcome.detail}")
            faults.setdefault((name, outcome.what, outcome.detail), []).append(number)
    return counts, faults, slowest


def report(counted: tuple[Counts, Faults, float]) -> int:
    """Print a table and all faults; the exit code."""
    counts, faults, slowest = counted
    print("| file: read by | inputs | read | refused | faults |\n| --- | ---: | ---: | ---: | ---: |")
    total = sum(counts.values(), Counter())
    for name, counter in [*counts.items(), ("all", total)]:
        print(f"| {name} | {counter.total()} | {counter[SUCCESS]} | {counter[REFUSED]} | {counter['fault']} |")
    print(f"slowest input: {slowest:.1f} s")
    for (name, what, detail), numbers in sorted(faults.items(), key=lambda fault: -len(fault[1])):
        print(f"{len(numbers)} x {what}, {name}, input {numbers[0]}: {detail}")
    return int(bool(faults))
