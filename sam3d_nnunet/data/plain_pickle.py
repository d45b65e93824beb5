"""Pickles of strangers, of which only lists, dictionaries and strings are taken.

A pickle is a small program: whatever it names, the usual unpickler imports and calls. Here no name is ever looked up,
so nothing can be called.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from sam3d_nnunet.errors import SAM3DError

LARGEST_FILE = 16 * 2**20
"""Bytes; the largest published file of folds has 0.13 MB."""
PLACES = ("PUT", "BINPUT", "LONG_BINPUT")
SHORTHANDS = ("EXT1", "EXT2", "EXT4")


class PlainUnpickler(pickle.Unpickler):
    """Makes plain containers and strings; refuses any class or function by its name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise SAM3DError(
            f"it asks for {module}.{name}. Files of folds hold lists, dictionaries and strings only; this one may try "
            "to run code. Nothing was run; don't load it with anything else"
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        raise SAM3DError("it asks for an object outside the file. Nothing was loaded")


def read_plain_pickle(file: str | Path) -> Any:
    """What a pickle of lists, dictionaries and strings holds.

    Raises:
        SAM3DError: the file can't be read, is too large, is no whole pickle, or holds or calls anything else.
    """
    try:
        with open(file, "rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except OSError as e:
        raise SAM3DError(f"The pickle {file} can't be read: {e}.") from e
    if len(data) > LARGEST_FILE:
        raise SAM3DError(f"The pickle {file} has more than {LARGEST_FILE >> 20} MiB: that is no file of folds.")
    try:
        _refuse_tricks(data)
        return PlainUnpickler(io.BytesIO(data)).load()
    except SAM3DError as e:
        raise SAM3DError(f"The pickle {file} is refused: {e}.") from e
    except Exception as e:  # a broken pickle raises whatever its broken bytes lead to
        raise SAM3DError(f"The file {file} is no whole pickle ({type(e).__name__}: {e}). Download it again.") from e


def _refuse_tricks(data: bytes) -> None:
    """What `find_class` doesn't see: shorthands, which may be cached, and places that make the memo fill the memory."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in SHORTHANDS:
            raise SAM3DError(f"it asks for the registered extension {argument}. Nothing was loaded")
        if opcode.name in PLACES and argument > len(data):
            raise SAM3DError(f"it numbers its objects up to {argument}, more than the file has bytes")
