"""Predictions under the protocol of a challenge: round by round, from the challenge's own boxes and clicks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.evaluation import autopet, cvpr25
from sam3d_nnunet.evaluation.answers import CaseAnswers, ClassBoxes, Correction
from sam3d_nnunet.evaluation.data import EvaluationData, spacing_of
from sam3d_nnunet.evaluation.protocol_prediction import IteratedPrediction
from sam3d_nnunet.evaluation.results_folder import add_scores
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.simulation.draw import case_generator
from sam3d_nnunet.simulation.protocol_clicks import hand_of


class ChallengePrediction(IteratedPrediction):
    """Predicts each case under the rules of a challenge, which say where to click, and score the predictions.

    The first folder gets the first predictions, each further one those of a round, and scores.csv in the last one the
    scores. A case that the rules leave out becomes background and gets no scores.
    """

    def _steps(self, prompt: Prompt, answers: CaseAnswers) -> Iterator[tuple[Path, CaseReport]]:
        case = ChallengeCase.read(prompt, self.data, answers, self.folders)
        spacing = spacing_of(case.geometry)
        hand, rng = hand_of(self.protocol, spacing), case_generator(prompt.image, self.trial)
        on_voxel = None if hand is None else lambda mask: tuple(hand(mask, 1, rng)[0].astype(int).tolist())
        scores = RULES[self.protocol.family.name](case, spacing, on_voxel)
        if scores is None:
            answers.from_clicks(Prompt(np.zeros((0, 3)), [], prompt.image))
        else:
            add_scores(self.folders[-1], prompt.image, int((case.truth > 0).sum()), scores)
        case.write_rest()  # after the scores, so that a case that is finished has them
        yield from zip(self.folders, case.reports)


@dataclass
class ChallengeCase:
    """A case and the model that answers on it. Each answer is written before the next one is asked for.

    Attributes:
        prompt: the drawn clicks.
        truth: (D, H, W) label map, 0 where the ignore label is.
        counted: (D, H, W) bool, False there.
        geometry: of the truth.
        label: of the first class of the data set.
        answers: of the model.
        folders: for the answers.
        reports: of the answers written so far.
    """

    prompt: Prompt
    truth: np.ndarray
    counted: np.ndarray
    geometry: ImageGeometry
    label: int
    answers: CaseAnswers
    folders: Sequence[Path]
    reports: list[CaseReport] = field(default_factory=list)

    @classmethod
    def read(
        cls, prompt: Prompt, data: EvaluationData, answers: CaseAnswers, folders: Sequence[Path]
    ) -> "ChallengeCase":
        """Read the truth of a case."""
        truth, geometry = data.read_truth(prompt.image)
        counted = truth != data.labels.ignore_label
        label = data.labels.foreground_labels[0]
        return cls(prompt, np.where(counted, truth, 0), counted, geometry, label, answers, folders)

    def respond(self, corrections: Sequence[Correction]) -> np.ndarray:
        """Write the last answer, and give the next one."""
        self._write()
        return self.answers.from_corrections(corrections) * self.counted

    def write_rest(self) -> None:
        """Write the last answer to all folders that are left."""
        while len(self.reports) < len(self.folders):
            self._write()

    def _write(self) -> None:
        self.reports.append(self.answers.write(self.folders[len(self.reports)]))


Rules = Callable[[ChallengeCase, Sequence[float], cvpr25.Hand | None], dict[str, Any] | None]
"""Gives the scores of a case, None if it has none, from mm along (d, h, w) and what places clicks as a person does."""


def by_cvpr25(case: ChallengeCase, spacing: Sequence[float], hand: cvpr25.Hand | None) -> dict[str, Any] | None:
    """The scores of `cvpr25.run`; none for a case without any class."""
    if not case.truth.any():
        return None

    def respond(segmentation: np.ndarray, clicks: list[cvpr25.Click]) -> np.ndarray:
        points = case.geometry.to_world(np.array([voxel for *_, voxel in clicks]).reshape(-1, 3))
        return case.respond([_correction(*click, point, case.truth) for click, point in zip(clicks, points)])

    axial = int(case.geometry.axial_order[0])
    boxes = {label: ClassBoxes.of(case.truth == label, axial) for label in cvpr25.classes_of(case.truth)}
    first = case.answers.from_boxes(boxes, case.geometry) * case.counted
    return cvpr25.run(case.truth, first, respond, spacing, hand)


def _correction(label: int, kind: str, voxel: tuple[int, int, int], point: np.ndarray, truth: np.ndarray) -> Correction:
    """A click of cvpr25. A person may miss the error; then the click says something else than the truth (D, H, W)."""
    missed, there = kind == "fg", int(truth[voxel])
    return Correction(point, label, missed, label if missed else there * (there != label))


def by_autopet(case: ChallengeCase, spacing: Sequence[float], hand: cvpr25.Hand | None) -> dict[str, Any]:
    """The scores of `autopet.run`, with the drawn clicks, which a person has placed already if one should."""
    voxels = np.rint(case.geometry.to_voxels(case.prompt.points)).astype(int).reshape(-1, 3).tolist()
    clicks = {"fg": [], "bg": []}
    for voxel, label in zip(voxels, case.prompt.labels.tolist()):
        clicks["fg" if label > 0 else "bg"].append(tuple(voxel))
    rounds = [
        [(kind, voxel) for kind, of_kind in clicks.items() for voxel in of_kind[k : k + 1]]
        for k in range(len(case.folders) - 1)
    ]

    def respond(segmentation: np.ndarray, new: list[autopet.Click]) -> np.ndarray:
        points = case.geometry.to_world(np.array([voxel for _, voxel in new]).reshape(-1, 3))
        missed = [kind == "fg" for kind, _ in new]
        return case.respond([Correction(p, case.label, m, case.label * m) for p, m in zip(points, missed)])

    first = case.answers.from_nothing() * case.counted
    return autopet.run(case.truth, first, respond, spacing, rounds)


RULES: dict[str, Rules] = {"cvpr25": by_cvpr25, "autopet": by_autopet}
"""Of each of `protocols.FAMILIES` that belongs to a challenge."""
