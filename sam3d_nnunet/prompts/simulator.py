"""All prompts of a training patch, and the target that they ask for."""

from dataclasses import dataclass

import numpy as np

from sam3d_nnunet.prompts.components import Components
from sam3d_nnunet.prompts.draw import Clicks, draw_clicks, join
from sam3d_nnunet.prompts.maps import MapSimulator
from sam3d_nnunet.prompts.policies import ClickSimulator


@dataclass(frozen=True)
class DrawnPrompts:
    """What was drawn for a patch.

    Attributes:
        points: (N, 3) float32 in voxels of the patch.
        labels: (N,) int64, -1 for padding.
        maps: (3, D, H, W) int16 (see `sam3d_nnunet.dense_maps`), None where none are drawn.
        target: (D, H, W) label map that these prompts ask for.
    """

    points: np.ndarray
    labels: np.ndarray
    maps: np.ndarray | None
    target: np.ndarray


class PromptSimulator:
    """Draws the prompts of one patch after the other.

    Prompts that select (target policy `clicked`): the target is the components that hold a click of their class, or
    for which a scribble or a box was drawn; the others become background. Without any of these it is the whole label
    map, so that the same network works automatically. A previous mask alone selects nothing.
    """

    def __init__(
        self, clicks: ClickSimulator, maps: MapSimulator | None = None, select: bool = False, together: bool = False
    ) -> None:
        """
        Args:
            clicks: draws the clicks.
            maps: draws the dense prompts, if there are any.
            select: whether prompts select components.
            together: components of all classes as one (nested regions).
        """
        self.clicks = clicks
        self.maps = maps
        self.select = select
        self.together = together

    def __call__(self, segmentation: np.ndarray, rng: np.random.Generator) -> DrawnPrompts:
        """(D, H, W) label map, 0 background and -1 outside the image -> prompts and target."""
        components = Components(segmentation, self.clicks.classes, self.together) if self.select else None
        offered = components.some(rng) if self.select else segmentation
        maps, marked = self.maps.marks(offered, rng) if self.maps else (None, join([]))
        clicks = self.clicks.draw(offered, self.clicks.classes, rng)
        if len(marked[1]) and rng.random() < 0.5:
            clicks = join([])  # scribbles and boxes must be understood alone, too
        elif self.select and len(clicks[1]) and rng.random() < 0.5:
            clicks = join([clicks, _rejected(segmentation, offered, rng)])
        clicks = self.clicks.pad(clicks, rng)
        selecting = join([clicks, marked])
        asked_for = self.select and (selecting[1] >= 0).any()
        target = components.holding(selecting) if asked_for else segmentation
        if self.maps:
            self.maps.add_mask(maps, target, rng)
        return DrawnPrompts(*clicks, maps, target)


def _rejected(segmentation: np.ndarray, offered: np.ndarray, rng: np.random.Generator) -> Clicks:
    """A background click on what was not selected, if there is anything."""
    points = draw_clicks(segmentation != offered, 1, rng)
    return points, np.zeros(len(points), np.int64)
