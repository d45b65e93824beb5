"""Finds the numbers of README.md and docs/results/*.md again in what they were taken from.

A comment before a table or a paragraph names its source:

    <!-- numbers: results/spine_mr; protocol=volume_1; target=vertebra -->

- A table: each number must be, to its printed digits, in the table that benchmarks/results_pages.py makes from that
  folder, in the row and column that the table's headings and names tell: methods, protocols, targets and metrics,
  written as in table.md. What follows the folder chooses rows by method, protocol, clicks, target, metric or source;
  alternatives are separated by |. Numbers in square brackets are intervals, those after ± standard deviations.
- A paragraph: each number must be a mean, interval, difference or cost of a chosen row. Choose few rows, so that a
  wrong number isn't found by chance. Whole numbers may also be settings of the recipe, the methods or the data set.
- Any JSON or CSV file can be the source: each number must stand in it somewhere.
- "none" instead of a source: there are no measurements in the next table or paragraph.

Without a comment, numbers in a section with the command of a script in benchmarks/ or of sam3d benchmark come from that
script, which can't be read again; it is checked that it is there. In other sections, numbers in a sentence or a row
with a link to a page must stand in the linked section. What is left has no source. Code, headings, dates and numbers in
names (volume_1, 3-D) don't count. The exit code is 1 if a number isn't found, or a source or script isn't there.

Examples:
    python benchmarks/find_numbers.py
    python benchmarks/find_numbers.py docs/results/spine.md --strict
"""

import argparse
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from page_numbers import LINK, Block, Number, Section, blank, cells, lines, numbers, sections, to_float, units
from results_pages import ORIGIN, ROOT, kept_content

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import is_share, metric_name
from sam3d_nnunet.evaluation.results import DATA, METHOD
from sam3d_nnunet.io import read_json, read_text
from sam3d_nnunet.report.layout import COSTS
from sam3d_nnunet.report.long_csv import NUMBERS, PAPER, to_csv

NONE = "none"
MOST_ROWS = 6
"""That a paragraph may choose."""
VALUES = {name.replace("_", " "): name for name in NUMBERS} | {item.heading: item.key for item in COSTS}
"""Columns of table.csv with numbers, by what a table may call them."""
MILLIONS = "tuned_parameters"
FILTERS = ("method", "protocol", "clicks", "target", "metric", "source")
FOUND, LINKED, SCRIPT = "found again", "in the linked section", "from a script"
NO_SOURCE, WRONG = "no source", "NOT FOUND"
NAMES = ("name", "method", "label", "protocol", "target", "metric_name", "metric", "heading")
"""Columns of table.csv, and those that are added here, with what headings, rows and texts may be about."""
SPREADS = ("sd_folds", "sd_runs", "sd_trials")
COLUMNS = {"low": ("low",), "high": ("high",), "spread": SPREADS, "p": ("p_holm", "p")}
"""Columns of table.csv by the role of a number."""
IN_TEXT = ("mean", "difference", "cases", *(item.key for item in COSTS))
"""Those of other numbers of a paragraph."""


