"""What a prompt is: clicks in the world, and prompts on a voxel grid.

`Prompt` holds the clicks of a user or a file. `VoxelPrompts` holds the same clicks on the grid of an image, together
with dense prompts; the network takes these.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box

MASK, SCRIBBLE, BOX = range(3)
"""Channels of dense prompts, (..., 3, D, H, W) int16: a previous mask, scribbles and boxes as label maps."""
KINDS = 3
NOTHING = -1
"""Value of a voxel about which a dense prompt says nothing; k >= 0 stands for label k, and 0 for background."""

MAX_LABEL = 2**63 - 1  # of int64
TO_LPS = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}
"""Factors from world coordinates to LPS. Numbers: the enumeration of Slicer's vtkMRMLMarkupsStorageNode."""


@dataclass(frozen=True)
class Prompt:
    """Clicks on one image.

    Attributes:
        points: (N, 3) float, world coordinates (x, y, z) in millimetres, LPS as ITK has them.
        labels: (N,) int: k >= 1 a click on class k, 0 a click on background.
        image: name of the image or case they belong to.
        notes: what was assumed when they were read from a file, for the user.

    Raises:
        SAM3DError: points and labels don't match, a coordinate is not a finite number, or a label is negative.
    """

    points: np.ndarray
    labels: np.ndarray
    image: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        if points.size and points.shape[-1] != 3:
            raise SAM3DError(f"The clicks on {self.image} have {points.shape[-1]} coordinates each; give x, y and z.")
        points = points.reshape(-1, 3)
        if len(points) != len(labels):
            raise SAM3DError(f"The clicks on {self.image} have {len(points)} points but {len(labels)} labels.")
        broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(broken):
            raise SAM3DError(
                f"Click {broken[0] + 1} of {len(points)} on {self.image} has a coordinate that is not a finite number."
            )
        if (labels < 0).any():
            raise SAM3DError(f"A click on {self.image} has the label {labels.min()}; labels start at 0 (background).")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)


class ImageMaps(Protocol):
    """Dense prompts of a whole image."""

    def cut(self, box: Box) -> np.ndarray:
        """(3, *box.shape) int16 dense prompts in a box of the grid."""


class PatchMaps(Protocol):
    """Dense prompts of a patch by kind. Kinds that say nothing take no memory.

    Attributes:
        shape: voxels along (d, h, w).
        said: (D, H, W) int16 by kind.
    """

    shape: tuple[int, ...]
    said: dict[int, np.ndarray]


class VoxelPrompts(NamedTuple):
    """All prompts on one voxel grid: an image or a patch.

    Attributes:
        points: (N, 3) float voxel coordinates (d, h, w) of the clicks, centres at integers.
        labels: (N,) int: k >= 1 a click on class k, 0 a click on background, -1 padding.
        maps: dense prompts, channels `MASK`, `SCRIBBLE`, `BOX`: (3, D, H, W) int16 of a patch, or an object that holds
            them. None: there are none.
    """

    points: np.ndarray
    labels: np.ndarray
    maps: np.ndarray | ImageMaps | PatchMaps | None = None

    @classmethod
    def none(cls) -> "VoxelPrompts":
        """No prompts."""
        return cls(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))

    @classmethod
    def concatenate(cls, parts: Iterable["VoxelPrompts"]) -> "VoxelPrompts":
        """The clicks of all parts, in their order, with the maps of the first part that has any."""
        parts = [cls.none(), *parts]
        maps = next((part.maps for part in parts if part.maps is not None), None)
        return cls(np.concatenate([part.points for part in parts]), np.concatenate([p.labels for p in parts]), maps)

    def with_clicks(self, which: np.ndarray) -> "VoxelPrompts":
        """Only some of the clicks, chosen by a mask (N,) or by indices, with the same maps."""
        return self._replace(points=self.points[which], labels=self.labels[which])

    def cut(self, box: Box) -> "VoxelPrompts":
        """The prompts of an image that lie in a box, in voxels of the box."""
        inside = self.with_clicks(box.contains(self.points)).shifted(-np.array(box.start))
        return inside._replace(maps=None if self.maps is None else self.maps.cut(box))

    def shifted(self, by: np.ndarray) -> "VoxelPrompts":
        """Clicks moved by (d, h, w) voxels."""
        return self._replace(points=self.points + by)


def to_position(value: Any) -> list[float] | None:
    """Three finite numbers from JSON as floats; None for anything else."""
    if not isinstance(value, list) or len(value) != 3 or any(type(x) not in (int, float) for x in value):
        return None
    try:
        position = [float(x) for x in value]
    except OverflowError:  # hundreds of digits
        return None
    return position if all(map(math.isfinite, position)) else None
