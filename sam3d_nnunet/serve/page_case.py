"""What somebody does on the page of `sam3d serve`: prompts on one object after the other, undo, and what is saved.

`PageCase` turns what is drawn on the page into calls of a `SAM3DSession`, and the mask into changes of the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box, hull
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prompts.files import to_json
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.serve.page_image import PageImage, changes

FINISHED = 128
"""Added to the number of a class in the picture where a finished object is; so the picture has at most 127 classes."""
MOST_POINTS = 10_000  # of a line

Millimetre = Annotated[FiniteFloat, AfterValidator(lambda mm: round(mm, 4))]
"""Rounded on arrival, so that a file of clicks holds exactly what the model has seen."""
Point = tuple[Millimetre, Millimetre, Millimetre]
"""RAS millimetres."""


class Interaction(BaseModel):
    """A prompt of the page.

    Attributes:
        kind: what was drawn.
        points: RAS millimetres: the click, the corners of the line, or two corners of the box.
        label: number of the class.
        include: False on background.
        plane: of the slice that a line or a box was drawn on.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["click", "scribble", "box"]
    points: list[Point] = Field(min_length=1, max_length=MOST_POINTS)
    label: int = 1
    include: bool = True
    plane: Literal["axial", "coronal", "sagittal"] = "axial"


@dataclass(frozen=True)
class PageClass:
    """A class that the page offers.

    Attributes:
        number: in clicks and in the mask of the session.
        label: of the model.
        name: of the class.
    """

    number: int
    label: int
    name: str


def page_classes(session: SAM3DSession) -> list[PageClass]:
    """The classes that a session offers."""
    names = {label: name for name, label in session.model.class_names.items()}
    served = session.classes  # numbers and labels differ where the server offers one class of several
    return [
        PageClass(number, label, names.get(label, f"label {label}"))
        for number, label in zip(served.numbers, served.known)
    ]


@dataclass(frozen=True)
class FinishedObject:
    """An object that the user has finished.

    Attributes:
        box: in the image.
        mask: numbers of classes in the box.
        clicks: of the object.
        ml: volume.
    """

    box: Box
    mask: np.ndarray
    clicks: list["Click"]
    ml: float


@dataclass(frozen=True)
class Click:
    """A click that a file of clicks can hold.

    Attributes:
        lps: (3,) millimetres.
        number: of the class, 0 for background.
    """

    lps: np.ndarray
    number: int


@dataclass(frozen=True)
class _Step:
    """A prompt on the object, and what undo has to bring back.

    Attributes:
        click: None for a line or a box.
        changed: holds the voxels of the mask that it has changed; None if there are none.
    """

    click: Click | None
    changed: Box | None


