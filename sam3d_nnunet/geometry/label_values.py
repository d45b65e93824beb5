"""Labels as whole numbers, from the numbers that are stored in a file or an array."""

import numpy as np

from sam3d_nnunet.errors import SAM3DError

WHOLE = 0.01
"""How far a stored value may be from its label: programs that scale values lose digits."""
LARGEST = 2**24
"""From here on, float32, in which nnU-Net's readers return label maps, lacks some whole numbers."""


def is_whole(values: np.ndarray) -> np.ndarray:
    """Whether each value stands for a label: it is finite and at most `WHOLE` away from a whole number."""
    if values.dtype.kind != "f":
        return np.full(values.shape, values.dtype.kind in "biu")
    with np.errstate(invalid="ignore"):  # infinite values
        return np.abs(values - np.rint(values)) <= WHOLE


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
        _refuse(part, ~is_whole(part), number, name, "is no whole number")
        rounded = np.rint(part)
        _refuse(part, np.abs(rounded) >= LARGEST, number, name, "is too large for a label")
        labels[number] = rounded
    return labels


def _refuse(values: np.ndarray, wrong: np.ndarray, number: int, name: str, why: str) -> None:
    if wrong.any():
        place = np.unravel_index(wrong.argmax(), wrong.shape)
        voxel = ", ".join(map(str, (number, *place)))
        raise SAM3DError(
            f"{name} holds {values[place]:.9g} at voxel ({voxel}), (d, h, w), which {why}. Labels are whole numbers: "
            "correct the values and save them as integers. To resample labels, use the nearest neighbour."
        )
