"""Work on many preprocessed cases at once."""

from collections.abc import Callable, Collection
from typing import TypeVar

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from sam3d_nnunet.datasets.raw_dataset import for_each_case
from sam3d_nnunet.errors import SAM3DError

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
        case, reason = next(iter(failed.items()))
        raise SAM3DError(f"The case {case} in {dataset.source_folder} can't be read: {reason}. Preprocess it again.")
    return results
