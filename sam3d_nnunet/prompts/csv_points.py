"""Clicks in a table (.csv, .tsv, .fcsv): a position, a label, and the name of the image.

Positions are x, y, z in the world or i, j, k in the image file; or l, p, s or r, a, s as 3D Slicer exports them.
"""

import csv
import io
import math
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import brief, same_name
from sam3d_nnunet.prompts.labels import LabelReader
from sam3d_nnunet.prompts.prompt import TO_LPS, Prompt
from sam3d_nnunet.prompts.table import COORDINATES, IMAGE, Row, Table, read_table

LABEL, DESCRIPTION, DEFINED = "label", ("description", "desc"), "defined"
MEANT_AS_LABEL = ("class", "classes", "type", "kind", "category")
"""Names that people give to the column label, besides misspelt ones."""


def to_csv(prompt: Prompt) -> str:
    """Text of a file that holds these clicks, in the world."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow([IMAGE, *COORDINATES["world"], LABEL])
    table.writerows([prompt.image, *p.tolist(), int(k)] for p, k in zip(prompt.points, prompt.labels))
    return text.getvalue()


def read_csv(
    path: Path,
    file_name: str,
    image_geometry: ImageGeometry | None = None,
    image_name: str | None = None,
    class_names: dict[str, int] | None = None,
) -> Prompt:
    """Clicks on one image.

    Args:
        path: the file.
        file_name: the image's name if neither a column nor `image_name` gives one.
        image_geometry: of the image, for voxel indices.
        image_name: the image whose rows to keep in a table with a column `image`. None: the only image in the table.
        class_names: labels of the model by name.

    Raises:
        SAM3DError: the file can't be read or lacks a column, or a row has no numbers or no valid label.
    """
    table = read_table(path)
    system = _system(table.header, path)
    if system == "voxels" and image_geometry is None:
        raise SAM3DError(
            f"{path} holds voxel indices (columns i, j, k), which need the image they are on. "
            "Give the image as well, or write world positions (columns x, y, z)."
        )
    rows = table.rows
    if IMAGE in table.header:
        image_name = _choose_image(rows, image_name, path)
        rows = [(line, cells) for line, cells in rows if same_name(cells[IMAGE], image_name)]
    image = file_name if image_name is None else image_name
    by_slicer = table.from_slicer or system in ("LPS", "RAS")
    unused = [] if LABEL in table.header or by_slicer else _without_labels(table, system, path)
    if by_slicer:
        rows = _defined(rows, table.notes)
    positions = [[_number(cells[c], c, f"{path}, line {line}") for c in COORDINATES[system]] for line, cells in rows]
    points = np.array(positions).reshape(-1, 3)
    if system == "voxels":
        points = image_geometry.from_file_index(points)
    else:
        points = points * _signs(table, system, path)
    label_reader = LabelReader(class_names, image, file_name)
    labels = [label_reader.read(_texts(cells, by_slicer), f"{path}, line {line}") for line, cells in rows]
    notes = (*table.notes, *unused, *label_reader.notes())
    return Prompt(points, labels, image, notes)


def images_in_csv(path: Path) -> list[str] | None:
    """Names in the column `image`, each once and in the order of the file; None without that column.

    Raises:
        SAM3DError: the file is not a table of clicks.
    """
    table = read_table(path)
    return list(dict.fromkeys(cells[IMAGE] for _, cells in table.rows)) if IMAGE in table.header else None


def _system(header: list[str], path: Path) -> str:
    """Which of `COORDINATES` a table has. The letters of Slicer's systems may name other columns beside x, y, z."""
    found = [system for system in ("world", "voxels") if set(COORDINATES[system]) & set(header)]
    found = found or [system for system in ("LPS", "RAS") if set(COORDINATES[system]) <= set(header)]
    if len(found) != 1 or not set(COORDINATES[found[0]]) <= set(header):
        raise SAM3DError(
            f"{path} has the columns {brief(header)}; its first line needs either x, y, z (world, LPS millimetres) "
            "or i, j, k (voxels of the image file) or, as 3D Slicer exports them, l, p, s or r, a, s; label and image "
            "may follow."
        )
    for name in (*COORDINATES[found[0]], LABEL, IMAGE):
        if header.count(name) > 1:
            raise SAM3DError(f"{path} has the column {name} {header.count(name)} times. Keep one.")
    return found[0]


def _signs(table: Table, system: str, path: Path) -> tuple[int, int, int]:
    """Factors from the coordinates of a table to LPS; noted if the table is not in our own columns."""
    if system != "world":
        table.notes.append(f"columns {', '.join(COORDINATES[system])} ({system})")
        return TO_LPS[system]
    if table.from_slicer and table.system is None:
        raise SAM3DError(f'{path} names no coordinate system. Add a first line "# CoordinateSystem = LPS" (or RAS).')
    if table.system is None:
        return TO_LPS["LPS"]
    if table.system not in TO_LPS:
        raise SAM3DError(f"{path} has the CoordinateSystem {brief(table.system)}; it must be LPS (or 1) or RAS (or 0).")
    return TO_LPS[table.system]


def _defined(rows: list[Row], notes: list[str]) -> list[Row]:
    """Rows of a list of Slicer's whose point has been placed."""
    placed = [(line, cells) for line, cells in rows if cells.get(DEFINED, "1").lower() not in ("0", "false")]
    if len(placed) < len(rows):
        notes.append(f"{len(rows) - len(placed)} point(s) without a position skipped")
    return placed


def _choose_image(rows: list[Row], wanted: str | None, path: Path) -> str | None:
    """The image whose rows to keep; None for a table without rows, which fits any image."""
    images = list(dict.fromkeys(cells[IMAGE] for _, cells in rows))
    if not images or (wanted is not None and any(same_name(image, wanted) for image in images)):
        return wanted
    if wanted is not None:
        raise SAM3DError(f"{path} holds no click on {wanted}; its column image names {brief(images)}.")
    if len(images) > 1:
        raise SAM3DError(f"{path} holds clicks on {len(images)} images ({brief(images)}). Say which one to use.")
    return images[0]


def _number(text: str, column: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SAM3DError(f"{where}: {column} is {brief(text)}, not a finite number.")
    return number


def _texts(cells: dict[str, str], by_slicer: bool) -> dict[str, str]:
    """What a row says about its label. In Slicer's lists the description counts first, as in its markups."""
    kinds = (*DESCRIPTION, LABEL) if by_slicer else (LABEL,)
    return {kind: cells.get(kind, "") for kind in kinds}


def _without_labels(table: Table, system: str, path: Path) -> list[str]:
    """A note on the columns of a table without labels.

    Raises:
        SAM3DError: one of them seems to hold labels. Without them, all clicks would be on one class.
    """
    unused = [name for name in table.header if name and name not in (*COORDINATES[system], IMAGE)]
    for name in unused:
        is_meant = name in MEANT_AS_LABEL or get_close_matches(name, [LABEL], cutoff=0.75)
        if is_meant and any(cells.get(name) for _, cells in table.rows):
            raise SAM3DError(
                f"{path} has no column label, but a column {brief(name)}. Rename it to label if it says what "
                "the clicks are on. Otherwise give it another name."
            )
    return [f"no column label (columns not used: {', '.join(unused)})"] if unused else []
