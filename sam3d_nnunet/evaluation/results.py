"""A folder of results: what methods predicted under which protocol, and how well."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sam3d_nnunet.errors import SAM3DError

DATA = "data.json"
METHOD = "method.json"
METRICS = "metrics.csv"
PREDICTION = "prediction.csv"
SPLITS = "splits_final.json"
PROMPTS = "prompts"
TEST = "test"
"""The fold of a separate test set."""
KEYS = ["method", "protocol", "fold", "trial", "clicks"]
NEEDED = {METRICS: ["case", "target", "dice", "truth_voxels"], PREDICTION: ["seconds"]}
"""Columns without which a table tells nothing."""
NAMES = {"case": str, "target": str}
"""Columns of names; all others hold numbers."""
_PLACE = re.compile(r"fold_(?P<fold>[0-9]+|test)/trial_(?P<trial>[0-9]+)(?:/after_(?P<clicks>[0-9]+))?")


@dataclass(frozen=True)
class PredictionFolder:
    """One folder of predictions: RESULTS/METHOD/PROTOCOL/fold_F/trial_T, or after_K in it.

    Attributes:
        path: of the folder.
        method: name of its folder.
        protocol: such as "volume_1".
        fold: as nnU-Net writes it, such as "0"; or "test".
        trial: counted from 0.
        clicks: after how many corrective clicks; None where the protocol is not iterated.
    """

    path: Path
    method: str
    protocol: str
    fold: str
    trial: int
    clicks: int | None


class Results:
    """Reads RESULTS/, as `sam3d evaluate` leaves it."""

    def __init__(self, root: str | Path) -> None:
        """
        Args:
            root: the folder.

        Raises:
            SAM3DError: it is no folder of results, or a file in it can't be read.
        """
        self.root = Path(root)
        self.data = _read_object(self.root / DATA)
        self.methods: dict[str, dict[str, Any]] = {
            file.parent.name: _read_object(file) for file in sorted(self.root.glob(f"*/{METHOD}"))
        }
        if not self.methods:
            raise SAM3DError(f"{self.root} holds no method. Run sam3d evaluate with -o {self.root} first.")

    @cached_property
    def folders(self) -> list[PredictionFolder]:
        """All folders that have been measured, in the order of their names; not copies of them with other names."""
        found = []
        for file in self.root.glob(f"*/*/fold_*/trial_*/**/{METRICS}"):
            method, protocol, *place = file.parent.relative_to(self.root).parts
            match = _PLACE.fullmatch("/".join(place))
            if method in self.methods and match:
                clicks = None if match["clicks"] is None else int(match["clicks"])
                found.append(
                    PredictionFolder(file.parent, method, protocol, match["fold"], int(match["trial"]), clicks)
                )
        return sorted(found, key=lambda f: (f.method, f.protocol, f.fold, f.trial, f.clicks or 0))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All rows of all metrics.csv, with the columns method, protocol, fold, trial and clicks in front.

        Raises:
            SAM3DError: nothing has been measured, or a table can't be read or lacks a column.
        """
        return self._collect(METRICS)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """All rows of all prediction.csv (case, clicks given, windows, seconds), with the same columns in front."""
        return self._collect(PREDICTION)

    def splits(self, method: str) -> list[dict[str, list[str]]] | None:
        """The splits a method was trained on; None where they are not known."""
        file = self.root / method / SPLITS
        return _read_json(file) if file.is_file() else None

    def prompt_file(self, protocol: str, trial: int, case: str) -> Path:
        """Where the clicks of a case lie, if the protocol has any that are drawn beforehand."""
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
                raise SAM3DError(f"{file} has no column {', '.join(missing)}. Remove it, and run sam3d evaluate again.")
            if "clicks" in table:
                table = table.rename(columns={"clicks": "clicks_given"})
            for position, key in enumerate(KEYS):
                table.insert(position, key, getattr(folder, key))
            tables.append(table)
        if not tables:
            raise SAM3DError(f"{self.root} holds no {name}. Run sam3d evaluate with -o {self.root} first.")
        return pd.concat(tables, ignore_index=True)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise SAM3DError(f"There is no {file}; sam3d evaluate writes it.") from e
    except (OSError, ValueError) as e:
        raise SAM3DError(f"{file} can't be read: {e}.") from e


def _read_object(file: Path) -> dict[str, Any]:
    content = _read_json(file)
    if not isinstance(content, dict):
        raise SAM3DError(f"{file} holds no JSON object {{...}}, so that it isn't what sam3d evaluate writes.")
    return content


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=NAMES)
    except (OSError, ValueError) as e:
        raise SAM3DError(f"{file} can't be read: {e}.") from e
    for column in table.columns.difference(list(NAMES), sort=False):
        wrong = table.loc[table[column].notna() & pd.to_numeric(table[column], errors="coerce").isna(), column]
        if len(wrong):
            raise SAM3DError(
                f"{file} has {wrong.iloc[0]!r} in the column {column}, which is no number. Mend or remove it, and "
                "run sam3d evaluate again."
            )
    return table
