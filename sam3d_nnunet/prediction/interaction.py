"""One object of a session: its prompts, the mask that they predict, and undo.

The mask is in the user's array or tensor (`TargetBuffer`). Before an interaction changes a part of it, that part is
saved for undo (`SavedPart`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from sam3d_nnunet.geometry.boxes import Box, hull
from sam3d_nnunet.geometry.grid import to_grid
from sam3d_nnunet.prediction.capabilities import ServedClasses
from sam3d_nnunet.prediction.cases import clicks_in_components
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.growth import (
    MAX_WINDOWS,
    BoxLogits,
    clicks_inside,
    compose,
    objects_prompted,
    predict_prompted,
)
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.session_image import Region, SessionImage
from sam3d_nnunet.prediction.target_buffer import SavedPart, TargetBuffer, box_of_parts
from sam3d_nnunet.prediction.windows import Window, in_any, windows_around
from sam3d_nnunet.prompts.prompt import MASK, VoxelPrompts


@dataclass(frozen=True)
class _State:
    """Everything that interactions change, except what is drawn in dense prompts and the target buffer.

    Attributes:
        clicks: on the grid.
        maps: dense prompts. None: nothing was drawn since the last reset.
        windows: contain the interactions; they stay where they are, so that they are encoded only once.
        looked_at: windows of the last prediction.
        initial: label map of the image, which is the mask outside all windows. None: background.
        written: box of the grid in which the mask may differ from `initial`.
        waits: whether prompts were added since the last prediction.
    """

    clicks: VoxelPrompts
    maps: DensePrompts | None = None
    windows: tuple[Window, ...] = ()
    looked_at: tuple[Window, ...] = ()
    initial: np.ndarray | None = None
    written: Box | None = None
    waits: bool = False


NO_PROMPTS = _State(VoxelPrompts.none())


class InteractiveMask:
    """Turns interactions into the mask in the target buffer.

    In the windows of the last prediction, the mask is the prediction; everywhere else it is the initial mask, or
    background. If the model takes dense prompts, it gets the mask so far for the next prediction.

    Labels are those of the model everywhere but in the target buffer.
    """

    def __init__(self, image: SessionImage, model: TrainedModel, classes: ServedClasses, keeps_history: bool) -> None:
        """
        Args:
            image: to segment.
            model: for the predictions.
            classes: numbers of the labels in the target buffer.
            keeps_history: whether interactions can be undone.
        """
        self.image = image
        self.model = model
        self.classes = classes
        self.keeps_history = keeps_history
        self.target: TargetBuffer | None = None
        self.touched: Box | None = None
        """Holds all voxels of the target buffer that have changed since it was set or cleared."""
        self.last: BoxLogits | None = None
        self._state = NO_PROMPTS
        self._history: list[tuple[_State, list[SavedPart]]] = []

    def set_target(self, target: TargetBuffer) -> None:
        """Use another buffer from now on. Earlier interactions can't be undone any more."""
        self.target, self.touched = target, None
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
            label: of all points, 0 for background.
            predict: whether to predict now.
            grow: whether to add windows where the mask touches the face of a window.
            kind: `SCRIBBLE` or `BOX`, of the region.
            region: a dense prompt with this label; only for models that take dense prompts.

        Returns:
            The box of all changed voxels of the target buffer; None if there are none.
        """
        with self._undoable() as saved:
            if kind is not None:
                self._draw_region(kind, region, label, saved)
            points = self.image.grid.from_image(points)
            self._look_at(points, label)
            self._add_points(points, np.full(len(points), label))
            self._state = replace(self._state, waits=True)
            return self._predict(grow, saved) if predict else None

    def predict_waiting(self, grow: bool) -> Box | None:
        """Predict what was added since the last prediction. This is undone together with the last interaction.

        Args:
            grow: as in `interact`.

        Returns:
            The box of all changed voxels of the target buffer; None if there are none.
        """
        if not self._state.waits:
            return None
        with self._undoable(joins_last=True) as saved:
            return self._predict(grow, saved)

    def start_from(self, mask: np.ndarray, predict: bool, grow: bool) -> Box | None:
        """Remove all prompts and start from an existing mask, with a click in each of its components.

        Args:
            mask: (D, H, W) labels of the model, copied into the target buffer.
            predict: whether to predict now.
            grow: as in `interact`.

        Returns:
            The box of all changed voxels of the target buffer; None if there are none, or without prediction.
        """
        everything = Box.of_shape(self.image.shape)
        with self._undoable() as saved:
            before = self.target[everything.slices].copy() if predict else None
            self._write(everything, mask, saved)
            maps = DensePrompts.of_mask(mask, self.image.grid) if self.model.takes_maps else None
            self._state = replace(NO_PROMPTS, initial=mask, maps=maps)
            content = self.image.grid.crop
            points, labels, _ = clicks_in_components(mask[content.slices])
            points = self.image.grid.from_image(points + content.start)
            if predict:
                self._look_at(points, 1)
            self._add_points(points, labels)
            if not predict:
                return None
            self._predict(grow, saved)
            return Box.from_mask(self.target[everything.slices] != before)

    def undo(self) -> tuple[bool, Box | None]:
        """Undo the last interaction. Returns whether there was one, and the box of all changed voxels."""
        if not self._history:
            return False, None
        state, saved = self._history.pop()
        around = box_of_parts(saved, self.target)
        before = None if around is None else self.target[around.slices].copy()
        self._restore(state, saved)
        changed = None if around is None else Box.from_mask(self.target[around.slices] != before)
        return True, None if changed is None else changed.shifted(around.start)

    def reset(self) -> None:
        """Remove all prompts and the history, and clear the target buffer."""
        self._state, self._history, self.last, self.touched = NO_PROMPTS, [], None, None
        if self.target is not None:
            self.target.clear()

    def encode_ahead(self, point: np.ndarray | None, cancelled: Callable[[], bool]) -> bool:
        """Compute the embedding of the window that a click would get; masks stay as they are.

        Args:
            point: (3,) voxel of the image. None: the middle of what the image shows.
            cancelled: returns true to stop.

        Returns:
            Whether a click there only has to decode now.
        """
        grid, predictor = self.image.grid, self.image.predictor
        points = (np.array([grid.shape]) - 1) / 2 if point is None else grid.from_image(point[None])
        known = (w for w in (*self._state.windows, *self._state.looked_at) if w.contains(points)[0])
        window = next(known, None) or windows_around(points, predictor.shape, predictor.patch_size)[0]
        return predictor.encode(window, cancelled)

    @contextmanager
    def _undoable(self, joins_last: bool = False) -> Iterator[list[SavedPart]]:
        """Changes in this context can be undone; they are undone at once if an error occurs.

        Args:
            joins_last: they are undone together with the last interaction.
        """
        before, saved = self._state, []
        try:
            yield saved
        except BaseException:
            self._restore(before, saved)
            raise
        if joins_last and self._history:
            self._history[-1][1].extend(saved)
        elif self.keeps_history and not joins_last:
            self._history.append((before, saved))

    def _restore(self, state: _State, saved: list[SavedPart]) -> None:
        for part in reversed(saved):
            part.put_back()
        self._state = state

    def _dense_prompts(self) -> DensePrompts:
        """Dense prompts on the grid, empty at first."""
        if self._state.maps is None:
            self._state = replace(self._state, maps=DensePrompts.none(self.image.grid.shape))
        return self._state.maps

    def _draw_region(self, kind: int, region: Region, label: int, saved: list[SavedPart]) -> None:
        """Draw a region into the maps of dense prompts."""
        drawn = self.image.region_on_grid(region)
        if drawn is None:
            return
        box, voxels = drawn
        saved.append(SavedPart(self._dense_prompts().stored, (kind, *box.slices)))
        self._dense_prompts().draw(kind, box, label, where=voxels)

    def _add_points(self, points: np.ndarray, labels: np.ndarray) -> None:
        """Points in voxels of the grid."""
        if not self.model.clicks_carry_labels:
            labels = np.ones_like(labels)
        clicks = VoxelPrompts.concatenate([self._state.clicks, VoxelPrompts(points, labels)])
        self._state = replace(self._state, clicks=clicks)

    # --- where to look ---

    def _look_at(self, points: np.ndarray, label: int) -> None:
        """Add windows, so that points (in voxels of the grid) lie in a window.

        Windows of the last growth that contain a point are kept as they are. Background points outside the mask need
        no window.
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
        """Keep a window of the last growth, with the clicks that growth would place on the mask in it."""
        part, predictor = window.in_image(self.image.predictor.shape), self.image.predictor
        # an object's click may lie outside of the window
        area = self._state.written if predictor.clicks_select else part
        found = self._mask_on_grid(area)
        if predictor.clicks_select:
            prompts = self._state.clicks._replace(maps=self._state.maps)
            found = objects_prompted(found, prompts.cut(area), predictor.region_order is not None)
        seeds = clicks_inside(found[part.within(area).slices]).shifted(part.start)
        self._state = replace(self._state, windows=(*self._state.windows, window))
        self._add_points(seeds.points, seeds.labels)

    def _mask_on_grid(self, area: Box) -> np.ndarray:
        """The mask in a box of the grid, from the target buffer."""
        # one more voxel on each side, since the nearest one of a finer grid can lie beyond the box
        box = self.image.grid.box_in_image(area).grown(1).intersection(Box.of_shape(self.image.shape))
        mask = np.zeros(self.image.shape, np.int16)  # takes memory only where something is written
        mask[box.slices] = self.classes.buffer_to_model(self.target[box.slices])
        return to_grid(mask, self.image.grid, area)

    def _initially(self, points: np.ndarray) -> np.ndarray:
        """(N,) whether points of the grid lie on the initial mask."""
        if self._state.initial is None:
            return np.zeros(len(points), bool)
        voxels = np.rint(self.image.grid.to_image(points)).astype(int)
        voxels = np.clip(voxels, 0, np.array(self.image.shape) - 1)
        return self._state.initial[tuple(voxels.T)] > 0

    # --- prediction ---

    def _predict(self, grow: bool, saved: list[SavedPart]) -> Box | None:
        self._state = replace(self._state, waits=False)
        if not self._state.windows:
            return None
        maps = self._dense_prompts() if self.model.takes_maps else None
        state, predictor = self._state, self.image.predictor
        prompts = state.clicks.with_clicks(in_any(state.windows, state.clicks.points))._replace(maps=maps)
        self.last = result = predict_prompted(
            predictor,
            prompts,
            list(state.windows),
            state.looked_at,
            max(MAX_WINDOWS, len(state.windows)) if grow else len(state.windows),
        )
        written = hull(result.box, state.written)
        self._state = replace(state, looked_at=tuple(result.windows), written=written)
        if self.model.takes_maps:
            self._remember(result, written, saved)
        grid = self.image.grid
        box = grid.box_in_image(written)
        labels = result.segmentation(grid, self.image.shape, self.model.labels)[box.slices]
        if state.initial is not None:
            parts = [grid.box_in_image(window.in_image(predictor.shape)) for window in result.windows]
            labels = compose(state.initial[box.slices], labels, box, parts)
        return self._write(box, labels, saved)

    def _remember(self, result: BoxLogits, written: Box, saved: list[SavedPart]) -> None:
        """Store the mask on the grid as a dense prompt for the next prediction."""
        maps = self._dense_prompts()
        saved.append(SavedPart(maps.stored, (MASK, *written.slices)))
        found = np.zeros(written.shape, np.int16)
        found[result.box.within(written).slices] = self.image.predictor.as_labels(result.logits)
        initial = self._state.initial
        if initial is not None:
            parts = [window.in_image(self.image.predictor.shape) for window in result.windows]
            found = compose(to_grid(initial, self.image.grid, written), found, written, parts)
        maps.draw(MASK, written, found)
        self._state = replace(self._state, maps=maps.with_mask())

    def _write(self, box: Box, labels: np.ndarray, saved: list[SavedPart]) -> Box | None:
        """Write a part of the target buffer, and return the box of the changed voxels."""
        before = self.target[box.slices]
        labels = self.classes.mask_to_user(labels).astype(before.dtype)
        inner = Box.from_mask(before != labels)
        if inner is None:
            return None
        changed = inner.shifted(box.start)
        saved.append(SavedPart(self.target, changed.slices))
        self.target[changed.slices] = labels[inner.slices]
        self.touched = hull(self.touched, changed)
        return changed
