"""The numbers of a page in Markdown, by section and by table or paragraph, for `find_numbers.py`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pandas as pd

NUMBER = re.compile(
    r"(?<![\w.,:#])(?<![A-Za-z_][-/])[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!(?!x\b)\w|[.,:]\d|-[A-Za-z])"
)
"""Not in names, versions and times of day; 23x is 23 times."""
SOURCE = re.compile(r"<!--\s*numbers:\s*(.+?)\s*-->")
HEADING = re.compile(r"(#+) (.+)")
FENCE = re.compile(r"\s*(```|~~~)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]*)\)")
ROW = re.compile(r"\n")
SENTENCE = re.compile(r"(?<=[.!?])(?=\s+[A-Z*\[])|\n(?=\s*(?:[-*]|\d+\.) )")
"""Where a sentence or the item of a list ends."""
NOT_MEASURED = re.compile(
    r"<!--.*?-->|`[^`]*`|!\[[^\]]*\]\([^)]*\)|https?://\S+|\b\d{4}-\d\d-\d\d\b|arXiv[ :]\d{4}\.\d+|al\. \d{4}"
    r"|<[a-zA-Z/][^>]*>|\{[^}\n]*\}|^\s*\d+\. |\b95 %|p < 0\.05",
    re.DOTALL | re.MULTILINE,
)
"""Comments, code, pictures, addresses, dates, papers, HTML, numbers of lists, and the level of intervals and tests."""
COMMAND = re.compile(r"\bbenchmarks/(\w+)\.py|\bsam3d benchmark (\S+)")
OURS = ("find_numbers", "keep_results", "results_pages")
"""Scripts that measure nothing."""


@dataclass(frozen=True)
class Number:
    """A number as it is printed.

    Attributes:
        text: digits, perhaps with a sign, commas and an exponent.
        start: its place in the text that it was found in.
        role: what it is: mean, low or high of an interval, spread or p.
    """

    text: str
    start: int
    role: str = "mean"

    def moved(self, by: int) -> "Number":
        """The same in a text that begins so much earlier."""
        return replace(self, start=self.start + by)

    def is_rounded(self, value: float) -> bool:
        """Whether the value, rounded to these digits, is this number."""
        printed = Decimal(self.text.replace(",", "").replace("−", "-"))
        half = Decimal(1).scaleb(printed.as_tuple().exponent) / 2
        return not pd.isna(value) and abs(Decimal(repr(float(value))) - printed) <= half * Decimal("1.000001")


@dataclass
class Block:
    """A table or a paragraph, with the comment that names its source, if any."""

    line: int
    text: str = ""
    source: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether it is a table."""
        return self.text.startswith("|")

    def line_of(self, start: int) -> int:
        """Line in the page of a place in the text."""
        return self.line + self.text.count("\n", 0, start)


@dataclass
class Section:
    """A heading and what follows up to the next one; `above` are the sections that it is part of."""

    title: str
    level: int
    above: list["Section"] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    text: str = ""

    @property
    def anchor(self) -> str:
        """As GitHub and mkdocs make it."""
        return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", self.title.lower()).strip())

    @property
    def commands(self) -> list[tuple[str, Path]]:
        """Names and files of the scripts and recipes that it names."""
        found = [_command(match) for match in COMMAND.finditer(self.text) if match[1] not in OURS]
        return list(dict.fromkeys(found))

    @property
    def commands_above(self) -> list[tuple[str, Path]]:
        """Its own commands, or else those of the nearest section that it is part of; the whole page is none."""
        nearest = [self, *(section for section in reversed(self.above) if section.level > 1)]
        return next((section.commands for section in nearest if section.commands), [])


def sections(text: str) -> list[Section]:
    """The sections of a page, each with its tables and paragraphs; what stands in fences is in the text alone."""
    found, in_fence, block, source = [Section("", 0)], False, None, None
    for number, line in enumerate(text.split("\n"), 1):
        heading = None if in_fence else HEADING.match(line)
        if heading:
            level = len(heading[1])
            above = [s for s in [*found[-1].above, found[-1]] if 0 < s.level < level]
            found.append(Section(heading[2].strip(), level, above))
            block = source = None
            continue
        found[-1].text += line + "\n"
        if FENCE.match(line):
            in_fence, block = not in_fence, None
            continue
        comment = SOURCE.fullmatch(line.strip())
        if comment:
            source, block = comment[1], None
        elif in_fence or not line.strip():
            block = None
        else:
            if block is None or block.is_table != line.lstrip().startswith("|"):
                block, source = Block(number, source=source), None
                found[-1].blocks.append(block)
            block.text += ("\n" if block.text else "") + (line.lstrip() if line.lstrip().startswith("|") else line)
    return found


def units(block: Block) -> Iterator[tuple[int, str]]:
    """Rows of a table, sentences of a paragraph, with their places in the text of the block."""
    breaks = [match.start() for match in (ROW if block.is_table else SENTENCE).finditer(block.text)]
    for start, end in zip([0, *breaks], [*breaks, None]):
        yield start, block.text[start:end]


def numbers(text: str) -> list[Number]:
    """The numbers of a text that can be measurements."""
    text = NOT_MEASURED.sub(blank, text)
    text = LINK.sub(lambda m: f" {m[1]} ".ljust(len(m[0])), text)
    found, in_brackets = [], 0
    for match in NUMBER.finditer(text):
        before = text[: match.start()]
        in_brackets = in_brackets + 1 if before.count("[") > before.count("]") else 0
        if in_brackets:
            role = "low" if in_brackets % 2 else "high"
        elif before.rstrip().endswith("±"):
            role = "spread"
        else:
            role = "p" if re.search(r"\bp\s*[=<≤]\s*$", before) else "mean"
        found.append(Number(match[0], match.start(), role))
    return found


def cells(line: str) -> list[tuple[int, str]]:
    """Cells of a row of a table, with their places in it."""
    bars = [match.start() for match in re.finditer(r"(?<!\\)\|", line)]
    return [(start + 1, line[start + 1 : end]) for start, end in zip(bars, bars[1:])]


def lines(text: str, first: int = 0) -> Iterator[tuple[int, str]]:
    """Lines of a text with their places in it."""
    start = 0
    for number, line in enumerate(text.split("\n")):
        if number >= first:
            yield start, line
        start += len(line) + 1


def to_float(text: str) -> float:
    """The value of a printed number."""
    return float(text.replace(",", "").replace("−", "-"))


def _command(match: re.Match) -> tuple[str, Path]:
    """What a command is called here, and the file that must be there."""
    script, recipe = match.groups()
    if script:
        return f"benchmarks/{script}.py", Path("benchmarks") / f"{script}.py"
    return f"sam3d benchmark {recipe}", Path(recipe) if recipe.endswith(".json") else Path("plans") / f"{recipe}.json"


def blank(match: re.Match) -> str:
    """As many spaces, so that places stay the same."""
    return re.sub(r"[^\n]", " ", match[0])
