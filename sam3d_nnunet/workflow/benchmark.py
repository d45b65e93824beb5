"""`sam3d benchmark`: run all steps of a comparison with Snakemake, from raw images to a table."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import draw_splits, read_splits, splits_file, write_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import METRICS, TABLE, WORK, Results
from sam3d_nnunet.io import write_json
from sam3d_nnunet.network.device import AUTO, usable_device
from sam3d_nnunet.nnunet.registration import EXT_FOLDER
from sam3d_nnunet.planning.recipe_data import refuse_other_labels
from sam3d_nnunet.planning.recipes import known_recipes
from sam3d_nnunet.processes import GRACE, guarded, shared_lock, usable_cores
from sam3d_nnunet.report.tables import write_tables
from sam3d_nnunet.workflow.comparison import Comparison
from sam3d_nnunet.workflow.steps import EVALUATE, PREPARE, TRAIN, Step, Steps

SNAKEFILE = Path(__file__).parent / "Snakefile"
PATHS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "SAM3D_CHECKPOINT")
"""Environment variables with the path of a file or a folder."""
SHARED = ("nnUNet_n_proc_DA", "nnUNet_def_n_proc")
"""Environment variables with a number of processes of a step. Snakemake sets those with a number of threads."""
QUEUE_GRACE = 20.0
"""Seconds in which Snakemake may take its jobs out of the queue of a cluster."""
RUN_BY_SHELLS = frozenset('"$`\\') - {os.sep}
"""Characters that mean something between double quotes, where executors of Snakemake put the path of their folder."""
ANSWER = 60.0
"""Seconds in which SLURM may say what is in its queue."""


@dataclass(frozen=True)
class Benchmark:
    """A comparison on a data set, with a folder for its results.

    Attributes:
        recipe: its name, or a JSON file.
        dataset: id or name in nnUNet_raw.
        results: folder of results.
        methods: names of those to compare; empty: all methods of the recipe.
        folds: to train and evaluate; empty: the folds of the recipe.
        device: where to train and predict; "auto": the GPU of this machine if it has one, else the CPU.
    """

    recipe: str
    dataset: str
    results: Path
    methods: Sequence[str] = ()
    folds: Sequence[int] = ()
    device: str = AUTO

    def left(self) -> list[Step]:
        """The unfinished steps. A data set without folds gets those that nnU-Net would draw.

        Raises:
            SAM3DError: the recipe or the data set can't be used, the data set has other labels than the recipe needs,
                or there are plans that don't fit.
        """
        raw = RawDataset.find(self.dataset)
        refuse_other_labels(self._recipe, raw)
        folds, given = splits_file(raw.name), raw.folder / "splits_final.json"
        if not folds.is_file():
            if given.is_file():  # nnU-Net's planners would copy them and accept no others
                write_splits(read_splits(given), folds)
            else:
                draw_splits(raw.cases_with_images, folds)
        return Steps(self._comparison, self._recipe, raw.name, self.results, self._device_name).left()

    def run(self, profile: str | None = None, jobs: int = 1) -> list[Step]:
        """Run the unfinished steps. A failed step blocks only the steps that depend on it.

        Args:
            profile: folder of a Snakemake profile for a cluster; None: this machine runs all steps.
            jobs: steps to run at once on this machine.

        Returns:
            the steps that are still unfinished.

        Raises:
            SAM3DError: as in `left`; or Snakemake or the device is missing, or the same comparison is running already,
                or SLURM still has jobs of an earlier start, or the path of the results can't be given to a cluster.
        """
        if find_spec("snakemake") is None:
            raise SAM3DError(
                'sam3d benchmark needs Snakemake and Python 3.11: run  pip install "sam3d_nnunet[benchmark]"'
            )
        if profile is None:
            usable_device(self.device)
        elif not Path(profile).is_dir():
            raise SAM3DError(f"There is no folder {profile} with a Snakemake profile.")
        elif not RUN_BY_SHELLS.isdisjoint(str(self._work)):
            raise SAM3DError(
                f"The path {self.results.absolute()} holds one of the characters {' '.join(sorted(RUN_BY_SHELLS))}, "
                "which the shell of a scheduler would replace or run. With --profile, use another folder of results."
            )
        try:
            self._work.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SAM3DError(f"The folder of results {self.results} can't be made: {e.strerror}.") from e
        with _only_one(self._work) as lock:
            _refuse_jobs_in_queue(self._work)
            steps = self.left()
            if steps:
                self._run(steps, profile, jobs, lock)
            return self.left()

    def report(self) -> list[Path]:
        """Write the tables of everything measured so far, and return their files; none if nothing was measured.

        Raises:
            SAM3DError: the measured methods can't be compared.
        """
        if not any(self.results.glob(f"*/*/fold_*/trial_*/**/{METRICS}")):
            return []
        results, comparison = Results(self.results), self._comparison
        measured = {folder.method for folder in results.folders}
        baseline = comparison.baseline if comparison.baseline in measured else None
        return write_tables(results, self.results / TABLE, baseline=baseline, paper=comparison.paper)

    def notes(self) -> list[str]:
        """What to know of the data set before it runs. Raises SAM3DError as `left` does."""
        return refuse_other_labels(self._recipe, RawDataset.find(self.dataset))

    def explain(self, step: Step) -> str:
        """Why a step is unfinished, in a sentence."""
        file = self._log(step)
        if file.is_file():
            return f"See {file}."
        return "It was not started because a step before it failed." if step.needs else "See Snakemake's output above."

    def _run(self, steps: list[Step], profile: str | None, jobs: int, lock: tuple[int, ...]) -> None:
        for folder in ("done", "logs"):  # results show what is finished, so these can go
            shutil.rmtree(self._work / folder, ignore_errors=True)
        listed = [asdict(step) | {"job": _job(step), "shell": step.shell} for step in steps]
        for step in steps:
            self._log(step).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._work / "steps.json", listed)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(self._work)]
        command += ["--config", f"device={self._device_name}", "--keep-going", "--nolock", "--rerun-incomplete"]
        command += ["--rerun-triggers", "mtime", "--quiet", "host"]
        command += ["--profile", str(Path(profile).absolute())] if profile else _one_machine(jobs)
        grace = QUEUE_GRACE if profile else GRACE
        with guarded(command, grace, env=_environment(jobs), pass_fds=lock) as snakemake:
            snakemake.wait()

    def _log(self, step: Step) -> Path:
        """The Snakefile knows it, too."""
        return self._work / "logs" / f"{step.name}.txt"

    @property
    def _device_name(self) -> str:
        """Not checked: in a cluster, this machine may lack what the others have."""
        return usable_device(AUTO).type if self.device == AUTO else self.device

    @property
    def _comparison(self) -> Comparison:
        return Comparison.from_recipe(self._recipe).restricted(list(self.methods), list(self.folds))

    @property
    def _recipe(self) -> str:
        """Steps run in another folder, so a file needs its absolute path."""
        is_file = self.recipe not in known_recipes() and Path(self.recipe).is_file()
        return str(Path(self.recipe).absolute()) if is_file else self.recipe

    @property
    def _work(self) -> Path:
        return self.results.absolute() / WORK


def _one_machine(jobs: int) -> list[str]:
    """Options of Snakemake for so many steps at once, which share the cores."""
    cores = usable_cores()
    threads = [f"{kind}={max(1, cores // jobs)}" for kind in (PREPARE, TRAIN, EVALUATE)]
    return ["--cores", str(max(cores, jobs)), "--resources", f"machine={jobs}", "--set-threads", *threads]


def _environment(jobs: int = 1) -> dict[str, str]:
    """Environment in which steps find nnU-Net's commands and ours, and nnU-Net finds our trainers, from any folder."""
    paths = {name: os.path.abspath(os.environ[name]) for name in PATHS if os.environ.get(name)}
    trainers = os.environ.get("nnUNet_extTrainer") or str(EXT_FOLDER)
    paths["nnUNet_extTrainer"] = os.pathsep.join(map(os.path.abspath, trainers.split(os.pathsep)))
    paths["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    shares = dict.fromkeys(SHARED, str(max(1, usable_cores() // jobs))) if jobs > 1 else {}
    return shares | os.environ | paths


def _job(step: Step) -> str:
    """KIND/NAME of a step for Snakemake, which puts it into lines for shells and into names of files.

    A scheduler's shell would run what the name of a method holds. Jobs that an earlier start has left in a queue find
    the same step under it, or none.
    """
    kind, name = step.name.split("/", 1)
    return f"{kind}/{re.sub('[^A-Za-z0-9_-]+', '_', name)[:100]}_{crc32(name.encode()):08x}"


def _refuse_jobs_in_queue(folder: Path) -> None:
    """SLURM's jobs outlive whoever scheduled them, for instance when a machine is switched off.

    Raises:
        SAM3DError: there are some that work in this folder.
    """
    if shutil.which("squeue") is None:
        return
    command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format", "%i %Z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER).stdout
    except subprocess.TimeoutExpired:  # there may be no SLURM behind it
        return
    jobs = [line.split(" ", 1) for line in listed.splitlines()]
    if left := [number for number, place in jobs if Path(place).resolve() == folder.resolve()]:
        raise SAM3DError(
            f"SLURM still has jobs of an earlier sam3d benchmark for {folder.parent}. Wait until they have ended, or "
            f"cancel them: scancel {' '.join(left)}"
        )


@contextmanager
def _only_one(folder: Path) -> Iterator[tuple[int, ...]]:
    """Yields the lock, which also those hold who work for us. Snakemake's own would remain after it is killed."""
    with ExitStack() as held:
        try:
            lock = held.enter_context(shared_lock(folder / "lock"))
        except BlockingIOError as e:
            raise SAM3DError(
                f"Another sam3d benchmark is running for {folder.parent}, or one that was stopped has not ended yet. "
                "Wait for it or stop it."
            ) from e
        except OSError as e:  # some file systems of clusters lock nothing
            if e.filename is not None:  # it can't be opened
                raise
            print(f"{folder}: {e.strerror}, so nothing can be locked. Don't start a second sam3d benchmark for it.")
            lock = ()
        yield lock
