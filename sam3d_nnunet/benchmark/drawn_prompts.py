"""The clicks of a protocol as prompt files: drawn once, given to every method alike."""

from collections.abc import Sequence
from pathlib import Path

from sam3d_nnunet.benchmark.dataset import EvaluationData, spacing_of
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.prompts.protocol_clicks import draw_protocol, trial_generator
from sam3d_nnunet.prompts.protocols import Protocol


def drawn_prompts(
    data: EvaluationData, protocol: Protocol, trial: int, cases: Sequence[str], folder: Path
) -> tuple[dict[str, Prompt], dict[str, str]]:
    """The clicks on each case; those that have no file yet are drawn from the truth.

    Args:
        data: holds the truth.
        protocol: which clicks.
        trial: seeds the clicks, together with the name of the case.
        cases: names.
        folder: for the files CASE.json.

    Returns:
        the clicks by case, and what is wrong with the others, in sentences.
    """
    prompts, failed = {}, {}
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        file = folder / f"{case}.json"
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
    points, labels = draw_protocol(protocol, segmentation, classes, spacing, rng, axial)
    return Prompt(geometry.to_world(points), labels, case)
