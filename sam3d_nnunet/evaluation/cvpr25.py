"""The rules of the CVPR 2025 challenge on interactive 3-D segmentation: where it clicks, and how it scores.

The challenge is "Foundation Models for Interactive 3D Biomedical Image Segmentation". A model first segments all
classes from their boxes. Five rounds of clicks follow; in each, every class that is not exact yet gets one click. The
tests compare these functions with clicks and scores that the challenge's own functions gave for 60 cases.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cc3d
import numpy as np
from scipy.integrate import trapezoid
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import dice, nsd_column, surface_scores
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.simulation.protocols import FAMILIES

ROUNDS = FAMILIES["cvpr25"].challenge.rounds
NEIGHBOURS = 26  # that make wrong voxels one error
SEED = 42  # of the draw among the deepest voxels of an error
TOLERANCE = 2.0  # of the NSD, in mm
LEAST_DICE = 0.2  # up to this Dice, the NSD counts as 0

Click = tuple[int, str, tuple[int, int, int]]
"""Class, "fg" or "bg", and voxel (d, h, w)."""

Model = Callable[[np.ndarray, list[Click]], np.ndarray]
"""Gives the next segmentation, from the last one and the new clicks. Earlier clicks are for the model to remember."""


Hand = Callable[[np.ndarray], tuple[int, int, int]]
"""Places a click on a mask (D, H, W) as a person does; it may miss the mask."""


def run(
    truth: np.ndarray,
    first: np.ndarray | None,
    respond: Model,
    spacing: Sequence[float],
    hand: Hand | None = None,
) -> dict[str, Any]:
    """Click on a segmentation for five rounds, and score it after each.

    Args:
        truth: (D, H, W) label map; 0 is background. The other labels in it are the classes.
        first: (D, H, W) label map that the model made from boxes. None: there are no boxes. The first scores are then
            0, and the first clicks correct an empty segmentation.
        respond: the model. Each round calls it once, with an empty list if no class has an error.
        spacing: mm along (d, h, w).
        hand: places the clicks, as in `next_clicks`. None: the challenge's places.

    Returns:
        `clicks`: for each round a list of `[class, "fg" or "bg", [d, h, w]]`; `dsc` and `nsd`: the scores of the first
        segmentation and of each round; `dsc_auc` and `nsd_auc`: their areas over the rounds of clicks, from 0 to 4;
        `dsc_final` and `nsd_final`: the scores of the last round.

    Raises:
        SAM3DError: the truth has no class, or a segmentation has another shape.
    """
    classes = classes_of(truth)
    segmentation = np.zeros_like(truth) if first is None else _checked(first, truth)
    scores = [score(truth, segmentation, classes, spacing)]
    clicks = []
    for _ in range(ROUNDS):
        new = next_clicks(truth, segmentation, classes, hand)
        segmentation = _checked(respond(segmentation, new), truth)
        clicks.append([[label, kind, list(voxel)] for label, kind, voxel in new])
        scores.append(score(truth, segmentation, classes, spacing))
    dsc, nsd = (list(values) for values in zip(*scores))
    return {
        "clicks": clicks,
        "dsc": dsc,
        "nsd": nsd,
        "dsc_auc": area(dsc),
        "nsd_auc": area(nsd),
        "dsc_final": dsc[-1],
        "nsd_final": nsd[-1],
    }


def classes_of(truth: np.ndarray) -> list[int]:
    """The classes of a label map, in the order in which they are clicked.

    Raises:
        SAM3DError: there is none.
    """
    classes = [int(label) for label in np.unique(truth) if label > 0]
    if not classes:
        raise SAM3DError("The truth has no class, so that there is nothing to click or score. Leave this case out.")
    return classes


def next_clicks(
    truth: np.ndarray, segmentation: np.ndarray, classes: Sequence[int], hand: Hand | None = None
) -> list[Click]:
    """One click for each class that is wrong anywhere, in the middle of its largest error.

    An error holds missed and surplus voxels of the class that touch, also at corners. Of several that are largest, the
    one is clicked whose first voxel comes first. A hand clicks somewhere on what the middle belongs to, the missed or
    the surplus voxels of this error.
    """
    clicks = []
    for label in classes:
        wanted = truth == label
        errors = wanted != (segmentation == label)
        if errors.any():
            error = largest_component(errors)
            voxel = deepest_voxel(error)
            missed = bool(wanted[voxel])
            if hand is not None:
                voxel = hand(error & (wanted == missed))
            clicks.append((label, "fg" if missed else "bg", voxel))
    return clicks


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected component of a mask that is not empty, as a mask."""
    numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=NEIGHBOURS)
    sizes = np.bincount(numbers.ravel())
    return numbers == 1 + sizes[1:].argmax()


def deepest_voxel(mask: np.ndarray) -> tuple[int, int, int]:
    """The voxel of a mask that is furthest from its border; depth is counted in voxels, whatever their size.

    The border of the image belongs to that of the mask. Of several deepest voxels, one is drawn; NumPy's old generator
    draws it with a new start each time.
    """
    box = Box.from_mask(mask)
    depth = distance_transform_edt(np.pad(mask[box.slices], 1))[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max()) + box.start
    d, h, w = deepest[np.random.RandomState(SEED).choice(len(deepest))]
    return int(d), int(h), int(w)


def score(
    truth: np.ndarray, segmentation: np.ndarray, classes: Sequence[int], spacing: Sequence[float]
) -> tuple[float, float]:
    """Dice, and NSD at 2 mm, each the mean over classes. The NSD is 0 where the mean Dice is at most 0.2."""
    masks = [(truth == label, segmentation == label) for label in classes]
    mean_dice = float(np.mean([dice(*pair) for pair in masks]))
    if mean_dice <= LEAST_DICE:
        return mean_dice, 0.0
    column = nsd_column(TOLERANCE)
    return mean_dice, float(np.mean([surface_scores(*pair, spacing, [TOLERANCE])[column] for pair in masks]))


def area(values: Sequence[float]) -> float:
    """Area under the scores of the rounds of clicks, one apart; the first score, from boxes, is left out."""
    return float(trapezoid(values[1:]))


def _checked(segmentation: np.ndarray, truth: np.ndarray) -> np.ndarray:
    if segmentation.shape != truth.shape:
        raise SAM3DError(
            f"The segmentation has shape {segmentation.shape}, but the truth {truth.shape}. The model must give one "
            "label for each voxel of the image."
        )
    return segmentation
