"""What a prompt is: clicks in the world, and dense prompts as label maps."""

from dataclasses import dataclass

import numpy as np

from sam3d_nnunet.errors import SAM3DError

MASK, SCRIBBLE, BOX = range(3)
"""Channels of dense prompts, (..., 3, D, H, W) int16: a previous mask, scribbles and boxes as label maps."""
KINDS = 3
NOTHING = -1
"""Value of a voxel about which a dense prompt says nothing; k >= 0 stands for label k, and 0 for background."""


@dataclass(frozen=True)
class Prompt:
    """Clicks on one image.

    Attributes:
        points: (N, 3) float, world coordinates (x, y, z) in millimetres, LPS as ITK has them.
        labels: (N,) int: k >= 1 a click on class k, 0 a click on background.
        image: name of the image or case they belong to.

    Raises:
        SAM3DError: points and labels don't belong together, or a coordinate is no finite number.
    """

    points: np.ndarray
    labels: np.ndarray
    image: str

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
                f"Click {broken[0] + 1} of {len(points)} on {self.image} has a coordinate that is no finite number."
            )
        if (labels < 0).any():
            raise SAM3DError(f"A click on {self.image} has the label {labels.min()}; labels start at 0 (background).")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)
