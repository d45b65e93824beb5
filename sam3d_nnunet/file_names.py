"""Names that become names of files and folders: of cases, methods, runs, plans and data sets.

They come from files that others wrote, such as recipes and splits_final.json. A name is checked where it is read, so
that nothing is read or written outside the folders that the user gave, and nothing fails in the middle of a benchmark.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from sam3d_nnunet.io import composed

LONGEST = 200
"""Bytes of a name in UTF-8. File systems take 255, and nnU-Net and we add endings."""
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)
"""Names that Windows keeps for devices, whatever follows the first dot."""
REVERSING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn around the text after them, so that a name looks like another one."""
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of characters, ends of lines and of paragraphs."""
FORBIDDEN = frozenset('\\/<>:"|?*' if os.name == "nt" else "/")
"""Characters that a name can't have on this system."""


def file_name_fault(name: str) -> str | None:
    """Why no file or folder can have this name, in words that follow "the name"; None if one can.

    Names in any script are fine, and so are spaces, dots and brackets.
    """
    if not name:
        return "is empty"
    if not FORBIDDEN.isdisjoint(name) or {".", ".."}.intersection(re.split(r"[/\\]", name)):
        return "leads to another folder, or holds a character that no file can have here"
    if any(unicodedata.category(character) in UNPRINTABLE for character in name):
        return "holds a line break, another control character, or bytes that are no Unicode"
    if REVERSING.search(name):
        return "holds a character that turns text around, so that it looks like another name"
    if len(name.encode()) > LONGEST:
        return f"has more than {LONGEST} bytes, which leaves no room for endings"
    if DEVICE.fullmatch(name):
        return "is one that Windows keeps for a device, such as CON or NUL"
    return None


def new_name_fault(name: str) -> str | None:
    """Why a name can't be chosen for a folder that we make, which other systems and reports must show; None if it can.

    The words follow "the name".
    """
    if fault := file_name_fault(name):
        return fault
    if name != name.strip() or name.endswith("."):
        return "begins or ends with a space or ends with a dot, which Windows drops"
    if name.startswith("."):
        return "begins with a dot, as those of hidden folders do"
    if "\\" in name:
        return "holds a backslash, which separates folders on Windows"
    if "<" in name or ">" in name:
        return "holds < or >, which stand for other things in web pages and shells"
    return None


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two of several names that are one file on some systems; None if there are none.

    They differ only in upper and lower case, or in their form of Unicode. A name may appear several times.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(same_on_some_systems(name), name)
        if other != name:
            return other, name
    return None


def same_on_some_systems(name: str) -> str:
    """What names have in common that are one file on some systems."""
    return composed(composed(name).casefold())


NAME_FAULT = "file_name"
"""Type of pydantic's errors about names, whose context holds the `fault`."""


def _refusing(find_fault: Callable[[str], str | None]) -> AfterValidator:
    def check(name: str) -> str:
        if fault := find_fault(name):
            raise PydanticCustomError(NAME_FAULT, "must be another name: this one {fault}", {"fault": fault})
        return name

    return AfterValidator(check)


FileName = Annotated[str, _refusing(file_name_fault)]
"""A string that can be the name of a file."""
NewName = Annotated[str, _refusing(new_name_fault)]
"""A string that can be the name of a folder that we make."""
