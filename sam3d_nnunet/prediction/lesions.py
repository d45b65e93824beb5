"""Several lesions, each predicted from its own click, as one segmentation and as an instance map."""

from collections.abc import Callable

import numpy as np
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.box_logits import SURE, BoxLogits

NO_LESION = 0
MAX_LESIONS = 255  # one of nnU-Net's writers has bytes


def predict_per_lesion(
    predict: Callable[[np.ndarray, np.ndarray], BoxLogits], points: np.ndarray, labels: np.ndarray
) -> tuple[BoxLogits, np.ndarray]:
    """Predict each foreground click on its own, with all background clicks.

    Args:
        predict: logits from clicks (N, 3) on the grid and their labels (N,).
        points: (N, 3) clicks; at least one is on foreground.
        labels: (N,) their labels.

    Returns:
        The union: each class (or region) has the highest of its odds against background, so that what is foreground in
        any is foreground in the union, and nothing else is. And for each voxel of the union's box (d, h, w), as int32,
        the foreground click with the highest odds of any class, counted from 1 in their order; NO_LESION where no
        prediction has looked.

    Raises:
        SAM3DError: there are too many clicks for an instance map.
    """
    background = labels == 0
    if (~background).sum() > MAX_LESIONS:
        raise SAM3DError(
            f"There are {(~background).sum()} foreground clicks; at most {MAX_LESIONS} can be predicted on their own."
        )
    lesions = []
    for click in np.flatnonzero(~background):
        chosen = background.copy()
        chosen[click] = True
        lesions.append(predict(points[chosen], labels[chosen]))
    return merge(lesions)


def merge(lesions: list[BoxLogits]) -> tuple[BoxLogits, np.ndarray]:
    """The union of predictions on one grid, and whose each voxel is; see `predict_per_lesion`."""
    first = lesions[0]
    start = np.min([lesion.start for lesion in lesions], axis=0)
    stop = np.max([np.add(lesion.start, lesion.logits.shape[1:]) for lesion in lesions], axis=0)
    shape = tuple(int(n) for n in stop - start)
    union = torch.zeros((len(first.logits), *shape))
    foreground = slice(0 if first.regions else 1, None)
    union[foreground] = -SURE
    best = torch.full(shape, -torch.inf)
    owner = torch.full(shape, NO_LESION, dtype=torch.int32)
    for number, lesion in enumerate(lesions, 1):
        box = tuple(slice(int(s - o), int(s - o) + n) for s, o, n in zip(lesion.start, start, lesion.logits.shape[1:]))
        odds = lesion.logits if lesion.regions else lesion.logits[1:] - lesion.logits[0]
        union[(foreground, *box)] = torch.maximum(union[(foreground, *box)], odds)
        highest = odds.amax(0)
        better = highest > best[box]
        best[box] = torch.where(better, highest, best[box])
        owner[box] = torch.where(better, number, owner[box])
    windows = [window for lesion in lesions for window in lesion.windows]
    hit_cap = next((lesion.hit_cap for lesion in lesions if lesion.hit_cap), None)
    merged = BoxLogits(union, tuple(int(s) for s in start), first.shape, first.regions, windows, hit_cap)
    return merged, owner.numpy()
