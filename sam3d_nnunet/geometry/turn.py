"""Turn arrays to the orientation that a model was trained on.

An orientation is a code of three letters, as ITK and nibabel write it: where the indices i, j, k of an image file run
to, which are the last, second and first axis of the array. In "LPS", i grows to the left of the patient, j to the back
(posterior) and k to the head (superior).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np

OPPOSITE = dict(zip("LRPAIS", "RLAPSI"))
ORIENTATIONS = frozenset("".join(code) for axes in permutations(("LR", "PA", "IS")) for code in product(*axes))


@dataclass(frozen=True)
class Turn:
    """Another order of the axes of an array, some of them in the other direction. No value changes.

    Attributes:
        axes: for each axis of the turned array, the axis of the array.
        flipped: for each axis of the turned array, whether it runs the other way.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def between(cls, orientation: str, wanted: str) -> "Turn":
        """From an array of one orientation to the same image in another one."""
        axes, flipped = [], []
        for letter in reversed(wanted):  # k first, which is axis 0
            same = letter in orientation
            axes.append(2 - orientation.index(letter if same else OPPOSITE[letter]))
            flipped.append(not same)
        return cls(tuple(axes), tuple(flipped))

    def array(self, array: np.ndarray) -> np.ndarray:
        """A view of an array (..., D, H, W), with its last three axes turned."""
        leading = array.ndim - 3
        turned = array.transpose(*range(leading), *(leading + axis for axis in self.axes))
        return np.flip(turned, [leading + number for number, flip in enumerate(self.flipped) if flip])

    def voxels_back(self, voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """(N, 3) indices of the turned array -> of the array, which has this shape."""
        back = np.empty_like(voxels)
        for number, (axis, flip) in enumerate(zip(self.axes, self.flipped)):
            back[:, axis] = shape[axis] - 1 - voxels[:, number] if flip else voxels[:, number]
        return back

    def along(self, values: Sequence[Any]) -> list[Any]:
        """One value for each axis of an array, such as the spacing -> for each axis of the turned array."""
        return [values[axis] for axis in self.axes]


def patient_axes(orientation: str) -> tuple[int, int, int]:
    """For an array of this orientation: its axes in the order z, y, x of the patient. Slices along z are axial."""
    return Turn.between(orientation, "LPS").axes


NO_TURN = Turn()
"""Leaves an array as it is."""