class PageCase:
    """An image that is open on the page. Its session and its device are used by one action at a time."""

    def __init__(self, session: SAM3DSession, image: PageImage, on_device: Callable[[Callable], Any]) -> None:
        """
        Args:
            session: gets the image.
            image: that is open.
            on_device: runs what it gets where the network may run.

        Raises:
            SAM3DError: the model can't be applied to the image.
        """
        self.image = image
        self.classes = page_classes(session)
        session.set_image(image.array, image.for_session)
        self.mask = np.zeros(image.shape, np.min_scalar_type(max(c.number for c in self.classes)))
        session.set_target_buffer(self.mask)
        self.objects: list[FinishedObject] = []
        self._finished = np.zeros_like(self.mask)
        self._places = np.zeros(1 + max(c.number for c in self.classes), np.uint8)  # in the list of classes, from 1 on
        for place, one in enumerate(self.classes, start=1):
            self._places[one.number] = min(place, FINISHED - 1)
        self._shown = np.zeros(image.shape, np.uint8)
        self._steps: list[_Step] = []
        self._extent: Box | None = None  # holds the mask of the object; the rest of a large image is not looked at
        self._on_device = on_device

    def interact(self, session: SAM3DSession, drawn: Interaction) -> dict[str, Any]:
        """Add a prompt and predict.

        Returns:
            What the page shows, with the "seconds" that the prediction took.

        Raises:
            SAM3DError: the prompt can't be used. Nothing has changed then.
        """
        if drawn.include and drawn.label not in {c.number for c in self.classes}:
            raise SAM3DError(f"The model has no class {drawn.label}. Choose one of the classes on the page.")
        run = {"click": self._click, "scribble": self._scribble, "box": self._box}[drawn.kind](session, drawn)
        start = perf_counter()
        ends = self._on_device(run)
        seconds = perf_counter() - start
        click = Click(self.image.to_lps(drawn.points)[0], drawn.label if drawn.include else 0)
        changed = None if ends is None else Box.from_lists(ends)
        self._steps.append(_Step(click if drawn.kind == "click" else None, changed))
        self._extent = hull(self._extent, changed)
        return self._state(changed) | {"seconds": seconds}

    def undo(self, session: SAM3DSession) -> dict[str, Any]:
        """Take the last prompt back.

        Raises:
            SAM3DError: there is none in this object.
        """
        if not self._steps or not session.undo():
            raise SAM3DError("There is nothing to undo in this object.")
        return self._state(self._steps.pop().changed)

    def next_object(self, session: SAM3DSession) -> dict[str, Any]:
        """Keep the object and begin the next one.

        Raises:
            SAM3DError: there is no object yet.
        """
        inside = None if self._extent is None else Box.from_mask(self.mask[self._extent.slices] > 0)
        if inside is None:
            raise SAM3DError("There is no object yet. Click on one first.")
        box = inside.shifted(self._extent.start)
        mask = self.mask[box.slices].copy()
        self.objects.append(FinishedObject(box, mask, self._clicks(), np.count_nonzero(mask) * self.image.voxel_ml))
        self._draw_finished(box)
        return self.clear(session)

    def remove_object(self, number: int) -> dict[str, Any]:
        """Remove a finished object, by its place in `objects`.

        Raises:
            SAM3DError: there is no such object.
        """
        if not 0 <= number < len(self.objects):
            raise SAM3DError("There is no such object any more.")
        box = self.objects.pop(number).box
        self._draw_finished(box)
        return self._state(box)

    def clear(self, session: SAM3DSession) -> dict[str, Any]:
        """Remove the prompts and the mask of the object that is being drawn; finished ones stay."""
        session.reset_interactions()
        changed, self._extent, self._steps = self._extent, None, []
        return self._state(changed)

    def everything(self) -> dict[str, Any]:
        """The state with the whole picture, for a page that has lost track."""
        return self._state(None) | {"changes": changes(None, self._shown)}

    def _state(self, changed: Box | None) -> dict[str, Any]:
        """What the page shows.

        Args:
            changed: holds all voxels of the mask, or of finished objects, that have changed since the last call.
        """
        return {
            "changes": None if changed is None else self._redraw(changed),
            "prompts": len(self._steps),
            "clicks": [
                {"point": self.image.to_lps([click.lps])[0].tolist(), "label": click.number}  # there and back
                for click in self._clicks()
            ],
            "ml": self._ml(),
            "objects": [{"ml": done.ml, "clicks": len(done.clicks)} for done in self.objects],
        }

    def _redraw(self, box: Box) -> dict[str, Any] | None:
        """Bring a box of the picture up to date, and tell what has changed in it."""
        finished, mask, shown = self._finished[box.slices], self.mask[box.slices], self._shown[box.slices]
        picture = np.where(finished > 0, self._places[finished] + FINISHED, 0).astype(np.uint8)
        np.copyto(picture, self._places[mask], where=mask > 0)
        found = changes(shown, picture, box.start)
        shown[...] = picture
        return found

    def _ml(self) -> dict[int, float]:
        """Volume of each class in the object."""
        if self._extent is None:
            return {}
        mask = self.mask[self._extent.slices]
        numbers, counts = np.unique(mask[mask > 0], return_counts=True)
        return {int(number): int(count) * self.image.voxel_ml for number, count in zip(numbers, counts)}

    # --- what is saved ---

    def segmentation(self) -> np.ndarray:
        """(D, H, W) labels of the model: finished objects, and the one that is being drawn on top."""
        numbers = np.where(self.mask > 0, self.mask, self._finished)
        labels = np.zeros(1 + max(c.number for c in self.classes), int)
        for one in self.classes:
            labels[one.number] = one.label
        labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
        return labels[numbers]

    def prompts_json(self) -> str:
        """The clicks on all objects as text of our prompt file. Lines and boxes have no place in it.

        Raises:
            SAM3DError: there is no click.
        """
        clicks = [click for done in self.objects for click in done.clicks] + self._clicks()
        if not clicks:
            raise SAM3DError("There are no clicks to save. (Lines and boxes can't be saved in a file of clicks.)")
        labels = {0: 0} | {one.number: one.label for one in self.classes}
        points = np.array([click.lps for click in clicks]) + 0.0  # no -0
        return to_json(Prompt(points, [labels[click.number] for click in clicks], self.image.name))

    # --- parts ---

    def _click(self, session: SAM3DSession, drawn: Interaction) -> Callable:
        if len(drawn.points) != 1:
            raise SAM3DError("A click has one point.")
        voxel = self.image.click(drawn.points[0]).tolist()
        return lambda: session.add_point_interaction(voxel, drawn.include, class_label=drawn.label)

    def _scribble(self, session: SAM3DSession, drawn: Interaction) -> Callable:
        box, line = self.image.stroke(drawn.points, drawn.plane)
        return lambda: session.add_scribble_interaction(
            line.astype(np.uint8), drawn.include, interaction_bbox=box.as_lists(), class_label=drawn.label
        )

    def _box(self, session: SAM3DSession, drawn: Interaction) -> Callable:
        if len(drawn.points) != 2:
            raise SAM3DError("A box has two corners.")
        ends = self.image.box(drawn.points, drawn.plane)
        return lambda: session.add_bbox_interaction(ends, drawn.include, class_label=drawn.label)

    def _clicks(self) -> list[Click]:
        return [step.click for step in self._steps if step.click is not None]

    def _draw_finished(self, box: Box) -> None:
        """Draw the finished objects again, in a box outside of which none has changed."""
        self._finished[box.slices] = 0
        for done in self.objects:
            np.copyto(self._finished[done.box.slices], done.mask, where=done.mask > 0)
