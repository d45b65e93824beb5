"""The authors' folds: read from their pickles, matched with the names of a data set, and written for nnU-Net.

A pickle is a small program: the usual unpickler imports and calls what it names. Here no name is ever looked up, so
that nothing can be called; only lists, dictionaries and strings are taken.
"""

import io
import pickle
import pickletools
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import (
    Splits,
    describe_splits,
    read_splits,
    same_splits,
    splits_file,
    write_splits,
)
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import composed, listing, short
from sam3d_nnunet.nnunet.folders import trained_folds

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
    """Read a pickle of lists, dictionaries and strings.

    Raises:
        SAM3DError: the file can't be read, is too large, is no complete pickle, or holds or calls anything else.
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
    except Exception as e:  # a damaged pickle raises errors of many kinds
        raise SAM3DError(f"The file {file} is no complete pickle ({type(e).__name__}: {e}). Download it again.") from e


def _refuse_tricks(data: bytes) -> None:
    """Refuse what `find_class` does not see: extension codes, which may be cached, and numbers that fill the memory."""
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
    """Read a pickled list of {'train' | 'val' | 'test': {case: [image, label]}}. The paths are ignored.

    Raises:
        SAM3DError: the file can't be read or holds something else, or a case is in two parts of a fold.
    """
    content = read_plain_pickle(file)
    if not isinstance(content, list) or not content:
        raise SAM3DError(f"{file} holds no folds: it must be a list, not {type(content).__name__}.")
    return [_fold(fold, f"fold {number} of {file}") for number, fold in enumerate(content)]


def to_splits(folds: list[PaperFold], train_on_validation: bool = True) -> Splits:
    """Folds for nnU-Net, which validates on the authors' test set.

    Args:
        folds: of the authors.
        train_on_validation: train on the authors' validation set, too. Otherwise it is left out, as in the paper.
    """
    return [{"train": fold.train + fold.val * train_on_validation, "val": fold.test} for fold in folds]


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
            raise SAM3DError(f"In the {where}, {len(both)} case(s) are in {one} and in {other}: {listing(both)}.")
    return PaperFold(*(list(fold[part]) for part in PARTS))


def describe_file(file: Path) -> list[str]:
    """Describe folds in nnU-Net's JSON or in a pickle (.pkl) of the authors, in lines of text."""
    return describe_splits(to_splits(read_paper_folds(file)) if file.suffix == ".pkl" else read_splits(file))


@dataclass(frozen=True)
class NameMatch:
    """Which names mean the same case.

    Attributes:
        found: name wanted -> name there.
        missing: names wanted that nothing there matches.
        surplus: names there that nothing wanted matches.
    """

    found: dict[str, str]
    missing: list[str]
    surplus: list[str]


def match_names(wanted: Collection[str], there: Collection[str]) -> NameMatch:
    """Match equal names, then names that differ only in case, separators (- _ . space) or leading zeros.

    So volume-8, volume_008 and Volume8 mean the same case.

    Raises:
        SAM3DError: several names may mean the same case.
    """
    found = {name: name for name in set(wanted) & set(there)}
    left = set(wanted) - found.keys()
    theirs, ours = _by_key(left), _by_key(set(there) - found.keys())
    for key, names in theirs.items():
        candidates = ours.get(key, [])
        if candidates and len(names) + len(candidates) > 2:
            raise SAM3DError(
                f"Several names may mean the same case: {listing(names)} could be {listing(candidates)}. "
                "Rename the cases of the data set like those of the folds."
            )
        found |= dict(zip(names, candidates))
    taken = set(found.values())
    return NameMatch(found, sorted(left - found.keys()), sorted(set(there) - taken))


def _by_key(names: Collection[str]) -> dict[tuple[str, ...], list[str]]:
    keys = defaultdict(list)
    for name in sorted(names):
        words = re.findall(r"[0-9]+|[^0-9\-_. ]+", composed(name).casefold())
        key = tuple((word.lstrip("0") or "0") if word.isdecimal() else word for word in words)
        keys[key].append(name)
    keys.pop((), None)  # of names that are nothing but separators
    return keys


@dataclass(frozen=True)
class ImportedSplits:
    """Folds that were imported.

    Attributes:
        file: where they are.
        splits: as written, in the data set's names.
        match: of the authors' names and those of the data set.
        unchanged: whether the data set had these folds already.
    """

    file: Path
    splits: Splits
    match: NameMatch
    unchanged: bool

    def notes(self) -> list[str]:
        """Which names differ, and what is missing on either side."""
        renamed = [f"{theirs} = {ours}" for theirs, ours in self.match.found.items() if theirs != ours]
        lists = {
            "of the folds, with another name in the data set": renamed,
            "of the folds, not in the data set and left out": self.match.missing,
            "of the data set, in none of these folds": self.match.surplus,
        }
        return [f"{len(names)} case(s) {what}: {listing(names)}" for what, names in lists.items() if names]


def import_splits(
    pickle_file: str | Path,
    dataset: str,
    train_on_validation: bool = True,
    allow_missing: bool = False,
    overwrite: bool = False,
) -> ImportedSplits:
    """Write splits_final.json of a data set from a pickle of the authors.

    Args:
        pickle_file: as `read_paper_folds` takes it.
        dataset: id or name in nnUNet_raw.
        train_on_validation: as `to_splits` takes it.
        allow_missing: leave out cases that the data set does not have.
        overwrite: replace existing folds.

    Raises:
        SAM3DError: a file or the data set can't be used, cases are missing, or the data set has other folds.
    """
    folds = read_paper_folds(pickle_file)
    theirs = to_splits(folds, train_on_validation)
    named = {name for fold in folds for name in fold.train + fold.val + fold.test}
    raw = RawDataset.find(dataset)
    match = match_names(named, raw.cases)
    _refuse_missing(match, len(named), raw, allow_missing)
    splits = [{part: [match.found[n] for n in names if n in match.found] for part, names in f.items()} for f in theirs]
    for number, fold in enumerate(splits):
        for part, what in (("train", "trained on"), ("val", "validated on")):
            if not fold[part]:
                raise SAM3DError(f"Fold {number} would hold no case that is {what}. Add missing cases to {raw.name}.")
    file = splits_file(raw.name)
    unchanged = file.exists() and not overwrite and _is_same(splits, file, raw.name)
    if not unchanged:
        write_splits(splits, file)
    return ImportedSplits(file, splits, match, unchanged)


def _refuse_missing(match: NameMatch, wanted: int, raw: RawDataset, allowed: bool) -> None:
    if not match.found:
        raise SAM3DError(
            f"None of the {wanted} cases of these folds is in {raw.folder}: theirs are called "
            f"{short(match.missing[0])}, those of the data set {match.surplus[0]}. Give the data set that they belong "
            "to."
        )
    if match.missing and not allowed:
        raise SAM3DError(
            f"{len(match.missing)} of the {wanted} cases of these folds are not in {raw.folder}: "
            f"{listing(match.missing)}. Add them, or leave them out with --allow-missing."
        )


def _is_same(splits: Splits, file: Path, name: str) -> bool:
    if same_splits(splits, read_splits(file)):
        return True
    trained = trained_folds(name)
    again = f" Train these again afterwards: {listing(trained)}." if trained else ""
    raise SAM3DError(
        f"{file} holds other folds. If you replace them, a trained model may be validated on cases that it was trained "
        f"on.{again} Keep them, or replace them with --overwrite."
    )
