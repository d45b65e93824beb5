"""Read files with errors that name them, and write files that appear complete or not at all.

`whole_file`, `whole_files` and `whole_folder` give a temporary place beside the result. Only a complete result gets its
name: after a full disk or a killed process there is no half of a file, and an earlier file is as it was.
"""

import errno
import json
import locale
import os
import re
import reprlib
import shutil
import time
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sam3d_nnunet.errors import FULL, SAM3DError
from sam3d_nnunet.processes import shared_lock

PART = ".part_"
"""How the names of temporary folders begin: with a dot, so that nobody takes them for a case or a module."""
HALF = re.compile(r"\\u[dD]")
"""Begins the halves of a character in JSON. One half alone can't be written, nor be the name of anything."""
DIGITS = re.compile(r"\d{309}")
"""More digits than those of the largest number that a computer calculates with."""
UNLOCKED = 5.0  # seconds in which a process surely locks a temporary folder that it has made


@contextmanager
def kept_locale() -> Iterator[None]:
    """Keep the locale of the process, which ITK sets to "C" when it reads VTK files.

    Python would then refuse to write names in other scripts into text files.
    """
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def read_text(path: Path, hint: str = "") -> str:
    """Text of a UTF-8 file, with or without byte order mark; line ends are kept.

    Args:
        path: of the file.
        hint: a sentence for errors that says what to do.

    Raises:
        SAM3DError: there is no such file, it can't be read or it is not UTF-8.
    """
    try:
        return read_bytes(path, hint).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise _error(f"{path} can't be read: it is not UTF-8 text ({e}).", hint or "Save it as UTF-8.") from e


def read_bytes(path: Path, hint: str = "") -> bytes:
    """Content of a file. Arguments and errors are those of `read_text`, but for the text's encoding."""
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise _error(f"There is no file {path}.", hint) from e
    except OSError as e:
        raise _error(f"{path} can't be read: {e.strerror or e}.", hint) from e


def read_json(path: Path, hint: str = "") -> Any:
    """Content of a JSON file. Arguments and errors are those of `read_text`; other text than JSON is an error, too."""
    text = read_text(path, hint)
    try:
        content = json.loads(text)
        if digits := DIGITS.search(text):
            line = text.count("\n", 0, digits.start()) + 1
            raise ValueError(f"a number in line {line} has hundreds of digits")
        if HALF.search(text):
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except json.JSONDecodeError as e:
        raise _error(f"{path}, line {e.lineno}: this is not JSON ({e.msg}).", hint or "Correct the file.") from e
    except UnicodeEncodeError as e:
        half = ascii(e.object[e.start])[1:-1]
        raise _error(f"{path} holds {half}, which is half of a character.", hint or "Correct the file.") from e
    except (RecursionError, ValueError) as e:  # thousands of brackets or digits
        raise _error(f"{path} holds no JSON that can be read: {e}.", hint) from e


def read_json_object(path: Path, keys: Collection[str] = (), hint: str = "") -> dict[str, Any]:
    """Content of a JSON file that holds an object with these keys; anything else in it is an error, too."""
    content = read_json(path, hint)
    if not isinstance(content, dict):
        raise _error(f"{path} holds no JSON object {{...}}.", hint)
    missing = [key for key in keys if key not in content]
    if missing:
        raise _error(f"{path} lacks {', '.join(missing)}.", hint)
    return content


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; line ends are kept."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: Any, indent: int = 2, ensure_ascii: bool = True) -> None:
    """Write a JSON file that ends with a line break."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) + "\n")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write one file to; the file moves to `path` when the block ends without an error.

    Args:
        path: of the file, whose folder exists. A file that is there is replaced.
    """
    try:
        with _working_folder(path.parent) as folder:
            part = folder / path.name
            yield part
            _flush(part)
            os.replace(part, path)
    except OSError as e:
        if e.filename == str(path.parent):
            e.filename = str(path)
        raise


