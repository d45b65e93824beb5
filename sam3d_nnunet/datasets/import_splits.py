"""The same case under two names: `volume-8`, `volume_008` and `Volume8`."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sam3d_nnunet.datasets.paper_folds import read_paper_folds, to_splits
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import Splits, read_splits, same_splits, splits_file, write_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import some
from sam3d_nnunet.nnunet.folders import trained_folds


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
    """Match names that are equal, else those that differ in case, separators (- _ . space) or leading zeros only.

    Raises:
        SAM3DError: several names are candidates for the same case.
    """
    found = {name: name for name in set(wanted) & set(there)}
    left = set(wanted) - found.keys()
    theirs, ours = _by_key(left), _by_key(set(there) - found.keys())
    for key, names in theirs.items():
        candidates = ours.get(key, [])
        if candidates and len(names) + len(candidates) > 2:
            raise SAM3DError(
                f"It can't be told which case is which: {some(names)} could be {some(candidates)}. "
                "Rename the cases of the data set like those of the folds."
            )
        found |= dict(zip(names, candidates))
    taken = set(found.values())
    return NameMatch(found, sorted(left - found.keys()), sorted(set(there) - taken))


def _by_key(names: Collection[str]) -> dict[tuple[str, ...], list[str]]:
    keys = defaultdict(list)
    for name in sorted(names):
        words = re.findall(r"[0-9]+|[^0-9\-_. ]+", name.casefold())
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
        match: of the authors' names with those of the data set.
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
            "of the folds, called otherwise in the data set": renamed,
            "of the folds, not in the data set and left out": self.match.missing,
            "of the data set, in none of these folds": self.match.surplus,
        }
        return [f"{len(names)} case(s) {what}: {some(names)}" for what, names in lists.items() if names]


def import_splits(
    pickle_file: str | Path,
    dataset: str,
    join_validation: bool = True,
    allow_missing: bool = False,
    overwrite: bool = False,
) -> ImportedSplits:
    """Write a data set's splits_final.json from a pickle of the authors'.

    Args:
        pickle_file: as `read_paper_folds` takes it.
        dataset: id or name in nnUNet_raw.
        join_validation: as `to_splits` takes it.
        allow_missing: leave out cases that the data set doesn't have.
        overwrite: replace other folds.

    Raises:
        SAM3DError: a file or the data set can't be used, cases are missing, or there are other folds.
    """
    folds = read_paper_folds(pickle_file)
    theirs = to_splits(folds, join_validation)
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
            f"{match.missing[0]}, those of the data set {match.surplus[0]}. Is it another data set?"
        )
    if match.missing and not allowed:
        raise SAM3DError(
            f"{len(match.missing)} of the {wanted} cases of these folds are not in {raw.folder}: "
            f"{some(match.missing)}. Add them, or leave them out by --allow-missing."
        )


def _is_same(splits: Splits, file: Path, name: str) -> bool:
    if same_splits(splits, read_splits(file)):
        return True
    trained = trained_folds(name)
    lost = f" These were trained with them: {some(trained)}; train them again afterwards." if trained else ""
    raise SAM3DError(
        f"{file} holds other folds. Replacing them changes what the folds of trained models mean: a model may then be "
        f"validated on cases that it was trained on.{lost} Keep them, or replace them by --overwrite."
    )
