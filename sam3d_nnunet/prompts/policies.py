"""How clicks are simulated in training: label map of a patch -> points and labels."""

from collections.abc import Callable
from functools import partial

import numpy as np

from sam3d_nnunet.prompts.draw import Clicks, clicks_per_class, draw_clicks, draw_labelled, join, pad_clicks

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
