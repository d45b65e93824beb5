"""Predictions under the protocol of a challenge: from boxes, then round by round from the challenge's own clicks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sam3d_nnunet.evaluation import cvpr25
from sam3d_nnunet.evaluation.answers import CaseAnswers, ClassBoxes, Correction
from sam3d_nnunet.evaluation.data import spacing_of
from sam3d_nnunet.evaluation.protocol_prediction import IteratedPrediction
from sam3d_nnunet.evaluation.results import add_scores
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prompts.prompt import Prompt


class ChallengePrediction(IteratedPrediction):
    """Predicts each case under the protocol cvpr25: `cvpr25.run` says where to click, and scores the predictions.

    The first folder gets the predictions from boxes, each further one those of a round, and scores.csv in the last one
    the scores. A case without any class becomes background and gets no scores.
    """

    def _steps(self, prompt: Prompt, answers: CaseAnswers) -> Iterator[tuple[Path, CaseReport]]:
        name = prompt.image
        if not len(prompt.points):
            answers.from_clicks(prompt)
            for folder in self.folders:
                yield folder, answers.write(folder)
            return
        truth, geometry = self.data.read_truth(name)
        counted = truth != self.data.labels.ignore_label
        truth = np.where(counted, truth, 0)
        reports: list[CaseReport] = []

        def write() -> None:
            reports.append(answers.write(self.folders[len(reports)]))

        def respond(segmentation: np.ndarray, new_clicks: list[cvpr25.Click]) -> np.ndarray:
            write()
            return answers.from_corrections(_corrections(new_clicks, truth, geometry)) * counted

        axial = int(geometry.axial_order[0])
        boxes = {label: ClassBoxes.of(truth == label, axial) for label in cvpr25.classes_of(truth)}
        first = answers.from_boxes(boxes, geometry) * counted
        scores = cvpr25.run(truth, first, respond, spacing_of(geometry))
        add_scores(self.folders[-1], name, int((truth > 0).sum()), scores)
        write()  # after the scores, so that a case that is finished has them
        yield from zip(self.folders, reports)


def _corrections(clicks: Sequence[cvpr25.Click], truth: np.ndarray, geometry: ImageGeometry) -> list[Correction]:
    """The clicks of a round; `truth` (D, H, W) tells what is there, and `geometry` where its voxels are."""
    points = geometry.to_world(np.array([voxel for *_, voxel in clicks]).reshape(-1, 3))
    return [
        Correction(point, label, kind == "fg", int(truth[voxel])) for (label, kind, voxel), point in zip(clicks, points)
    ]
