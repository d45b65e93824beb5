"""An image read and preprocessed as in training, and where its voxels are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.model_folder import TrainedModel


@dataclass(frozen=True)
class ImageCase:
    """An image for prediction.

    Attributes:
        data: (C, D, H, W) preprocessed.
        properties: of nnU-Net's reader and preprocessor.
        geometry: of the original image.
        grid: of `data`.
    """

    data: np.ndarray
    properties: dict[str, Any]
    geometry: ImageGeometry
    grid: PreprocessedGrid

    @classmethod
    def from_preprocessed(
        cls, data: np.ndarray, properties: dict[str, Any], model: TrainedModel, geometry: ImageGeometry | None = None
    ) -> "ImageCase":
        """From what nnU-Net's preprocessor keeps of a training case.

        Args:
            data: (C, D, H, W) preprocessed.
            properties: kept with it.
            model: that shall predict it.
            geometry: of the original image; default: what the properties tell.
        """
        grid = PreprocessedGrid.from_properties(properties, model.plans.transpose_forward, data.shape[1:])
        geometry = geometry or ImageGeometry.from_properties(properties)
        return cls(np.asarray(data, np.float32), properties, geometry, grid)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the original image along (d, h, w), as the reader has it."""
        before = self.properties["shape_before_cropping"]
        return tuple(int(before[axis]) for axis in np.argsort(self.grid.transpose))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the original image."""
        return float(abs(np.linalg.det(self.geometry.affine[:3, :3]))) / 1000


def read_case(image_files: Sequence[str | Path], model: TrainedModel) -> ImageCase:
    """Read the channels of an image and preprocess them.

    Args:
        image_files: one for each channel.
        model: that shall predict it.

    Raises:
        SAM3DError: the files are not as many as the model's channels, can't be read and preprocessed, or hold no image.
    """
    files = [str(file) for file in image_files]
    if len(files) != model.channels:
        raise SAM3DError(
            f"The model needs {model.channels} channel(s), but there are {len(files)}: {', '.join(files)}."
        )
    try:
        data, outside, properties = model.configuration.preprocessor_class(verbose=False).run_case(
            files, None, model.plans, model.configuration, model.dataset_json
        )
    except Exception as e:  # whatever the reader of the format raises
        raise SAM3DError(f"The image {', '.join(files)} can't be read: {_reason(e)}") from e
    if not np.isfinite(data).all():
        raise SAM3DError(f"The image {', '.join(files)} holds values that are no finite numbers. Replace them.")
    if (outside == -1).all():  # nnU-Net's mark of voxels around the image, where all channels are 0
        raise SAM3DError(f"The image {', '.join(files)} is empty: all its voxels are 0.")
    geometry = ImageGeometry.from_file(files[0], properties)
    grid = PreprocessedGrid.from_properties(properties, model.plans.transpose_forward, data.shape[1:])
    return ImageCase(np.asarray(data, np.float32), properties, geometry, grid)


def _reason(error: Exception) -> str:
    """Last line of a message: ITK's are pages long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else f"{type(error).__name__}."
