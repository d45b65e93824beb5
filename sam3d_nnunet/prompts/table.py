"""Read tables as spreadsheets, pandas and 3D Slicer write them, with their encodings, separators and comments.

What had to be assumed is noted. `csv_points` turns a table into clicks.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import read_bytes

COORDINATES = {"voxels": ("i", "j", "k"), "world": ("x", "y", "z"), "LPS": ("l", "p", "s"), "RAS": ("r", "a", "s")}
"""Columns of each way to write a position: voxels of the image file, the world, and Slicer's exports of the world."""
IMAGE = "image"

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Excel's first line; it may quote it, and adds empty cells when it saves the table again
EXCEL_SEPARATOR = re.compile(r'\s*"?sep=([,;\t|])"?[,;\t|]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
HEAD = re.compile(r"(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n|\Z))*")  # comments and blank lines
LINE_END = re.compile(r"\r\n|\r|\n")
SLICER_COLUMNS = re.compile(r"\s*columns\s*=")
SLICER_SYSTEM = re.compile(r"\s*coordinatesystem\s*=\s*(\w*)", re.IGNORECASE)

Row = tuple[int, dict[str, str]]
"""Line of the file, and its cells by column."""


@dataclass
class Table:
    """A table.

    Attributes:
        header: names of the columns in lower case.
        rows: all rows that are not blank.
        from_slicer: the header is the comment "# columns = ..." of Slicer's .fcsv.
        system: what a comment "# CoordinateSystem = ..." says.
        notes: what was assumed.
    """

    header: list[str]
    rows: list[Row]
    from_slicer: bool = False
    system: str | None = None
    notes: list[str] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """Read a table. Its first line, or a comment before it, names the columns.

    Raises:
        SAM3DError: the file can't be read, is empty or no table, a row has too many cells, or one lacks coordinates.
    """
    text, notes = _decode(path)
    told = EXCEL_SEPARATOR.match(text)
    start = told.end() if told else 0
    head = HEAD.match(text, start)
    comments = [line.strip()[1:] for line in LINE_END.split(head[0]) if line.strip()]
    body, first_line = text[head.end() :], len(LINE_END.findall(text[: head.end()]))
    separator, header, comment = _header(body, comments, told[1] if told else None)
    if separator != ",":
        notes.append(f"cells separated by {SEPARATORS[separator]}")
    lines = [(first_line + n, cells) for n, cells in _lines(body, separator, path, first_line) if any(cells)]
    if not header and not lines:
        raise SAM3DError(f"{path} is empty; its first line must name the columns: x,y,z,label or i,j,k,label.")
    if comment is None:
        header, lines = lines[0][1], lines[1:]
    header = [name.lower() for name in header]
    if header[0] != IMAGE:  # the name of an image may start with #
        lines = [(line, cells) for line, cells in lines if not cells[0].startswith("#")]
    rows = _rows(lines, header, path, notes)
    if separator != ",":
        _use_decimal_points(rows, notes)
    systems = [match[1].upper() for line in comments if (match := SLICER_SYSTEM.match(line))]
    from_slicer = comment is not None and SLICER_COLUMNS.match(comment) is not None
    return Table(header, rows, from_slicer, systems[-1] if systems else None, notes)


def _decode(path: Path) -> tuple[str, list[str]]:
    """Text of a file: UTF-8 or UTF-16 by its byte order mark, else UTF-8, else what Excel saves in Western Windows."""
    content = read_bytes(path)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    tried = [encoding] if encoding else ["utf-8", "cp1252"]
    for encoding in tried:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as e:
            error = e
        else:
            return text, {"utf-16": ["UTF-16 text"], "cp1252": ["Windows-1252 text"]}.get(encoding, [])
    raise SAM3DError(f"{path} can't be read: it is not text in {' or '.join(tried)} ({error}). Save it as UTF-8.")


def _header(body: str, comments: list[str], separator: str | None) -> tuple[str, list[str], str | None]:
    """The separator, the names of the columns and the comment that holds them, None if the first row holds them.

    The separator is the one that makes the columns of coordinates appear.
    """
    for comment in (None, *reversed(comments)):
        text = body if comment is None else SLICER_COLUMNS.sub("", comment)
        for candidate in separator or SEPARATORS:
            cells = _first_row(text, candidate)
            names = {name.lower() for name in cells}
            if any(names.issuperset(columns) for columns in COORDINATES.values()):
                return candidate, cells, comment
    first = LINE_END.split(body)[0]
    return separator or (";" if ";" in first else ","), [], None


def _first_row(text: str, separator: str) -> list[str]:
    """Cells of the first row that is not blank; none if there is no such row or it is not CSV."""
    try:
        rows = ([c.strip() for c in cells] for cells in _reader(text, separator))
        return next((cells for cells in rows if any(cells)), [])
    except csv.Error:
        return []


def _lines(text: str, separator: str, path: Path, first_line: int) -> Iterator[tuple[int, list[str]]]:
    reader = _reader(text, separator)
    try:
        for cells in reader:
            yield reader.line_num, [c.strip() for c in cells]
    except csv.Error as e:
        raise SAM3DError(f"{path}, line {first_line + reader.line_num}: {e}; this is not CSV.") from e


def _reader(text: str, separator: str) -> "csv._reader":
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _rows(lines: list[tuple[int, list[str]]], header: list[str], path: Path, notes: list[str]) -> list[Row]:
    """Rows by column. Empty cells at the end may be missing or too many, as spreadsheets leave them."""
    rows, short = [], 0
    needed = {IMAGE, *(name for columns in COORDINATES.values() for name in columns)}
    for line, cells in lines:
        while len(cells) > len(header) and not cells[-1]:
            cells = cells[:-1]
        missing = header[len(cells) :]
        if len(cells) > len(header) or needed & set(missing):
            hint = " Numbers with decimal commas need semicolons between the cells." if not missing else ""
            raise SAM3DError(f"{path}, line {line} has {len(cells)} cells, but the header has {len(header)}.{hint}")
        short += bool(missing)
        row = dict(zip(header, cells + [""] * len(missing)))
        if row.get(IMAGE) == "":
            raise SAM3DError(f"{path}, line {line} has no image name. Fill in the column image, or remove the column.")
        rows.append((line, row))
    if short:
        notes.append(f"{short} row(s) lack their last cells")
    return rows


def _use_decimal_points(rows: list[Row], notes: list[str]) -> None:
    """Spreadsheets separate cells by semicolons or tabs in languages that write 1,5."""
    names = {name for columns in COORDINATES.values() for name in columns}
    written = [(cells, name) for _, cells in rows for name in names & cells.keys()]
    commas = [(cells, name) for cells, name in written if "," in cells[name] and "." not in cells[name]]
    for cells, name in commas:
        cells[name] = cells[name].replace(",", ".")
    if commas:
        notes.append("decimal commas")
