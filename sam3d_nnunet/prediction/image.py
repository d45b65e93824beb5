"""What is read of a case: its image, preprocessed as in training, and an existing segmentation to refine.

A segmentation becomes prompts: the previous mask, and a click in each of its components.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.grid import PreprocessedGrid, to_grid
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prompts.prompt import KINDS, MASK, NOTHING, Prompt
from sam3d_nnunet.simulation.draw import interior_point

MAX_CLICKS = 32  # in an existing segmentation


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
        return tuple(int(before[axis]) for axis in self.grid.transpose_back)

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
        raise SAM3DError(f"The image {', '.join(files)} can't be read: {last_line(e)}") from e
    if not np.isfinite(data).all():
        raise SAM3DError(f"The image {', '.join(files)} holds values that are no finite numbers. Replace them.")
    if (outside == -1).all():  # nnU-Net's mark of voxels around the image, where all channels are 0
        raise SAM3DError(f"The image {', '.join(files)} is empty: all its voxels are 0.")
    geometry = ImageGeometry.from_file(files[0], properties)
    grid = PreprocessedGrid.from_properties(properties, model.plans.transpose_forward, data.shape[1:])
    return ImageCase(np.asarray(data, np.float32), properties, geometry, grid)


@dataclass(frozen=True)
class PreviousMask:
    """What an existing segmentation says.

    Attributes:
        prompt: a click in each component, the largest first.
        maps: (3, D, H, W) int16 dense prompts on the preprocessed grid.
        components: how many there are; more than clicks where they are too many.
    """

    prompt: Prompt
    maps: np.ndarray
    components: int


def read_previous_mask(file: str | Path, case: ImageCase, model: TrainedModel, name: str) -> PreviousMask:
    """Read a segmentation of an image.

    Args:
        file: the segmentation, on the voxels of the image.
        case: the image.
        model: that shall refine it.
        name: of the case.

    Raises:
        SAM3DError: the file can't be read, is not on the image's voxels, or holds labels that the model doesn't know.
    """
    label_map = read_label_map(file, model.plans.image_reader_writer_class())
    label_map.check_shape(case.shape)
    label_map.check_place(case.geometry)
    label_map.check_labels([0, *model.labels.foreground_labels])
    segmentation, crop = np.zeros(case.shape, np.int16), case.grid.crop.slices
    segmentation[crop] = label_map.array[crop]  # nothing is predicted outside the crop
    voxels, labels, components = clicks_in_components(segmentation)
    prompt = Prompt(case.geometry.to_world(voxels), labels, name)
    return PreviousMask(prompt, mask_maps(segmentation, case), components)


def mask_maps(segmentation: np.ndarray, case: ImageCase) -> np.ndarray:
    """(D, H, W) label map of an image -> (3, d, h, w) int16 dense prompts on the preprocessed grid."""
    maps = np.full((KINDS, *case.grid.shape), NOTHING, np.int16)
    maps[MASK] = to_grid(segmentation, case.grid)
    return maps


def clicks_in_components(segmentation: np.ndarray, max_clicks: int = MAX_CLICKS) -> tuple[np.ndarray, np.ndarray, int]:
    """The voxel of each component that is furthest from its surface.

    Args:
        segmentation: (D, H, W) label map; components have one label and are connected through corners, too.
        max_clicks: only this many, in the largest components.

    Returns:
        (N, 3) voxels, the largest component first; (N,) their labels; the number of all components.
    """
    components, count = cc3d.connected_components(segmentation, return_N=True)
    statistics = cc3d.statistics(components)
    largest = 1 + np.argsort(-statistics["voxel_counts"][1:].astype(np.int64), kind="stable")[:max_clicks]
    points = []
    for number in largest[: int(count)]:
        box = statistics["bounding_boxes"][number]
        points.append(interior_point(components[box] == number) + [place.start for place in box])
    points = np.array(points, int).reshape(-1, 3)
    return points, segmentation[tuple(points.T)].astype(np.int64), int(count)
