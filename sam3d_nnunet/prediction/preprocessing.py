"""Turn an image to the orientation that a model was trained on, and preprocess it as nnU-Net does.

Where the plan allows it, only those parts are normalised and resampled at which windows look. They have the values that
nnU-Net's preprocessor would give them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.turn import NO_TURN, Turn
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.grid_image import GridImage, LocalImage, WholeImage
from sam3d_nnunet.prediction.intensity import NORMALIZATIONS, intensities_of
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.resampling import can_resample, resampling_of


@dataclass(frozen=True)
class Preprocessed:
    """An image as the networks get it.

    Attributes:
        on_grid: the preprocessed image.
        turn: of the image, to the orientation of the model.
        grid: of `on_grid`. It leads back to the image as it lies.
        properties: what the reader tells of the image, and what nnU-Net would have added without a turn.
        empty: whether all voxels of the image are 0.
        finite: whether all values are finite numbers.
        note: why the whole image had to be preprocessed, if so.
    """

    on_grid: GridImage
    turn: Turn
    grid: PreprocessedGrid
    properties: dict[str, Any]
    empty: bool
    finite: bool
    note: str | None


def preprocess(
    image: np.ndarray, properties: dict[str, Any], geometry: ImageGeometry | None, model: TrainedModel
) -> Preprocessed:
    """Turn an image to the orientation of a model, and preprocess it.

    Args:
        image: (C, D, H, W) as nnU-Net's reader returns it. It must not change as long as the result is in use.
        properties: from the reader, with the spacing along (d, h, w).
        geometry: of the array; None if the position in the patient is not known, so that the image stays as it lies.
        model: its plans say how to preprocess.

    Raises:
        SAM3DError: the image has intensities that the model's normalisation does not take, or is too thin for its
            spacing.
    """
    turn, forward = _turn(model, geometry), model.plans.transpose_forward
    turned = turn.array(image)
    as_turned = properties | {"spacing": turn.along(properties["spacing"])}
    content, note = Box.of_nonzero(turned), _whole_image_note(model.configuration)
    if note is None:
        on_grid, placed = _in_parts(turned, content or Box.of_shape(turned.shape[1:]), as_turned["spacing"], model)
    else:
        on_grid, placed = _whole(turned, as_turned, model)
    grid = PreprocessedGrid.from_properties(placed, forward, on_grid.shape, turn)
    as_it_lies = {
        "shape_before_cropping": tuple(image.shape[1 + axis] for axis in forward),
        "bbox_used_for_cropping": [grid.crop.as_lists()[axis] for axis in forward],
        "shape_after_cropping_and_before_resampling": tuple(grid.crop.shape[axis] for axis in forward),
    }
    return Preprocessed(on_grid, turn, grid, properties | as_it_lies, content is None, on_grid.is_finite, note)


def _whole_image_note(configuration: ConfigurationManager) -> str | None:
    """Why the parts of an image can't be preprocessed on their own, in the words of a note; None if they can."""
    block = configuration.configuration
    unknown = [scheme for scheme in configuration.normalization_schemes if scheme not in NORMALIZATIONS]
    if block["preprocessor_name"] != "DefaultPreprocessor":
        reason = f"the preprocessor {block['preprocessor_name']}"
    elif unknown:
        reason = f"the normalisation {unknown[0]}"
    elif not can_resample(configuration):
        reason = f"the resampling {block['resampling_fn_data']} with {block['resampling_fn_data_kwargs']}"
    else:
        return None
    return f"the whole image was preprocessed, which takes longer: the plan of the model has {reason}"


def _in_parts(
    turned: np.ndarray, crop: Box, spacing: list[float], model: TrainedModel
) -> tuple[LocalImage, dict[str, Any]]:
    """An image of which parts are preprocessed when they are needed; and where it is, as nnU-Net notes it."""
    forward = model.plans.transpose_forward
    along = turned[(slice(None), *crop.slices)].transpose(0, *(1 + axis for axis in forward))
    resampling = resampling_of(model.configuration, along.shape[1:], [spacing[axis] for axis in forward])
    foreground = model.plans.foreground_intensity_properties_per_channel
    placed = {
        "shape_before_cropping": tuple(turned.shape[1 + axis] for axis in forward),
        "bbox_used_for_cropping": [crop.as_lists()[axis] for axis in forward],
        "shape_after_cropping_and_before_resampling": along.shape[1:],
    }
    return LocalImage(along, intensities_of(model.configuration, foreground, along), resampling), placed


def _whole(turned: np.ndarray, properties: dict[str, Any], model: TrainedModel) -> tuple[WholeImage, dict[str, Any]]:
    """An image that the preprocessor of the plan has preprocessed; and where it is, as it notes it."""
    data, _, placed = model.configuration.preprocessor_class(verbose=False).run_case_npy(
        np.ascontiguousarray(turned),  # sums, as for the mean, depend on the order of voxels in memory
        None,
        dict(properties),
        model.plans,
        model.configuration,
        model.dataset_json,
    )
    return WholeImage(np.ascontiguousarray(data, np.float32)), placed


def _turn(model: TrainedModel, geometry: ImageGeometry | None) -> Turn:
    """What brings an image to the orientation of a model; nothing if either is not known."""
    if geometry is None or model.orientation is None:
        return NO_TURN
    return Turn.between(geometry.orientation, model.orientation)
