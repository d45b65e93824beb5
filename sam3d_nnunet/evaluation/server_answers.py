"""A server's model under the protocols: what clicks and boxes on several classes mean to a model of single objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.answers import ClassBoxes, Correction, Stopwatch
from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.results_folder import note_cost
from sam3d_nnunet.evaluation.server_objects import ObjectPrompt, Objects
from sam3d_nnunet.evaluation.server_session import Capabilities, Server
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.geometry.writing import write_label_map
from sam3d_nnunet.io import whole_files
from sam3d_nnunet.prediction.batch import CaseReport
from sam3d_nnunet.prompts.files import check_prompt, write_prompt
from sam3d_nnunet.prompts.prompt import Prompt


class ServerModel:
    """The model of a server, as `AnsweringModel` has it. Each case has a session of its own."""

    takes_background = True

    def __init__(self, server: Server, capabilities: Capabilities, data: EvaluationData) -> None:
        """
        Args:
            server: with the model.
            capabilities: of the server.
            data: says what labels there are, and how files are read and written.
        """
        self.server, self.capabilities, self.data = server, capabilities, data

    def prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def open(self, image_files: Sequence[Path], name: str) -> Iterator["ServerAnswers"]:
        with ExitStack() as stack:
            yield ServerAnswers(self, image_files, name, stack)


class ServerAnswers:
    """A case that a server segments. Each class is an object of its own.

    - A click on a class is a click on its object; other objects don't hear of it.
    - A click on background is one that all objects covering it must leave out. Where none covers it, all are told.
    - A correction is one of the class that is wrong: on its object, or on what surrounds it.
    - A box is flat, in the slice with most of the class, where the server takes no others.
    - Where objects overlap, the class with the latest prompt on it wins.
    """

    def __init__(self, model: ServerModel, image_files: Sequence[Path], name: str, stack: ExitStack) -> None:
        """
        Args:
            model: of the server.
            image_files: one for each channel.
            name: of the case.
            stack: ends the session.

        Raises:
            SAM3DError: the image can't be read.
        """
        self.model, self._stack, self._watch = model, stack, Stopwatch()
        self._reader = model.data.reader
        with self._watch.running():
            self._image, self._properties = read_image(image_files, self._reader)
        self._geometry = ImageGeometry.from_file(image_files[0], self._properties)
        self._shape = self._image.shape[1:]
        if not np.isfinite(self._image).all():
            names = ", ".join(map(str, image_files))
            raise SAM3DError(f"The image {names} holds values that are not finite numbers. Replace them.")
        self._clicks = Prompt(np.zeros((0, 3)), [], name)
        self._objects: Objects | None = None  # until there is a prompt: a case without clicks needs no server
        self._classes: list[int] = []  # of lesions that are objects of their own, from number 1 on

    def from_clicks(self, prompt: Prompt) -> np.ndarray:
        if len(prompt.points):
            check_prompt(prompt, self._geometry, self._shape, [0, *self.model.data.labels.foreground_labels])
        known, self._clicks = len(self._clicks.points), prompt
        with self._watch.running():
            for point, label in zip(prompt.points[known:], prompt.labels[known:].tolist()):
                self._click(self._voxel(point), label)
        return self._in_file()

    def of_object(self, prompt: Prompt) -> np.ndarray:
        self._classes.append(int(prompt.labels[0]))
        with self._watch.running():
            for point in prompt.points:
                self._opened().add(len(self._classes), ObjectPrompt(self._voxel(point), True))
            mask = self._opened().mask(len(self._classes))
        points, labels = [self._clicks.points, prompt.points], np.append(self._clicks.labels, prompt.labels)
        self._clicks = Prompt(np.concatenate(points), labels, prompt.image)
        return self._geometry.in_file_order(mask * np.int16(prompt.labels[0]))[0]

    def from_nothing(self) -> np.ndarray:
        """Background: a server predicts from prompts only."""
        return self._in_file()

    def from_boxes(self, boxes: Mapping[int, ClassBoxes], geometry: ImageGeometry) -> np.ndarray:
        with self._watch.running():
            for label, box in boxes.items():
                chosen = box.slice if self.model.capabilities.flat_boxes else box.volume
                corners = geometry.to_world(np.array([chosen.start, np.array(chosen.stop) - 1]))
                ends = np.array([self._voxel(corner) for corner in corners])
                self._opened().add(label, ObjectPrompt(Box(ends.min(0), ends.max(0) + 1), True))
        return self._in_file()

    def from_corrections(self, corrections: Sequence[Correction]) -> np.ndarray:
        with self._watch.running():
            for click in corrections:
                self._opened().add(click.label, ObjectPrompt(self._voxel(click.point), click.missed))
        if corrections:
            points = np.concatenate([self._clicks.points, [click.point for click in corrections]])
            labels = np.append(self._clicks.labels, [click.label * click.missed for click in corrections])
            self._clicks = Prompt(points, labels, self._clicks.image)
        return self._in_file()

    def write(self, folder: Path) -> CaseReport:
        """Write the label map and the clicks; files appear complete or not at all, the label map last."""
        name, ending = self._clicks.image, self.model.data.file_ending
        with whole_files(folder, last=f"{name}{ending}") as part:
            with self._watch.running():
                write_label_map(self._segmentation(), part / f"{name}{ending}", self._properties, self._reader)
                # nnU-Net's TIFF writer stores the spacing in CASE.json
                write_prompt(self._clicks, part / f"{name}{'.csv' if isinstance(self._reader, Tiff3DIO) else '.json'}")
            report = CaseReport(name, None, len(self._clicks.points), seconds=self._watch.take())
            note_cost(folder, report)
        return report

    def _click(self, voxel: tuple[int, int, int], label: int) -> None:
        objects = self._opened()
        if label > 0:
            objects.add(label, ObjectPrompt(voxel, True))
            return
        for wrong in objects.covering(voxel) or objects.labels or self.model.data.labels.foreground_labels:
            objects.add(wrong, ObjectPrompt(voxel, False))

    def _opened(self) -> Objects:
        """The objects; the first call sends the image."""
        if self._objects is None:
            server = self.model.server
            session = self._stack.enter_context(server.session())
            self._objects = Objects(server, session, self._image, self._properties["spacing"])
        return self._objects

    def _voxel(self, point: np.ndarray) -> tuple[int, int, int]:
        """The voxel of the image that is nearest to a point (3,) of the world."""
        voxel = np.rint(self._geometry.to_voxels(point[None])[0]).astype(int)
        return tuple(np.clip(voxel, 0, np.array(self._shape) - 1).tolist())

    def _segmentation(self) -> np.ndarray:
        if self._objects is None:
            return np.zeros(self._shape, np.int16)
        numbers = self._objects.segmentation()
        return np.array([0, *self._classes], np.int16)[numbers] if self._classes else numbers

    def _in_file(self) -> np.ndarray:
        return self._geometry.in_file_order(self._segmentation())[0]
