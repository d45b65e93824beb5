"""How prompts are simulated in training: label map of a patch -> clicks, maps, and the target that they ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sam3d_nnunet.simulation.components import Components
from sam3d_nnunet.simulation.draw import Clicks, clicks_per_class, draw_clicks, draw_labelled, join, pad_clicks
from sam3d_nnunet.simulation.maps import MapSimulator

Policy = Callable[[np.ndarray, list[int], np.random.Generator], Clicks]
"""(D, H, W) label map (0 background, -1 outside the image), classes, randomness -> clicks."""


def default_policy(
    segmentation: np.ndarray, classes: list[int], rng: np.random.Generator, no_click_share: float = 0.15
) -> Clicks:
    """Few clicks far more often than many, on some of the classes present, sometimes on background, sometimes none.

    In one of ten patches a stray click claims a class anywhere, so that the network learns to doubt. Patches
    without foreground get background clicks, as in the paper.
    """
    if rng.random() < no_click_share:
        return join([])
    present = [c for c in classes if (segmentation == c).any()]
    if not present:
        return _background(segmentation, _count(10, rng), rng)
    clicked = [c for c in present if rng.random() < 0.8] or [rng.choice(present)]
    parts = [clicks_per_class(segmentation, [c], _count(10, rng), rng) for c in clicked]
    if rng.random() < 0.5:
        parts.append(_background(segmentation, _count(5, rng), rng))
    if rng.random() < 0.1:
        parts.append((draw_clicks(_usable(segmentation, classes), 1, rng), rng.choice(classes, 1).astype(np.int64)))
    return join(parts)


def paper_policy(segmentation: np.ndarray, classes: list[int], rng: np.random.Generator) -> Clicks:
    """40 clicks in the foreground, or 10 in the background where there is none (paper, Section 4 and Table 5)."""
    foreground = np.isin(segmentation, classes)
    if foreground.any():
        return draw_labelled(segmentation, foreground, 40, rng)
    return _background(segmentation, 10, rng)


def released_policy(segmentation: np.ndarray, classes: list[int], rng: np.random.Generator) -> Clicks:
    """10 clicks in the foreground and 20 anywhere, as in the released code."""
    foreground = draw_labelled(segmentation, np.isin(segmentation, classes), 10, rng)
    return join([foreground, draw_labelled(segmentation, _usable(segmentation, classes), 20, rng)])


POLICIES: dict[str, tuple[Callable[..., Clicks], int]] = {
    "default": (default_policy, 32),
    "paper": (paper_policy, 40),
    "released": (released_policy, 30),
}
"""Policy and number of clicks a patch is padded to, by name."""


class ClickSimulator:
    """Draws the clicks of one patch after the other, always the same number (padded with label -1)."""

    def __init__(self, policy: str, classes: list[int], labelled: bool, no_click_share: float) -> None:
        """
        Args:
            policy: a key of `POLICIES`.
            classes: label values that can be clicked; the ignore label is none of them.
            labelled: whether clicks carry labels; otherwise each gets label 1, wherever it is.
            no_click_share: share of patches without clicks (policy `default`).
        """
        draw, self.size = POLICIES[policy]
        self.draw: Policy = partial(draw, no_click_share=no_click_share) if policy == "default" else draw
        self.classes = classes
        self.labelled = labelled

    def __call__(self, segmentation: np.ndarray, rng: np.random.Generator) -> Clicks:
        """(D, H, W) label map, 0 background and -1 outside the image -> (size, 3) points and (size,) labels."""
        return self.pad(self.draw(segmentation, self.classes, rng), rng)

    def pad(self, clicks: Clicks, rng: np.random.Generator) -> Clicks:
        """Any number of clicks -> (size, 3) points and (size,) labels."""
        points, labels = pad_clicks(clicks, self.size, rng)
        return points, labels if self.labelled else np.where(labels >= 0, 1, labels)


def _background(segmentation: np.ndarray, count: int, rng: np.random.Generator) -> Clicks:
    return draw_labelled(segmentation, segmentation == 0, count, rng)


def _usable(segmentation: np.ndarray, classes: list[int]) -> np.ndarray:
    """Where a click may be: not outside the image, not where the label is to be ignored."""
    return np.isin(segmentation, [0, *classes])


def _count(most: int, rng: np.random.Generator) -> int:
    """1 to `most`, log-uniform."""
    return int((most + 1) ** rng.random())


@dataclass(frozen=True)
class DrawnPrompts:
    """What was drawn for a patch.

    Attributes:
        points: (N, 3) float32 in voxels of the patch.
        labels: (N,) int64, -1 for padding.
        maps: (3, D, H, W) int16 (see `sam3d_nnunet.prompts.prompt`), None where none are drawn.
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
