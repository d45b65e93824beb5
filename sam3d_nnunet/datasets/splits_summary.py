"""What folds look like, in lines of text."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from sam3d_nnunet.datasets.paper_folds import read_paper_folds, to_splits
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import Splits, read_splits, splits_file
from sam3d_nnunet.io import some


def describe_file(file: Path) -> list[str]:
    """Folds in nnU-Net's JSON, or in a pickle (.pkl) of the authors'."""
    return describe_splits(to_splits(read_paper_folds(file)) if file.suffix == ".pkl" else read_splits(file))


def describe_dataset(dataset: str) -> list[str]:
    """Folds of a data set in nnUNet_raw, by id or name, and where they are."""
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
    return [f"{what}: {len(names)} case(s): {some(names)}"] if names else []
