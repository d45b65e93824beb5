"""nnU-Net's folds: splits_final.json in the data set's folder of nnUNet_preprocessed."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from nnunetv2.utilities.crossval_split import generate_crossval_split
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_names import NAME_FAULT, FileName
from sam3d_nnunet.io import brief, listing, read_json, write_json
from sam3d_nnunet.nnunet.folders import preprocessed_root, raw_root

Splits = list[dict[str, list[str]]]
"""For each fold the names of its cases in `train` and in `val`."""
FILE = "splits_final.json"
FOLDS = 5
PARTS = ("train", "val")


Names = list[FileName]


class Fold(BaseModel):
    """What nnU-Net reads of a fold. Other keys are allowed.

    Attributes:
        train: names of the cases to train on.
        val: names of the cases to validate on.
    """

    model_config = ConfigDict(strict=True)

    train: Names
    val: Names


_FOLDS = TypeAdapter(Annotated[list[Fold], Field(min_length=1)], config=ConfigDict(strict=True))


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
    try:
        return [fold.model_dump() for fold in _FOLDS.validate_python(content)]
    except ValidationError as e:
        raise SAM3DError(_sentence(file, e.errors()[0])) from e


def read_fold(
    file: Path, number: int, there: Collection[str], where: str | Path, parts: Collection[str] = PARTS
) -> dict[str, list[str]]:
    """Read one of nnU-Net's folds, and check that it has cases, which are there. Other folds don't matter.

    Args:
        file: with all folds.
        number: of the fold; the first is 0.
        there: names of the cases that can be used.
        where: their place, for errors.
        parts: of the fold that are needed.

    Returns:
        names of its cases in `train` and in `val`, each once.

    Raises:
        SAM3DError: the file can't be used (see `read_splits`), has no such fold, or the fold has no cases, or cases
            that are not there.
    """
    splits = read_splits(file)
    if number >= len(splits):
        raise SAM3DError(
            f"{file} has no fold {number}, only {_numbers(len(splits))}. Choose one of these, or add the fold there."
        )
    fold = {part: list(dict.fromkeys(names)) for part, names in splits[number].items()}
    for part in parts:
        if not fold[part]:
            raise SAM3DError(f'Fold {number} of {file} has no cases in "{part}". Add some.')
    absent = {name for part in parts for name in fold[part]} - set(there)
    if absent:
        raise SAM3DError(
            f"Fold {number} of {file} names {len(absent)} case(s) that are not in {where}: {listing(absent)}. Add them "
            "there, or correct the names."
        )
    return fold


def refuse_other_splits(dataset_name: str) -> None:
    """Refuse folds beside the raw data that can't be used, or are not those of nnUNet_preprocessed.

    nnU-Net's planners copy them there when a data set is planned for the first time, and accept no others later.

    Raises:
        SAM3DError: names the file.
    """
    given, taken = raw_root() / dataset_name / FILE, splits_file(dataset_name)
    if not given.is_file():
        return
    splits = read_splits(given)
    if taken.is_file() and not same_splits(splits, read_splits(taken)[: len(splits)]):
        raise SAM3DError(
            f"{given} and {taken} hold different folds. nnU-Net trains on the second: copy it over the first, or "
            "delete it and train the folds again."
        )


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
    content = [{part: sorted(fold[part]) for part in PARTS} for fold in splits]
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
    named = {name for fold in splits for part in PARTS for name in fold[part]}
    known = named if cases is None else set(cases)
    lines = [f"{len(splits)} fold(s), {len(named)} case(s)"]
    for number, fold in enumerate(splits):
        train, val = set(fold["train"]), set(fold["val"])
        lines.append(f"fold {number}: {len(train)} for training, {len(val)} for validation")
        lines += fold_notes(number, fold)
        left = named - train - val
        lines += _cases(f"fold {number} leaves out", left)
    if all(validated[name] == 1 for name in named):
        lines.append("each of these cases is in the validation set of exactly one fold")
    lines += _cases("in no fold", known - named)
    lines += _cases("trained on, in no validation set", named - validated.keys())
    lines += _cases("in the validation sets of several folds", {name for name, n in validated.items() if n > 1})
    lines += _cases("in the folds, not in the data set", named - known)
    return lines


def fold_notes(number: int, fold: Mapping[str, Sequence[str]]) -> list[str]:
    """What is unusual about a fold, but may be meant: cases in both parts, and several times in one."""
    notes = _cases(f"fold {number} validates on what it trains on", set(fold["train"]) & set(fold["val"]))
    for part in PARTS:
        several = {name for name, count in Counter(fold[part]).items() if count > 1}
        notes += _cases(f'fold {number} names several times in "{part}"', several)
    return notes


def _cases(what: str, names: Collection[str]) -> list[str]:
    return [f"{what}: {len(names)} case(s): {listing(names)}"] if names else []


def _numbers(count: int) -> str:
    return "0" if count == 1 else f"0 to {count - 1}"


def _sentence(file: Path, problem: dict[str, Any]) -> str:
    """What pydantic found, with the place in the file."""
    fold, part, entry = (*problem["loc"], None, None, None)[:3]
    value, kind = brief(problem["input"]), problem["type"]
    subject = str(file) if fold is None else f"Fold {fold} of {file}"
    if kind == "missing":
        return f'{subject} has no list "{part}". Add it.'
    if kind == "too_short":
        return f"{subject} holds no folds. Add some."
    if fold is None:
        return f'{subject} must hold a list of folds, each with "train" and "val", not {value}. Correct it.'
    if part is None:
        return f'{subject} must be an object with "train" and "val", not {value}. Correct it.'
    if entry is None:
        return f'"{part}" of fold {fold} of {file} must be a list of names of cases, not {value}. Correct it.'
    why = f": the name {problem['ctx']['fault']}" if kind == NAME_FAULT else ""
    return f'"{part}" of fold {fold} of {file} must hold names of cases, but one of them is {value}{why}. Correct it.'
