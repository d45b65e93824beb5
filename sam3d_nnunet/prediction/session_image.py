"""The image of a session, preprocessed as the model expects it, and what users draw on it.

Scribbles, lassos and boxes are regions of the image: voxels of the model's grid for models that take dense prompts, and
a few points for all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.windows import WindowPredictor

CACHED_WINDOWS = 16  # ViT-B on 128^3: about 0.2 GB each
MAX_POINTS = 5  # that stand for one region where a model takes clicks only
FLAT = 1 / 4  # share of the longest side below which a side doesn't count for the depth in a region


class SessionImage:
    """One image of a session.

    Attributes:
        shape: voxels of the array, without channels.
        grid: what the model sees: the part of the array that is not empty border, resampled.
        predictor: networks on the grid; keeps the embeddings of the last windows.
    """

    def __init__(self, model: TrainedModel, image: np.ndarray, spacing: Sequence[float]) -> None:
        """
        Args:
            model: its plans say how to preprocess.
            image: (C, D, H, W).
            spacing: millimetres along each axis of the array.

        Raises:
            SAM3DError: the array or the spacing is none that the model can be applied to.
        """
        _check_image(image, model.channels)
        _check_spacing(spacing)
        self.shape = tuple(image.shape[1:])
        preprocessor = model.configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, {"spacing": list(map(float, spacing))}, model.plans, model.configuration, model.dataset_json
        )
        self.grid = PreprocessedGrid.from_properties(properties, model.plans.transpose_forward, data.shape[1:])
        self.predictor = WindowPredictor(
            model.networks,
            torch.from_numpy(data),
            tuple(model.configuration.patch_size),
            model.region_order,
            cached_windows=CACHED_WINDOWS,
            clicks_carry_labels=model.clicks_carry_labels,
        )

    def region_on_grid(self, region: "Region") -> tuple[Box, np.ndarray] | None:
        """A box of the grid, and the voxels (bool) in it that belong to a region; None if the grid has none.

        Each voxel of the region counts, however coarse the grid, and there are no gaps, however fine.
        """
        hit, hits = self._hit_by(region)
        filled = Box.from_mask(hits)
        if filled is None:
            return None
        hit, hits = [index[part] for index, part in zip(hit, filled.slices)], hits[filled.slices]
        reach = np.ceil(self.grid.shape / self.grid.crop_shape).astype(int)
        box = Box(
            [index[0] - more for index, more in zip(hit, reach)],
            [index[-1] + more + 1 for index, more in zip(hit, reach)],
        ).intersection(self.grid.box)
        transpose = list(self.grid.transpose)
        mask, start = region.mask.transpose(transpose), np.array(region.start)[transpose]
        nearest = [voxels - s for voxels, s in zip(self.grid.nearest_in_image(box), start)]
        inside = [(index >= 0) & (index < n) for index, n in zip(nearest, mask.shape)]
        voxels = np.zeros(box.shape, bool)
        voxels[np.ix_(*inside)] = mask[np.ix_(*(index[i] for index, i in zip(nearest, inside)))]
        voxels[np.ix_(*(index - s for index, s in zip(hit, box.start)))] |= hits
        return box, voxels

    def _hit_by(self, region: "Region") -> tuple[list[np.ndarray], np.ndarray]:
        """The voxels of the grid in which voxels of a region have their centres.

        Each axis of the grid depends on one of the image, so a region of millions of voxels needs no list of them.

        Returns:
            For each axis of the grid, the indices that the region's box hits; and (bool) which of their combinations
            the region itself hits.
        """
        indices, hits = [], region.mask.transpose(self.grid.transpose)
        for number, (axis, turned) in enumerate(zip(self.grid.axes, self.grid.transpose)):
            along = np.arange(region.mask.shape[turned]) + region.start[turned]
            index, first = np.unique(np.rint(axis.to_grid(along)).astype(int), return_index=True)
            hits = np.logical_or.reduceat(hits, first, axis=number)
            inside = (index >= 0) & (index < axis.grid)
            indices.append(index[inside])
            hits = hits.compress(inside, axis=number)
        return indices, hits


def _check_image(image: np.ndarray, channels: int) -> None:
    if not isinstance(image, np.ndarray) or image.ndim != 4:
        found = f"the shape {image.shape}" if isinstance(image, np.ndarray) else f"the type {type(image).__name__}"
        raise SAM3DError(f"The image has {found}; give an array or tensor of four axes, channels first: (1, x, y, z).")
    if len(image) != channels:
        raise SAM3DError(f"The image has {len(image)} channels; this model takes {channels}.")
    if not np.isfinite(image).all():
        raise SAM3DError("The image holds values that are no finite numbers. Replace them.")
    if not image.any():
        raise SAM3DError("The image is empty: all its voxels are 0.")


def _check_spacing(spacing: Sequence[float]) -> None:
    values = np.asarray(spacing, dtype=float)
    if values.shape != (3,) or not (np.isfinite(values).all() and (values > 0).all()):
        raise SAM3DError(f"The spacing is {spacing}; give three numbers above 0, in the order of the image's axes.")


@dataclass(frozen=True)
class Region:
    """Voxels of an image.

    Attributes:
        mask: (d, h, w) bool, not empty.
        start: first voxel of the image that the mask covers.
    """

    mask: np.ndarray
    start: tuple[int, ...]

    @property
    def points(self) -> np.ndarray:
        """(n, 3) points that stand for the region, see `spread_points`, in voxels of the image."""
        return spread_points(self.mask) + self.start


def spread_points(mask: np.ndarray) -> np.ndarray:
    """Up to `MAX_POINTS` points well inside a mask and far from each other, always the same.

    The first is the deepest voxel; each further one is that furthest from all before it among those at least half as
    deep. In a mask that was drawn on one or a few slices, depth is that in the slices.

    Args:
        mask: (D, H, W) bool, not empty.

    Returns:
        (n, 3) int voxels.
    """
    box = Box.from_mask(mask)
    inside = mask[box.slices]
    thick = np.array(inside.shape) > FLAT * max(inside.shape)
    depth = distance_transform_edt(np.pad(inside, [(int(t), int(t)) for t in thick]))
    depth = depth[tuple(slice(1, -1) if t else slice(None) for t in thick)]
    voxels = np.argwhere(depth >= depth.max() / 2)
    chosen = [np.array(np.unravel_index(depth.argmax(), depth.shape))]
    distance = np.full(len(voxels), np.inf)
    while len(chosen) < MAX_POINTS:
        distance = np.minimum(distance, np.linalg.norm(voxels - chosen[-1], axis=1))
        if distance.max() < 2:  # side by side
            break
        chosen.append(voxels[distance.argmax()])
    return np.array(chosen) + box.start


def box_points(box: Box) -> np.ndarray:
    """The centre of a box, and points halfway to its faces along its two longest axes: (n, 3) float voxels.

    They lie in an ellipsoid that fills the box. Axes shorter than 4 voxels have none but the centre.
    """
    low, high = np.array(box.start), np.array(box.stop)
    centre, sides = (low + high - 1) / 2, high - low
    points = [centre]
    for axis in np.argsort(-sides, kind="stable")[:2]:
        if sides[axis] >= 4:
            step = np.eye(3)[axis] * sides[axis] / 4
            points += [centre - step, centre + step]
    return np.array(points)


def fill_contour(mask: np.ndarray) -> np.ndarray:
    """A closed contour with what it encloses, slice by slice across its thinnest side; a filled mask as it is."""
    box = Box.from_mask(mask)
    across = int(np.argmin(box.shape))
    filled = mask.copy()
    slices = np.moveaxis(filled, across, 0)
    for number in range(box.start[across], box.stop[across]):
        slices[number] = binary_fill_holes(slices[number])
    return filled
