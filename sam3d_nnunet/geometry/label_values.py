"""Labels as whole numbers, from the numbers that are stored in a file or an array."""

import numpy as np

from sam3d_nnunet.errors import SAM3DError

WHOLE = 0.01
"""How far a stored value may be from its label: programs that scale values lose digits."""
LARGEST = 2**24
"""From here on, float32, in which nnU-Net's readers return label maps, lacks some whole numbers."""


def whole_labels(values: np.ndarray, name: str) -> np.ndarray:
    """Labels from stored values.

    Args:
        values: (D, H, W) of any type.
        name: of what holds them, as the subject of messages.

    Returns:
        (D, H, W) whole numbers: integers as they are, other values rounded to int32.

    Raises:
        SAM3DError: a value is no label; says which one, and at which voxel.
    """
    if values.dtype.kind in "biu":
        return values
    labels = np.empty(values.shape, np.int32)
    for number, part in enumerate(values):  # slice by slice, which takes less memory
        labels[number] = _rounded(part, number, name)
    return labels


def refuse_cut_labels(values: np.ndarray, name: str) -> None:
    """Refuse values that nnU-Net takes for other labels (it cuts off what is behind the decimal point) or for none.

    Args:
        values: (D, H, W) of any type.
        name: of what holds them, as the subject of messages.

    Raises:
        SAM3DError: a value is no whole number; says which one, and at which voxel.
    """
    if values.dtype.kind in "biu":
        return
    for number, part in enumerate(values):
        cut = part != _rounded(part, number, name)
        if cut.any():
            value = part[cut][0]
            does = (
                "which nnU-Net's validation takes for no label, since it compares them exactly"
                if int(value) == np.rint(value)
                else f"which nnU-Net cuts off to {int(value)}"
            )
            raise SAM3DError(
                f"{name} holds {_first(part, cut, number)}, {does}. Save its labels as integers, without a scale "
                "(scl_slope) in the header, and preprocess the data set again."
            )


def _rounded(part: np.ndarray, number: int, name: str) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinite values
        rounded = np.rint(part)
        wrong = ~(np.abs(part - rounded) <= WHOLE)
    if wrong.any():
        raise SAM3DError(
            f"{name} holds {_first(part, wrong, number)}, which is no whole number and so no label. Correct the "
            "values and save them as integers. To resample labels, take the nearest neighbour."
        )
    large = np.abs(rounded) >= LARGEST
    if large.any():
        raise SAM3DError(f"{name} holds {_first(part, large, number)}. Labels must be below {LARGEST}: renumber them.")
    return rounded


def _first(part: np.ndarray, chosen: np.ndarray, number: int) -> str:
    place = np.unravel_index(chosen.argmax(), chosen.shape)
    voxel = ", ".join(map(str, (number, *place)))
    return f"{float(part[place]):.9g} at voxel ({voxel}) along (d, h, w)"
