"""Objects of one image on a server that segments one object at a time.

The client takes images as (C, D, H, W) arrays and places as voxels of them, in the order of the array's axes: its
examples give it the arrays of SimpleITK, as nnU-Net's readers return them.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sam3d_nnunet.evaluation.server_session import Server
from sam3d_nnunet.geometry.boxes import Box

if TYPE_CHECKING:
    from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession


@dataclass(frozen=True)
class ObjectPrompt:
    """A click or box on one object. It tells apart what is in the object and what is not.

    Attributes:
        place: voxel (d, h, w) of a click, or a box.
        include: whether this is a prompt on the object, not on what surrounds it.
    """

    place: tuple[int, int, int] | Box
    include: bool


class Objects:
    """Objects of one image that are segmented side by side, in a session that holds a single one at a time.

    Each prompt is followed by a prediction, as in nnInteractive's viewers: the server looks around the last prompt
    only. When a prompt on another object follows, that object takes the place in the session: its last mask becomes the
    previous mask, and its earlier prompts are given again without predictions. This is the state in which a session of
    its own would be. If the server can't start from a mask, the predictions are repeated.
    """

    def __init__(
        self,
        server: Server,
        session: "nnInteractiveRemoteInferenceSession",
        image: np.ndarray,
        spacing: Sequence[float],
    ) -> None:
        """
        Args:
            server: of the session.
            session: new.
            image: (C, D, H, W) float32 intensities, as they are in the files.
            spacing: mm along (d, h, w).

        Raises:
            SAM3DError: the server does not take the image. So do the methods.
        """
        self._server, self._session, self._channels = server, session, len(image)
        self._prompts: dict[int, list[ObjectPrompt]] = {}
        self._masks: dict[int, np.ndarray] = {}
        self._current: int | None = None
        self._layers: list[int] = []
        self._buffer = np.zeros(image.shape[1:], np.uint8)
        with self._answering("given the image"):
            session.set_image(image, {"spacing": [float(mm) for mm in spacing]})
            session.set_target_buffer(self._buffer)

    @property
    def labels(self) -> list[int]:
        """Of all objects that have got prompts."""
        return list(self._prompts)

    def covering(self, voxel: Sequence[int]) -> list[int]:
        """The objects whose masks hold a voxel."""
        return [label for label, mask in self._masks.items() if mask[tuple(voxel)]]

    def add(self, label: int, prompt: ObjectPrompt) -> None:
        """Give a prompt on one object, and predict its mask."""
        if self._current != label:
            self._take_turn(label)
        self._prompts.setdefault(label, []).append(prompt)
        self._send(prompt, predict=True)
        self._masks[label] = self._buffer > 0
        if prompt.include:
            self._layers = [*(other for other in self._layers if other != label), label]

    def mask(self, label: int) -> np.ndarray:
        """(D, H, W) bool, the last prediction of an object that has got prompts."""
        return self._masks[label]

    def segmentation(self) -> np.ndarray:
        """(D, H, W) int16 label map. Where objects overlap, the one with the latest prompt on it lies on top."""
        merged = np.zeros(self._buffer.shape, np.int16)
        for label in self._layers:
            merged[self._masks[label]] = label
        return merged

    def _take_turn(self, label: int) -> None:
        from_mask = label in self._masks and self._session.supports_initial_label
        with self._answering("asked for another object"):
            if from_mask:
                self._session.add_initial_seg_interaction(self._masks[label].astype(np.uint8), run_prediction=False)
            elif self._current is not None:
                self._session.reset_interactions()
        self._current = label
        for prompt in self._prompts.get(label, ()):
            self._send(prompt, predict=not from_mask)

    def _send(self, prompt: ObjectPrompt, predict: bool) -> None:
        with self._answering("asked for a prediction"):
            if isinstance(prompt.place, Box):
                self._session.add_bbox_interaction(prompt.place.as_lists(), prompt.include, predict)
            else:
                self._session.add_point_interaction(prompt.place, prompt.include, predict)

    def _answering(self, doing: str) -> AbstractContextManager[None]:
        return self._server.answering(doing, self._channels)
