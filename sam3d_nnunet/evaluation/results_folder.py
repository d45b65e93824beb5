"""Writes a folder of results: its places, and the files that are about more than one case; `results` names them."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sam3d_nnunet.datasets.splits import read_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import ALL_CLASSES
from sam3d_nnunet.evaluation.result_files import read_rows
from sam3d_nnunet.evaluation.results import (
    DATA,
    FORMAT,
    METHOD,
    METRICS,
    OLDER,
    PREDICTION,
    PROMPTS,
    RESERVED,
    SCORES,
    SETTINGS,
    SPLITS,
    VERSION,
    WEIGHTS,
    known_content,
    known_settings,
    pooled_costs,
)
from sam3d_nnunet.file_names import alike, new_name_fault
from sam3d_nnunet.io import brief, composed, read_text, write_json, write_text
from sam3d_nnunet.processes import shared_lock

if TYPE_CHECKING:  # it imports torch, which tables need not wait for
    from sam3d_nnunet.evaluation.data import EvaluationData
    from sam3d_nnunet.prediction.batch import CaseReport

LOCK = ".lock"
"""Name of the locked file in a folder of results. It stays there; whether it is locked decides."""
LONGEST_WAIT = 60.0  # seconds for other processes, which hold the lock for a moment


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
        with self._alone():
            content = self.check_data(data, test)
            write_json(self.root / DATA, content | {"dataset_json": data.dataset_json})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process, such as that of another fold, change what is read and written again in the body.

        Where the file system locks nothing, both may.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            with suppress(OSError):
                held.enter_context(shared_lock(self.root / LOCK, wait=LONGEST_WAIT))
            yield

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
        known = known_content(self.root / DATA)
        for key, value in content.items():
            if known.get(key, value) != value:
                raise SAM3DError(
                    f"{self.root} holds results with {key} {_shown(known[key])}, not {value}, by its {DATA}. Give "
                    "another folder for these."
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
        fault = new_name_fault(method)
        if composed(method).casefold() in RESERVED:
            fault = "is that of a folder for something else"
        if fault:
            raise SAM3DError(
                f"{brief(method)} can't be the name of a method in {self.root}: the name {fault}. Give another name."
            )
        return known_content(self.root / method / METHOD)

    def check_method(self, method: str, facts: dict[str, Any]) -> dict[str, Any]:
        """The content of method.json so far; arguments and errors are those of `write_method`."""
        known = self.known_method(method)
        self._refuse_alike(method)
        for key in ("trainer", "plans", "configuration"):
            if known.get(key, facts[key]) != facts[key]:
                raise SAM3DError(
                    f"{self.root / method} holds results of {key} {_shown(known[key])}, not {facts[key]}. "
                    "Give this method another name."
                )
        self._refuse_one_name(method, facts.get("run_of", known.get("run_of")))
        return known

    def _refuse_alike(self, method: str) -> None:
        """Refuse a method whose folder would be that of another one on some systems."""
        for other in sorted(file.parent.name for file in self.root.glob(f"*/{METHOD}")):
            if alike([method, other]):
                raise SAM3DError(
                    f"{self.root} holds the method {other!a}. {method!a} is the same name but for capitals or its form "
                    "of Unicode, so that both are one folder on some systems. Write it the same way, or give another "
                    "name."
                )

    def _refuse_one_name(self, method: str, run_of: str | None) -> None:
        """Refuse a method beside runs of a method of the same name: tables would show both as one."""
        if run_of is not None:
            self.known_method(run_of)
        for other in sorted(file.parent.name for file in self.root.glob(f"*/{METHOD}")):
            known = known_content(self.root / other / METHOD).get("run_of")
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
        with self._alone():
            known = self.check_method(method, facts)
            merged = facts | {key: value for key, value in known.items() if facts.get(key) is None}
            if "prompted" in (known.get("kind"), facts["kind"]):
                merged["kind"] = "prompted"
            merged |= pooled_costs([known, facts])
            (self.root / method).mkdir(exist_ok=True)
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
        if copy.is_file() and read_splits(copy) != read_splits(splits):
            raise SAM3DError(
                f"{splits} differs from {copy}, on which this method was evaluated before. "
                "Give another --name, or another folder for the results."
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_text(copy, read_text(splits))


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a folder of predictions.

    Raises:
        SAM3DError: it holds predictions with others, or tables that rows can't be added to.
    """
    refuse_other_settings(folder, settings)
    for file in [*folder.rglob(PREDICTION), *folder.rglob(SCORES)]:
        _with_cases(file)  # now, and not after a case has been predicted
    folder.mkdir(parents=True, exist_ok=True)
    if known_settings(folder) != settings:
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
            f"{folder} holds predictions with {key} {_shown(known[key])}, not {settings[key]}, by its {SETTINGS}. Give "
            "another --name, or delete that folder to predict again."
        )


