"""Train on a disk that is full at many points: a sentence says so, nothing is half, and with room the training goes on.

The models lie on a tmpfs whose room rises from start to start, so that the disk is full at each file in turn: copies of
the plans, checkpoints, the figure of the progress, the files of both validations. Needs the right to mount, as root has
it. Made-up images, a small network, Linux.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm
from trainings import Run, Trainings, epochs_in, faults_of_end, faults_of_files, left_of, parts_in

DISK = 64 << 20  # bytes
PAGE = 4096
TRAINING = (0, 1, 2, 5, 7, 10, 60, 100, 750, 1500, 1530, 2500, 3010, 3060, 3200, 4000, 4520)
"""Room for the whole model in pages, from start to start of a training."""
VALIDATION = (0, 1, 2, 3, 4, 5, 6)
"""Room beside what there is in pages, from start to start of its validation."""
SENTENCE = r"^Error: (?P<path>\S+): (No space left on device|it was cut off .+)\. Make room there and .+\.$"


def main() -> None:
    """Exit code 1 if a full disk was not told, or left anything half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--every", type=int, default=1, help="take only every n-th of the points")
    parser.add_argument("--only", choices=("--c", "--val"), help="points of the training, or of the validations")
    parser.add_argument("--prepared", type=Path, help="folder in which the images were prepared, or shall be")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        results = work / "results"
        results.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", results], check=True)
        trainings = Trainings(options.prepared or work / "prepared", work)
        try:
            disk = FullDisk(trainings, results)
            points = [("--c", room) for room in TRAINING[:: options.every]]
            points += [("--val", room) for room in VALIDATION[:: options.every]]
            points = [point for point in points if options.only in (None, point[0])]
            for flag, room in tqdm(points, unit="point"):
                if flag == "--val" and not disk.is_trained:
                    disk.train()
                disk.fill(room * PAGE if flag == "--val" else max(0, room * PAGE - disk.used))
                disk.start(flag)
            disk.finish()
        finally:
            trainings.close()
            subprocess.run(["umount", results], check=True)
    print("", "| full at | points |", "| --- | ---: |", *(f"| {k} | {n} |" for k, n in disk.told.items()), sep="\n")
    print(
        *disk.faults, f"{sum(disk.told.values())} points, {disk.fitted} had room, {len(disk.faults)} faults", sep="\n"
    )
    sys.exit(bool(disk.faults))


class FullDisk:
    """A training whose models lie on a small disk.

    Attributes:
        told: how many sentences named each file.
        fitted: starts for which there was room enough.
        faults: what was wrong.
    """

    def __init__(self, trainings: Trainings, results: Path) -> None:
        self.trainings, self.results = trainings, results
        self.told: Counter[str] = Counter()
        self.fitted, self.faults = 0, []
        self._ballast = results / "ballast"
        self._ballast.touch()
        self._folder = trainings.fold(results)

    @property
    def used(self) -> int:
        """Bytes of the model."""
        return DISK - self._free - self._ballast.stat().st_size

    @property
    def is_trained(self) -> bool:
        """Whether only the validation is left."""
        return (self._folder / "checkpoint_final.pth").is_file()

    def fill(self, room: int) -> None:
        """Leave so much room in bytes."""
        os.truncate(self._ballast, 0)
        if self._free > room:
            with self._ballast.open("rb+") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, self._free - room)

    def start(self, flag: str) -> None:
        """Train or validate, on a disk that is full or not."""
        before, epochs = self._there(), epochs_in(self._folder)
        run = self.trainings.start(self.results, flag)
        code, what = self.trainings.wait(run), f"{flag}, {self._free // PAGE} pages free"
        if code == 0:
            self.fitted += 1
        else:
            self._check_sentence(run, what)
        found = [f"left: {line}" for line in left_of(run)]
        found += [*faults_of_files(self.results), *parts_in(self.results)]
        found += [f"{name} is gone" for name in sorted(before - self._there())]
        if epochs_in(self._folder) < epochs:
            found.append(f"{epochs} epochs were done before")
        self.faults += [f"{what}: {fault}" for fault in found]

    def train(self) -> None:
        """With room, to the end of the training, and not of the validation."""
        self.fill(DISK)
        run = self.trainings.start(self.results, "--c")
        while run.is_alive() and run.phase != "validation":
            time.sleep(0.05)
        run.kill()
        self.trainings.wait(run)
        left_of(run)

    def finish(self) -> None:
        """With room, the last command ends well."""
        self.fill(DISK)
        run = self.trainings.start(self.results, "--val")
        if self.trainings.wait(run):
            self.faults.append(f"end: {run.text[-300:]}")
        self.faults += [*faults_of_files(self.results), *faults_of_end(self._folder), *parts_in(self.results)]

    def _check_sentence(self, run: Run, what: str) -> None:
        told = re.search(SENTENCE, run.text, re.MULTILINE)
        if told is None or "Traceback" in run.text or not told["path"].startswith(str(self.results)):
            self.faults.append(f"{what}: {run.text[-600:]}")
        if told is not None:
            self.told[Path(told["path"]).relative_to(self.results).as_posix().partition("3d_fullres/")[2]] += 1

    def _there(self) -> set[str]:
        """Files that must stay: all but those that a training replaces by others on purpose."""
        files = {str(file.relative_to(self.results)) for file in self.results.rglob("*") if file.is_file()}
        return {name for name in files if not name.endswith(("summary.json", "checkpoint_latest.pth"))}

    @property
    def _free(self) -> int:
        state = os.statvfs(self.results)
        return state.f_bavail * state.f_frsize


if __name__ == "__main__":
    main()
