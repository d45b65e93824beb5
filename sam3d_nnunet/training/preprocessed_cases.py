"""Work on many preprocessed cases at once."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from sam3d_nnunet.datasets.raw_dataset import for_each_case
from sam3d_nnunet.errors import SAM3DError, last_line

Result = TypeVar("Result")


def for_each_preprocessed(
    work: Callable[[str], Result], dataset: nnUNetBaseDataset, cases: Collection[str], title: str
) -> dict[str, Result]:
    """Do the same work on many preprocessed cases, in threads.

    Args:
        work: takes the name of a case.
        dataset: nnU-Net's, of a configuration.
        cases: their names.
        title: of the progress bar.

    Raises:
        SAM3DError: a case can't be read.
    """
    results, failed = for_each_case(work, cases, title)
    if failed:
        raise _unreadable(dataset, *next(iter(failed.items())))
    return results


def load_preprocessed(dataset: nnUNetBaseDataset, case: str) -> tuple[Any, ...]:
    """What nnU-Net's `load_case` gives.

    Raises:
        SAM3DError: the case can't be read, since its preprocessing was cut off, for example.
    """
    try:
        return dataset.load_case(case)
    except Exception as e:  # of the libraries that read arrays and pickles
        raise _unreadable(dataset, case, last_line(e)) from e


def _unreadable(dataset: nnUNetBaseDataset, case: str, reason: str) -> SAM3DError:
    return SAM3DError(f"The case {case} in {dataset.source_folder} can't be read: {reason}. Preprocess it again.")
