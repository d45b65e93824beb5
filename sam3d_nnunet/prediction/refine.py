"""An existing segmentation as prompt: a previous mask, and a click in each of its components."""

from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import to_grid
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.image import ImageCase
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prompts.prompt import KINDS, MASK, NOTHING, Prompt
from sam3d_nnunet.simulation.draw import interior_point

MAX_CLICKS = 32
SAME_PLACE = 0.1  # voxels by which corners may differ: headers are rounded


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
    segmentation = _read_on_image(file, case, model)
    # nothing is predicted outside the crop
    inside = np.zeros([segmentation.shape[axis] for axis in case.grid.transpose], bool)
    inside[tuple(slice(s, s + n) for s, n in zip(case.grid.crop_start, case.grid.crop_shape))] = True
    segmentation = np.where(inside.transpose(np.argsort(case.grid.transpose)), segmentation, 0)
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


def _read_on_image(file: str | Path, case: ImageCase, model: TrainedModel) -> np.ndarray:
    """(D, H, W) int16 label map on the voxels of the image."""
    if not Path(file).is_file():
        raise SAM3DError(f"There is no segmentation {file} to refine.")
    try:
        segmentation, properties = model.plans.image_reader_writer_class().read_seg(str(file))
    except Exception as e:  # whatever the reader of the format raises
        raise SAM3DError(f"The segmentation {file} can't be read: {type(e).__name__}: {e}") from e
    segmentation = segmentation[0]
    if segmentation.shape != case.shape:
        raise SAM3DError(f"{file} has {segmentation.shape} voxels (d, h, w), but its image has {case.shape}.")
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in case.shape], indexing="ij"), -1).reshape(-1, 3)
    there = case.geometry.to_voxels(ImageGeometry.from_file(file, properties).to_world(corners))
    if np.abs(there - corners).max() > SAME_PLACE:
        raise SAM3DError(f"{file} lies elsewhere in the world than its image: origin, spacing or axes differ.")
    known = [0, *model.labels.foreground_labels]
    unknown = np.setdiff1d(segmentation, known)
    if len(unknown):
        raise SAM3DError(f"{file} holds the value {unknown[0]:g}; the model's labels are {', '.join(map(str, known))}.")
    return segmentation.astype(np.int16)
