"""Whole images without clicks, by nnU-Net's own predictor: for any model that nnU-Net has trained."""

import contextlib
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sam3d_nnunet.benchmark.dataset import EvaluationData
from sam3d_nnunet.benchmark.options import PredictionOptions
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.inference.batch import CaseReport
from sam3d_nnunet.inference.device import usable_device


def load_automatic(folder: Path, folds: Sequence[str], options: PredictionOptions) -> nnUNetPredictor:
    """nnU-Net's predictor with a model; the predictions of several folds are averaged.

    Raises:
        SAM3DError: the model can't be loaded, or is the second stage of a cascade.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            predictor = nnUNetPredictor(
                options.step,
                options.gaussian,
                options.mirroring,
                device=usable_device(options.device),
                allow_tqdm=False,
            )
            predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), options.checkpoint)
    except (OSError, RuntimeError) as e:
        raise SAM3DError(
            f"nnU-Net can't load the model {folder}: {e} If its trainer is ours, sam3d doctor says whether nnU-Net "
            "finds it."
        ) from e
    if predictor.configuration_manager.previous_stage_name is not None:
        raise SAM3DError(
            f"{folder} is the second stage of a cascade. Predict with nnUNetv2_predict, then give the predictions to "
            "sam3d evaluate --predictions."
        )
    return predictor


def predict_automatic(
    predictor: nnUNetPredictor, data: EvaluationData, cases: Sequence[str], folder: Path
) -> Iterator[CaseReport]:
    """Predict cases one after the other; files appear complete or not at all.

    Args:
        predictor: with a model.
        data: holds the images.
        cases: names.
        folder: for the predictions.
    """
    for case in cases:
        start = time.perf_counter()
        try:
            _predict(predictor, data, case, folder)
        except SAM3DError as e:
            yield CaseReport(case, str(e))
        except Exception as e:  # one bad case doesn't cost the others
            traceback.print_exception(e, file=sys.stderr)
            yield CaseReport(case, f"{type(e).__name__}: {e}")
        else:
            yield CaseReport(case, seconds=time.perf_counter() - start)


def _predict(predictor: nnUNetPredictor, data: EvaluationData, case: str, folder: Path) -> None:
    files = data.image_files(case)
    for file in files:
        if not file.is_file():
            raise SAM3DError(f"There is no image file {file}.")
    with tempfile.TemporaryDirectory(prefix=".part_", dir=folder) as part:
        with contextlib.redirect_stdout(io.StringIO()):  # many lines a case
            predictor.predict_from_files_sequential([[str(file) for file in files]], [str(Path(part) / case)])
        prediction = f"{case}{data.file_ending}"
        os.replace(Path(part) / prediction, folder / prediction)
