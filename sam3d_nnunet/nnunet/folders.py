"""nnU-Net's folders, and the names and ids of data sets."""

import os
import re
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets, maybe_convert_to_dataset_name

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_names import file_name_fault, new_name_fault
from sam3d_nnunet.io import brief


def raw_root() -> Path:
    """The folder nnUNet_raw. Raises SAM3DError if it is not set or does not exist."""
    return _root(nnUNet_raw)


def preprocessed_root() -> Path:
    """The folder nnUNet_preprocessed. Raises SAM3DError if it is not set or does not exist."""
    return _root(nnUNet_preprocessed)


def trained_folds(dataset_name: str) -> list[str]:
    """Folders TRAINER__PLANS__CONFIGURATION/fold_X of all trainings on a data set."""
    if not nnUNet_results.is_set():
        return []
    folder = Path(nnUNet_results) / dataset_name
    return sorted(str(fold.relative_to(folder)) for fold in folder.glob("*__*__*/fold_[0-9]*"))


def new_dataset_name(dataset: str, title: str) -> str:
    """Name of a new data set.

    Args:
        dataset: its id or its full name.
        title: second part of the name, if only the id is given. Other characters than letters and digits become
            hyphens.

    Raises:
        SAM3DError: `dataset` is neither an id nor a name, or a data set with this id exists.
    """
    whole = re.fullmatch(r"Dataset([0-9]{3})_[^/\\\x00-\x1f]+", dataset)
    if not whole and not re.fullmatch(r"[0-9]{1,3}", dataset):
        raise SAM3DError(
            f"The data set {dataset!r} is neither an id from 1 to 999 nor a name such as Dataset220_KiTS21."
        )
    if fault := new_name_fault(dataset):
        raise SAM3DError(f"A data set can't have the name {brief(dataset)}: the name {fault}. Give another one.")
    number = int(whole[1] if whole else dataset)
    if number == 0:
        raise SAM3DError("The id of a data set cannot be 0. Choose one from 1 to 999.")
    taken = find_candidate_datasets(number)
    if len(taken):
        raise SAM3DError(
            f"The id {number} is taken by {', '.join(taken)} (in nnUNet_raw, nnUNet_preprocessed or nnUNet_results). "
            "Choose another id, or delete that data set."
        )
    return dataset if whole else f"Dataset{number:03}_{re.sub(r'[^A-Za-z0-9]+', '-', title).strip('-')}"


def _root(variable: os.PathLike) -> Path:
    try:
        root = Path(variable)
    except RuntimeError as e:
        raise SAM3DError(f"nnU-Net's folders are not set: {e}") from e
    if not root.is_dir():
        raise SAM3DError(f"nnU-Net's folder {root} does not exist. Make it, or correct the variable that names it.")
    return root


def refuse_plans_name(plans: str) -> None:
    """Refuse a name that plans can't have: they are a file of this name, and model folders are split at "__".

    Raises:
        SAM3DError: names the plans.
    """
    if fault := new_name_fault(plans):
        raise SAM3DError(f"Plans cannot be named {brief(plans)}: the name of their file {fault}. Give another name.")
    if "__" in plans or plans.startswith(("-", "_")) or plans.endswith("_"):
        raise SAM3DError(
            f"Plans cannot be named {plans!r}: nnU-Net splits the names of model folders, "
            "TRAINER__PLANS__CONFIGURATION, at two underscores, and takes a leading hyphen for an option. Give another "
            "name."
        )


def dataset_number(name: str) -> int:
    """Id of a data set, from a name such as Dataset004_Hippocampus. Any text may follow the id.

    Raises:
        SAM3DError: the name doesn't begin like this.
    """
    match = re.match("Dataset([0-9]{3})", name)
    if not match:
        raise SAM3DError(f"The data set {name!r} has no id of three digits, as Dataset004_Hippocampus has. Rename it.")
    return int(match[1])


def dataset_name(dataset: str) -> str:
    """Name of a data set.

    Args:
        dataset: its id or its name. A name is returned as it is.

    Raises:
        SAM3DError: nnU-Net's folders hold no data set with this id or several, or `dataset` is neither id nor name.
    """
    try:
        name = str(maybe_convert_to_dataset_name(dataset))
    except ValueError as e:
        raise SAM3DError(
            f"The data set {dataset!r} is neither an id such as 4 nor a name such as Dataset004_Hippocampus."
        ) from e
    except RuntimeError as e:
        reason = str(e).partition(". ")[0]  # the rest is about nnU-Net's variables, over several lines
        raise SAM3DError(
            f"The data set {dataset} can't be found in nnUNet_raw, nnUNet_preprocessed and nnUNet_results: {reason}. "
            "Check the id, these variables and their folders."
        ) from e
    if fault := file_name_fault(name):
        raise SAM3DError(f"No data set can be called {brief(name)}: the name {fault}. Give the name of its folder.")
    return name
