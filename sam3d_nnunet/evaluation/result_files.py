"""What the files in a folder of results must hold, and their only readers: for reports, and before they are written.

`results` says what each of them is called. Older results lack keys and columns that newer ones have.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import Field

from sam3d_nnunet.datasets.description import description_problems
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import is_share
from sam3d_nnunet.file_content import Content, Count, Finite, Number, check_content
from sam3d_nnunet.file_names import FileName, file_name_fault
from sam3d_nnunet.io import brief, read_json_object

DATA, METHOD, SETTINGS = "data.json", "method.json", "settings.json"
METRICS, PREDICTION, SCORES = "metrics.csv", "prediction.csv", "scores.csv"
WRITTEN = "sam3d evaluate writes this file."
KEYS = ["method", "run", "protocol", "fold", "trial", "clicks"]
"""Columns that tell the rows of one folder of predictions from those of another."""
GIVEN = "clicks_given"
"""What the column clicks of prediction.csv is called beside them."""
NEEDED = {
    METRICS: ["case", "target", "dice", "truth_voxels"],
    PREDICTION: ["seconds"],
    SCORES: ["case", "target", "truth_voxels"],
}
"""Columns that a table must have."""
NAMES = {"case": str, "target": str}
"""Columns of names; all others hold numbers."""
LARGEST = 1e15
"""Of any number in a table: more voxels, seconds or millimetres than there can be."""
Text = str | None
Axes = list[Annotated[int, Field(ge=0, le=2)]]


class Data(Content):
    """data.json."""

    dataset: Text = None
    images: Text = None
    truth: Text = None
    test_images: Text = None
    test_truth: Text = None
    dataset_json: dict[str, Any] | None = None


class MethodFacts(Content):
    """method.json."""

    name: Text = None
    trainer: Text = None
    plans: Text = None
    configuration: Text = None
    run_of: FileName | None = None
    kind: Literal["automatic", "prompted"] | None = None
    device: Text = None
    parameters: Count | None = None
    tuned_parameters: Count | None = None
    training_hours: Number | None = None
    peak_memory_gib: Number | None = None
    patch_size: list[Count] | None = None
    batch_size: Count | None = None
    epochs: Count | None = None
    steps: Count | None = None
    patches: Count | None = None
    mirroring_axes: Axes | None = None
    test_mirroring_axes: Axes | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | str | None = None
    training_cases: Count | None = None
    no_click_share: Annotated[Finite, Field(ge=0, le=1)] | None = None
    network: dict[str, Any] | None = None


class Settings(Content):
    """settings.json."""

    folds: list[str] | None = None
    checkpoint: Text = None
    weights: list[Text] | None = None
    mirroring: bool | None = None
    step: Number | None = None
    gaussian: bool | None = None
    max_windows: Count | None = None
    per_lesion: bool | None = None
    windows: Text = None


_KINDS = {DATA: Data, METHOD: MethodFacts, SETTINGS: Settings}


def read_object(file: Path, hint: str = WRITTEN) -> dict[str, Any]:
    """The content of data.json, method.json or settings.json.

    Args:
        file: one of them.
        hint: a sentence for errors that says what to do.

    Raises:
        SAM3DError: it can't be read, or a key holds what it can't hold.
    """
    content = read_json_object(file, hint=hint)
    check_content(content, _KINDS[file.name], file, hint)
    described = (content.get("dataset_json") or {}) if file.name == DATA else {}
    for key, problem in description_problems(described).items():
        if key in described:  # older results have not all keys
            raise SAM3DError(f'{file}: "{key}" in "dataset_json" {problem}. {hint}')
    return content


def read_table(file: Path) -> pd.DataFrame:
    """A CSV file of ours. A case or a target can be called NA or null, which pandas would take for a missing name.

    Raises:
        OSError, ValueError: it can't be read.
    """
    columns = pd.read_csv(file, nrows=0).columns
    missing = {column: ["", "nan", "NaN", "NA"] for column in columns.difference(list(NAMES))}
    return pd.read_csv(file, dtype=NAMES, keep_default_na=False, na_values=missing)


def read_rows(file: Path) -> pd.DataFrame:
    """The content of metrics.csv, prediction.csv or scores.csv.

    Raises:
        SAM3DError: it can't be read, lacks a column, or holds what a column can't hold.
    """
    again = "Correct or delete the file, and run sam3d evaluate again."
    try:
        table = read_table(file)
    except (OSError, ValueError) as e:
        raise SAM3DError(f"{file} can't be read: {_first_line(e)}. {again}") from e
    missing = [column for column in NEEDED[file.name] if column not in table]
    if missing:
        raise SAM3DError(f"{file} has no column {', '.join(missing)}. Delete it, and run sam3d evaluate again.")
    added = {*KEYS, GIVEN, "source"} - ({"clicks"} if file.name == PREDICTION else set())
    if taken := [column for column in table if column in added]:
        raise SAM3DError(f"{file} has a column {taken[0]}, which reports add themselves. {again}")
    for case in table["case"].unique() if "case" in table else ():
        refuse_unusable(case, f"a case in {file}")
    for column in table.columns.difference(list(NAMES), sort=False):
        table[column] = _numbers(table[column], file, again)
    return table


def refuse_unusable(name: Any, whose: str) -> None:
    """Refuse a name in results that can't be that of a file, since files are looked for and written by that name.

    Raises:
        SAM3DError: says whose it is.
    """
    fault = file_name_fault(name) if isinstance(name, str) else "is no text"
    if fault:
        raise SAM3DError(f"{brief(name)} can't be {whose}: the name {fault}. Rename it.")


def _first_line(error: Exception) -> str:
    """Of a message of pandas', which can show a whole cell."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")[:200]


def _numbers(column: pd.Series, file: Path, again: str) -> pd.Series:
    try:
        numbers = pd.to_numeric(column, errors="coerce")
    except OverflowError as e:  # hundreds of digits
        raise SAM3DError(f"{file} has a number too large for the column {column.name[:60]}. {again}") from e
    if not is_numeric_dtype(column) and len(wrong := column[column.notna() & numbers.isna()]):
        raise SAM3DError(
            f"{file} has {brief(wrong.iloc[0])} in the column {column.name[:60]}, which is not a number. {again}"
        )
    numbers = numbers.astype(float) if numbers.dtype == object else numbers
    low, high = (0, 1) if is_share(column.name) else (-LARGEST, LARGEST)
    values = numbers.to_numpy()
    outside = (values < low - 1e-6) | (values > high + 1e-6)
    if outside.any():
        wrong = column[outside].iloc[0]
        raise SAM3DError(f"{file} has {wrong} in the column {column.name[:60]}, where it can't be. {again}")
    return numbers
