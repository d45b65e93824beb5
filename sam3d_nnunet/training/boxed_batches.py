"""Patches from a part of each image: the box of all that lies above the lowest intensity that clipping leaves."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.training.finite import SLAB
from sam3d_nnunet.training.preprocessed_cases import for_each_preprocessed
from sam3d_nnunet.training.prompted_batches import PromptedDataLoader


def boxes_above(dataset: nnUNetBaseDataset, cases: Collection[str], level: float) -> dict[str, Box | None]:
    """By preprocessed case: the smallest box (d, h, w) that holds all voxels of the first channel above a level.

    Args:
        dataset: nnU-Net's, of a configuration.
        cases: to look at; each is read once, whole.
        level: a normalised intensity.

    Returns:
        None for a case without such voxels.

    Raises:
        SAM3DError: a case can't be read.
    """
    title = "Looking for the body in each image"
    return for_each_preprocessed(lambda case: box_above(dataset.load_case(case)[0], level), dataset, cases, title)


def box_above(image: np.ndarray, level: float) -> Box | None:
    """The smallest box that holds all voxels of the first channel above a level; (C, D, H, W) may lie on the disk."""
    across, along = np.zeros(image.shape[2:], bool), np.zeros(image.shape[1], bool)
    for start in range(0, len(along), SLAB):
        above = image[0, start : start + SLAB] > level
        across |= above.any(axis=0)
        along[start : start + SLAB] = above.any(axis=(1, 2))
    plane = Box.from_mask(across)
    if plane is None:
        return None
    slices = np.flatnonzero(along)
    return Box((slices[0], *plane.start), (slices[-1] + 1, *plane.stop))


class BoxedDataLoader(PromptedDataLoader):
    """Prompted batches whose background patches lie within a box of each image.

    Such a patch is centred on any voxel of the box, then moved into the box; where it is larger than the box, their
    centres coincide. Patches centred on foreground are nnU-Net's. So are the background patches of cases without a box,
    and of data sets with an ignore label, which nnU-Net centres on annotated voxels.
    """

    def __init__(self, *args: Any, boxes: dict[str, Box | None], patch_share: float, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: as for `PromptedDataLoader`.
            boxes: by case.
            patch_share: what must lie within the box is so many times as large as the final patch.
        """
        super().__init__(*args, **kwargs)
        self.boxes = boxes
        self.inner_size = np.round(np.multiply(self.final_patch_size, patch_share)).astype(int)
        self._upcoming: Iterator[str] = iter(())

    def get_indices(self) -> list[str]:
        """The cases of the next batch, as nnU-Net draws them. It then asks for a box of each, in this order."""
        cases = super().get_indices()
        self._upcoming = iter(cases)
        return cases

    def get_bbox(
        self, data_shape: tuple[int, ...], force_fg: bool, class_locations: dict | None, **more: Any
    ) -> tuple[list[int], list[int]]:
        """Where a patch of the loaded size begins and ends in an image of this shape; both may lie outside."""
        box = self.boxes.get(next(self._upcoming))
        has_foreground = any(len(voxels) for voxels in class_locations.values())
        if box is None or self.has_ignore or (force_fg and has_foreground):
            return super().get_bbox(data_shape, force_fg, class_locations, **more)
        low, high = np.array(box.start), np.array(box.stop)
        centre = np.random.randint(low, high)
        moved = np.clip(centre - self.inner_size // 2, low, high - self.inner_size)
        inner = np.where(self.inner_size <= high - low, moved, (low + high - self.inner_size) // 2)
        start = inner - (np.array(self.patch_size) - self.inner_size) // 2
        return start.tolist(), (start + self.patch_size).tolist()
