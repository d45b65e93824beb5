"""The folds that the authors of 3DSAM-adapter published, one pickle for each data set."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sam3d_nnunet.data.listing import some
from sam3d_nnunet.data.plain_pickle import read_plain_pickle
from sam3d_nnunet.data.splits import Splits
from sam3d_nnunet.errors import SAM3DError

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
