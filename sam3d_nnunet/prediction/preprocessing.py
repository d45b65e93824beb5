"""Turn an image to the orientation that a model was trained on, and preprocess it as nnU-Net does."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.turn import NO_TURN, Turn
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.model_folder import TrainedModel


@dataclass(frozen=True)
class Preprocessed:
    """An image as the networks get it.

    Attributes:
        data: (C, d, h, w) float32.
        turn: of the image, to the orientation of the model.
        grid: of `data`. It leads back to the image as it lies.
        properties: what the reader tells of the image, and what nnU-Net would have added without a turn.
        empty: whether all voxels of the image are 0.
    """

    data: np.ndarray
    turn: Turn
    grid: PreprocessedGrid
    properties: dict[str, Any]
    empty: bool


def preprocess(
    image: np.ndarray, properties: dict[str, Any], geometry: ImageGeometry | None, model: TrainedModel
) -> Preprocessed:
    """Turn an image to the orientation of a model, and preprocess it.

    Args:
        image: (C, D, H, W) as nnU-Net's reader returns it.
        properties: from the reader, with the spacing along (d, h, w).
        geometry: of the array; None if the position in the patient is not known, so that the image stays as it lies.
        model: its plans say how to preprocess.
    """
    turn = _turn(model, geometry)
    turned = properties | {"spacing": turn.along(properties["spacing"])}
    data, outside, turned = model.configuration.preprocessor_class(verbose=False).run_case_npy(
        np.ascontiguousarray(turn.array(image)),  # sums, as for the mean, depend on the order of voxels in memory
        None,
        turned,
        model.plans,
        model.configuration,
        model.dataset_json,
    )
    forward = model.plans.transpose_forward
    grid = PreprocessedGrid.from_properties(turned, forward, data.shape[1:], turn)
    as_it_lies = {
        "shape_before_cropping": tuple(image.shape[1 + axis] for axis in forward),
        "bbox_used_for_cropping": [grid.crop.as_lists()[axis] for axis in forward],
        "shape_after_cropping_and_before_resampling": tuple(grid.crop.shape[axis] for axis in forward),
    }
    empty = bool((outside == -1).all())  # nnU-Net's mark of voxels around the image, where all channels are 0
    return Preprocessed(np.asarray(data, np.float32), turn, grid, properties | as_it_lies, empty)


def _turn(model: TrainedModel, geometry: ImageGeometry | None) -> Turn:
    """What brings an image to the orientation of a model; nothing if either is not known."""
    if geometry is None or model.orientation is None:
        return NO_TURN
    return Turn.between(geometry.orientation, model.orientation)
