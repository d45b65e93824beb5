"""The image of a session, preprocessed for the model, and the regions that users draw on it.

Scribbles, lassos and boxes are regions. Models that take dense prompts get them as voxels of the preprocessed grid,
other models as a few points.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.embeddings import EmbeddingCache
from sam3d_nnunet.prediction.grid_image import GridImage, WholeImage
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.preprocessing import preprocess
from sam3d_nnunet.prediction.windows import Window, WindowPredictor
from sam3d_nnunet.prompts.prompt import VoxelPrompts

logger = logging.getLogger(__name__)

MAX_POINTS = 5  # that stand for one region where a model takes clicks only
FLAT = 1 / 4  # share of the longest side below which a side doesn't count for the depth in a region


class SessionImage:
    """One image of a session.

    Attributes:
        shape: voxels of the array, without channels.
        grid: of the preprocessed image: the array without its empty border, turned as training images lie, resampled.
        predictor: applies the networks to windows of the grid; keeps the embeddings of the last windows.
    """

    def __init__(
        self,
        model: TrainedModel,
        image: np.ndarray,
        spacing: Sequence[float],
        geometry: ImageGeometry | None,
        embeddings: EmbeddingCache,
        only: int | None = None,
    ) -> None:
        """
        Args:
            model: its plans say how to preprocess.
            image: (C, D, H, W).
            spacing: millimetres along each axis of the array.
            geometry: of the array, which is turned to the orientation of the model; None: it has this orientation.
            embeddings: keeps those of the windows.
            only: the label that counts as foreground. None: all of the model.

        Raises:
            SAM3DError: the model can't be applied to this array.
        """
        _check_image(image, model.channels)
        self.shape = tuple(image.shape[1:])
        # a copy, because parts of the image are read later, when the user may have changed the array
        done = preprocess(image.copy(), {"spacing": list(map(float, spacing))}, geometry, model)
        if done.empty:
            raise SAM3DError("The image is empty: all its voxels are 0.")
        if not (done.finite and np.isfinite([image.min(), image.max()]).all()):  # normalisation may clip infinity
            raise SAM3DError("The image holds values that are not finite numbers. Replace them.")
        if done.note is not None:
            logger.warning("Note: %s.", done.note)
        self.grid = done.grid
        self.predictor = _window_predictor(model, done.on_grid, embeddings, only)

    def close(self) -> None:
        """Give the memory of the embeddings back."""
        self.predictor.embeddings.close()

    def region_on_grid(self, region: "Region") -> tuple[Box, np.ndarray] | None:
        """A box of the grid, and the voxels (bool) in it that belong to a region; None if the region is off the grid.

        On a coarse grid no voxel of the region is lost, and on a fine grid the region has no gaps.
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
            For each axis of the grid, the indices that the box of the region hits; and (bool) the combinations of these
            indices that the region itself hits.
        """
        indices, hits = [], region.mask.transpose(self.grid.transpose)
        for number, (axis, turned) in enumerate(zip(self.grid.axes, self.grid.transpose)):
            along = np.arange(region.mask.shape[turned]) + region.start[turned]
            if axis.flipped:  # `reduceat` needs indices of the grid that rise
                along, hits = along[::-1], np.flip(hits, number)
            index, first = np.unique(np.rint(axis.to_grid(along)).astype(int), return_index=True)
            hits = np.logical_or.reduceat(hits, first, axis=number)
            inside = (index >= 0) & (index < axis.grid)
            indices.append(index[inside])
            hits = hits.compress(inside, axis=number)
        return indices, hits


def warm_up(model: TrainedModel) -> None:
    """Predict a window of zeros, as a click in a session does: the first window takes longer than further ones.

    Memory is reserved, kernels are chosen and, on a GPU, its libraries are loaded.
    """
    size = tuple(model.configuration.patch_size)
    predictor = _window_predictor(model, WholeImage(np.zeros((model.channels, *size), np.float32)), EmbeddingCache(0))
    middle = VoxelPrompts((np.array([size], np.float32) - 1) / 2, np.ones(1, np.int64))
    maps = DensePrompts.none(size) if model.takes_maps else None
    predictor.predict(Window((0, 0, 0), size), middle._replace(maps=maps))


def _window_predictor(
    model: TrainedModel, image: GridImage, embeddings: EmbeddingCache, only: int | None = None
) -> WindowPredictor:
    return WindowPredictor(
        model.networks,
        image,
        tuple(model.configuration.patch_size),
        model.region_order,
        embeddings=embeddings.share(),
        clicks_carry_labels=model.clicks_carry_labels,
        clicks_select=model.clicks_select,
        only=only,
    )


def _check_image(image: np.ndarray, channels: int) -> None:
    if image.ndim != 4:
        raise SAM3DError(
            f"The image has the shape {image.shape}. Give an array or tensor with four axes, channels first: "
            "(1, x, y, z)."
        )
    if 0 in image.shape:
        raise SAM3DError(f"The image has the shape {image.shape}, and so no voxels.")
    if len(image) != channels:
        raise SAM3DError(f"The image has {len(image)} channels, but the model takes {channels}.")


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
    """Up to `MAX_POINTS` points deep inside a mask and far from each other, always the same.

    The first point is the deepest voxel. Each further one is the voxel, at least half as deep, that is furthest from
    all points so far. In a mask that was drawn on one or a few slices, depth is measured within the slices.

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

    They lie in the ellipsoid that fills the box. Axes shorter than 4 voxels get no points but the centre.
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
    """Fill a closed contour, slice by slice along its thinnest side. A filled mask stays as it is."""
    box = Box.from_mask(mask)
    across = int(np.argmin(box.shape))
    filled = mask.copy()
    slices = np.moveaxis(filled, across, 0)
    for number in range(box.start[across], box.stop[across]):
        slices[number] = binary_fill_holes(slices[number])
    return filled