def note_cost(folder: Path, report: "CaseReport") -> None:
    """Note in prediction.csv what the prediction of a case cost.

    To be called before the prediction gets its name: where it is, its cost is known, whatever ends the process.
    """
    add_cost(folder, report.name, report.clicks, report.windows or None, report.seconds, report.outside)


def add_cost(folder: Path, case: str, clicks: int, windows: int | None, seconds: float, outside: int = 0) -> None:
    """Note in prediction.csv what the prediction of a case cost, and how many of the clicks lay outside the windows."""
    row = {"case": case, "clicks": clicks, "windows": windows, "seconds": round(seconds, 3), "clicks_outside": outside}
    _put_row(folder / PREDICTION, row)


def cases_without_cost(folder: Path, cases: Iterable[str]) -> list[str]:
    """Those that prediction.csv lacks: an earlier version noted the cost of a case only after its prediction."""
    file = folder / PREDICTION
    return sorted(set(cases) - set(_with_cases(file)["case"] if file.is_file() else ()))


def add_scores(folder: Path, case: str, truth_voxels: int, scores: dict[str, Any]) -> None:
    """Note in scores.csv what the rules of a challenge gave for a case: curves over its rounds, and their sums."""
    curves = {name: values for name, values in scores.items() if isinstance(values, list) and name != "clicks"}
    rounds = {f"round_{k}_{name}": value for name, values in curves.items() for k, value in enumerate(values)}
    sums = {name: value for name, value in scores.items() if not isinstance(value, list)}
    _put_row(folder / SCORES, {"case": case, "target": ALL_CLASSES, "truth_voxels": truth_voxels, **rounds, **sums})


def outdated_scores(folder: Path) -> dict[str, str]:
    """Sentences about cases whose scores were computed from another label map than their metrics, by its voxels.

    Args:
        folder: of predictions, with measured ones; classes must not overlap.
    """
    if not (folder / SCORES).is_file() or not (folder / METRICS).is_file():
        return {}
    now = _with_cases(folder / METRICS).groupby("case")["truth_voxels"].sum()
    then = _with_cases(folder / SCORES).set_index("case")["truth_voxels"]
    changed = {case: (then.get(case, 0), voxels) for case, voxels in now.items() if then.get(case, 0) != voxels}
    return {
        case: f"{folder / SCORES} is about a label map with {before:g} voxels of foreground, but the truth has "
        f"{voxels:g} now. Delete the case's predictions and its drawn clicks, and run sam3d evaluate again."
        for case, (before, voxels) in changed.items()
    }


def _put_row(file: Path, row: dict[str, Any]) -> None:
    """Write the row of a case into a table, in place of the one that the case may have."""
    table = pd.DataFrame([row])
    if file.is_file():
        known = _with_cases(file)
        table = pd.concat([known[known["case"] != row["case"]], table])
    write_text(file, table.sort_values("case").to_csv(index=False))


def _with_cases(file: Path) -> pd.DataFrame:
    """A table, which says whose rows it has."""
    table = read_rows(file)
    if "case" not in table:
        raise SAM3DError(f"{file} has no column case. Delete it, and run sam3d evaluate again.")
    return table


def _shown(value: Any) -> str:
    """A value from a file, as a message shows it."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 300 else brief(value)


def fingerprint(checkpoint: Path) -> str:
    """16 hexadecimal digits that change with the tensors in a checkpoint.

    They stay the same when the file is copied, and when nnU-Net saves a finished training once more before it validates
    it. Torch saves zip files, whose directory has a checksum of each tensor; any other file is read completely.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            tensors = [entry for entry in archive.infolist() if Path(entry.filename).parent.name == "data"]
            content = repr(sorted((Path(tensor.filename).name, tensor.CRC) for tensor in tensors)).encode()
    except Exception:  # no zip file, or one with a damaged directory, which raises errors of many kinds
        content = checkpoint.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]
