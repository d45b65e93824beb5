"""Checks of what users give to a session: arrays, points, boxes and what they draw."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box, off_faces
from sam3d_nnunet.prediction.session_image import Region, SessionImage

logger = logging.getLogger(__name__)

Ends = list[list[int]]
"""[[x1, x2], [y1, y2], [z1, z2]]: a box in the form of nnInteractive, upper ends not included."""


def as_array(values: Any, name: str) -> np.ndarray:
    """An array or tensor of numbers as an array; without a copy, if possible.

    Args:
        values: of any kind that NumPy or torch know.
        name: of what they are, in messages.

    Raises:
        SAM3DError: these are no numbers.
    """
    try:
        if isinstance(values, Tensor):
            whole = values.detach().cpu().resolve_conj().resolve_neg()
            try:
                array = whole.numpy()
            except TypeError:  # NumPy has no such type: bfloat16
                array = whole.float().numpy()
        else:
            array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as e:  # lists of different lengths, sparse tensors
        raise SAM3DError(f"The {name} is a {type(values).__name__} that can't be read as an array: {e}") from e
    if array.dtype.kind not in "biuf":
        raise SAM3DError(f"The {name} has values of the type {array.dtype}. Give an array of real numbers.")
    return array


def as_ends(box: Box | None) -> Ends | None:
    """A box in the form of nnInteractive."""
    return None if box is None else box.as_lists()


def checked_point(coordinates: Sequence[float], shape: tuple[int, ...]) -> np.ndarray:
    """(3,) a point in an image. What lies on its outer faces belongs to the outermost voxels.

    Raises:
        SAM3DError: these are not three numbers, or the point lies outside the image.
    """
    try:
        point = np.asarray(coordinates, dtype=float).reshape(-1)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise SAM3DError(f"A point needs three coordinates (x, y, z), not {coordinates}.")
    if not ((point >= -0.5) & (point <= np.array(shape) - 0.5)).all():
        raise SAM3DError(f"The point {point.tolist()} lies outside the image, which has {_size(shape)} voxels.")
    return off_faces(point, shape)


def drawn_box(ends: Sequence[Sequence[float]], shape: tuple[int, ...]) -> Box:
    """The box of an image that a user has drawn; it has at least one voxel along each axis.

    The ends are rounded and cut off at the border. Flat boxes get the slice below, or the first one, as in
    nnInteractive. Ends in the wrong order, which mark nothing there, are exchanged.

    Raises:
        SAM3DError: these are not two finite numbers for each of three axes, or the box lies outside the image.
    """
    values = np.sort(_rounded(ends), axis=1)
    low, high = np.maximum(values[:, 0], 0), np.minimum(values[:, 1], shape)
    flat = high <= low
    if (high < low).any():
        raise SAM3DError(f"The box {values.tolist()} lies outside the image, which has {_size(shape)} voxels.")
    return Box(np.where(flat, np.maximum(low - 1, 0), low), np.where(flat & (low == 0), 1, high))


def drawn_region(
    kind: str,
    drawn: Any,
    ends: Ends | None,
    image: SessionImage,
    label: int,
    complete: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
) -> Region | None:
    """The part of a drawn mask that the model sees; None if there is none.

    Args:
        kind: scribble or lasso.
        drawn: not 0 where the user drew; has the shape of the image or of `ends`.
        ends: the part of the image that `drawn` covers. None: all of it.
        image: that the user drew on.
        label: of the prompt; 0 for background.
        complete: fills contours.

    Raises:
        SAM3DError: the shape doesn't fit, or a prompt for foreground lies on the empty border of the image.
    """
    whole = Box.of_shape(image.shape)
    mask = as_array(drawn, kind) != 0
    box = whole if ends is None else Box.from_lists(_rounded(ends).tolist())
    if box.is_empty:
        raise SAM3DError(
            f"The box {box.as_lists()} of the {kind} is empty: upper ends, which are not included, must be above lower "
            "ends."
        )
    if box.intersection(whole) != box:
        raise SAM3DError(
            f"The box {box.as_lists()} of the {kind} reaches beyond the image, which has {_size(image.shape)} voxels."
        )
    if mask.shape != box.shape:
        raise SAM3DError(f"The {kind} has the shape {mask.shape} instead of {box.shape}.")
    part = Box.from_mask(mask)
    if part is None:
        logger.warning("The %s is empty and changes nothing.", kind)
        return None
    mask, part = complete(mask[part.slices]), part.shifted(box.start)
    seen = seen_part(part, image, label)
    if seen is None:
        return None
    mask = mask[seen.within(part).slices]
    if not mask.any():
        refuse_empty_border(np.array(part.start, float), image, label)
        return None
    return Region(mask, seen.start)


def seen_part(box: Box, image: SessionImage, label: int) -> Box | None:
    """The part of a box that the model sees; None for a background prompt outside of it.

    Raises:
        SAM3DError: a prompt for foreground lies on the empty border of the image.
    """
    seen = box.intersection(image.grid.crop)
    if not seen.is_empty:
        return seen
    refuse_empty_border(np.mean([box.start, box.stop], axis=0) - 0.5, image, label)
    return None


def refuse_empty_border(point: np.ndarray, image: SessionImage, label: int) -> None:
    """Refuse foreground prompts on the empty border, which the model does not see; there is background.

    Raises:
        SAM3DError: the prompt lies there.
    """
    content = image.grid.crop
    low, high = np.array(content.start) - 0.5, np.array(content.stop) - 0.5
    if label > 0 and not ((point >= low) & (point <= high)).all():
        raise SAM3DError(
            f"The prompt at {point.tolist()} lies on the empty border of the image (all voxels 0), which is "
            "cropped away before prediction. Move it onto what the image shows."
        )


def _rounded(ends: Sequence[Sequence[float]]) -> np.ndarray:
    """(3, 2) whole numbers of a box."""
    try:
        values = np.asarray(ends, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (3, 2) or not (np.abs(values) < 2**31).all():
        raise SAM3DError(f"A box needs [[x1, x2], [y1, y2], [z1, z2]], not {ends}.")
    return np.rint(values).astype(int)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
