"""nnU-Net's folds: splits_final.json in the data set's folder of nnUNet_preprocessed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import write_whole
from sam3d_nnunet.nnunet.folders import preprocessed_root

Splits = list[dict[str, list[str]]]
"""For each fold the names of its cases in `train` and in `val`."""
FILE = "splits_final.json"
FOLDS = 5


def splits_file(dataset_name: str) -> Path:
    """Where nnU-Net looks for the folds of a data set.

    Raises:
        SAM3DError: nnUNet_preprocessed is not set.
    """
    return preprocessed_root() / dataset_name / FILE


def read_splits(file: Path) -> Splits:
    """Read nnU-Net's folds.

    Raises:
        SAM3DError: the file can't be read, or isn't laid out as nnU-Net wants it.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise SAM3DError(f"There are no folds {file}: nnU-Net draws them when a first training starts.") from e
    except (OSError, ValueError, RecursionError) as e:
        raise SAM3DError(f"The folds {file} can't be read: {e}.") from e
    if not isinstance(content, list) or not content:
        raise SAM3DError(f"{file} holds no list of folds.")
    for number, fold in enumerate(content):
        if not isinstance(fold, dict) or not all(_is_names(fold.get(part)) for part in ("train", "val")):
            raise SAM3DError(f'Fold {number} of {file} needs lists of names "train" and "val".')
    return content


def draw_splits(cases: Sequence[str], file: Path) -> None:
    """Write the five folds that nnU-Net would draw when a first training starts.

    Args:
        cases: names of all training cases.
        file: splits_final.json of the data set.

    Raises:
        SAM3DError: there are fewer cases than folds.
    """
    if len(cases) < FOLDS:
        raise SAM3DError(f"{len(cases)} training case(s) can't be split into {FOLDS} folds. Write {file} yourself.")
    write_splits(generate_crossval_split(sorted(cases), n_splits=FOLDS), file)


def write_splits(splits: Splits, file: Path) -> None:
    """Write nnU-Net's folds, cases in alphabetical order; the file appears complete or not at all."""
    content = [{part: sorted(fold[part]) for part in ("train", "val")} for fold in splits]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, indent=4) + "\n")


def same_splits(one: Splits, other: Splits) -> bool:
    """Whether two lists of folds hold the same cases, in whatever order."""
    return [(set(f["train"]), set(f["val"])) for f in one] == [(set(f["train"]), set(f["val"])) for f in other]


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
