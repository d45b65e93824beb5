"""Predictions from elsewhere, beside those of our own evaluations."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from sam3d_nnunet.benchmark.dataset import TEST, EvaluationData
from sam3d_nnunet.benchmark.layout import ResultsFolder
from sam3d_nnunet.benchmark.measuring import measure, print_failed
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts.protocols import AUTOMATIC, ITERATED, Protocol


def evaluate_predictions(
    predictions: str | Path,
    results: str | Path,
    dataset: str,
    name: str,
    fold: str = TEST,
    protocol: str = AUTOMATIC,
    test: tuple[str | Path, str | Path] | None = None,
    tolerances: Sequence[float] = (5.0,),
) -> list[str]:
    """Copy predictions into the results and measure them.

    Args:
        predictions: folder of label maps CASE on the original grid, with the data set's file ending.
        results: folder of results of the data set.
        dataset: id or name.
        name: of the method.
        fold: whose validation cases these are; or "test": all predictions that there are.
        protocol: under which they were made.
        test: images and label maps of a separate test set.
        tolerances: of the surface Dice, in mm.

    Returns:
        place and name of each case that failed; what is wrong with it has been printed.

    Raises:
        SAM3DError: the folder, the data set or the protocol can't be used, or the results are about something else.
    """
    source, wanted, root = Path(predictions), Protocol.parse(protocol), ResultsFolder(results)
    if wanted.kind == ITERATED:
        raise SAM3DError("Predictions from elsewhere can't be those of an iterated protocol: they hold one step only.")
    data = EvaluationData.from_nnunet(dataset)
    test_data = test and data.with_folders(*test)
    there = sorted(file.name.removesuffix(data.file_ending) for file in source.glob(f"*{data.file_ending}"))
    cases = there if fold == TEST else data.cases_of_fold(fold)
    there = [case for case in there if case in cases]
    if not there:
        raise SAM3DError(f"{source} holds no prediction CASE{data.file_ending} of fold {fold}.")
    root.claim(data, test_data)
    kind = "automatic" if wanted.kind == AUTOMATIC else "prompted"
    unknown = ("trainer", "plans", "configuration", "parameters", "tuned_parameters", "training_hours")
    root.write_method(name, {"name": name, "kind": kind, **dict.fromkeys(unknown), "device": None})
    folder = root.predictions(name, wanted.name, fold, 0)
    folder.mkdir(parents=True, exist_ok=True)
    for case in there:
        _copy(source / f"{case}{data.file_ending}", folder)
    failed = measure(folder, test_data or data, cases, tolerances)
    return print_failed(str(folder.relative_to(root.root)), failed)


def _copy(file: Path, folder: Path) -> None:
    """A copy that appears whole and is new, so that it is measured."""
    part = folder / f".part_{file.name}"
    shutil.copyfile(file, part)
    os.replace(part, folder / file.name)
