"""A folder of results: what each file in it is called, how `sam3d evaluate` writes it, and how reports read it.

RESULTS/
  data.json                       data set, folders of images and truth, and its dataset.json
  prompts/PROTOCOL/trial_T/       drawn clicks of each case, CASE.json
  METHOD/
    method.json                   trainer, plans, number of parameters, device, ...; "run_of" if it is one of several
                                  trainings of a method, which tables and figures pool under that name
    splits_final.json             splits that the method was trained on
    PROTOCOL/fold_F/trial_T/      predictions CASE; F is a number, or "test" for a separate test set
      settings.json               settings of the predictions
      prediction.csv              clicks, windows and seconds of each case
      metrics.csv, metrics.json   metrics of each case and target
    PROTOCOL/fold_F/trial_T/after_K/     the same after K clicks or rounds, under protocols that correct step by step
      scores.csv                  after the last round of a challenge's protocol: its own scores of each case
"""

import hashlib
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import ALL_CLASSES
from sam3d_nnunet.io import read_json, read_json_object, read_text, write_json, write_text
from sam3d_nnunet.simulation.protocols import Protocol

if TYPE_CHECKING:  # it imports torch, which tables need not wait for
    from sam3d_nnunet.evaluation.data import EvaluationData

DATA = "data.json"
METHOD = "method.json"
METRICS = "metrics.csv"
METRICS_JSON = "metrics.json"
PREDICTION = "prediction.csv"
PROMPTS = "prompts"
SCORES = "scores.csv"
SETTINGS = "settings.json"
SPLITS = "splits_final.json"
TEST = "test"
"""The fold of a separate test set."""
FORMAT, VERSION = "sam3d_results", 1
WEIGHTS = "weights"
"""In settings.json: fingerprints of the checkpoints whose predictions are averaged."""
WINDOWS = "windows"
"""In settings.json: the rule for the windows of predictions from clicks."""
OLDER = {WINDOWS: "follow"}
"""Settings that older results do not name, and the only value they had."""
KEYS = ["method", "run", "protocol", "fold", "trial", "clicks"]
"""Columns that tell the rows of one folder of predictions from those of another."""
NEEDED = {
    METRICS: ["case", "target", "dice", "truth_voxels"],
    PREDICTION: ["seconds"],
    SCORES: ["case", "target", "truth_voxels"],
}
"""Columns that a table must have."""
NAMES = {"case": str, "target": str}
"""Columns of names; all others hold numbers."""
WRITTEN = "sam3d evaluate writes this file."
_PLACE = re.compile(r"fold_(?P<fold>[0-9]+|test)/trial_(?P<trial>[0-9]+)(?:/after_(?P<clicks>[0-9]+))?")


def step_folders(folder: Path, protocol: Protocol) -> list[Path]:
    """Folders of the predictions under a protocol: one for each step if it is iterated, else the folder itself."""
    return [folder / f"after_{step}" for step in protocol.steps] or [folder]


@dataclass(frozen=True)
class PredictionFolder:
    """One folder of predictions: RESULTS/METHOD/PROTOCOL/fold_F/trial_T, or after_K in it.

    Attributes:
        path: of the folder.
        method: name of the folder METHOD, or of the method that it is a run of.
        run: of the method, counted from 0.
        protocol: such as "volume_1".
        fold: as nnU-Net writes it, such as "0"; or "test".
        trial: counted from 0.
        clicks: after how many clicks, or rounds of clicks; None where the protocol is not iterated.
    """

    path: Path
    method: str
    run: int
    protocol: str
    fold: str
    trial: int
    clicks: int | None


