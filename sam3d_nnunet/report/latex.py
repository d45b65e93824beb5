r"""Write a table for LaTeX: include it with \input in a document that loads the package booktabs."""

import re
import textwrap

from sam3d_nnunet.report.layout import Cell, Section, Table

HEADING_WIDTH = 12  # characters; longer headings break between words
COMMANDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "“": "``",
    "”": "''",
    "–": "--",
    "—": "---",
    "†": r"\dag{}",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    **{sign: rf"\{sign}" for sign in "{}$&#_%"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # would be arguments of the line break before them
}
SPECIAL = re.compile("|".join(map(re.escape, COMMANDS)))


def to_latex(table: Table) -> str:
    """The content of the file: a floating table as wide as the page, and one that says how the methods were trained.

    Intervals stand below their numbers. Only the first sentence is the caption, which LaTeX sets as large as the text;
    the others stand below the table in small print, since they would fill the page.
    """
    tables = [table] if table.training is None else [table, table.training]
    return "\n".join([r"% needs \usepackage{booktabs}", *(line for shown in tables for line in _lines(shown))]) + "\n"


def _lines(table: Table) -> list[str]:
    title, first, *others = [_escape(text) for text in (table.title, *table.caption)]
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption[{title}]{{{title}. {first}}}",
        r"\par\medskip",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{'l' * table.text_columns}{'r' * (len(table.columns) - table.text_columns)}}}",
        r"\toprule",
        _line([_heading(column, i < table.text_columns) for i, column in enumerate(table.columns)]),
    ]
    for section in table.sections:
        lines += [r"\midrule", *_section(section, len(table.columns))]
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip", rf"\parbox{{\textwidth}}{{{' '.join(others)}}}"]
    return [*lines, r"\end{table*}"]


def _section(section: Section, columns: int) -> list[str]:
    title = rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{_escape(section.title)}}}}}"
    lines = [_line([title])] if section.title else []
    for row in section.rows:
        lines.append(_line([_number(cell) for cell in row]))
        if any(cell.interval for cell in row):
            lines.append(_line([_interval(cell) for cell in row]))
    return lines


def _line(cells: list[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _heading(text: str, is_text: bool) -> str:
    """In a box of several lines, as narrow as its words allow."""
    lines = textwrap.wrap(text, HEADING_WIDTH, break_long_words=False, break_on_hyphens=False)
    side, stack = "l" if is_text else "r", r"\\".join(map(_escape, lines))
    return rf"\shortstack[{side}]{{{stack}}}"


def _number(cell: Cell) -> str:
    text = _escape(cell.text)
    return (rf"\textbf{{{text}}}" if cell.bold else text) + _escape(cell.mark)


def _interval(cell: Cell) -> str:
    return rf"{{\tiny {_escape(cell.interval)}}}" if cell.interval else ""


def _escape(text: str) -> str:
    """The text on one line, with special characters escaped and pairs of straight quotes made curly."""
    quoted = re.sub('"([^"]*)"', r"“\1”", " ".join(text.split()))
    return SPECIAL.sub(lambda sign: COMMANDS[sign[0]], quoted)
