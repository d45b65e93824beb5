"""The clicks of a protocol as prompt files. They are drawn once, so that all methods get the same clicks."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData, TestFolders, spacing_of
from sam3d_nnunet.evaluation.measure import print_failed
from sam3d_nnunet.evaluation.results_folder import ResultsFolder
from sam3d_nnunet.io import remove_left
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.protocol_clicks import draw_protocol, trial_generator
from sam3d_nnunet.simulation.protocols import AUTOMATIC, Protocol


def draw_prompts(
    dataset: str,
    results: str | Path,
    protocols: Sequence[str],
    trials: int = 1,
    folds: Sequence[str] = (),
    test: TestFolders | None = None,
) -> list[str]:
    """Draw the clicks of `evaluate`, for predictions by other programs. Existing clicks are kept.

    Args:
        dataset: id or name.
        results: folder of results of the data set.
        protocols: names, see `Protocol`; of iterated protocols only the first clicks are drawn, of cvpr25 the centres
            of the boxes.
        trials: how many times clicks are drawn.
        folds: click on their validation cases; default: on all training cases.
        test: a separate test set, instead of the training cases.

    Returns:
        place and name of each case that failed; the reasons have been printed.

    Raises:
        SAM3DError: the data set or a protocol can't be used, or the results are about something else.
    """
    wanted = [Protocol.parse(protocol) for protocol in dict.fromkeys(protocols)]
    if any(protocol.is_automatic for protocol in wanted):
        raise SAM3DError(f"The protocol {AUTOMATIC} has no clicks. Leave it out.")
    data, root = EvaluationData.from_nnunet(dataset), ResultsFolder(results)
    data.refuse_many_classes(wanted)
    test_data = test and data.test_set(*test)
    if test_data:
        cases = test_data.cases_with_truth()
    elif folds:
        cases = sorted({case for fold in folds for case in data.cases_of_fold(fold)})
    else:
        cases = data.cases_with_truth()
    root.claim(data, test_data)
    failures = []
    for protocol in wanted:
        for trial in range(trials if protocol.has_trials else 1):
            folder = root.prompts(protocol.name, trial)
            _, failed = drawn_prompts(test_data or data, protocol, trial, cases, folder)
            failures += print_failed(str(folder.relative_to(root.root)), failed)
    return failures


def drawn_prompts(
    data: EvaluationData, protocol: Protocol, trial: int, cases: Sequence[str], folder: Path
) -> tuple[dict[str, Prompt], dict[str, str]]:
    """The clicks on each case, read from their files. Where there is no file, the clicks are drawn from the truth.

    Args:
        data: holds the truth.
        protocol: which clicks.
        trial: seeds the clicks, together with the name of the case.
        cases: names.
        folder: of the files CASE.json.

    Returns:
        the clicks by case, and sentences about the cases that failed.
    """
    prompts, failed = {}, {}
    folder.mkdir(parents=True, exist_ok=True)
    remove_left(folder)
    files = {case: folder / f"{case}.json" for case in cases}
    nothing_new = all(file.is_file() for file in files.values())
    name = f"Drawing {protocol.name}, trial {trial}"
    for case, file in tqdm(files.items(), desc=name, unit="case", disable=nothing_new):
        try:
            if not file.is_file():
                write_prompt(_draw(data, protocol, trial, case), file)
            prompts[case] = read_prompt(file, image_name=case)
        except SAM3DError as e:
            failed[case] = str(e)
    return prompts, failed


def _draw(data: EvaluationData, protocol: Protocol, trial: int, case: str) -> Prompt:
    segmentation, geometry = data.read_truth(case)
    classes = list(data.labels.foreground_labels)
    rng = trial_generator(case, trial)
    spacing, axial = spacing_of(geometry), int(geometry.axial_order[0])
    clicks = draw_protocol(protocol, segmentation, classes, spacing, rng, axial, lambda: data.read_uptake(case))
    return Prompt(geometry.to_world(clicks.points), clicks.labels, case)
