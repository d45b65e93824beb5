"""Whether a data set is the one that a recipe is about, and the command that derives it."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing
from sam3d_nnunet.nnunet.folders import dataset_number
from sam3d_nnunet.planning.recipes import Target, load_recipe


def refuse_other_labels(recipe: str | Path, dataset: RawDataset) -> list[str]:
    """Refuse a data set with other labels than a recipe needs.

    Args:
        recipe: its name, or a JSON file.
        dataset: to plan or compare methods on.

    Returns:
        a note if the one class of the data set has a name that the recipe does not know.

    Raises:
        SAM3DError: the recipe is about one foreground class, and the data set has others. It ends with what to do.
    """
    content = load_recipe(recipe)
    if "target" not in content:
        return []
    target, classes = Target.of(content, recipe), foreground(dataset.dataset_json)
    if len(classes) == 1:
        known = target.is_named(classes[0])
        return [] if known else [f"{recipe}: takes {classes[0]!r} of {dataset.name} for its {target.names[0]}"]
    raise SAM3DError(
        f"The recipe {recipe} is about one class, {target.names[0]}, but {dataset.name} has "
        f"{listing(classes) if classes else 'none'}. {_what_to_do(target, dataset, classes)}"
    )


def foreground(dataset_json: dict[str, Any]) -> list[str]:
    """Names of the labels and regions of a data set, without background and the label to ignore."""
    return [str(name) for name in dataset_json["labels"] if name not in ("background", "ignore")]


def _what_to_do(target: Target, dataset: RawDataset, classes: list[str]) -> str:
    number, names = dataset_number(dataset.name), [name for name in classes if target.is_named(name)]
    derived = next(_derived(target, dataset), None)
    if derived is not None:
        return f"Give {derived}, which was derived from it: -d {dataset_number(derived)}"
    # several may be parts of it, or several kinds
    label = quote(names[0]) if len(names) == 1 else "LABEL"
    more, new = " --drop-empty" if target.drop_empty else "", _free_number(number + 100)
    return (
        f"Derive a data set of the {target.names[0]} against all else, then give -d {new}: "
        f"sam3d dataset target -d {number} --label {label} -o {new}{more}"
    )


def _derived(target: Target, dataset: RawDataset) -> Iterator[str]:
    """Names of data sets that `sam3d dataset target` derived from one, with the target alone."""
    for file in sorted(dataset.folder.parent.glob("Dataset*/dataset.json")):
        try:
            content = read_dataset_json(file)
            classes = foreground(content)
        except SAM3DError:
            continue  # that of another data set
        if content.get("derived_from") == dataset.name and len(classes) == 1 and target.is_named(classes[0]):
            yield file.parent.name


def _free_number(first: int) -> int | str:
    """The first id from a number on that no data set has, else any free one."""
    numbers = [*range(first, 1000), *range(1, min(first, 1000))]
    return next((number for number in numbers if not len(find_candidate_datasets(number))), "ID")
