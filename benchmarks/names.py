"""Takes many names as people give them through all commands: plan to benchmark, in folders with such names.

python benchmarks/names.py --count 200 --folders 30

Makes a data set of tiny images with these names in folders with such names, runs sam3d benchmark (plan, preprocess,
a training of a few steps, evaluation, table), sam3d prompts, predict and figures on all cases, then predicts, measures
and tabulates one case in each of many folders. Prints what passed; exit code 1 if anything failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sam3d_nnunet.datasets.case_files import name_fault

TRAINER = "SAM3DAdapterTrainer_smoke"
WORDS = r"""
    liver Patient case CT T1+C Hippocampus scan 2024-03-01 001 7 v1.2 LU_01 a__b O'Neil "big" (late) [T1] {v2} <1cm>
    Müller Jesús Ångström 病例 환자 Иванов مريض חולה ασθενής 😀 🩻 naïve 50% %s %03d #3 R&D $HOME ${x} $(id) a,b x=1
    a;b a|b * ? [!a] ~ ^ @home ! `ls` a\b a:b .. ... _ - NA null nan True 1e5 0x1F inf x.nii x.nii.gz fold_0 trial_0
    _0000 0001
""".split()
"""What names are made of."""
WHOLE = (
    r"NA/null/nan/None/True/-1/1e5/007/- case/-i/--help/two  spaces/ lead/trail /a_0000/case_0001/scan.v2/v1..2/fold_0/"
    r"validation/imagesTr/*/?/[a-z]/{case}/%/'/`/$/&/#/~/a'b\"c/$(touch x)/; exit 1/| cat/> x/\n/C:\scan/" + "é" * 60
).split("/")
"""Names that are taken as they are."""
FILE_LIMIT = 200
"""Bytes of a name; nnU-Net and we add an ending to it."""


def names(count: int, seed: int = 0) -> list[str]:
    """Names of cases and folders: each looks different from all others in any case and form of Unicode."""
    chosen: dict[str, str] = {}
    for name in _candidates(np.random.default_rng(seed)):
        chosen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if len(chosen) == count:
            return list(chosen.values())


def _candidates(rng: np.random.Generator) -> Iterator[str]:
    yield from WHOLE
    while True:
        words = rng.choice(WORDS, rng.integers(1, 5))
        name = "".join(word + str(rng.choice([" ", " ", "_", "-", ".", ""])) for word in words)
        name = unicodedata.normalize(str(rng.choice(["NFC", "NFD"])), name)
        usable = len(name.encode()) <= FILE_LIMIT
        if usable and name_fault(name, training=True) is None:
            yield name


def write_case(raw: Path, name: str, rng: np.random.Generator) -> None:
    """An image of 16 x 16 x 16 voxels with a bright ball, and its label map."""
    distance = np.linalg.norm(np.indices((16, 16, 16)).T - rng.integers(5, 11, 3), axis=-1)
    image = rng.normal(10, 1, (16, 16, 16)) + 5 * (distance < 4)
    for folder, array, number in (("imagesTr", image.astype(np.float32), "_0000"), ("labelsTr", distance < 4, "")):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(raw / folder / f"{name}{number}.nii.gz"))


class Run:
    """Folders with such names, and commands in them.

    Attributes:
        root: of all folders.
        passed: number of checks.
        failed: sentences.
    """

    def __init__(self, root: Path, cases: Sequence[str], places: Sequence[str]) -> None:
        """
        Args:
            root: an empty folder.
            cases: names of cases.
            places: names of folders, at least 8.
        """
        raw, preprocessed, results, self.measured, self.images, self.out, title, recipe = places[:8]
        self.root, self.cases, self.passed, self.failed = root, cases, 0, []
        self.dataset = f"Dataset220_{title}"
        folders = {"raw": raw, "preprocessed": preprocessed, "results": results}
        self.environment = os.environ | {f"nnUNet_{key}": str(root / key / name) for key, name in folders.items()}
        self.environment |= {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
        # on tiny images, threads mostly wait for each other
        self.environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        for key, name in folders.items():
            (root / key / name).mkdir(parents=True)
        self.raw = root / "raw" / raw / self.dataset
        self.recipe = root / "recipe" / f"{recipe}.json"

    def write(self) -> None:
        """The data set and the recipe."""
        rng = np.random.default_rng(0)
        for case in self.cases:
            write_case(self.raw, case, rng)
        description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "NA": 1}, "file_ending": ".nii.gz"}
        description["numTraining"] = len(self.cases)
        (self.raw / "dataset.json").write_text(json.dumps(description))
        # one fold to train and evaluate, and one of all other cases, whose predictions are measured only
        parts = [self.cases[::10], [case for case in self.cases if case not in self.cases[::10]]]
        folds = [{"train": parts[1 - fold], "val": parts[fold]} for fold in (0, 1)]
        (self.raw / "splits_final.json").write_text(json.dumps(folds))
        self.recipe.parent.mkdir()
        method = {"name": 'our\'s, "tiny" [a*b?] 病例 $x & 50% #1', "trainer": TRAINER}
        block = {"methods": [method], "folds": [0], "protocols": ["automatic", "volume_1"], "trials": 1}
        content = {"patch_size": [16, 16, 16], "sam3d": {"preset": "tiny"}, "benchmark": block}
        self.recipe.write_text(json.dumps(content))

    def command(self, what: str, *command: object, cwd: Path | None = None) -> str:
        """Run a command of this Python and note whether it succeeds. Returns what it prints."""
        program, *arguments = map(str, command)
        start = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments],
            env=self.environment,
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
        )
        print(f"{'ok' if done.returncode == 0 else 'FAILED'}  {what}  ({time.monotonic() - start:.0f} s)", flush=True)
        self.check(done.returncode == 0, f"{what}: {done.stdout[-1500:]}\n{done.stderr[-2500:]}")
        return done.stdout + done.stderr

    def check(self, right: bool, sentence: str) -> None:
        self.passed += right
        self.failed += [] if right else [sentence]

    def all_commands(self) -> None:
        """From the raw data set to the table, then prompts, predict and figures on all cases."""
        measured = self.root / "measured" / self.measured
        given = ("sam3d", "benchmark", self.recipe, "-d", "220", "-o", measured, "--device", "cpu")
        print(self.command(f"benchmark with {len(self.cases)} cases", *given), file=sys.stderr)
        table = measured / "table" / "table.csv"
        self.check(table.is_file() and "our's" in table.read_text(), "benchmark: the table lacks the method")
        self.command("prompts", "sam3d", "prompts", "-d", "220", "-o", measured, "--protocol", "volume_1")
        prompts = measured / "prompts" / "volume_1" / "trial_0"
        for case in self.cases:
            self.check((prompts / f"{case}.json").is_file(), f"prompts: none of {case!r}")
        images, out = self.root / "images" / self.images, self.root / "out" / self.out
        shutil.copytree(self.raw / "imagesTr", images)
        model = next(Path(self.environment["nnUNet_results"]).glob(f"*/{TRAINER}__*"))
        predict = ("sam3d", "predict", "-m", model, "--device", "cpu", "--disable_tta")
        self.command("predict a folder", *predict, "-i", images, "-o", out, "--prompts", prompts)
        for case in self.cases:
            self.check((out / f"{case}.nii.gz").is_file(), f"predict: no segmentation of {case!r}")
        shown = [word for case in self.cases[::10][:5] for word in ("--case", case)]
        self.command("figures", "sam3d", "figures", measured, *shown)
        for fold in (0, 1):
            evaluate = ("sam3d", "evaluate", "-d", "220", "-f", fold, "-o", measured, "--name", "--external [x]")
            self.command("evaluate predictions", *evaluate, "--predictions", out, "--protocol", "volume_1")
        self.check(set(self._measured(measured / "--external [x]")) == set(self.cases), "evaluate: a case is missing")
        self.command("table", "sam3d", "table", measured, "--without-figures")
        self.command("figures of table", "sam3d", "table", measured, "-o", measured / "table 2")
        self.prompts, self.model, self.predictions = prompts, model, out

    def _measured(self, method: Path) -> list[str]:
        """Cases of all folds."""
        files = method.glob("volume_1/fold_*/trial_0/metrics.json")
        return [case for file in files for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]

    def folders(self, places: Sequence[str]) -> None:
        """One case in each folder, in this process: predict, evaluate and table."""
        os.environ.update(self.environment)
        from typer.testing import CliRunner

        from sam3d_nnunet.cli.main import app

        def run(what: str, *arguments: object) -> None:
            done = CliRunner().invoke(app, [*map(str, arguments)])
            self.check(done.exit_code == 0, f"{what}: {done.output[-1500:]} {done.exception!r}")

        for number, place in enumerate(places):
            case, here = self.cases[number % len(self.cases)], self.root / "places" / place
            here.mkdir(parents=True)
            shutil.copytree(self.model, here / "model" / place, ignore=shutil.ignore_patterns("validation*"))
            shutil.copy(self.raw / "imagesTr" / f"{case}_0000.nii.gz", here / f"{place}.nii.gz")
            other = json.loads((self.prompts / f"{case}.json").read_text(encoding="utf-8"))
            clicks = here / place / f"{unicodedata.normalize('NFD', place)}.json"
            clicks.parent.mkdir()
            clicks.write_text(json.dumps(other | {"image": unicodedata.normalize("NFC", place)}), encoding="utf-8")
            given = ("predict", "-m", here / "model" / place, "--device", "cpu", "--disable_tta", "-o", here / "out")
            run(f"predict in {place!r}", *given, "-i", here / f"{place}.nii.gz", "--prompts", clicks.parent)
            self.check((here / "out" / f"{place}.nii.gz").is_file(), f"predict in {place!r}: no segmentation")
            given = (
                "-d",
                self.dataset,
                "-f",
                "0",
                "-o",
                here / "results",
                "--name",
                "m",
                "--predictions",
                self.predictions,
            )
            if number < 10:
                run(f"evaluate in {place!r}", "evaluate", *given, "--protocol", "volume_1")
                run(f"table in {place!r}", "table", here / "results", "-o", here / "table", "--without-figures")
        print(f"ok  {len(places)} folders" if not self.failed else "folders: see below", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="of names of cases")
    parser.add_argument("--folders", type=int, default=30, help="number of further folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep all files, to look at what failed")
    arguments = parser.parse_args()
    places = [name for name in names(200, arguments.seed + 1) if "/" not in name]
    rng = np.random.default_rng(arguments.seed)
    rng.shuffle(places)
    folder = Path(tempfile.mkdtemp(prefix="names [a] {b} 'c' "))
    try:
        run = Run(folder, names(arguments.count, arguments.seed), places)
        run.write()
        run.all_commands()
        run.folders(places[8 : 8 + arguments.folders])
    finally:
        if arguments.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    print(f"{run.passed} checks passed, {len(run.failed)} failed")
    print("\n".join(run.failed))
    sys.exit(bool(run.failed))


if __name__ == "__main__":
    main()
