"""nnU-Net's folds: splits_final.json in the data set's folder of nnUNet_preprocessed."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing, read_json, write_json
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
    content = read_json(file, "nnU-Net writes the folds of a data set when its first training starts.")
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
    write_json(file, content, indent=4)


def same_splits(one: Splits, other: Splits) -> bool:
    """Whether two lists of folds hold the same cases, in any order."""
    return [(set(f["train"]), set(f["val"])) for f in one] == [(set(f["train"]), set(f["val"])) for f in other]


def describe_dataset(dataset: str) -> list[str]:
    """Where the folds of a data set in nnUNet_raw are, by its id or name, and what they look like."""
    raw = RawDataset.find(dataset)
    file = splits_file(raw.name)
    return [f"{file}:", *describe_splits(read_splits(file), raw.cases)]


def describe_splits(splits: Splits, cases: Collection[str] | None = None) -> list[str]:
    """Sizes of the folds, and which cases are not in exactly one validation set.

    Args:
        splits: nnU-Net's folds.
        cases: of the data set. None: not known.
    """
    validated = Counter(name for fold in splits for name in set(fold["val"]))
    named = {name for fold in splits for part in ("train", "val") for name in fold[part]}
    known = named if cases is None else set(cases)
    lines = [f"{len(splits)} fold(s), {len(named)} case(s)"]
    for number, fold in enumerate(splits):
        train, val = set(fold["train"]), set(fold["val"])
        lines.append(f"fold {number}: {len(train)} for training, {len(val)} for validation")
        lines += _cases(f"fold {number} validates on what it trains on", train & val)
        left = named - train - val
        lines += _cases(f"fold {number} leaves out", left)
    if all(validated[name] == 1 for name in named):
        lines.append("each of these cases is in the validation set of exactly one fold")
    lines += _cases("in no fold", known - named)
    lines += _cases("trained on, in no validation set", named - validated.keys())
    lines += _cases("in the validation sets of several folds", {name for name, n in validated.items() if n > 1})
    lines += _cases("in the folds, not in the data set", named - known)
    return lines


def _cases(what: str, names: Collection[str]) -> list[str]:
    return [f"{what}: {len(names)} case(s): {listing(names)}"] if names else []


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
