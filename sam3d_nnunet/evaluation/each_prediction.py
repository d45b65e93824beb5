"""Predictions of one lesion at a time: does a click select the lesion under it, and leave its look-alikes alone?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.answers import CaseAnswers
from sam3d_nnunet.evaluation.data import spacing_of
from sam3d_nnunet.evaluation.metrics import OTHERS_MARKED
from sam3d_nnunet.evaluation.protocol_prediction import IteratedPrediction
from sam3d_nnunet.evaluation.results_folder import add_scores
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import Components


class EachPrediction(IteratedPrediction):
    """Predicts each lesion of a case from its own clicks alone. The folder gets the union, and scores.csv the scores.

    A case without any lesion becomes background and gets no scores.
    """

    def _steps(self, prompt: Prompt, answers: CaseAnswers) -> Iterator[tuple[Path, CaseReport]]:
        truth, geometry = self.data.read_truth(prompt.image)
        lesions = Components(truth, list(self.data.labels.foreground_labels))
        scores = ObjectScores(lesions.numbers, spacing_of(geometry))
        counted = truth != self.data.labels.ignore_label
        for number, chosen in enumerate(clicks_by_lesion(prompt, lesions.sizes[1:], self.protocol.clicks), 1):
            clicks = Prompt(prompt.points[chosen], prompt.labels[chosen], prompt.image)
            found = (answers.of_object(clicks) == clicks.labels[0]) & counted
            scores.add(number, found, geometry.to_voxels(clicks.points))
        if len(lesions):
            add_scores(self.folders[0], prompt.image, int(lesions.sizes[1:].sum()), scores.means())
        else:
            answers.from_clicks(prompt)
        yield self.folders[0], answers.write(self.folders[0])


def clicks_by_lesion(prompt: Prompt, sizes: Sequence[int], count: int) -> list[np.ndarray]:
    """Places of the clicks on each lesion among all clicks, which are in the order of the lesions.

    Args:
        prompt: the clicks, drawn by the protocol each_N.
        sizes: voxels of each lesion.
        count: clicks on a lesion; a smaller lesion gets one for each voxel.

    Raises:
        SAM3DError: there are more or fewer clicks.
    """
    ends = np.cumsum([min(count, size) for size in sizes]).astype(int)
    wanted = int(ends[-1]) if len(ends) else 0
    if wanted != len(prompt.labels):
        raise SAM3DError(
            f"There are {len(prompt.labels)} clicks on {prompt.image}, but its {len(sizes)} lesion(s) need {wanted}. "
            "Delete the file of these clicks in the folder of results, so that they are drawn again."
        )
    return np.split(np.arange(wanted), ends[:-1]) if len(ends) else []


class ObjectScores:
    """Compares the prediction of each lesion with all true lesions of a case."""

    def __init__(self, numbers: np.ndarray, spacing: Sequence[float]) -> None:
        """
        Args:
            numbers: (D, H, W) int, the true lesion of each voxel, counted from 1; 0 for background.
            spacing: mm along (d, h, w).
        """
        self._numbers, self._spacing = numbers, np.array(spacing)
        self._sizes = np.bincount(numbers.ravel())
        self._dice: list[float] = []
        self._marked: list[np.ndarray] = []
        self._owner = np.zeros(numbers.shape, np.int32)
        self._nearest = np.full(numbers.shape, np.inf, np.float32)

    def add(self, number: int, found: np.ndarray, clicks: np.ndarray) -> None:
        """What was predicted for a lesion.

        Args:
            number: of the lesion.
            found: (D, H, W) bool.
            clicks: (N, 3) voxels of the clicks on it.
        """
        overlap = np.bincount(self._numbers[found], minlength=len(self._sizes))
        self._dice.append(2 * overlap[number] / (self._sizes[number] + overlap.sum()))
        self._marked.append(np.delete(overlap[1:] / self._sizes[1:], number - 1))
        voxels = np.argwhere(found)
        distances = [np.linalg.norm((voxels - click) * self._spacing, axis=1) for click in clicks]
        distance, place = np.min(distances, axis=0), tuple(voxels.T)
        closer = distance < self._nearest[place]
        self._nearest[place] = np.where(closer, distance, self._nearest[place])
        self._owner[place] = np.where(closer, number, self._owner[place])

    def means(self) -> dict[str, float]:
        """Means over the lesions; that of others marked over all pairs, NaN if there is one lesion only."""
        marked = np.concatenate(self._marked)
        return {
            "objects": len(self._dice),
            "object_dice": float(np.mean(self._dice)),
            "lowest_object_dice": float(np.min(self._dice)),
            OTHERS_MARKED: float(marked.mean()) if len(marked) else np.nan,
            "instance_dice": float(np.mean(self._instance_dice())),
        }

    def _instance_dice(self) -> np.ndarray:
        """Dice of each lesion, after voxels that several predictions claim went to the nearest click."""
        count = len(self._sizes)
        owned = np.bincount(self._owner.ravel(), minlength=count)
        shared = np.bincount(self._numbers[self._owner == self._numbers], minlength=count)
        return (2 * shared / (owned + self._sizes))[1:]
