"""The rules of the autoPET IV challenge on interactive segmentation of lesions: how it scores.

A model first segments all lesions without clicks. In each round it gets one further click on a lesion and one on
background. `simulation.autopet_clicks` draws them; they don't depend on predictions. The scores are those of
`evaluation_metrics/evaluation_metrics.py` in github.com/lab-midas/autoPETCTIV, derived again from what it does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cc3d
import numpy as np
from scipy.integrate import trapezoid

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import dice

NEIGHBOURS = 18  # that make voxels one component

Click = tuple[str, tuple[int, int, int]]
"""On a lesion ("fg") or on background ("bg"), and voxel (d, h, w)."""

Model = Callable[[np.ndarray, list[Click]], np.ndarray]
"""Gives the next segmentation, from the last one and the new clicks. Earlier clicks are for the model to remember."""


def run(
    truth: np.ndarray, first: np.ndarray, respond: Model, spacing: Sequence[float], rounds: Sequence[Sequence[Click]]
) -> dict[str, Any]:
    """Give a model the clicks round by round, and score it after each.

    Args:
        truth: (D, H, W); lesions are not 0.
        first: (D, H, W) segmentation that the model made without clicks.
        respond: the model. Each round calls it once.
        spacing: mm along (d, h, w).
        rounds: the clicks of each round.

    Returns:
        `clicks`: for each round a list of `["fg" or "bg", [d, h, w]]`. `dsc`, `fpv`, `fnv`: of the first segmentation
        and of each round, as `score` gives them. `dsc_auc`, `fpv_auc`, `fnv_auc`: their areas over the rounds by
        trapezoids, one round apart, not normalised. `dsc_final`, `fpv_final`, `fnv_final`: those of the last round.

    Raises:
        SAM3DError: a segmentation has another shape than the truth.
    """
    segmentation = first
    curves = {name: [value] for name, value in score(truth, segmentation, spacing).items()}
    for clicks in rounds:
        segmentation = respond(segmentation, list(clicks))
        for name, value in score(truth, segmentation, spacing).items():
            curves[name].append(value)
    return {
        "clicks": [[[kind, list(voxel)] for kind, voxel in clicks] for clicks in rounds],
        **curves,
        **{f"{name}_auc": float(trapezoid(values)) for name, values in curves.items()},
        **{f"{name}_final": values[-1] for name, values in curves.items()},
    }


def score(truth: np.ndarray, segmentation: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """`dsc`: Dice. `fpv`: false-positive volume, `fnv`: false-negative volume, both in ml.

    Where the truth is empty, the Dice is NaN. (The challenge counts it as 0 if something is predicted.)

    Raises:
        SAM3DError: the segmentation has another shape than the truth.
    """
    if segmentation.shape != truth.shape:
        raise SAM3DError(
            f"The segmentation has shape {segmentation.shape}, but the truth {truth.shape}. The model must give one "
            "label for each voxel of the image."
        )
    wanted, found = truth != 0, segmentation != 0
    ml = float(np.prod(spacing)) / 1000
    return {
        "dsc": dice(wanted, found),
        "fpv": untouched(found, wanted) * ml,
        "fnv": untouched(wanted, found) * ml,
    }


def untouched(mask: np.ndarray, other: np.ndarray) -> int:
    """Voxels in those connected components of a mask that have no voxel in common with another mask."""
    numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=NEIGHBOURS)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0  # what is not in the mask
    sizes[np.unique(numbers[other])] = 0
    return int(sizes.sum())
