"""Clicks in a table (.csv): x, y, z in the world or i, j, k in the image file, a label, and the name of the image."""

import csv
import io
import math
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import brief, read_text
from sam3d_nnunet.prompts.prompt import Prompt, label_forms, to_label

WORLD, VOXEL = ("x", "y", "z"), ("i", "j", "k")
LABEL, IMAGE = "label", "image"
Row = tuple[int, dict[str, str]]
"""Line of the file, and its cells by column."""


def to_csv(prompt: Prompt) -> str:
    """Text of a file that holds these clicks, in the world."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow([IMAGE, *WORLD, LABEL])
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
    header, rows = _read_table(path)
    columns = _coordinate_columns(header, path)
    if columns == VOXEL and image_geometry is None:
        raise SAM3DError(
            f"{path} holds voxel indices (columns i, j, k), which need the image they are on. "
            "Give the image as well, or write world positions (columns x, y, z)."
        )
    if IMAGE in header:
        image_name = _choose_image(rows, image_name, path)
        rows = [(line, cells) for line, cells in rows if cells[IMAGE] == image_name]
    positions = [[_number(cells[c], c, f"{path}, line {line}") for c in columns] for line, cells in rows]
    labels = [_label(cells.get(LABEL, ""), class_names, f"{path}, line {line}") for line, cells in rows]
    prompt = Prompt(positions, labels, file_name if image_name is None else image_name)
    if columns == WORLD:
        return prompt
    return Prompt(image_geometry.from_file_index(prompt.points), prompt.labels, prompt.image)


def images_in_csv(path: Path) -> list[str] | None:
    """Names in the column `image`, each once and in the order of the file; None without that column.

    Raises:
        SAM3DError: the file is not a table of clicks.
    """
    header, rows = _read_table(path)
    return list(dict.fromkeys(cells[IMAGE] for _, cells in rows)) if IMAGE in header else None


def _read_table(path: Path) -> tuple[list[str], list[Row]]:
    """The header in lower case, and all rows that are not blank."""
    text = read_text(path)
    first = text.lstrip().partition("\n")[0]
    semicolons = ";" in first
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if semicolons else ",", strict=True)
    try:
        lines = [(reader.line_num, [c.strip() for c in cells]) for cells in reader]
    except csv.Error as e:
        raise SAM3DError(f"{path}, line {reader.line_num}: {e}; this is not CSV.") from e
    lines = [(line, cells) for line, cells in lines if any(cells)]
    if not lines:
        raise SAM3DError(f"{path} is empty; its first line must name the columns: x,y,z,label or i,j,k,label.")
    header = [c.lower() for c in lines[0][1]]
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise SAM3DError(f"{path}, line {line} has {len(cells)} cells, but the header has {len(header)}.")
        if semicolons:  # spreadsheets use semicolons in languages that write 1,5
            cells = [c.replace(",", ".") if name in WORLD + VOXEL else c for name, c in zip(header, cells)]
        row = dict(zip(header, cells))
        if row.get(IMAGE) == "":
            raise SAM3DError(f"{path}, line {line} has no image name. Fill in the column image, or remove the column.")
        rows.append((line, row))
    return header, rows


def _coordinate_columns(header: list[str], path: Path) -> tuple[str, str, str]:
    found = [columns for columns in (WORLD, VOXEL) if set(columns) & set(header)]
    if len(found) != 1 or not set(found[0]) <= set(header):
        raise SAM3DError(
            f"{path} has the columns {brief(header)}; its first line needs either x, y, z (world, LPS millimetres) "
            "or i, j, k (voxels of the image file), and may have label and image."
        )
    for name in (*found[0], LABEL, IMAGE):
        if header.count(name) > 1:
            raise SAM3DError(f"{path} has the column {name} {header.count(name)} times. Keep one.")
    return found[0]


def _choose_image(rows: list[Row], wanted: str | None, path: Path) -> str | None:
    """The image whose rows to keep; None for a table without rows, which fits any image."""
    images = list(dict.fromkeys(cells[IMAGE] for _, cells in rows))
    if not images or wanted in images:
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


def _label(text: str, class_names: dict[str, int] | None, where: str) -> int:
    label = to_label(text, class_names) if text else 1
    if label is None:
        raise SAM3DError(f"{where}: label is {brief(text)}, which is not a label. {label_forms(class_names)}")
    return label