@dataclass(frozen=True)
class Finding:
    """What became of a number, or of a script or source that a page names."""

    status: str
    page: Path
    line: int
    text: str
    detail: str = ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("A comment") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pages", nargs="*", type=Path, help="default: README.md and docs/results/*.md")
    parser.add_argument("--strict", action="store_true", help="exit code 1 also for numbers without a source")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository; default: this one")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    pages = options.pages or [root / "README.md", *sorted((root / "docs" / "results").glob("*.md"))]
    try:
        found = [finding for page in pages for finding in Finder(root, page.resolve()).findings()]
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    show(found, root)
    failing = {WRONG, NO_SOURCE} if options.strict else {WRONG}
    if any(finding.status in failing for finding in found):
        sys.exit(1)


def show(found: Sequence[Finding], root: Path) -> None:
    """Print what needs a look line by line, and count the rest."""
    for status in (SCRIPT, NO_SOURCE, WRONG):
        by_script = Counter()
        for finding in (f for f in found if f.status == status):
            place = finding.page.relative_to(root) if finding.page.is_relative_to(root) else finding.page
            if status == SCRIPT:
                by_script[f"{place}: {finding.detail}"] += 1
            else:
                print(f"{status}: {place}:{finding.line}: {finding.text}{finding.detail and f': {finding.detail}'}")
        for text, count in by_script.items():
            print(f"{status}: {text}: {count} numbers")
    counts = Counter(finding.status for finding in found)
    print("; ".join(f"{counts[status]} {status}" for status in (FOUND, LINKED, SCRIPT, NO_SOURCE, WRONG)))


class Finder:
    """Goes through the numbers of a page."""

    def __init__(self, root: Path, page: Path) -> None:
        self.root, self.page = root, page

    def findings(self) -> Iterator[Finding]:
        """One for each number, and one for each source and script that isn't there."""
        for section in sections(read_text(self.page)):
            yield from self._missing_scripts(section)
            for block in section.blocks:
                if block.source == NONE:
                    continue
                if block.source is None:
                    yield from self._without_source(section, block)
                    continue
                try:
                    source = source_of(self.root, block.source)
                except SAM3DError as e:
                    yield Finding(WRONG, self.page, block.line, f"numbers: {block.source}", str(e))
                    continue
                check = source.table if block.is_table else source.paragraph
                for number, problem in check(block.text):
                    yield self._finding(WRONG if problem else FOUND, block, number, problem)

    def _missing_scripts(self, section: Section) -> Iterator[Finding]:
        for name, file in section.commands:
            if not (self.root / file).is_file() and not file.is_file():
                yield Finding(WRONG, self.page, section.blocks[0].line if section.blocks else 1, name, "is not there")

    def _without_source(self, section: Section, block: Block) -> Iterator[Finding]:
        commands = ", ".join(name for name, _ in section.commands_above)
        for start, unit in units(block):
            linked = [] if commands else [text for _, target in LINK.findall(unit) if (text := self._linked(target))]
            for number in numbers(unit):
                place = Number(number.text, start + number.start)
                if commands:
                    yield self._finding(SCRIPT, block, place, f"{section.title} ({commands})")
                elif not linked:
                    yield self._finding(NO_SOURCE, block, place, "")
                elif any(number.is_rounded(to_float(other.text)) for text in linked for other in numbers(text)):
                    yield self._finding(LINKED, block, place, "")
                else:
                    yield self._finding(WRONG, block, place, "the linked section does not hold it")

    def _finding(self, status: str, block: Block, number: Number, detail: str) -> Finding:
        return Finding(status, self.page, block.line_of(number.start), number.text, detail)

    def _linked(self, target: str) -> str | None:
        """Text of the section of a page that a link leads to; None for other links."""
        path, _, anchor = target.partition("#")
        file = (self.page.parent / path) if path else self.page
        if file.suffix != ".md" or "://" in target or not file.is_file():
            return None
        found = sections(read_text(file))
        if not anchor:
            return "\n".join(section.text for section in found)
        return "\n".join(s.text for s in found if anchor in {a.anchor for a in [s, *s.above]})


Checked = Iterator[tuple[Number, str]]
"""Numbers, each with what is wrong with it; empty if it was found."""


class FileSource:
    """Any JSON or CSV file."""

    def __init__(self, file: Path) -> None:
        self._name = file.name
        text = read_text(file)
        if file.suffix == ".json":
            read_json(file)
        self._values = [
            to_float(text) for text in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])", text)
        ]

    def table(self, text: str) -> Checked:
        """Each number of a table in Markdown; those of its first row and column are names."""
        for start, line in lines(text, first=2):
            for place, cell in cells(line)[1:]:
                yield from self._check(cell, start + place)

    def paragraph(self, text: str) -> Checked:
        """Each number of a text."""
        yield from self._check(text, 0)

    def _check(self, text: str, start: int) -> Checked:
        for number in numbers(text):
            found = any(number.is_rounded(value) for value in self._values)
            yield Number(number.text, start + number.start), "" if found else f"it is not in {self._name}"


class KeptSource:
    """The table of a folder of kept results, or some of its rows."""

    def __init__(self, name: str, rows: pd.DataFrame, settings: frozenset[int], filters: dict[str, str]) -> None:
        """
        Args:
            name: of the folder.
            rows: of table.csv.
            settings: whole numbers that are no measurements.
            filters: what rows must hold, by FILTERS.

        Raises:
            SAM3DError: a filter is unknown or leaves no row.
        """
        self._name, self._all, self._settings, self._filters = name, rows, settings, filters
        if "source" not in filters:  # a name of the paper can be one of ours
            rows = rows[rows["source"] != PAPER]
        for key, value in filters.items():
            if key not in FILTERS:
                raise SAM3DError(f"there is no {key!r} to choose by; use {', '.join(FILTERS)}")
            wanted = [one.strip() for one in value.split("|")]
            rows = rows[pd.concat([self._is(rows, key, one) for one in wanted], axis=1).any(axis=1)]
            if rows.empty:
                raise SAM3DError(f"no row of {name} has the {key} {value!r}")
        self._rows = rows

    def table(self, text: str) -> Checked:
        """Each number of a table in Markdown, in the row and column that its names tell."""
        (_, heading), *rest = lines(text)
        headings = [_plain(cell) for _, cell in cells(heading)]
        columns = [VALUES.get(heading, "mean") for heading in headings]
        chosen = [None if heading in VALUES else self._named(heading) for heading in headings]
        is_label = [heading not in VALUES and rows is None for heading, rows in zip(headings, chosen)]
        for start, line in rest[1:]:
            rows, row = pd.Series(True, self._rows.index), list(zip(cells(line), is_label, columns, chosen))
            for (place, cell), label, *_ in row:
                named = self._named(_plain(cell)) if label else None
                rows &= True if named is None else named
                if label and named is None:
                    yield from ((n.moved(start + place), f"no row of {self._name} is called so") for n in numbers(cell))
            for (place, cell), label, column, of_heading in row:
                if not label:
                    left = self._rows[rows if of_heading is None else rows & of_heading]
                    yield from self._cell(cell, start + place, left, column)

    def _cell(self, cell: str, start: int, rows: pd.DataFrame, column: str) -> Checked:
        for number in numbers(cell):
            moved = number.moved(start)
            if rows.empty:
                yield moved, f"no row of {self._name} has these names"
            elif column == "mean" and len(rows) > 1:
                yield moved, f"{len(rows)} rows of {self._name} have these names; choose one in the comment"
            else:
                yield moved, self._problem(number, rows, COLUMNS.get(number.role, (column,)))

    def paragraph(self, text: str) -> Checked:
        """Each number of a text, among the values of the chosen rows."""
        known = {name for key in NAMES for name in self._all[key].astype(str) if re.search(r"\d", name)}
        for name in sorted(known, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", blank, text)
        for number in numbers(text):
            if number.text.isdecimal() and int(number.text) in self._settings:
                yield number, ""
            elif len(self._rows) > MOST_ROWS:
                yield number, f"the comment leaves {len(self._rows)} rows of {self._name}; choose {MOST_ROWS} or fewer"
            else:
                yield number, self._problem(number, self._rows, COLUMNS.get(number.role, IN_TEXT))

    def _problem(self, number: Number, rows: pd.DataFrame, columns: Sequence[str]) -> str:
        """What is wrong with a number that should be in one of these columns; empty if nothing is."""
        values = [value for row in rows.to_dict("records") for column in columns for value in _forms(row, column)]
        if any(number.is_rounded(value) for value in values):
            return ""
        known = sorted({f"{value:.6g}" for value in values if not pd.isna(value)})
        return f"{self._name} has {', '.join(known[:MOST_ROWS])}" if known else f"{self._name} has no number there"

    def _named(self, name: str) -> pd.Series | None:
        """The rows that a name is about; None if there are none."""
        for key in NAMES:
            rows = self._rows[key].astype(str).str.casefold() == name.casefold()
            if name and rows.any():
                return rows
        return None

    @staticmethod
    def _is(rows: pd.DataFrame, key: str, value: str) -> pd.Series:
        columns = {"method": ("method", "name"), "protocol": ("protocol", "label"), "metric": ("metric", "metric_name")}
        return pd.concat([rows[c].astype(str) == value for c in columns.get(key, (key,))], axis=1).any(axis=1)


def source_of(root: Path, comment: str) -> FileSource | KeptSource:
    """The source that a comment names.

    Raises:
        SAM3DError: it isn't there or can't be read, or it chooses no rows.
    """
    path, *filters = [part.strip() for part in comment.split(";")]
    place = root / path
    if place.is_file() and place.suffix in (".json", ".csv"):
        return FileSource(place)
    if not (place / ORIGIN).is_file():
        raise SAM3DError(f"{path} is neither a folder of kept results nor a JSON or CSV file")
    chosen = {key.strip(): value.strip() for key, _, value in (one.partition("=") for one in filters if one)}
    kept = place.resolve()  # read once, whatever it is called
    return KeptSource(path, _rows(kept), _settings(kept), chosen)


@cache
def _rows(kept: Path) -> pd.DataFrame:
    """table.csv of a folder of kept results, made now, with what table.md calls its rows and columns."""
    rows = pd.read_csv(io.StringIO(to_csv(kept_content(kept))))
    rows["clicks"] = rows["clicks"].astype("Int64")
    metric = rows["metric"].str.removesuffix("_area")
    rows["metric_name"] = metric.map(metric_name)
    rows["heading"] = rows["target"] + " " + rows["metric_name"]
    rows["label"] = [
        f"{row.protocol}, area"
        if row.metric.endswith("_area")
        else f"{row.protocol}, after {row.clicks}"
        if pd.notna(row.clicks)
        else row.protocol
        for row in rows.itertuples()
    ]
    return rows


@cache
def _settings(kept: Path) -> frozenset[int]:
    """Whole numbers of the recipe, the methods and the data set."""
    files = [kept / ORIGIN, kept / DATA, *sorted(kept.glob(f"*/{METHOD}"))]
    return frozenset(number for file in files for number in _whole(read_json(file)))


def _whole(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        yield from (number for one in value for number in _whole(one))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer():
        yield int(value)


def _forms(row: dict[str, Any], column: str) -> list[float]:
    """A value as it can be printed: a share also in per cent, parameters also in millions."""
    value = row[column]
    if column == MILLIONS:
        return [value, value / 1e6]
    score = column in ("mean", "low", "high", "difference", *SPREADS)
    return [value, 100 * value] if score and is_share(row["metric"].removesuffix("_area")) else [value]


def _plain(cell: str) -> str:
    """A cell or heading as table.csv has it."""
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", LINK.sub(r"\1", cell).replace("**", "").replace("`", ""))
    return re.sub(r"\s*(\(baseline\)|†)\s*$", "", text.strip())


if __name__ == "__main__":
    main()
