"""Whole files: read with errors that name the file, written complete or not at all."""

import json
import os
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import uuid4

from sam3d_nnunet.errors import SAM3DError


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without byte order mark; line ends are kept.

    Raises:
        SAM3DError: the file can't be read or is no UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise SAM3DError(f"The prompt file {path} can't be read: it is no UTF-8 text ({e}). Save it as UTF-8.") from e
    except OSError as e:
        raise SAM3DError(f"The prompt file {path} can't be read: {e}.") from e


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        SAM3DError: the file can't be read or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as e:
        raise SAM3DError(f"{path}, line {e.lineno}: {e.msg}; this is no JSON.") from e
    except (RecursionError, ValueError) as e:  # thousands of brackets or digits
        raise SAM3DError(f"The prompt file {path} holds no usable JSON: {e}.") from e


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")  # of its own, should two write at once
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def brief(value: Any) -> str:
    """A value from a file as a message shows it, whatever its size."""
    return reprlib.repr(value)


SHOWN = 20


def some(names: Collection[str]) -> str:
    """Names in order, the first of them if there are many."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
