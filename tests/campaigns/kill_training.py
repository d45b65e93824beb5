"""Kill trainings at many moments and continue them: nothing is lost, nothing is half, no process goes on.

Each kill hits nnU-Net's command with a trainer of ours in one of these phases:

cold        its start, in a new process that imports everything
warm        its start after all imports
epochs      training
save        while a checkpoint is written
flush       while a written checkpoint waits for the disk
validation  nnU-Net's final validation
clicked     our validation with one click

Made-up images, a small network, Linux.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm
from trainings import Run, Trainings, epochs_in, faults_of_end, faults_of_files, left_of, parts_in

PATTERNS = (
    ("cold", "save", "epochs", "warm", "flush", "epochs", "cold", "validation", "clicked", "validation"),
    ("warm", "flush", "cold", "epochs", "save", "epochs", "cold", "clicked", "validation", "clicked"),
)
"""Phases in which each training is killed, one after the other; then it goes on to its end."""
SECONDS = {"cold": 12.0, "warm": 2.0, "epochs": 5.0, "save": 0.03, "flush": 1.0, "validation": 15.0, "clicked": 8.0}
"""How long after the beginning of a phase the kill comes at most."""
ORDER = ("startup", "epochs", "validation", "validation_1click")
BEGINS = {"epochs": "epochs", "save": "epochs", "flush": "epochs"}
BEGINS |= {"validation": "validation", "clicked": "validation_1click"}


def main() -> None:
    """Exit code 1 if anything was lost, half or left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--kills", type=int, default=50, help="how many trainings are killed (default: 50)")
    parser.add_argument("--phase", action="append", choices=SECONDS, help="only this phase; repeat for several")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--prepared", type=Path, help="folder in which the images were prepared, or shall be")
    options = parser.parse_args()
    moments, faults, killed, trained = random.Random(options.seed), [], Counter(), 0
    with tempfile.TemporaryDirectory() as folder, tqdm(total=options.kills, unit="kill") as bar:
        work = Path(folder)
        trainings = Trainings(options.prepared or work / "prepared", work)
        while bar.n < options.kills:
            pattern = PATTERNS[trained % len(PATTERNS)]
            phases = [phase for phase in pattern if not options.phase or phase in options.phase]
            training = KilledTraining(trainings, work / f"results_{trained}", moments)
            for phase in phases[: options.kills - bar.n]:
                killed[training.kill(phase)] += 1
                bar.update()
            training.finish()
            trained += 1
            faults += training.faults
            bar.write("\n".join([f"{training.results.name} has ended", *training.faults]))
        trainings.close()
    print(
        "",
        "| phase | kills |",
        "| --- | ---: |",
        *(f"| {name} | {n} |" for name, n in sorted(killed.items())),
        sep="\n",
    )
    print(*faults, f"{sum(killed.values())} kills of {trained} trainings, {len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


class KilledTraining:
    """A training that is killed, continued, killed, and at last ends.

    Attributes:
        faults: what was wrong after a kill, or at the end.
    """

    def __init__(self, trainings: Trainings, results: Path, moments: random.Random) -> None:
        self.trainings, self.results, self.moments = trainings, results, moments
        self.faults: list[str] = []
        self._starts = 0
        self._parts: set[str] = set()

    def kill(self, phase: str) -> str:
        """Start or continue, and kill in a phase.

        Returns:
            The phase in which the kill came: another, if the training had gone on further by then.
        """
        before = self._epochs()
        slow = SECONDS["flush"] if phase == "flush" else 0.0
        run = self._start(cold=phase == "cold", slow=slow)
        wanted = BEGINS.get(phase, "startup")
        while run.is_alive() and ORDER.index(run.phase) < ORDER.index(wanted):
            time.sleep(0.01)
        if phase in ("save", "flush"):
            while run.is_alive() and run.phase == "epochs" and not any(run.folder.glob(".part_*/checkpoint_*")):
                time.sleep(0.001)
        time.sleep(self.moments.uniform(0, SECONDS[phase]))
        was_at, saves = run.phase, any(run.folder.glob(".part_*/checkpoint_*"))
        ended = not run.is_alive()
        if not ended:
            run.kill()
        code = self.trainings.wait(run)
        what = f"{self.results.name}, start {self._starts}, {phase} ({was_at})"
        if ended and code:
            self.faults.append(f"{what}: exit code {code}: {run.text[-300:]}")
        self.faults += [f"{what}: left: {line}" for line in left_of(run)]
        self.faults += [f"{what}: {fault}" for fault in faults_of_files(self.results)]
        if self._epochs() < before:
            self.faults.append(f"{what}: {before} epochs were done before, now {self._epochs()}")
        self._note_parts(what, was_at)
        if ended:
            return "ended before"
        if saves:
            return "checkpoint (written or flushed)"
        return {"startup": f"startup ({phase if phase in ('cold', 'warm') else 'warm'})"}.get(was_at, was_at)

    def finish(self) -> None:
        """Let the training end."""
        run = self._start()
        code = self.trainings.wait(run)
        what = f"{self.results.name}, end"
        if code:
            self.faults.append(f"{what}: exit code {code}: {run.text[-500:]}")
        found = [*faults_of_files(self.results), *faults_of_end(run.folder), *left_of(run), *parts_in(self.results)]
        self.faults += [f"{what}: {fault}" for fault in found]

    def _start(self, **options: float) -> Run:
        """With --val where nothing is left to train, else with --c, as a user would."""
        self._starts += 1
        done = (self._folder / "checkpoint_final.pth").is_file()
        return self.trainings.start(self.results, "--val" if done else "--c", **options)

    def _note_parts(self, what: str, phase: str) -> None:
        """Temporary files of earlier runs are gone as soon as a run has started."""
        there = set(parts_in(self.results))
        if phase != "startup":
            self.faults += [f"{what}: {part} of an earlier run is left" for part in there & self._parts]
        self._parts = there

    @property
    def _folder(self) -> Path:
        return self.trainings.fold(self.results)

    def _epochs(self) -> int:
        return epochs_in(self._folder)


if __name__ == "__main__":
    main()
