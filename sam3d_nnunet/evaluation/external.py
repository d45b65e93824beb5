"""Measure predictions that another program made, beside those of our own evaluations."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData, TestFolders
from sam3d_nnunet.evaluation.measure import measure, print_failed
from sam3d_nnunet.evaluation.result_files import read_rows
from sam3d_nnunet.evaluation.results import METRICS, METRICS_JSON, PREDICTION, TEST
from sam3d_nnunet.evaluation.results_folder import ResultsFolder
from sam3d_nnunet.io import find_file, listing, whole_file, write_text
from sam3d_nnunet.simulation.protocols import AUTOMATIC, Protocol

COSTS = ["case", "clicks", "windows", "seconds"]
"""Columns of prediction.csv."""


def evaluate_predictions(
    predictions: str | Path,
    results: str | Path,
    dataset: str,
    name: str,
    fold_or_test: str | TestFolders,
    protocol: str = AUTOMATIC,
    trial: int = 0,
    tolerances: Sequence[float] = (5.0,),
) -> list[str]:
    """Copy predictions into the results and measure them. A prediction.csv beside them says what they cost.

    Args:
        predictions: folder of label maps CASE on the original grid, with the data set's file ending.
        results: folder of results of the data set.
        dataset: id or name.
        name: of the method.
        fold_or_test: number of the fold whose validation cases these are, or a test set.
        protocol: under which they were made.
        trial: of the clicks, or of several random seeds, that they were made with.
        tolerances: of the surface Dice, in mm.

    Returns:
        place and name of each case that failed; the reasons have been printed.

    Raises:
        SAM3DError: the folder, the data set or the protocol can't be used, or the results are about something else.
    """
    source, wanted, root = Path(predictions), Protocol.parse(protocol), ResultsFolder(results)
    if wanted.is_iterated:
        raise SAM3DError(f"The predictions hold one step of {wanted} only. Give a protocol that is not iterated.")
    data = EvaluationData.from_nnunet(dataset)
    if isinstance(fold_or_test, str):
        fold, test_data, cases = fold_or_test, None, data.cases_of_fold(fold_or_test)
    else:
        fold, test_data = TEST, data.test_set(*fold_or_test)
        cases = test_data.cases_with_truth()
    files = {case: find_file(source, f"{case}{data.file_ending}") for case in cases}
    there = [case for case in cases if files[case].is_file()]
    if not there:
        found = listing([file.name for file in source.iterdir()], 5) if source.is_dir() else ""
        raise SAM3DError(
            f"{source} holds no prediction CASE{data.file_ending} of fold {fold}, such as that of the case {cases[0]}. "
            f"It holds {found or 'nothing'}."
        )
    costs = _read_costs(source / PREDICTION, there)
    kind = "automatic" if wanted.is_automatic else "prompted"
    unknown = ("trainer", "plans", "configuration", "parameters", "tuned_parameters", "training_hours")
    facts = {"name": name, "kind": kind, **dict.fromkeys(unknown), "device": None}
    root.check_method(name, facts)  # before anything is written
    root.claim(data, test_data)
    root.write_method(name, facts)
    folder = root.predictions(name, wanted.name, fold, trial)
    folder.mkdir(parents=True, exist_ok=True)
    gone = [f"{case}{data.file_ending}" for case in cases if case not in there]
    for old in (*gone, METRICS, METRICS_JSON):  # of an earlier run, in case none of the new ones can be measured
        (folder / old).unlink(missing_ok=True)
    for case in there:
        _copy(files[case], folder / f"{case}{data.file_ending}")
    if costs is None:
        (folder / PREDICTION).unlink(missing_ok=True)
    else:
        write_text(folder / PREDICTION, costs.to_csv(index=False))
    failed = measure(folder, test_data or data, cases, tolerances)
    return print_failed(str(folder.relative_to(root.root)), failed)


def _copy(file: Path, copy: Path) -> None:
    """Copy a file. The copy gets the current time, so that it is measured."""
    with whole_file(copy) as part:
        shutil.copyfile(file, part)


def _read_costs(file: Path, cases: Collection[str]) -> pd.DataFrame | None:
    """The cost of each case from prediction.csv, which `sam3d predict-sam2d` writes; None without any."""
    if not file.is_file():
        return None
    columns = f"Its columns are {', '.join(COSTS)}."
    try:
        table = read_rows(file)
    except SAM3DError as e:
        raise SAM3DError(f"{e} {columns}") from e
    if missing := [column for column in COSTS if column not in table]:
        raise SAM3DError(f"{file} has no column {', '.join(missing)}. Correct or delete it. {columns}")
    costs = table.loc[table["case"].isin(cases), COSTS]
    return costs if len(costs) else None
