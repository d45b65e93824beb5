"""An image array, preprocessed as the model expects it, and the way between its voxels and the model's grid."""

from collections.abc import Sequence

import numpy as np
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import as_slices, bounding_box
from sam3d_nnunet.geometry.grid import PreprocessedGrid, nearest_voxels, to_grid
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.regions import Region
from sam3d_nnunet.prediction.window_predictor import WindowPredictor

CACHED_WINDOWS = 16  # ViT-B on 128^3: about 0.2 GB each


class SessionImage:
    """One image of a session.

    Attributes:
        shape: voxels of the array, without channels.
        content: the box of the array that is not empty border: the model sees this.
        grid: what the model sees.
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
        back = np.argsort(self.grid.transpose)
        low = self.grid.crop_start[back]
        self.content = np.stack([low, low + self.grid.crop_shape[back]], axis=1).tolist()
        self.predictor = WindowPredictor(
            model.networks,
            torch.from_numpy(data),
            tuple(model.configuration.patch_size),
            model.region_order,
            cached_windows=CACHED_WINDOWS,
            clicks_carry_labels=model.clicks_carry_labels,
        )

    def to_image(self, place: tuple[slice, ...]) -> tuple[slice, ...]:
        """A box of the grid -> the voxels of the array whose centres lie in it."""
        slices = []
        for box, crop_start, crop, size in zip(place, self.grid.crop_start, self.grid.crop_shape, self.grid.shape):
            position = (np.arange(crop) + 0.5) * size / crop - 0.5
            first, end = np.searchsorted(position, [box.start - 0.5, box.stop - 0.5])
            slices.append(slice(int(crop_start + first), int(crop_start + end)))
        return tuple(slices[axis] for axis in np.argsort(self.grid.transpose))

    def labels_on_grid(self, labels: np.ndarray, place: tuple[slice, ...]) -> np.ndarray:
        """The nearest voxels of a label map of the array, for a box of the grid."""
        return to_grid(labels, self.grid, place)

    def region_on_grid(self, region: Region) -> tuple[tuple[slice, ...], np.ndarray] | None:
        """A box of the grid, and the voxels (bool) in it that belong to a region; None if the grid has none.

        Each voxel of the region counts, however coarse the grid, and there are no gaps, however fine.
        """
        hit, hits = self._hit_by(region)
        filled = bounding_box(hits)
        if filled is None:
            return None
        hit, hits = [index[low:high] for index, (low, high) in zip(hit, filled)], hits[as_slices(filled)]
        reach = np.ceil(self.grid.shape / self.grid.crop_shape).astype(int)
        low = np.maximum([index[0] for index in hit] - reach, 0)
        high = np.minimum([index[-1] for index in hit] + reach + 1, self.grid.shape)
        place = tuple(map(slice, low.tolist(), high.tolist()))
        transpose = list(self.grid.transpose)
        mask, start = region.mask.transpose(transpose), region.start[transpose]
        nearest = [voxels - s for voxels, s in zip(nearest_voxels(self.grid, place), start)]
        inside = [(index >= 0) & (index < n) for index, n in zip(nearest, mask.shape)]
        voxels = np.zeros(high - low, bool)
        voxels[np.ix_(*inside)] = mask[np.ix_(*(index[i] for index, i in zip(nearest, inside)))]
        voxels[np.ix_(*(index - s for index, s in zip(hit, low)))] |= hits
        return place, voxels

    def _hit_by(self, region: Region) -> tuple[list[np.ndarray], np.ndarray]:
        """The voxels of the grid in which voxels of a region have their centres.

        Each axis of the grid depends on one of the image, so a region of millions of voxels needs no list of them.

        Returns:
            For each axis of the grid, the indices that the region's box hits; and (bool) which of their combinations
            the region itself hits.
        """
        steps = np.arange(max(region.mask.shape))[:, None] + region.start
        indices, hits = [], region.mask.transpose(self.grid.transpose)
        for axis, along in enumerate(np.rint(self.grid.from_image(steps)).astype(int).T):
            index, first = np.unique(along[: hits.shape[axis]], return_index=True)
            hits = np.logical_or.reduceat(hits, first, axis=axis)
            inside = (index >= 0) & (index < self.grid.shape[axis])
            indices.append(index[inside])
            hits = hits.compress(inside, axis=axis)
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