@contextmanager
def whole_files(folder: Path, last: str = "") -> Iterator[Path]:
    """A temporary folder; all files in it, and in its folders, move to `folder` when the block ends without an error.

    Args:
        folder: exists. Files of the same names are replaced.
        last: name of the file that moves last: where it is there, so are all others. The block must write it.

    Raises:
        FileNotFoundError: the block has not written `last`.
    """
    with _working_folder(folder) as part:
        yield part
        files = sorted(file.relative_to(part) for file in part.rglob("*") if file.is_file())
        if last:
            files = [*(file for file in files if file != Path(last)), Path(last)]
        for file in files:
            _flush(part / file)
        for file in files:
            (folder / file.parent).mkdir(parents=True, exist_ok=True)
            os.replace(part / file, folder / file)


@contextmanager
def _working_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder in a folder. Errors name what lies in it as if it lay in `folder`, which the user knows.

    While the block runs, the temporary folder is locked. The system ends the lock of a killed process, so that the next
    process that writes here knows what it may remove.
    """
    _remove_left_once(folder)
    temporary = str(folder / PART)
    try:
        with TemporaryDirectory(prefix=PART, dir=folder) as temporary, ExitStack() as held:
            with suppress(OSError):  # not every file system can
                held.enter_context(shared_lock(Path(temporary)))
            yield Path(temporary)
    except OSError as e:
        if e.filename is None and e.errno in FULL:  # Python names no file when a write fails
            e.filename = str(folder)
        for name in ("filename", "filename2"):
            path = getattr(e, name)
            if isinstance(path, str) and path.startswith(temporary):
                setattr(e, name, str(folder.joinpath(*Path(path).relative_to(folder).parts[1:])))
        raise


@cache
def _remove_left_once(folder: Path) -> None:
    """Once in the life of this process."""
    remove_left(folder)


def remove_left(folder: Path, seconds: float = UNLOCKED) -> None:
    """Remove the temporary folders of killed processes.

    Args:
        folder: in which they lie.
        seconds: since when they must not have changed. 0 if no other process writes into the folder.
    """
    for left in folder.glob(f"{PART}*"):
        with suppress(OSError):  # it is in use, or gone, or not ours to remove
            if time.time() - left.lstat().st_mtime > seconds and not left.is_symlink():
                with shared_lock(left):
                    shutil.rmtree(left)


def reserve(file: Path) -> None:
    """Have the system reserve room for all bytes of a file, which a memory map would ask for only when it is written.

    A full disk then ends in an error; a memory map without room ends the process by SIGBUS.

    Raises:
        OSError: there is no room.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        except OSError as e:
            if e.errno in FULL:
                raise OSError(e.errno, e.strerror, str(file)) from e


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path`, which does not exist yet, when the block ends without an error."""
    with _working_folder(path.parent) as folder:
        part = folder / path.name
        part.mkdir()
        yield part
        os.rename(part, path)


def same_name(one: str, other: str) -> bool:
    """Whether two names look the same. Unicode has two ways to write ü, and macOS uses another one than Linux."""
    return composed(one) == composed(other)


def composed(name: str) -> str:
    """A name with ü as one character, for comparisons."""
    return unicodedata.normalize("NFC", name)


def find_file(folder: Path, name: str) -> Path:
    """The file of a name in a folder, or one whose name looks the same. It need not exist."""
    file = folder / name
    if name.isascii() or file.exists() or not folder.is_dir():
        return file
    return next((other for other in folder.iterdir() if same_name(other.name, name)), file)


def brief(value: Any) -> str:
    """A value from a file as a message shows it, whatever its size."""
    return reprlib.repr(value)


def short(text: str, letters: int = 60) -> str:
    """A name or a key from a file as a message shows it, whatever its length."""
    return text if len(text) <= letters else f"{text[:letters]!r} ..."


SHOWN = 20


def listing(names: Iterable[str], shown: int = SHOWN) -> str:
    """Names in order for a message, the first `shown` of them if there are more; of long ones the first letters."""
    names = sorted(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(short(name, 200) for name in names[:shown]) + more


def _flush(file: Path) -> None:
    """Have the system write a file to the disk, so that its name never comes before its content."""
    with file.open("rb+") as stream:
        try:
            os.fsync(stream.fileno())
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that can't, such as some network shares
                raise


def _error(problem: str, hint: str) -> SAM3DError:
    return SAM3DError(f"{problem} {hint}" if hint else problem)
