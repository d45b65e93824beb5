"""Cases from drawn clicks, predicted as `sam3d predict` does."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sam3d_nnunet.benchmark.dataset import EvaluationData
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.inference.batch import CaseReport, PlannedCase, predict_cases
from sam3d_nnunet.inference.case_writer import CaseWriter
from sam3d_nnunet.inference.clicks import ClickSource
from sam3d_nnunet.inference.image_case import read_case
from sam3d_nnunet.inference.predictor import SAM3DPredictor
from sam3d_nnunet.prompts.prompt import Prompt


def predict_prompted_cases(
    predictor: SAM3DPredictor,
    data: EvaluationData,
    prompts: Mapping[str, Prompt],
    prompt_folder: Path,
    folder: Path,
    per_lesion: bool,
) -> Iterator[CaseReport]:
    """Predict cases one after the other. Where nothing is clicked, since no class is there, all is background.

    Args:
        predictor: with a loaded model.
        data: holds the images.
        prompts: the clicks on the cases that are to be predicted.
        prompt_folder: with the files that hold these clicks.
        folder: for the predictions.
        per_lesion: as in `SAM3DPredictor.predict_case`.
    """
    writer = CaseWriter(folder, predictor.model)
    writer.prepare()
    clicked = sorted(case for case, prompt in prompts.items() if len(prompt.points))
    clicks = ClickSource(predictor.model.class_names, prompt_folder)
    yield from predict_cases(predictor, [_plan(data, case, clicks) for case in clicked], writer, per_lesion)
    for case in sorted(prompts.keys() - set(clicked)):
        yield _nothing(predictor, data, prompts[case], writer)


def _plan(data: EvaluationData, case: str, clicks: ClickSource) -> PlannedCase:
    """Not `plan_cases`, which looks for images in a folder: dataset.json may list them."""
    try:
        files = data.image_files(case)
    except SAM3DError as e:
        return PlannedCase(case, [], clicks, error=str(e))
    missing = [file for file in files if not file.is_file()]
    return PlannedCase(case, files, clicks, error=f"There is no image file {missing[0]}." if missing else None)


def _nothing(predictor: SAM3DPredictor, data: EvaluationData, prompt: Prompt, writer: CaseWriter) -> CaseReport:
    start = time.perf_counter()
    try:
        image = read_case(data.image_files(prompt.image), predictor.model)
        writer.write(prompt.image, predictor.predict_nothing(image, prompt))
    except SAM3DError as e:
        return CaseReport(prompt.image, str(e))
    return CaseReport(prompt.image, seconds=time.perf_counter() - start)
