"""Commands on a disk that is full at some point, from the first byte that they write to the last.

Each must end with exit code 1 and a sentence that names a path, and leave only files that are whole. Files that were
there before stay as they were. Once there is room, the same command ends well. Made-up images, a small model, Linux.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from small_jobs import (
    Job,
    evaluate,
    files_in,
    is_same,
    make_images,
    make_large_images,
    predict,
    reports,
    segment,
    temporary,
    variables,
    without_cost,
)

COMMANDS = ("predict", "segment", "evaluate", "table", "figures")
"""`sam3d` and one of them, but for "segment": predictions whose largest files are segmentations."""
CASES = 3
DISK = 1 << 26  # bytes
EVERY = 4
"""After how many points the command is run once more, with room."""
FULL = ("No space left on device", "File too large", "is reached")
"""What a sentence says about a full disk."""


def main() -> None:
    """Exit code 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--command", action="append", choices=COMMANDS, help="repeat for several; default: all")
    parser.add_argument("-n", "--points", type=int, default=20, help="of each command")
    parser.add_argument(
        "--limit", action="store_true", help="limit the size of files, instead of filling a tmpfs, which root may mount"
    )
    options = parser.parse_args()
    faults = []
    with tempfile.TemporaryDirectory(prefix="full_") as folder:
        root = Path(folder)
        make_images(root, CASES)
        make_large_images(root)
        os.environ.update(variables(root))  # before nnU-Net is imported
        load()
        print("| command | points | ended with a sentence | files compared | ended well with room | faults |")
        for command in options.command or COMMANDS:
            campaign = Campaign(command, root, options.limit)
            campaign.run(options.points)
            print(campaign.row(), flush=True)
            faults += campaign.faults
    print(*faults, f"{len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


def load() -> None:
    """Import what takes long, once for all commands: they run in forks of this process."""
    import matplotlib.pyplot  # noqa: F401

    import sam3d_nnunet.evaluation.evaluate
    import sam3d_nnunet.report.figures
    import sam3d_nnunet.report.tables  # noqa: F401


@dataclass
class Campaign:
    """Fills the disk of one command.

    Attributes:
        command: its name.
        root: folder with the images.
        limits: whether the size of files is limited, instead of a disk.
    """

    command: str
    root: Path
    limits: bool
    faults: list[str] = field(default_factory=list)
    points: int = 0
    sentences: int = 0
    compared: int = 0
    well: int = 0

    def run(self, points: int) -> None:
        """Fill it at so many points."""
        reference, full = self.root / f"{self.command}_whole", self.root / f"{self.command}_tried"
        with disk(reference, self.limits):
            code, text = run(self._job(reference))
            if code:
                raise SystemExit(text)
            files = files_in(self._job(reference).output)
            most = max(file.stat().st_size for file in files.values()) if self.limits else 0
            copy = self.root / f"{self.command}_files"
            shutil.copytree(reference, copy)
        old = {name: file for name, file in files_in(copy / "out").items() if self._is_old(name)}
        for point in tqdm(range(points), desc=self.command, unit="point"):
            with disk(full, self.limits):
                job = self._job(full)
                for name, file in old.items():
                    (job.output / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, job.output / name)
                if not self.limits:
                    # of files that are replaced one by one, only the largest may lack room
                    sizes = [blocks(file) for name, file in files_in(copy / "out").items() if name not in old]
                    most = sum(sizes) or max(map(blocks, old.values()))
                self._try(job, copy / "out", most * point // points, old)

    def row(self) -> str:
        """Of the table."""
        counts = self.points, self.sentences, self.compared, self.well, len(self.faults)
        return f"| {self.command} | {' | '.join(map(str, counts))} |"

    def _job(self, work: Path) -> Job:
        if self.command in ("table", "figures"):
            return reports(self.command, work)
        return {"predict": predict, "segment": segment, "evaluate": evaluate}[self.command](self.root, work)

    def _is_old(self, name: str) -> bool:
        """Whether a file is there before: all tables and figures, one of the cases, one of the protocols."""
        return self._writes_again or name.startswith("ours/automatic/" if self.command == "evaluate" else "case_00.")

    @property
    def _writes_again(self) -> bool:
        return self.command in ("table", "figures")

    def _try(self, job: Job, expected: Path, room: int, old: dict[str, Path]) -> None:
        self.points += 1
        place = f"{self.command} with room for {room} bytes"
        there = {name: state_of(job.output / name) for name in old}
        with full_disk(job.output, None if self.limits else room):
            code, text = run(job, room if self.limits else None)
        told = [line for line in text.splitlines() if str(job.output) in line and any(what in line for what in FULL)]
        self.sentences += bool(told)
        for wrong, what in (
            (code != 1, f"exit code {code}"),
            (not told, f"no sentence with a path: {text[-1500:]}"),
            ("Traceback" in text, text[text.find("Traceback") :][:2500]),
        ):
            self.faults += [f"{place}: {what}"] if wrong else []
        self._compare(job, expected, place)
        changed = [name for name in there if there[name] != state_of(job.output / name)]
        self.faults += [f"{place}: {name} has changed" for name in changed if not self._writes_again]
        if self.points % EVERY:
            return
        code, text = run(job)
        self.well += code == 0
        self.faults += [f"{place}, then with room: exit code {code}: {text[-2500:]}"] if code else []
        self._compare(job, expected, f"{place}, then with room", through=True)

    def _compare(self, job: Job, expected: Path, place: str, through: bool = False) -> None:
        there, wanted = files_in(job.output), files_in(expected)
        for name, file in there.items():
            self.compared += 1
            if name not in wanted:
                self.faults.append(f"{place}: {name} should not be there")
            elif not is_same(file, wanted[name], through) and (through or file.name != "method.json"):
                self.faults.append(f"{place}: {name} is not whole")
            if self.command == "evaluate" and name.endswith(".nii.gz") and without_cost(file):
                self.faults.append(f"{place}: {name} has no cost")
        missing = wanted.keys() - there.keys() if through else ()
        self.faults += [f"{place}: {name} is missing" for name in missing]
        self.faults += [f"{place}: {name} was left" for name in temporary(job.output)]


def state_of(file: Path) -> tuple[int, int]:
    """Changes when a file is written again."""
    return file.stat().st_ino, file.stat().st_mtime_ns


def blocks(file: Path) -> int:
    """Bytes that a file takes on the disk."""
    return file.stat().st_blocks * 512


@contextmanager
def disk(folder: Path, limits: bool) -> Iterator[None]:
    """A disk of its own for a folder; where the size of files is limited, any."""
    folder.mkdir()
    if not limits:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        (folder / "out").mkdir()
        yield
    finally:
        if not limits:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)


@contextmanager
def full_disk(folder: Path, room: int | None) -> Iterator[None]:
    """In the body, the disk of a folder has room for so many bytes."""
    filler = folder.parent / "filler"
    if room is not None:
        state = os.statvfs(folder)
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(1, state.f_bavail * state.f_frsize - room))
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


def run(job: Job, limit: int | None = None) -> tuple[int, str]:
    """Run a command in a fork of this process, with a limit in bytes for the size of files.

    Returns:
        its exit code, and what it has printed.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        for stream in (1, 2):
            os.dup2(theirs, stream)
        os._exit(exit_code(job, limit))
    os.close(theirs)
    with open(ours, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def exit_code(job: Job, limit: int | None = None) -> int:
    """That of a command in this process."""
    from sam3d_nnunet.cli.main import main as sam3d

    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["sam3d", *job.arguments]
    code = 0
    try:
        sam3d()
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
