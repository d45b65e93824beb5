"""Dense prompts on the grid of an image: a previous mask, scribbles and boxes. Only what is drawn takes memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid
from sam3d_nnunet.prompts.prompt import KINDS, MASK, NOTHING


@dataclass(frozen=True)
class DensePrompts:
    """Dense prompts of a whole image, from which windows cut theirs.

    Attributes:
        stored: (3, d, h, w) int16 on the grid: 1 + label, and 0 where nothing was drawn. NumPy asks the system for
            zeros, which take memory only where something is written.
        has_mask: whether there is a previous mask. If so, it is background where nothing was drawn, and beyond the
            image, as in training.
    """

    stored: np.ndarray
    has_mask: bool = False

    @classmethod
    def none(cls, shape: Sequence[int]) -> "DensePrompts":
        """Nothing is drawn on a grid of this shape."""
        return cls(np.zeros((KINDS, *shape), np.int16))

    @classmethod
    def of_mask(cls, label_map: np.ndarray, grid: PreprocessedGrid) -> "DensePrompts":
        """A previous mask.

        Args:
            label_map: (D, H, W) of the image.
            grid: of the image.
        """
        prompts = cls.none(grid.shape).with_mask()
        marked = Box.of_nonzero(label_map[None])
        box = None if marked is None else grid.box_around(marked)
        if box is not None and not box.is_empty:
            prompts.draw(MASK, box, to_grid(label_map, grid, box))
        return prompts

    def with_mask(self) -> "DensePrompts":
        """The same drawings, with a previous mask that is background where nothing was drawn."""
        return replace(self, has_mask=True)

    def draw(self, kind: int, box: Box, labels: np.ndarray | int, where: np.ndarray | bool = True) -> None:
        """Draw labels.

        Args:
            kind: `MASK`, `SCRIBBLE` or `BOX`.
            box: of the grid.
            labels: one, or one for each voxel of the box.
            where: (bool) voxels of the box to draw on.
        """
        stored = np.add(labels, 1, dtype=np.int16, casting="unsafe")  # label maps that were read may be float32
        np.copyto(self.stored[(kind, *box.slices)], stored, where=where)

    def cut(self, box: Box) -> np.ndarray:
        """(3, *box.shape) int16 dense prompts in a box; no scribble or box is drawn beyond the grid."""
        maps = np.full((KINDS, *box.shape), NOTHING, np.int16)
        if self.has_mask:
            maps[MASK] = 0
        inside = box.intersection(Box.of_shape(self.stored.shape[1:]))
        if inside.is_empty:
            return maps
        drawn = self.stored[(slice(None), *inside.slices)] - np.int16(1)
        if self.has_mask:
            np.maximum(drawn[MASK], 0, out=drawn[MASK])
        maps[(slice(None), *inside.within(box).slices)] = drawn
        return maps
