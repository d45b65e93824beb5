"""Predictions under the protocol of a challenge: from boxes, then round by round from the challenge's own clicks."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sam3d_nnunet.evaluation import cvpr25
from sam3d_nnunet.evaluation.data import spacing_of
from sam3d_nnunet.evaluation.protocol_prediction import IteratedPrediction
from sam3d_nnunet.evaluation.results import add_scores
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prediction.cases import ImageCase, mask_maps, read_case
from sam3d_nnunet.prediction.predictor import CasePrediction, SAM3DPredictor
from sam3d_nnunet.prediction.session_image import box_points
from sam3d_nnunet.prediction.writer import CaseWriter
from sam3d_nnunet.prompts.prompt import BOX, KINDS, NOTHING, Prompt


class ChallengePrediction(IteratedPrediction):
    """Predicts each case under the protocol cvpr25: `cvpr25.run` says where to click, and scores the predictions.

    The first folder gets the predictions from boxes, each further one those of a round, and scores.csv in the last one
    the scores. A case without any class becomes background and gets no scores.
    """

    def _steps(self, prompt: Prompt) -> Iterator[tuple[Path, CaseReport]]:
        start, name = time.perf_counter(), prompt.image
        image = read_case(self.data.image_files(name), self.predictor.model)
        if not len(prompt.points):
            for writer in self.writers:
                writer.write(name, self.predictor.predict_nothing(image, prompt))
                yield writer.folder, CaseReport(name, seconds=time.perf_counter() - start)
            return
        truth, geometry = self.data.read_truth(name)
        counted = truth != self.data.labels.ignore_label
        truth = np.where(counted, truth, 0)
        answers = _Answers(self.predictor, image, truth, geometry, name, self.writers)

        def respond(segmentation: np.ndarray, new_clicks: list[cvpr25.Click]) -> np.ndarray:
            answers.write()
            return answers.from_clicks(new_clicks) * counted

        scores = cvpr25.run(truth, answers.from_boxes() * counted, respond, spacing_of(geometry))
        add_scores(self.writers[-1].folder, name, int((truth > 0).sum()), scores)
        answers.write()  # after the scores, so that a case that is finished has them
        yield from answers.reports


class _Answers:
    """A model that answers to the boxes and clicks on one image. Label maps lie as the file of the image.

    A box reaches the model as in a session (`SAM3DSession.add_bbox_interaction`): as a dense prompt with a click at its
    centre, or else as several clicks. Boxes and clicks stay, and the last prediction is the previous mask of the next
    one. A click on a surplus has the true label of its place. Models without background clicks get clicks on missed
    foreground only. Without new clicks, the prediction stays as it is.

    Attributes:
        reports: of the predictions written so far, with their folders.
    """

    def __init__(
        self,
        predictor: SAM3DPredictor,
        image: ImageCase,
        truth: np.ndarray,
        geometry: ImageGeometry,
        name: str,
        writers: Sequence[CaseWriter],
    ) -> None:
        """
        Args:
            predictor: with a loaded model.
            image: to predict.
            truth: (D, H, W) label map; each label is a class.
            geometry: of the truth.
            name: of the case.
            writers: of the predictions, one after the other.
        """
        self.predictor, self.image, self.truth, self.geometry = predictor, image, truth, geometry
        self.writers = writers
        self.reports: list[tuple[Path, CaseReport]] = []
        boxes = {label: Box.from_mask(truth == label) for label in cvpr25.classes_of(truth)}
        self._boxes = self._on_grid(boxes)
        count = 1 if predictor.model.takes_maps else None
        points = [(label, point) for label, box in boxes.items() for point in box_points(box)[:count]]
        self._clicks = Prompt(geometry.to_world(np.array([p for _, p in points])), [label for label, _ in points], name)
        self._box_clicks = len(points)
        self._prediction: CasePrediction | None = None
        self._segmentation: np.ndarray | None = None
        self._seconds = 0.0

    def from_boxes(self) -> np.ndarray:
        """The first label map (D, H, W)."""
        self._predict()
        return self._in_file()

    def from_clicks(self, new_clicks: Sequence[cvpr25.Click]) -> np.ndarray:
        """The label map (D, H, W) after further clicks."""
        self._seconds = 0.0
        if not self.predictor.model.clicks_carry_labels:
            new_clicks = [click for click in new_clicks if click[1] == "fg"]
        if new_clicks:
            voxels = np.array([voxel for *_, voxel in new_clicks])
            points = np.concatenate([self._clicks.points, self.geometry.to_world(voxels)])
            labels = np.append(self._clicks.labels, self.truth[tuple(voxels.T)])
            self._clicks = Prompt(points, labels, self._clicks.image)
            self._predict()
        return self._in_file()

    def write(self) -> None:
        """Write the last prediction to the next folder."""
        start, writer = time.perf_counter(), self.writers[len(self.reports)]
        writer.write(self._clicks.image, self._prediction)
        seconds = self._seconds + time.perf_counter() - start
        clicks, windows = len(self._clicks.points) - self._box_clicks, len(self._prediction.logits.windows)
        self.reports.append((writer.folder, CaseReport(self._clicks.image, None, clicks, windows, seconds)))

    def _predict(self) -> None:
        start = time.perf_counter()
        if self._segmentation is None:
            maps = np.full((KINDS, *self.image.grid.shape), NOTHING, np.int16)
        else:
            maps = mask_maps(self._segmentation, self.image)
        maps[BOX] = self._boxes
        self._prediction = self.predictor.predict_read(self.image, self._clicks, maps=maps)
        self._segmentation = self._prediction.segmentation()
        self._seconds = time.perf_counter() - start

    def _in_file(self) -> np.ndarray:
        return self.image.geometry.in_file_order(self._segmentation)[0]

    def _on_grid(self, boxes: dict[int, Box]) -> np.ndarray:
        """(d, h, w) int16 map of the preprocessed grid; where boxes overlap, the label of the smallest."""
        drawn = np.full(self.image.grid.shape, NOTHING, np.int16)
        for label, box in sorted(boxes.items(), key=lambda item: np.prod(item[1].shape), reverse=True):
            corners = self.geometry.to_world(np.array([box.start, np.array(box.stop) - 1]))
            ends = np.rint(self.image.grid.from_image(self.image.geometry.to_voxels(corners))).astype(int)
            seen = Box(ends.min(0), ends.max(0) + 1).intersection(self.image.grid.box)
            if not seen.is_empty:
                drawn[seen.slices] = label
        return drawn
