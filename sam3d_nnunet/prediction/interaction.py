"""The mask of one object in the making: prompts so far, predictions from them, and the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from sam3d_nnunet.geometry.boxes import Box, as_slices, bounding_box
from sam3d_nnunet.prediction.box_logits import BoxLogits
from sam3d_nnunet.prediction.growth import MAX_WINDOWS, SEEDS, predict_prompted
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.refine import clicks_in_components
from sam3d_nnunet.prediction.regions import Region
from sam3d_nnunet.prediction.session_image import SessionImage
from sam3d_nnunet.prediction.target_buffer import SavedPart, TargetBuffer
from sam3d_nnunet.prediction.windows import Window, in_any, windows_around
from sam3d_nnunet.prompts.prompt import KINDS, MASK, NOTHING
from sam3d_nnunet.simulation.draw import interior_points

Place = tuple[slice, ...]


@dataclass(frozen=True)
class _State:
    """All that interactions change, but for the maps of dense prompts and the target buffer.

    Attributes:
        points: (N, 3) clicks in voxels of the grid.
        labels: (N,) their labels.
        windows: those that interactions lie in; they stay where they are, so that they need no new encoding.
        looked_at: those of the last prediction.
        initial: label map of the image, which holds where nothing has been looked at; None: background.
        written: box of the grid where the mask may differ from that.
    """

    points: np.ndarray
    labels: np.ndarray
    windows: tuple[Window, ...] = ()
    looked_at: tuple[Window, ...] = ()
    initial: np.ndarray | None = None
    written: Place | None = None


NOTHING_SAID = _State(np.zeros((0, 3)), np.zeros(0, np.int64))


class InteractiveMask:
    """Turns interactions into the mask in the target buffer.

    The mask is what the last prediction found in the windows it looked at, and the initial mask (none: background)
    everywhere else. Where the model takes dense prompts, the mask so far is among those of the next prediction.
    """

    def __init__(self, image: SessionImage, model: TrainedModel, keeps_history: bool) -> None:
        """
        Args:
            image: what is segmented.
            model: what segments.
            keeps_history: whether interactions can be undone.
        """
        self.image = image
        self.model = model
        self.keeps_history = keeps_history
        self.target: TargetBuffer | None = None
        self.last: BoxLogits | None = None
        self._state = NOTHING_SAID
        self._maps: np.ndarray | None = None
        self._history: list[tuple[_State, list[SavedPart]]] = []

    def set_target(self, target: TargetBuffer) -> None:
        """Write to another buffer from now on; what went to the old one can't be undone any more."""
        self.target = target
        self._history = []

    def interact(
        self,
        points: np.ndarray,
        label: int,
        predict: bool,
        grow: bool,
        kind: int | None = None,
        region: Region | None = None,
    ) -> Box | None:
        """Add a prompt.

        Args:
            points: (N, 3) voxels of the image.
            label: of all of them, 0 for background.
            predict: whether to predict now.
            grow: whether to look further where the mask touches the face of a window.
            kind: `SCRIBBLE` or `BOX`, of the region.
            region: a dense prompt with that label; only for models that take them.

        Returns:
            The box of all voxels of the target buffer that have changed; None if there are none.
        """
        with self._undoable() as saved:
            if kind is not None:
                self._say(kind, region, label, saved)
            points = self.image.grid.from_image(points)
            self._look_at(points, label)
            self._add_points(points, np.full(len(points), label))
            return self._predict(grow, saved) if predict else None

    def start_from(self, mask: np.ndarray, predict: bool, grow: bool) -> Box | None:
        """Forget all prompts and start from an existing mask, with a click in each of its components.

        Args:
            mask: (D, H, W) label map of the image; goes into the target buffer.
            predict: whether to predict now.
            grow: as in `interact`.

        Returns:
            The box of all voxels of the target buffer that have changed; None if there are none, or without prediction.
        """
        everything = tuple(slice(0, n) for n in self.image.shape)
        with self._undoable() as saved:
            before = self.target[everything].copy() if predict else None
            self._write(everything, mask, saved)
            self._state = replace(NOTHING_SAID, initial=mask)
            if self.model.takes_maps:
                maps = self._said()
                saved.append(SavedPart(maps, (slice(None),)))
                maps.fill(NOTHING)
                maps[MASK] = self.image.labels_on_grid(mask, tuple(slice(0, n) for n in maps.shape[1:]))
            content = as_slices(self.image.content)
            points, labels, _ = clicks_in_components(mask[content])
            points = self.image.grid.from_image(points + [s.start for s in content])
            if predict:
                self._look_at(points, 1)
            self._add_points(points, labels)
            if not predict:
                return None
            self._predict(grow, saved)
            return bounding_box(self.target[everything] != before)

    def undo(self) -> bool:
        """Take the last interaction back; whether there was one."""
        if not self._history:
            return False
        self._restore(*self._history.pop())
        return True

    def reset(self) -> None:
        """Forget all prompts and the history, and empty the target buffer."""
        self._state, self._history, self.last = NOTHING_SAID, [], None
        if self._maps is not None:
            self._maps.fill(NOTHING)
        if self.target is not None:
            self.target.clear()

    @contextmanager
    def _undoable(self) -> Iterator[list[SavedPart]]:
        """What is changed within can be undone, and is undone where it fails."""
        before, saved = self._state, []
        try:
            yield saved
        except BaseException:
            self._restore(before, saved)
            raise
        if self.keeps_history:
            self._history.append((before, saved))

    def _restore(self, state: _State, saved: list[SavedPart]) -> None:
        for part in reversed(saved):
            part.put_back()
        self._state = state

    def _said(self) -> np.ndarray:
        """(3, D, H, W) dense prompts on the grid."""
        if self._maps is None:
            self._maps = np.full((KINDS, *self.image.grid.shape), NOTHING, np.int16)
        return self._maps

    def _say(self, kind: int, region: Region, label: int, saved: list[SavedPart]) -> None:
        """Draw a region into the maps."""
        drawn = self.image.region_on_grid(region)
        if drawn is None:
            return
        place, voxels = drawn
        saved.append(SavedPart(self._said(), (kind, *place)))
        self._said()[(kind, *place)][voxels] = label

    def _add_points(self, points: np.ndarray, labels: np.ndarray) -> None:
        """Points in voxels of the grid."""
        if not self.model.clicks_carry_labels:
            labels = np.ones_like(labels)
        old = self._state
        self._state = replace(
            old, points=np.concatenate([old.points, points]), labels=np.concatenate([old.labels, labels])
        )

    # --- where to look ---

    def _look_at(self, points: np.ndarray, label: int) -> None:
        """See to it that points (in voxels of the grid) lie in windows.

        Those that the last prediction grew into stay where they are and become windows of their own right. Background
        points where nothing has been found don't need to be looked at.
        """
        lonely = points[~in_any(self._state.windows, points)]
        for window in self._state.looked_at:
            if window.contains(lonely).any():
                lonely = lonely[~window.contains(lonely)]
                self._keep(window)
        if label == 0:
            lonely = lonely[self._initially(lonely)]
        new = windows_around(lonely, self.image.predictor.shape, self.image.predictor.patch_size)
        self._state = replace(self._state, windows=(*self._state.windows, *new))

    def _keep(self, window: Window) -> None:
        """A window of the growth, with points of the mask in it, as growth would have given it."""
        here, _ = window.overlap(self.image.predictor.shape)
        place = self.image.to_image(here)
        found = self.target[place]
        self._state = replace(self._state, windows=(*self._state.windows, window))
        for label in np.unique(found[found > 0]):
            points = interior_points(found == label, SEEDS) + [s.start for s in place]
            self._add_points(self.image.grid.from_image(points), np.full(len(points), int(label)))

    def _initially(self, points: np.ndarray) -> np.ndarray:
        """(N,) whether points of the grid lie on something of the initial mask."""
        if self._state.initial is None:
            return np.zeros(len(points), bool)
        voxels = np.rint(self.image.grid.to_image(points)).astype(int)
        voxels = np.clip(voxels, 0, np.array(self.image.shape) - 1)
        return self._state.initial[tuple(voxels.T)] > 0

    # --- prediction ---

    def _predict(self, grow: bool, saved: list[SavedPart]) -> Box | None:
        state, predictor = self._state, self.image.predictor
        if not state.windows:
            return None
        seen = in_any(state.windows, state.points)
        maps = self._said() if self.model.takes_maps else None
        self.last = result = predict_prompted(
            predictor,
            state.points[seen],
            state.labels[seen],
            maps,
            list(state.windows),
            state.looked_at,
            max(MAX_WINDOWS, len(state.windows)) if grow else len(state.windows),
        )
        written = result.box if state.written is None else _around(result.box, state.written)
        self._state = replace(state, looked_at=tuple(result.windows), written=written)
        if self.model.takes_maps:
            self._remember(result, written, saved)
        place = self.image.to_image(written)
        labels = result.segmentation(self.image.grid, self.image.shape, self.model.labels)[place]
        if state.initial is not None:
            parts = [self.image.to_image(window.overlap(predictor.shape)[0]) for window in result.windows]
            labels = _compose(state.initial[place], labels, place, parts)
        return self._write(place, labels, saved)

    def _remember(self, result: BoxLogits, written: Place, saved: list[SavedPart]) -> None:
        """The mask on the grid is a dense prompt of the next prediction."""
        maps = self._said()
        first = maps[(MASK, 0, 0, 0)] == NOTHING
        saved.append(SavedPart(maps, (MASK,) if first else (MASK, *written)))
        if first:
            maps[MASK] = 0
        shape = self.image.predictor.shape
        found = np.zeros([s.stop - s.start for s in written], np.int16)
        found[_within(result.box, written)] = self.image.predictor.as_labels(result.logits)
        initial = self._state.initial
        if initial is not None:
            parts = [window.overlap(shape)[0] for window in result.windows]
            found = _compose(self.image.labels_on_grid(initial, written), found, written, parts)
        maps[(MASK, *written)] = found

    def _write(self, place: Place, labels: np.ndarray, saved: list[SavedPart]) -> Box | None:
        """Write a part of the target buffer, and return the box of what has changed."""
        before = self.target[place]
        labels = labels.astype(before.dtype)
        box = bounding_box(before != labels)
        if box is None:
            return None
        inner = as_slices(box)
        changed = tuple(slice(p.start + i.start, p.start + i.stop) for p, i in zip(place, inner))
        saved.append(SavedPart(self.target, changed))
        self.target[changed] = labels[inner]
        return [[s.start, s.stop] for s in changed]


def _around(a: Place, b: Place) -> Place:
    return tuple(slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b))


def _within(inner: Place, outer: Place) -> Place:
    """A box, counted from the start of another."""
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer))


def _compose(initial: np.ndarray, found: np.ndarray, place: Place, parts: list[Place]) -> np.ndarray:
    """`found` in the parts that have been looked at, `initial` elsewhere, both in a box."""
    labels = initial.astype(found.dtype)
    for part in parts:
        labels[_within(part, place)] = found[_within(part, place)]
    return labels
