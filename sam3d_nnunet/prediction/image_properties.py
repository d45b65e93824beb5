"""What `image_properties` tell a session: the spacing of the array, and how it lies in the patient."""

import logging
from typing import Any

import numpy as np

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.world import PLACED, RAS_TO_LPS, REVERSED, ImageGeometry

logger = logging.getLogger(__name__)

RAS = {"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
"""How arrays lie whose axes run to the head, to the front and to the right of the patient."""


def spacing_and_geometry(properties: dict[str, Any] | None) -> tuple[list[float], ImageGeometry | None]:
    """Millimetres along each axis of an array, and its geometry as far as the properties tell it.

    Args:
        properties: see `SAM3DSession.set_image`.

    Raises:
        SAM3DError: spacing, direction or affine are not usable.
    """
    properties = {} if properties is None else properties
    if not hasattr(properties, "keys"):
        raise SAM3DError(f"image_properties must be a dictionary, not {properties!r}.")
    geometry, spacing = geometry_of(properties), properties.get("spacing")
    if spacing is None and properties.get("affine") is not None:
        spacing = geometry.spacing
    if spacing is None:
        logger.warning("The image has no spacing: 1 mm along each axis is assumed.")
        spacing = (1.0, 1.0, 1.0)
    values = _checked_spacing(spacing)
    if geometry is None and values[0] < 0:  # from napari-nifti, which turns all images to these axes
        geometry = geometry_of(RAS)
    return [abs(value) for value in values], geometry


def _checked_spacing(spacing: Any) -> list[float]:
    """Three numbers, all of them above 0 or, as the viewer napari has them, all below."""
    try:
        values = np.asarray(spacing)
    except (TypeError, ValueError):  # lists in lists, a tensor on a GPU
        values = np.empty(0)
    usable = values.shape == (3,) and values.dtype.kind in "iuf"
    if not usable or not (np.isfinite(values).all() and ((values > 0).all() or (values < 0).all())):
        raise SAM3DError(f"The spacing is {spacing!r}. Give three numbers above 0, in the order of the image's axes.")
    return values.astype(float).tolist()


def geometry_of(properties: dict[str, Any]) -> ImageGeometry | None:
    """Where the voxels of an array are in the patient, as far as its properties tell; None if they don't.

    Args:
        properties: of nnU-Net's readers; or with "direction", as ITK's `GetDirection` has it for an array of
            `GetArrayFromImage`; or with "affine", as nibabel has it for an array of `get_fdata`.

    Raises:
        SAM3DError: direction or affine are not usable.
    """
    if PLACED & properties.keys():
        try:
            return ImageGeometry.from_properties(properties)
        except SAM3DError:
            raise
        except Exception as e:  # whatever a dictionary leads to that no reader has written
            raise SAM3DError(
                f"The image's {', '.join(sorted(PLACED & properties.keys()))} is not what a reader of nnU-Net returns "
                f"({last_line(e)}). Leave it out, or give direction or affine."
            ) from e
    if properties.get("affine") is not None:
        return ImageGeometry(RAS_TO_LPS @ _matrix(properties["affine"], 4, "affine"))
    if properties.get("direction") is not None:
        affine = np.eye(4)
        affine[:3, :3] = _direction(properties["direction"])
        return ImageGeometry(affine[:, REVERSED], affine)
    return None


def _direction(values: Any) -> np.ndarray:
    """(3, 3), also from the 16 numbers of an image with four axes, the last of which are its channels."""
    try:
        matrix = _matrix(values, 4, "direction")
    except SAM3DError:
        return _matrix(values, 3, "direction")
    if matrix[3, :3].any() or matrix[:3, 3].any():
        raise SAM3DError(
            f"The direction of the image is {values}: its fourth axis is turned into the other three. Give the nine "
            "numbers of one of its volumes."
        )
    return matrix[:3, :3]


def _matrix(values: Any, side: int, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=float).reshape(side, side)
    except (TypeError, ValueError) as e:  # too many or too few, or no numbers
        raise SAM3DError(f"The {name} of the image is {values}, but must be {side} x {side} numbers.") from e
