"""Write a table in GitHub's Markdown: one table for each section, and the caption as a list below."""

import re

from sam3d_nnunet.report.layout import Cell, Section, Table

SPECIAL = re.compile(r"[\\`*\[\]<>|$~&#]|(?<!\w)_+|_+(?!\w)")
"""Characters with a meaning in Markdown. An underscore between letters or digits has none."""


def to_markdown(table: Table) -> str:
    """The content of the file."""
    parts = [f"# {_escape(table.title)}", *_parts(table)]
    if table.training is not None:
        parts += [f"## {_escape(table.training.title)}", *_parts(table.training)]
    return "\n\n".join(parts) + "\n"


def _parts(table: Table) -> list[str]:
    """Sections and caption."""
    parts = []
    for section in table.sections:
        parts += [f"## {_escape(section.title)}"] if section.title else []
        parts.append(_rows(table, section))
    return [*parts, "\n".join(f"- {_escape(sentence)}" for sentence in table.caption)]


def _rows(table: Table, section: Section) -> str:
    """Heading, alignment and rows, padded so that the source is readable too."""
    rows = [[_escape(column) for column in table.columns], *[[_cell(cell) for cell in row] for row in section.rows]]
    widths = [max(map(len, of_column)) for of_column in zip(*rows)]
    rows.insert(
        1, ["-" * width if i < table.text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    )
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    parts = [f"**{text}**" if cell.bold else text, cell.interval, _escape(cell.mark)]
    return " ".join(part for part in parts if part)


def _escape(text: str) -> str:
    """The text on one line, with special characters escaped."""
    return SPECIAL.sub(lambda signs: "".join(f"\\{sign}" for sign in signs[0]), " ".join(text.split()))
