"""The same work on many cases at once; one bad case doesn't cost the others."""

import sys
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from nnunetv2.configuration import default_num_processes
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError

Result = TypeVar("Result")


def for_each_case(
    work: Callable[[str], Result], cases: Collection[str], title: str
) -> tuple[dict[str, Result], dict[str, str]]:
    """Work on cases in as many threads as nnUNet_def_n_proc says; (de)compression lets other threads run.

    Args:
        work: takes the name of a case.
        cases: their names.
        title: of the progress bar.

    Returns:
        results by case, and sentences about those that failed.
    """
    results, failed = {}, {}
    pool = ThreadPoolExecutor(default_num_processes)
    try:
        waiting = {pool.submit(work, case): case for case in cases}
        for future in tqdm(as_completed(waiting), desc=title, total=len(waiting), unit="case", disable=not cases):
            case, error = waiting[future], future.exception()
            if error is None:
                results[case] = future.result()
            elif isinstance(error, SAM3DError):
                failed[case] = str(error)
            else:  # whatever nobody has foreseen in one case
                traceback.print_exception(error, file=sys.stderr)
                failed[case] = f"{type(error).__name__}: {error}"
    finally:
        pool.shutdown(cancel_futures=True)  # what hasn't begun when the user interrupts never does
    return results, dict(sorted(failed.items()))
