"""`sam3d splits import`: the authors' folds become those of a data set."""

from dataclasses import dataclass
from pathlib import Path

from sam3d_nnunet.data.case_names import NameMatch, match_names
from sam3d_nnunet.data.listing import some
from sam3d_nnunet.data.nnunet_folders import trained_folds
from sam3d_nnunet.data.paper_folds import read_paper_folds, to_splits
from sam3d_nnunet.data.raw_dataset import RawDataset
from sam3d_nnunet.data.splits import Splits, read_splits, same_splits, splits_file, write_splits
from sam3d_nnunet.errors import SAM3DError


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
