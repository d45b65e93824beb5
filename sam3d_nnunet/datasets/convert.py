"""`sam3d dataset convert`: a published data set into nnUNet_raw."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sam3d_nnunet.datasets.convert_case import WRITING, CaseConverter
from sam3d_nnunet.datasets.each_case import for_each_case
from sam3d_nnunet.datasets.sources import ENDING, LAYOUTS, Source
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import read_json, some, write_whole
from sam3d_nnunet.nnunet.folders import new_dataset_name, raw_root

MARKER = "conversion.json"
"""In an unfinished data set: what it is made from."""


@dataclass(frozen=True)
class Conversion:
    """A data set that was converted, or not wholly.

    Attributes:
        folder: the data set; while cases are missing, a folder that the next attempt goes on with.
        complete: whether it is a data set to nnU-Net.
        cases: number of training cases.
        failed: sentences by the names of cases that are missing.
        notes: what else the user should know.
    """

    folder: Path
    complete: bool
    cases: int
    failed: dict[str, str]
    notes: list[str]


def convert(
    source: str | Path,
    dataset: str,
    layout: str,
    allow_missing: bool = False,
    ignore_label_geometry: bool = False,
) -> Conversion:
    """Convert a published data set. It appears in nnUNet_raw when all its cases are there.

    Args:
        source: its folder.
        dataset: id, or whole name, of the data set to be made.
        layout: msd, kits or lits.
        allow_missing: finish it without the cases that are missing or bad.
        ignore_label_geometry: as `CaseConverter` takes it.

    Raises:
        SAM3DError: the source isn't laid out so, the id is taken, or another conversion to it was begun.
    """
    source = Path(source).resolve()
    if not source.is_dir():
        raise SAM3DError(f"There is no folder {source}.")
    root = raw_root()
    found = LAYOUTS[layout](source)
    name = new_dataset_name(dataset, found.title)
    folder = _begin(root / f".{name}.part", {"source": str(source), "layout": layout}, bool(found.test))
    converter = CaseConverter(found, folder, ignore_label_geometry)
    default, failed = for_each_case(converter.training_case, found.training, "Training cases")
    more_default, more_failed = for_each_case(converter.test_image, found.test, "Test images")
    failed |= more_failed
    notes = _geometry_notes(default | more_default)
    if not default or (failed and not allow_missing):
        return Conversion(folder, False, len(default), failed, notes)
    _finish(folder, root / name, found)
    return Conversion(root / name, True, len(default), failed, notes)


def _begin(folder: Path, made_from: dict[str, str], has_test_images: bool) -> Path:
    """The folder of an unfinished data set, new or of an earlier attempt."""
    marker = folder / MARKER
    if folder.exists() and (not marker.is_file() or read_json(marker) != made_from):
        raise SAM3DError(f"{folder} is left over from another conversion. Finish that one, or delete the folder.")
    folder.mkdir(exist_ok=True)
    write_whole(marker, json.dumps(made_from))
    shutil.rmtree(folder / WRITING, ignore_errors=True)  # of an attempt that was killed
    for part in (WRITING, "imagesTr", "labelsTr", *(["imagesTs"] if has_test_images else [])):
        (folder / part).mkdir(exist_ok=True)
    return folder


def _finish(folder: Path, final: Path, source: Source) -> None:
    content = {
        "channel_names": {str(number): name for number, name in enumerate(source.channels)},
        "labels": source.labels,
        "numTraining": sum(1 for _ in (folder / "labelsTr").iterdir()),
        "file_ending": ENDING,
        "name": source.title,
        **source.more,
    }
    write_whole(folder / "dataset.json", json.dumps(content, indent=4) + "\n")
    (folder / WRITING).rmdir()
    (folder / MARKER).unlink()
    os.rename(folder, final)


def _geometry_notes(default: dict[str, bool]) -> list[str]:
    names = [name for name, unknown in default.items() if unknown]
    if not names:
        return []
    return [
        f"{len(names)} image(s) state voxels of 1 x 1 x 1 mm, no turn and no shift, which may mean that their geometry "
        f"is lost: {some(names)}. Resampling and distances trust it."
    ]
