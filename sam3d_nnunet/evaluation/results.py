"""A folder of results: what each file in it is called, and how reports read it. `results_folder` writes it.

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

scores.csv, in the folder of the predictions or in that of the last step, holds the scores that a protocol has of its
own: those of a challenge, or of predictions of one lesion at a time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sam3d_nnunet.datasets.splits import read_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.result_files import (
    DATA,
    GIVEN,
    KEYS,
    METHOD,
    METRICS,
    PREDICTION,
    SCORES,
    SETTINGS,
    WRITTEN,
    read_object,
    read_rows,
    refuse_unusable,
)
from sam3d_nnunet.simulation.protocols import Protocol

METRICS_JSON = "metrics.json"
PROMPTS = "prompts"
TABLE = "table"
WORK = "workflow"
RESERVED = (PROMPTS, TABLE, WORK, "figures")
"""Folders that don't belong to a method: clicks, tables, logs and intermediate files of a benchmark, figures."""
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

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the predictions, which the steps of an iterated protocol share; empty where there are none."""
        return known_settings(self.path if self.clicks is None else self.path.parent)


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
        self.data = read_object(self.root / DATA)
        found = {file.parent.name: read_object(file) for file in sorted(self.root.glob(f"*/{METHOD}"))}
        if not found:
            raise SAM3DError(f"{self.root} holds no method. Run sam3d evaluate with -o {self.root} first.")
        self.runs: dict[str, list[str]] = {}
        """The folders of each method: one, or those of its runs."""
        for folder, facts in found.items():
            method = facts.get("run_of") or folder
            for name, place in ((folder, self.root), (method, self.root / folder / METHOD)):
                refuse_unusable(name, f"a method in {place}")
            self.runs.setdefault(method, []).append(folder)
        self.methods: dict[str, dict[str, Any]] = {
            method: self._facts(method, [found[folder] for folder in folders]) for method, folders in self.runs.items()
        }

    def _facts(self, method: str, of_runs: list[dict[str, Any]]) -> dict[str, Any]:
        """method.json of a method; of several runs, that of the first under the name of the method.

        Raises:
            SAM3DError: runs differ in how they were trained, or one of them is another method.
        """
        first = of_runs[0]
        if not any(facts.get("run_of") for facts in of_runs):
            return first
        for key in ("run_of", "trainer", "configuration", "patch_size", "batch_size", "epochs"):
            is_name = key == "run_of"  # the other facts may be unknown
            values = list(dict.fromkeys(str(f.get(key)) for f in of_runs if is_name or f.get(key) is not None))
            if len(values) > 1:
                raise SAM3DError(
                    f"{self.root}: the folders {', '.join(self.runs[method])} can't be runs of one method: their {key} "
                    f"is {' and '.join(values)}. Evaluate one of them under another --name or --run-of."
                )
        joined = {
            key: ", ".join(dict.fromkeys(str(facts[key]) for facts in of_runs if facts.get(key) is not None))
            for key in ("plans", "seed")
        }
        joined |= pooled_costs(of_runs)
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
            SAM3DError: they can't be read, or its runs were trained on different ones.
        """
        files = [self.root / folder / SPLITS for folder in self.runs[method]]
        known = [read_splits(file) for file in files if file.is_file()]
        if any(splits != known[0] for splits in known):
            raise SAM3DError(
                f"{self.root}: the runs of {method} were trained on different splits. They can't be pooled."
            )
        return known[0] if known else None

    def prompt_file(self, protocol: str, trial: int, case: str) -> Path:
        """Where the clicks of a case are, if the protocol draws them before the prediction."""
        return self.root / PROMPTS / protocol / f"trial_{trial}" / f"{case}.json"

    def known(self, *keys: str) -> Any:
        """What data.json says.

        Args:
            keys: of an object, of an object in it, and so on.

        Raises:
            SAM3DError: it does not say so.
        """
        content = self.data
        for key in keys:
            if content.get(key) is None:
                raise SAM3DError(f"{self.root / DATA} lacks {key}. {WRITTEN}")
            content = content[key]
        return content

    @property
    def file_ending(self) -> str:
        """Of truth and predictions."""
        return self.known("dataset_json", "file_ending")

    @property
    def dataset_json(self) -> dict[str, Any]:
        """nnU-Net's description of the data, with labels."""
        self.known("dataset_json", "labels")
        return self.data["dataset_json"]

    def _collect(self, name: str) -> pd.DataFrame:
        tables = []
        for folder in self.folders:
            file = folder.path / name
            if not file.is_file():
                continue
            table = read_rows(file).rename(columns={"clicks": GIVEN})
            for position, key in enumerate(KEYS):
                table.insert(position, key, getattr(folder, key))
            tables.append(table)
        if not tables:
            raise SAM3DError(f"{self.root} holds no {name}. Run sam3d evaluate with -o {self.root} first.")
        return pd.concat(tables, ignore_index=True)


def pooled_costs(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All devices of several parts of a method's predictions, and the largest memory; None where nothing is known.

    Tables pool the seconds of all parts, so that they have to name all devices.
    """
    devices = [device for facts in parts for device in (facts.get("device") or "").split(" and ")]
    memory = [facts["peak_memory_gib"] for facts in parts if facts.get("peak_memory_gib") is not None]
    return {
        "device": " and ".join(filter(None, dict.fromkeys(devices))) or None,
        "peak_memory_gib": max(memory, default=None),
    }


def known_settings(folder: Path) -> dict[str, Any]:
    """The settings of a folder of predictions; empty where there are none.

    Raises:
        SAM3DError: they can't be read.
    """
    return known_content(folder / SETTINGS, f"Delete {folder} to predict again.")


def known_content(file: Path, hint: str = WRITTEN) -> dict[str, Any]:
    """What a JSON file of the results says; nothing where it is not there."""
    return read_object(file, hint) if file.is_file() else {}
