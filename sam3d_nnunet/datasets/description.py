"""dataset.json, nnU-Net's description of a data set: what its keys must hold, and its one reader."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_names import alike, file_name_fault
from sam3d_nnunet.io import brief, read_json_object

LONGEST_PATH = 1000
"""Characters of a path to a file of a case."""


class DatasetDescription(BaseModel):
    """The keys that nnU-Net v2 reads. Others are allowed.

    Attributes:
        channel_names: by number: "0", "1", ...
        labels: by name: one label, or for a region several.
        numTraining: number of training cases.
        file_ending: of images and label maps, with the dot.
        regions_class_order: the label that each region writes; needed with regions.
        overwrite_image_reader_writer: nnU-Net's reader to use whatever the file ending.
        dataset: files by case, where they don't lie in imagesTr and labelsTr.
    """

    model_config = ConfigDict(extra="allow")

    channel_names: dict[str, str]
    labels: dict[str, int | list[int]]
    numTraining: int  # noqa: N815  (nnU-Net's name)
    file_ending: str
    regions_class_order: list[int] | None = Field(None, validate_default=True)
    overwrite_image_reader_writer: str | None = None
    dataset: dict[str, Any] | None = None

    @field_validator("channel_names", mode="before")
    @classmethod
    def _numbered(cls, names: Any) -> Any:
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f'must name each channel, as in {{"0": "CT"}}, and not be {brief(names)}')
        numbers = [str(number) for number in range(len(names))]
        if list(names) != numbers:
            raise ValueError(f"must number the channels {', '.join(numbers)} in this order, not {brief(list(names))}")
        return names

    @field_validator("labels", mode="before")
    @classmethod
    def _consecutive(cls, labels: Any) -> Any:
        if not isinstance(labels, dict) or not labels:
            raise ValueError(f'must be an object such as {{"background": 0, "liver": 1}}, not {brief(labels)}')
        if all(name.isdigit() for name in labels):
            raise ValueError('must give a number to each name, as in {"liver": 1}, not a name to each number')
        for name, value in labels.items():
            if not _is_label(value) and not _is_labels(value):
                raise ValueError(f"must be whole numbers or lists of them, but {brief(name)} is {brief(value)}")
        if _is_labels(labels.get("background")) or labels.get("background") != 0:
            raise ValueError('must hold "background": 0')
        values = label_values(labels)
        if values != list(range(len(values))):
            raise ValueError(f"must be the numbers 0, 1, 2, ... without gaps, not {brief(values)}")
        others = label_values({name: value for name, value in labels.items() if name != "ignore"})
        if "ignore" in labels and labels["ignore"] != max(others) + 1:
            raise ValueError('must give "ignore" the highest number, which no other label has')
        if len(others) == 1:
            raise ValueError("must hold a label other than the background")
        return labels

    @field_validator("numTraining", mode="before")
    @classmethod
    def _count(cls, count: Any) -> Any:
        if not _is_label(count):
            raise ValueError(f"must be the number of training cases, not {brief(count)}")
        return count

    @field_validator("file_ending", mode="before")
    @classmethod
    def _dotted(cls, ending: Any) -> Any:
        if not isinstance(ending, str) or len(ending) < 2 or ending[0] != "." or file_name_fault(f"CASE{ending}"):
            raise ValueError(f'must be an ending with its dot, such as ".nii.gz", not {brief(ending)}')
        return ending

    @field_validator("regions_class_order", mode="before")
    @classmethod
    def _one_for_each_region(cls, order: Any, info: ValidationInfo) -> Any:
        if order is not None and not _is_labels(order):
            raise ValueError(f"must be a list of labels, not {brief(order)}")
        labels = info.data.get("labels", {})  # none where they can't be used
        regions = [value for name, value in labels.items() if name != "ignore" and label_values({name: value}) != [0]]
        if any(isinstance(value, list) and len(value) > 1 for value in labels.values()) and (
            order is None or len(order) != len(regions)
        ):
            raise ValueError(f'must list {len(regions)} labels, one for each region of "labels", not {brief(order)}')
        return order

    @field_validator("overwrite_image_reader_writer", mode="before")
    @classmethod
    def _name(cls, name: Any) -> Any:
        if name is not None and not isinstance(name, str):
            raise ValueError(f"must be the name of a reader, not {brief(name)}")
        return name

    @field_validator("dataset", mode="before")
    @classmethod
    def _files(cls, cases: Any) -> Any:
        if not isinstance(cases, dict) or not cases or not all(map(_lists_files, cases.values())):
            raise ValueError('must name "images" and "label" of each case, by paths that files can have')
        for case in cases:
            if fault := file_name_fault(case):
                raise ValueError(f"can't have a case {brief(case)}: the name {fault}. Give it another name")
        if same := alike(cases):
            raise ValueError(f"has the cases {same[0]!a} and {same[1]!a}, one file on some systems. Rename one")
        return cases


def read_dataset_json(file: Path, hint: str = "It must be that of an nnU-Net v2 data set.") -> dict[str, Any]:
    """nnU-Net's description of a data set. The number of training cases may be missing: nothing depends on it.

    Args:
        file: dataset.json.
        hint: a sentence for errors that says what to do if it holds no JSON object.

    Raises:
        SAM3DError: the file can't be read, or is no dataset.json of nnU-Net v2. It tells all that is wrong.
    """
    content = read_json_object(file, hint=hint)
    if "modality" in content:  # as version 1 called them, which nnU-Net still reads
        content.setdefault("channel_names", content["modality"])
    refuse_problems({"numTraining": 0} | content, file)
    return content


def refuse_problems(content: Mapping[str, Any], where: Path) -> None:
    """Refuse a description with which nnU-Net would fail.

    Raises:
        SAM3DError: tells all that is wrong, and `where`.
    """
    if problems := description_problems(content):
        found = "; ".join(f'"{key}" {problem}' for key, problem in problems.items())
        raise SAM3DError(f"{where} can't be used: {found}. Correct it as nnU-Net's documentation describes.")


def description_problems(content: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the content of a dataset.json: sentences without subject, by the key they are about."""
    try:
        DatasetDescription.model_validate(content)
    except ValidationError as e:
        return {str(problem["loc"][0]): _words(problem) for problem in e.errors()}
    return {}


def label_values(labels: Mapping[str, int | list[int]]) -> list[int]:
    """All labels that "labels" names, in order."""
    return sorted({value for entry in labels.values() for value in (entry if isinstance(entry, list) else [entry])})


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_labels(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_label, value))


def _lists_files(case: Any) -> bool:
    if not isinstance(case, dict) or not isinstance(case.get("images"), list) or not case["images"]:
        return False
    return all(isinstance(path, str) and _is_path(path) for path in (*case["images"], case.get("label")))


def _is_path(text: str) -> bool:
    """Whether each folder and the file of a path can have its name."""
    parts = [part for part in Path(text).parts if part not in (Path(text).anchor, "..")]
    return bool(parts) and len(text) <= LONGEST_PATH and not any(map(file_name_fault, parts))


def _words(problem: Mapping[str, Any]) -> str:
    return "is missing" if problem["type"] == "missing" else str(problem["ctx"]["error"])
