"""How training simulates prompts: label map of a patch -> prompts, and the target that they ask for."""

from collections.abc import Callable
from functools import partial

import numpy as np

from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import (
    Components,
    clicks_per_class,
    draw_clicks,
    draw_labelled,
    has_label,
    pad_clicks,
)
from sam3d_nnunet.simulation.maps import MapSimulator

Policy = Callable[[np.ndarray, list[int], np.random.Generator], VoxelPrompts]
"""(D, H, W) label map (0 background, -1 outside the image), classes, source of randomness -> clicks."""


def default_policy(
    segmentation: np.ndarray,
    classes: list[int],
    rng: np.random.Generator,
    no_click_share: float = 0.15,
    most_clicks: int = 10,
) -> VoxelPrompts:
    """A few clicks on random classes among those present, sometimes on background too, sometimes no clicks at all.

    Few clicks are far more likely than many. In one of ten patches a stray click claims a class anywhere, so that the
    network learns to doubt clicks. Patches without foreground get background clicks, as in the paper.
    """
    if rng.random() < no_click_share:
        return VoxelPrompts.none()
    present = [c for c in classes if (segmentation == c).any()]
    if not present:
        return _background(segmentation, _count(most_clicks, rng), rng)
    clicked = [c for c in present if rng.random() < 0.8] or [rng.choice(present)]
    parts = [clicks_per_class(segmentation, [c], _count(most_clicks, rng), rng) for c in clicked]
    if rng.random() < 0.5:
        parts.append(_background(segmentation, _count(-(-most_clicks // 2), rng), rng))
    if rng.random() < 0.1:
        stray = draw_clicks(_usable(segmentation, classes), 1, rng)
        parts.append(VoxelPrompts(stray, rng.choice(classes, 1).astype(np.int64)))
    return VoxelPrompts.concatenate(parts)


def paper_policy(segmentation: np.ndarray, classes: list[int], rng: np.random.Generator) -> VoxelPrompts:
    """40 clicks in the foreground, or without foreground 10 in the background (paper, Section 4 and Table 5)."""
    foreground = has_label(segmentation, classes)
    if foreground.any():
        return draw_labelled(segmentation, foreground, 40, rng)
    return _background(segmentation, 10, rng)


def released_policy(segmentation: np.ndarray, classes: list[int], rng: np.random.Generator) -> VoxelPrompts:
    """10 clicks in the foreground and 20 anywhere, as in the released code."""
    foreground = draw_labelled(segmentation, has_label(segmentation, classes), 10, rng)
    anywhere = draw_labelled(segmentation, _usable(segmentation, classes), 20, rng)
    return VoxelPrompts.concatenate([foreground, anywhere])


POLICIES: dict[str, tuple[Callable[..., VoxelPrompts], int]] = {
    "default": (default_policy, 32),
    "paper": (paper_policy, 40),
    "released": (released_policy, 30),
}
"""By name: the policy, and the number of clicks to which a patch is padded."""


class ClickSimulator:
    """Draws the clicks of patches, always the same number (padded with label -1)."""

    def __init__(
        self, policy: str, classes: list[int], labelled: bool, no_click_share: float, most_clicks: int = 10
    ) -> None:
        """
        Args:
            policy: a key of `POLICIES`.
            classes: label values that can be clicked, without the ignore label.
            labelled: whether clicks carry labels; otherwise each gets label 1, wherever it is.
            no_click_share: share of patches without clicks (policy `default`).
            most_clicks: on a class, and on background where there is no class; beside a class half as many (policy
                `default`).
        """
        draw, self.size = POLICIES[policy]
        if policy == "default":
            draw = partial(draw, no_click_share=no_click_share, most_clicks=most_clicks)
        self.draw: Policy = draw
        self.classes = classes
        self.labelled = labelled

    def __call__(self, segmentation: np.ndarray, rng: np.random.Generator) -> VoxelPrompts:
        """(D, H, W) label map, 0 background and -1 outside the image -> (size, 3) points and (size,) labels."""
        return self.shown(self.pad(self.draw(segmentation, self.classes, rng), rng))

    def pad(self, clicks: VoxelPrompts, rng: np.random.Generator) -> VoxelPrompts:
        """Any number of clicks -> (size, 3) points and (size,) labels."""
        return pad_clicks(clicks, self.size, rng)

    def shown(self, clicks: VoxelPrompts) -> VoxelPrompts:
        """Clicks as the network gets them."""
        return clicks if self.labelled else clicks._replace(labels=np.where(clicks.labels >= 0, 1, clicks.labels))


def _background(segmentation: np.ndarray, count: int, rng: np.random.Generator) -> VoxelPrompts:
    return draw_labelled(segmentation, segmentation == 0, count, rng)


def _usable(segmentation: np.ndarray, classes: list[int]) -> np.ndarray:
    """Where a click may lie: not outside the image, and not on the ignore label."""
    return has_label(segmentation, [0, *classes])


def _count(most: int, rng: np.random.Generator) -> int:
    """1 to `most`, log-uniform."""
    return int((most + 1) ** rng.random())


class PromptSimulator:
    """Draws the prompts of patches, and the target that they ask for.

    If prompts select (target policy `clicked`), the target keeps the components that hold a click of their class, or
    that a scribble or a box marks; the others become background. Without any of these the target is the whole label
    map, so that the same network also segments automatically. A previous mask alone selects nothing.
    """

    def __init__(
        self, clicks: ClickSimulator, maps: MapSimulator | None = None, select: bool = False, together: bool = False
    ) -> None:
        """
        Args:
            clicks: draws the clicks.
            maps: draws the dense prompts; None: there are none.
            select: whether prompts select components.
            together: whether components span classes (nested regions), as in `Components`.
        """
        self.clicks = clicks
        self.maps = maps
        self.select = select
        self.together = together

    def __call__(self, segmentation: np.ndarray, rng: np.random.Generator) -> tuple[VoxelPrompts, np.ndarray]:
        """(D, H, W) label map, 0 background and -1 outside the image -> prompts, and the target (D, H, W)."""
        components = Components(segmentation, self.clicks.classes, self.together) if self.select else None
        offered = components.random_subset(rng) if self.select else segmentation
        marks = self.maps.marks(offered, rng) if self.maps else VoxelPrompts.none()
        clicks = self.clicks.draw(offered, self.clicks.classes, rng)
        if len(marks.labels) and rng.random() < 0.5:
            clicks = VoxelPrompts.none()  # so that the network also learns scribbles and boxes alone
        elif self.select and self.clicks.labelled and len(clicks.labels) and rng.random() < 0.5:
            clicks = VoxelPrompts.concatenate([clicks, _rejected(segmentation, offered, rng)])
        clicks = self.clicks.pad(clicks, rng)
        selecting = VoxelPrompts.concatenate([clicks, marks])
        asked_for = self.select and (selecting.labels >= 0).any()
        target = components.holding(selecting) if asked_for else segmentation
        if self.maps:
            self.maps.add_mask(marks.maps, target, rng)
        return self.clicks.shown(clicks)._replace(maps=marks.maps), target


def _rejected(segmentation: np.ndarray, offered: np.ndarray, rng: np.random.Generator) -> VoxelPrompts:
    """A background click on a component that was not selected, if there is one."""
    points = draw_clicks(segmentation != offered, 1, rng)
    return VoxelPrompts(points, np.zeros(len(points), np.int64))
