"""RESULTS/ as `sam3d evaluate` writes it; `evaluation/results.py` reads it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.model import fingerprint
from sam3d_nnunet.evaluation.results import DATA, METHOD, PREDICTION, PROMPTS, SPLITS
from sam3d_nnunet.io import read_json, write_whole

FORMAT, VERSION = "sam3d_results", 1
SETTINGS = "settings.json"
"""In each folder of predictions: with which settings they were made, so that no others are mixed in."""
WEIGHTS = "weights"
"""Among these settings: fingerprints of the checkpoints whose predictions are averaged."""


class ResultsFolder:
    """Places in RESULTS/, and the files in them that are about more than one case."""

    def __init__(self, root: str | Path) -> None:
        """
        Args:
            root: the folder; made by `claim`.
        """
        self.root = Path(root)

    def claim(self, data: EvaluationData, test: EvaluationData | None = None) -> None:
        """Say in data.json what the results are about.

        Args:
            data: the training cases of the data set.
            test: a separate test set, if that is evaluated.

        Raises:
            SAM3DError: the results are about other data.
        """
        content = self.check_data(data, test)
        self.root.mkdir(parents=True, exist_ok=True)
        _write_json(self.root / DATA, content | {"dataset_json": data.dataset_json})

    def check_data(self, data: EvaluationData, test: EvaluationData | None = None) -> dict[str, Any]:
        """What data.json says, and would say; arguments and errors are those of `claim`."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "dataset": data.name,
            "images": str(data.images.absolute()),
            "truth": str(data.truth.absolute()),
        }
        if test is not None:
            content |= {"test_images": str(test.images), "test_truth": str(test.truth)}
        file = self.root / DATA
        known = read_json(file) if file.is_file() else {}
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
        """What its method.json says; nothing if there is none.

        Raises:
            SAM3DError: no method can have this name.
        """
        if method in ("", ".", "..", PROMPTS) or "/" in method or "\\" in method:
            raise SAM3DError(f"{method!r} can't be the name of a method: it is that of a folder in {self.root}.")
        file = self.root / method / METHOD
        return read_json(file) if file.is_file() else {}

    def check_method(self, method: str, facts: dict[str, Any]) -> dict[str, Any]:
        """What its method.json says; arguments and errors are those of `write_method`."""
        known = self.known_method(method)
        for key in ("trainer", "plans", "configuration"):
            if known and known[key] != facts[key]:
                raise SAM3DError(
                    f"{self.root / method} holds results of {key} {known[key]}, not {facts[key]}. "
                    "Give this method another name."
                )
        return known

    def write_method(self, method: str, facts: dict[str, Any]) -> None:
        """Write method.json; what is unknown now (None) stays as it is known, and devices add up.

        Raises:
            SAM3DError: the folder holds the results of another method.
        """
        known = self.check_method(method, facts)
        merged = facts | {key: value for key, value in known.items() if facts.get(key) is None}
        if "prompted" in (known.get("kind"), facts["kind"]):
            merged["kind"] = "prompted"
        # the seconds of all of them are pooled, so that none may be forgotten
        devices = [*(known.get("device") or "").split(" and "), facts.get("device") or ""]
        merged["device"] = " and ".join(filter(None, dict.fromkeys(devices))) or None
        memory = [m["peak_memory_gib"] for m in (known, facts) if m.get("peak_memory_gib") is not None]
        merged["peak_memory_gib"] = max(memory, default=None)
        (self.root / method).mkdir(parents=True, exist_ok=True)
        _write_json(self.root / method / METHOD, merged)

    def refuse_other_weights(self, method: str, fold: str, model: Path, folds: Sequence[str], checkpoint: str) -> None:
        """Else figures from before a model was trained further, or anew, would stand beside its own under one name.

        Args:
            method: name of its folder.
            fold: that of its predictions.
            model: folder of the model.
            folds: whose predictions are averaged.
            checkpoint: file in each of them.

        Raises:
            SAM3DError: there are predictions of these checkpoints when they held other weights.
        """
        files = [model / f"fold_{f}" / checkpoint for f in folds]
        weights = [fingerprint(file) if file.is_file() else None for file in files]
        now = {"folds": list(folds), "checkpoint": checkpoint, WEIGHTS: weights}
        for folder in sorted((self.root / method).glob(f"*/fold_{fold}/trial_*")):
            then = now | known_settings(folder)
            if folder.name[6:].isdecimal() and [key for key in now if then[key] != now[key]] == [WEIGHTS]:
                missing = ", which is not there" if None in weights else ""
                raise SAM3DError(
                    f"{folder} was predicted by another training than {' and '.join(map(str, files))}{missing}. Delete "
                    f"{self.root / method / '*' / f'fold_{fold}'} to predict anew, give the method another name, or "
                    "put the model back."
                )

    def keep_splits(self, method: str, splits: Path) -> None:
        """Copy the splits that a method was trained on.

        Raises:
            SAM3DError: it has been evaluated on others.
        """
        if not splits.is_file():
            return
        text, copy = splits.read_text(encoding="utf-8"), self.root / method / SPLITS
        if copy.is_file() and json.loads(copy.read_text(encoding="utf-8")) != json.loads(text):
            raise SAM3DError(
                f"{splits} differs from {copy}, on which this method was evaluated before. "
                "Give another --name, or another folder for the results."
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, text)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note with which settings a folder is predicted. What older results don't tell is taken to be the same.

    Raises:
        SAM3DError: it holds predictions with others.
    """
    file = folder / SETTINGS
    known = known_settings(folder)
    different = [key for key in settings if known.get(key, settings[key]) != settings[key]]
    if different:
        key = different[0]
        raise SAM3DError(
            f"{folder} holds predictions with {key} {known[key]}, not {settings[key]}. Give another --name, or delete "
            "that folder to predict anew."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(file, settings)


def known_settings(folder: Path) -> dict[str, Any]:
    """With which settings a folder was predicted; nothing where nothing was.

    Raises:
        SAM3DError: that can't be read.
    """
    file = folder / SETTINGS
    known = read_json(file) if file.is_file() else {}
    if not isinstance(known, dict):
        raise SAM3DError(f"{file} holds no JSON object {{...}}. Delete {folder} to predict anew.")
    return known


def add_cost(folder: Path, case: str, clicks: int, windows: int | None, seconds: float) -> None:
    """Note in prediction.csv what the prediction of a case cost."""
    file = folder / PREDICTION
    row = pd.DataFrame([{"case": case, "clicks": clicks, "windows": windows, "seconds": round(seconds, 3)}])
    if file.is_file():
        known = pd.read_csv(file, dtype={"case": str})
        row = pd.concat([known[known["case"] != case], row])
    write_whole(file, row.sort_values("case").to_csv(index=False))


def _write_json(file: Path, content: Any) -> None:
    write_whole(file, json.dumps(content, indent=2) + "\n")