class Results:
    """Reads a folder of results for tables and figures."""

    def __init__(self, root: str | Path) -> None:
        """
        Args:
            root: the folder.

        Raises:
            SAM3DError: it is no folder of results, or a file in it can't be read.
        """
        self.root = Path(root)
        self.data = read_json_object(self.root / DATA, hint=WRITTEN)
        found = {
            file.parent.name: read_json_object(file, hint=WRITTEN) for file in sorted(self.root.glob(f"*/{METHOD}"))
        }
        if not found:
            raise SAM3DError(f"{self.root} holds no method. Run sam3d evaluate with -o {self.root} first.")
        self.runs: dict[str, list[str]] = {}
        """The folders of each method: one, or those of its runs."""
        for folder, facts in found.items():
            self.runs.setdefault(facts.get("run_of") or folder, []).append(folder)
        self.methods: dict[str, dict[str, Any]] = {
            method: self._facts(method, [found[folder] for folder in folders]) for method, folders in self.runs.items()
        }

    def _facts(self, method: str, of_runs: list[dict[str, Any]]) -> dict[str, Any]:
        """method.json of a method; of several runs, that of the first under the name of the method.

        Raises:
            SAM3DError: runs differ in the trainer or in the configuration, or one of them is another method.
        """
        first = of_runs[0]
        if all("run_of" not in facts or facts["run_of"] is None for facts in of_runs):
            return first
        for key in ("run_of", "trainer", "configuration"):
            values = list(dict.fromkeys(str(facts.get(key)) for facts in of_runs))
            if len(values) > 1:
                raise SAM3DError(
                    f"{self.root}: the folders {', '.join(self.runs[method])} can't be runs of one method: their {key} "
                    f"is {' and '.join(values)}. Evaluate one of them under another --name or --run-of."
                )
        joined = {
            key: ", ".join(dict.fromkeys(str(facts[key]) for facts in of_runs if facts.get(key) is not None))
            for key in ("plans", "seed")
        }
        # tables pool the seconds of all runs
        devices = [device for facts in of_runs for device in (facts.get("device") or "").split(" and ")]
        joined["device"] = " and ".join(filter(None, dict.fromkeys(devices)))
        joined["peak_memory_gib"] = max((m for f in of_runs if (m := f.get("peak_memory_gib")) is not None), default=0)
        return first | {"name": method} | {key: value for key, value in joined.items() if value}

    @cached_property
    def folders(self) -> list[PredictionFolder]:
        """All folders with metrics, in the order of their names; a copy under another name does not count."""
        places = {folder: (m, run) for m, folders in self.runs.items() for run, folder in enumerate(folders)}
        found = []
        for file in self.root.glob(f"*/*/fold_*/trial_*/**/{METRICS}"):
            folder, protocol, *place = file.parent.relative_to(self.root).parts
            match = _PLACE.fullmatch("/".join(place))
            if folder in places and match:
                clicks = None if match["clicks"] is None else int(match["clicks"])
                numbers = match["fold"], int(match["trial"]), clicks
                found.append(PredictionFolder(file.parent, *places[folder], protocol, *numbers))
        return sorted(found, key=lambda f: (f.method, f.run, f.protocol, f.fold, f.trial, f.clicks or 0))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All rows of all metrics.csv, with the columns method, run, protocol, fold, trial and clicks in front.

        Raises:
            SAM3DError: nothing has been measured, or a table can't be read or lacks a column.
        """
        return self._collect(METRICS)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """All rows of all prediction.csv (case, clicks_given, windows, seconds), with the same columns in front."""
        return self._collect(PREDICTION)

    @cached_property
    def scores(self) -> pd.DataFrame | None:
        """All rows of all scores.csv, with the same columns in front; None if there are none."""
        return self._collect(SCORES) if any((folder.path / SCORES).is_file() for folder in self.folders) else None

    def splits(self, method: str) -> list[dict[str, list[str]]] | None:
        """The splits that a method was trained on; None where they are not known.

        Raises:
            SAM3DError: its runs were trained on different splits.
        """
        files = [self.root / folder / SPLITS for folder in self.runs[method]]
        known = [read_json(file, WRITTEN) for file in files if file.is_file()]
        if any(splits != known[0] for splits in known):
            raise SAM3DError(
                f"{self.root}: the runs of {method} were trained on different splits. They can't be pooled."
            )
        return known[0] if known else None

    def prompt_file(self, protocol: str, trial: int, case: str) -> Path:
        """Where the clicks of a case are, if the protocol draws them before the prediction."""
        return self.root / PROMPTS / protocol / f"trial_{trial}" / f"{case}.json"

    @property
    def file_ending(self) -> str:
        """Of truth and predictions."""
        return self.data["dataset_json"]["file_ending"]

    def _collect(self, name: str) -> pd.DataFrame:
        tables = []
        for folder in self.folders:
            file = folder.path / name
            if not file.is_file():
                continue
            table = _read_csv(file)
            missing = [column for column in NEEDED[name] if column not in table]
            if missing:
                raise SAM3DError(f"{file} has no column {', '.join(missing)}. Delete it, and run sam3d evaluate again.")
            if "clicks" in table:
                table = table.rename(columns={"clicks": "clicks_given"})
            for position, key in enumerate(KEYS):
                table.insert(position, key, getattr(folder, key))
            tables.append(table)
        if not tables:
            raise SAM3DError(f"{self.root} holds no {name}. Run sam3d evaluate with -o {self.root} first.")
        return pd.concat(tables, ignore_index=True)


def read_table(file: Path) -> pd.DataFrame:
    """A CSV file of ours. A case or a target can be called NA or null, which pandas would take for a missing name.

    Raises:
        OSError, ValueError: it can't be read.
    """
    columns = pd.read_csv(file, nrows=0).columns
    missing = {column: ["", "nan", "NaN", "NA"] for column in columns.difference(list(NAMES))}
    return pd.read_csv(file, dtype=NAMES, keep_default_na=False, na_values=missing)


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        table = read_table(file)
    except (OSError, ValueError) as e:
        raise SAM3DError(f"{file} can't be read: {e}.") from e
    for column in table.columns.difference(list(NAMES), sort=False):
        wrong = table.loc[table[column].notna() & pd.to_numeric(table[column], errors="coerce").isna(), column]
        if len(wrong):
            raise SAM3DError(
                f"{file} has {wrong.iloc[0]!r} in the column {column}, which is not a number. Correct or delete the "
                "file, and run sam3d evaluate again."
            )
    return table


class ResultsFolder:
    """Writes a folder of results: its places, and the files that are about more than one case."""

    def __init__(self, root: str | Path) -> None:
        """
        Args:
            root: the folder; made by `claim`.
        """
        self.root = Path(root)

    def claim(self, data: "EvaluationData", test: "EvaluationData | None" = None) -> None:
        """Write data.json, which says what the results are about.

        Args:
            data: the training cases of the data set.
            test: a separate test set, if that is evaluated.

        Raises:
            SAM3DError: the results are about other data.
        """
        content = self.check_data(data, test)
        self.root.mkdir(parents=True, exist_ok=True)
        write_json(self.root / DATA, content | {"dataset_json": data.dataset_json})

    def check_data(self, data: "EvaluationData", test: "EvaluationData | None" = None) -> dict[str, Any]:
        """The content of data.json after `claim`, which has the same arguments and errors."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "dataset": data.name,
            "images": str(data.images.absolute()),
            "truth": str(data.truth.absolute()),
        }
        if test is not None:
            content |= {"test_images": str(test.images), "test_truth": str(test.truth)}
        known = _known(self.root / DATA)
        for key, value in content.items():
            if known.get(key, value) != value:
                raise SAM3DError(
                    f"{self.root} holds results with {key} {known[key]}, not {value}. Give another folder for these."
                )
        return known | content

    def prompts(self, protocol: str, trial: int) -> Path:
        """Folder of the clicks CASE.json."""
        return self.root / PROMPTS / protocol / f"trial_{trial}"

    def predictions(self, method: str, protocol: str, fold: str, trial: int) -> Path:
        """Folder of the predictions CASE."""
        return self.root / method / protocol / f"fold_{fold}" / f"trial_{trial}"

    def known_method(self, method: str) -> dict[str, Any]:
        """The content of method.json; empty if there is none.

        Raises:
            SAM3DError: no method can have this name.
        """
        if method in ("", ".", "..", PROMPTS) or "/" in method or "\\" in method:
            raise SAM3DError(f"{method!r} can't be the name of a method: it is that of a folder in {self.root}.")
        return _known(self.root / method / METHOD)

    def check_method(self, method: str, facts: dict[str, Any]) -> dict[str, Any]:
        """The content of method.json so far; arguments and errors are those of `write_method`."""
        known = self.known_method(method)
        for key in ("trainer", "plans", "configuration"):
            if known and known[key] != facts[key]:
                raise SAM3DError(
                    f"{self.root / method} holds results of {key} {known[key]}, not {facts[key]}. "
                    "Give this method another name."
                )
        self._refuse_one_name(method, facts.get("run_of", known.get("run_of")))
        return known

    def _refuse_one_name(self, method: str, run_of: str | None) -> None:
        """Refuse a method beside runs of a method of the same name: tables would show both as one."""
        if run_of is not None:
            self.known_method(run_of)
        for other in sorted(file.parent.name for file in self.root.glob(f"*/{METHOD}")):
            known = self.known_method(other).get("run_of")
            if other != method and (known or other) == (run_of or method) and (known is None) != (run_of is None):
                raise SAM3DError(
                    f"{self.root} holds the method {other}{'' if known is None else f', a run of {known}'}. Tables "
                    f"would show it and {method} under one name. Give another name, or remove {self.root / other}."
                )

    def write_method(self, method: str, facts: dict[str, Any]) -> None:
        """Write method.json. Values that are unknown now (None) keep their earlier value, and devices are added.

        Raises:
            SAM3DError: the folder holds the results of another method, or tables would show another one under the same
                name.
        """
        known = self.check_method(method, facts)
        merged = facts | {key: value for key, value in known.items() if facts.get(key) is None}
        if "prompted" in (known.get("kind"), facts["kind"]):
            merged["kind"] = "prompted"
        # tables pool the seconds of all devices, so that they have to name all of them
        devices = [*(known.get("device") or "").split(" and "), facts.get("device") or ""]
        merged["device"] = " and ".join(filter(None, dict.fromkeys(devices))) or None
        memory = [m["peak_memory_gib"] for m in (known, facts) if m.get("peak_memory_gib") is not None]
        merged["peak_memory_gib"] = max(memory, default=None)
        (self.root / method).mkdir(parents=True, exist_ok=True)
        write_json(self.root / method / METHOD, merged)

    def refuse_other_weights(self, method: str, fold: str, model: Path, folds: Sequence[str], checkpoint: str) -> None:
        """Refuse to mix predictions of a model with those that it made before it was trained on.

        Args:
            method: name of its folder.
            fold: that of its predictions.
            model: folder of the model.
            folds: whose predictions are averaged.
            checkpoint: file in each of them.

        Raises:
            SAM3DError: there are predictions of the same checkpoints with other weights.
        """
        files = [model / f"fold_{f}" / checkpoint for f in folds]
        weights = [fingerprint(file) if file.is_file() else None for file in files]
        now = {"folds": list(folds), "checkpoint": checkpoint, WEIGHTS: weights}
        for folder in sorted((self.root / method).glob(f"*/fold_{fold}/trial_*")):
            then = now | known_settings(folder)
            if folder.name[6:].isdecimal() and [key for key in now if then[key] != now[key]] == [WEIGHTS]:
                missing = ", which is not there" if None in weights else ""
                raise SAM3DError(
                    f"{folder} holds predictions of another training than {' and '.join(map(str, files))}{missing}. "
                    f"Delete {self.root / method / '*' / f'fold_{fold}'} to predict again, give the method another "
                    "name, or put the model back."
                )

    def keep_splits(self, method: str, splits: Path) -> None:
        """Copy the splits that a method was trained on.

        Raises:
            SAM3DError: it has been evaluated on others.
        """
        if not splits.is_file():
            return
        copy = self.root / method / SPLITS
        if copy.is_file() and read_json(copy) != read_json(splits):
            raise SAM3DError(
                f"{splits} differs from {copy}, on which this method was evaluated before. "
                "Give another --name, or another folder for the results."
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_text(copy, read_text(splits))


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a folder of predictions. Raises SAM3DError if it holds predictions with others."""
    refuse_other_settings(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def refuse_other_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder of predictions with other settings; those that are not given may be any.

    A setting that older results lack had the value in `OLDER`; any other counts as the same.

    Raises:
        SAM3DError: names a setting that differs.
    """
    known = known_settings(folder)
    known = known and OLDER | known
    different = [key for key in settings if known.get(key, settings[key]) != settings[key]]
    if different:
        key = different[0]
        raise SAM3DError(
            f"{folder} holds predictions with {key} {known[key]}, not {settings[key]}. Give another --name, or delete "
            "that folder to predict again."
        )


def known_settings(folder: Path) -> dict[str, Any]:
    """The settings of a folder of predictions; empty where there are none.

    Raises:
        SAM3DError: they can't be read.
    """
    return _known(folder / SETTINGS, f"Delete {folder} to predict again.")


def add_cost(folder: Path, case: str, clicks: int, windows: int | None, seconds: float, outside: int = 0) -> None:
    """Note in prediction.csv what the prediction of a case cost, and how many of the clicks lay outside the windows."""
    row = {"case": case, "clicks": clicks, "windows": windows, "seconds": round(seconds, 3), "clicks_outside": outside}
    _put_row(folder / PREDICTION, row)


def add_scores(folder: Path, case: str, truth_voxels: int, scores: dict[str, Any]) -> None:
    """Note in scores.csv what the rules of a challenge gave for a case: curves over its rounds, and their sums."""
    curves = {name: values for name, values in scores.items() if isinstance(values, list) and name != "clicks"}
    rounds = {f"round_{k}_{name}": value for name, values in curves.items() for k, value in enumerate(values)}
    sums = {name: value for name, value in scores.items() if not isinstance(value, list)}
    _put_row(folder / SCORES, {"case": case, "target": ALL_CLASSES, "truth_voxels": truth_voxels, **rounds, **sums})


def _put_row(file: Path, row: dict[str, Any]) -> None:
    """Write the row of a case into a table, in place of the one that the case may have."""
    table = pd.DataFrame([row])
    if file.is_file():
        known = read_table(file)
        table = pd.concat([known[known["case"] != row["case"]], table])
    write_text(file, table.sort_values("case").to_csv(index=False))


def fingerprint(checkpoint: Path) -> str:
    """16 hexadecimal digits that change with the tensors in a checkpoint.

    They stay the same when the file is copied, and when nnU-Net saves a finished training once more before it validates
    it. Torch saves zip files, whose directory has a checksum of each tensor; any other file is read completely.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            tensors = [entry for entry in archive.infolist() if Path(entry.filename).parent.name == "data"]
            content = repr(sorted((Path(tensor.filename).name, tensor.CRC) for tensor in tensors)).encode()
    except zipfile.BadZipFile:
        content = checkpoint.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _known(file: Path, hint: str = WRITTEN) -> dict[str, Any]:
    """What a file says; nothing where it is not there."""
    return read_json_object(file, hint=hint) if file.is_file() else {}
