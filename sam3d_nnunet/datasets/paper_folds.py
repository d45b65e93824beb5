"""Pickles of strangers, of which only lists, dictionaries and strings are taken.

A pickle is a small program: whatever it names, the usual unpickler imports and calls. Here no name is ever looked up,
so nothing can be called.
"""

import io
import pickle
import pickletools
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

from sam3d_nnunet.datasets.splits import Splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import some

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


PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class PaperFold:
    """Names of the cases of a fold, in the authors' spelling and order.

    Attributes:
        train: what the network learns from.
        val: what the best checkpoint was chosen by.
        test: what the figures were measured on.
    """

    train: list[str]
    val: list[str]
    test: list[str]


def read_paper_folds(file: str | Path) -> list[PaperFold]:
    """Read a pickled list of {'train' | 'val' | 'test': {case: [image, label]}}; the paths are of no use here.

    Raises:
        SAM3DError: the file can't be read, isn't laid out like that, or a case is in two parts of a fold.
    """
    content = read_plain_pickle(file)
    if not isinstance(content, list) or not content:
        raise SAM3DError(f"{file} holds no folds: a list of them is wanted, not {type(content).__name__}.")
    return [_fold(fold, f"fold {number} of {file}") for number, fold in enumerate(content)]


def to_splits(folds: list[PaperFold], join_validation: bool = True) -> Splits:
    """Folds as nnU-Net wants them: it validates on the authors' test set.

    Args:
        folds: of the authors.
        join_validation: train on their validation set, too; else it is left out, as in the paper.
    """
    return [{"train": fold.train + fold.val * join_validation, "val": fold.test} for fold in folds]


def _fold(fold: Any, where: str) -> PaperFold:
    if not isinstance(fold, dict) or fold.keys() != set(PARTS):
        raise SAM3DError(f"The {where} is no dictionary of {', '.join(PARTS)}.")
    for part in PARTS:
        cases = fold[part]
        if not isinstance(cases, dict) or not all(isinstance(name, str) and name for name in cases):
            raise SAM3DError(f"In the {where}, {part} is no dictionary with names of cases.")
    for one, other in combinations(PARTS, 2):
        both = fold[one].keys() & fold[other].keys()
        if both:
            raise SAM3DError(f"In the {where}, {len(both)} case(s) are in {one} and in {other}: {some(both)}.")
    return PaperFold(*(list(fold[part]) for part in PARTS))
