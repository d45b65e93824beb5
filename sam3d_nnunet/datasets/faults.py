"""Faults of a data set, and the lines in which `sam3d doctor` shows them."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sam3d_nnunet.io import listing
from sam3d_nnunet.nnunet.doctor import Finding

SHOWN = 5  # cases of a line
SENTENCE_END = re.compile(r"\. (?!\S*[/\\])")
"""Not within a path, such as /Dr. Smith/data."""


@dataclass(frozen=True)
class Fault:
    """One fault of a case, a file or the whole data set.

    Attributes:
        serious: training or measuring would fail, or be wrong without a word. Otherwise it is worth a look.
        subject: name of the case, the file or the part of the data set.
        found: what is wrong, in words that are the same for all cases with this fault.
        todo: the repair.
        detail: values of this case.
        counted: what the subject is, in the plural.
    """

    serious: bool
    subject: str
    found: str
    todo: str
    detail: str = ""
    counted: str = "cases"

    def inside(self, folder: Path) -> "Fault":
        """The same with paths from this folder on."""
        start = f"{folder}{os.sep}"
        return replace(self, found=self.found.replace(start, ""), detail=self.detail.replace(start, ""))


def findings(faults: Iterable[Fault]) -> list[Finding]:
    """One line for each kind of fault, serious ones first; the details are those of the first case."""
    groups: dict[tuple, list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: not fault.serious):
        groups.setdefault((fault.serious, fault.found, fault.todo), []).append(fault)
    return [_line(group) for group in groups.values()]


def first_sentence(sentences: object) -> str:
    """The first sentence of an error, which says what is wrong; those behind it say what to do."""
    return SENTENCE_END.split(str(sentences), maxsplit=1)[0].removesuffix(".")


def _line(group: list[Fault]) -> Finding:
    first, names = min(group, key=lambda fault: fault.subject), {fault.subject for fault in group}
    alone = len(names) == 1
    subject = first.subject if alone else f"{len(names)} {first.counted} ({listing(names, SHOWN)})"
    place = "" if alone else f"{first.subject}: "
    detail = f" ({place}{first.detail})" if first.detail else ""
    return Finding("FAIL" if first.serious else "note", _one_line(subject), _one_line(first.found + detail), first.todo)


def _one_line(text: str) -> str:
    """Names and messages of image libraries may hold line breaks, and bytes that are no text."""
    return " ".join(text.split()).encode(errors="backslashreplace").decode()
