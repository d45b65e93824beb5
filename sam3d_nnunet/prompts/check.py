"""Check that clicks fit an image and a model. Errors name the click and say where it is."""

from collections.abc import Collection

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prompts.prompt import Prompt


def check_prompt(prompt: Prompt, geometry: ImageGeometry, shape: tuple[int, ...], labels: Collection[int]) -> None:
    """Refuse clicks that the model can't use on this image.

    Args:
        prompt: the clicks.
        geometry: of the image.
        shape: (D, H, W) of the image's array.
        labels: labels of clicks that the model knows, with 0 if it takes background clicks.

    Raises:
        SAM3DError: there is no click, a click has a label that is not in `labels`, or a click is outside the image. The
            image ends half a voxel beyond the centres of its outermost voxels.
    """
    if not len(prompt.points):
        raise SAM3DError(f"There are no clicks on {prompt.image}. Give at least one, or predict without prompts.")
    unknown = ~np.isin(prompt.labels, list(labels))
    if unknown.any():
        first = int(np.argmax(unknown))
        known = ", ".join(map(str, sorted(labels)))
        raise SAM3DError(
            f"{_name(prompt, first)} has the label {prompt.labels[first]}, which the model doesn't know. "
            f"It knows {known}."
        )
    outside = ~_inside(geometry.to_voxels(prompt.points), Box.of_shape(shape))
    if outside.any():
        first = int(np.argmax(outside))
        raise SAM3DError(
            f"{_place(prompt, first, geometry)} lies outside the image of {_size(geometry, shape)} voxels. "
            "Check that the clicks are on this image, and that they are LPS millimetres or its voxels."
        )


def check_crop(prompt: Prompt, geometry: ImageGeometry, grid: PreprocessedGrid) -> None:
    """Refuse clicks on the empty border that nnU-Net crops away: the model sees nothing there.

    Args:
        prompt: clicks inside the image (see `check_prompt`).
        geometry: of the image.
        grid: of the preprocessed image.

    Raises:
        SAM3DError: a click lies more than half a voxel outside the crop.
    """
    outside = ~_inside(geometry.to_voxels(prompt.points), grid.crop)
    if outside.any():
        first = int(np.argmax(outside))
        raise SAM3DError(
            f"{_place(prompt, first, geometry)} lies inside the image, but on its empty border (all voxels 0), which "
            "is cropped away before prediction. Move the click onto what the image shows."
        )


def _inside(voxels: np.ndarray, box: Box) -> np.ndarray:
    """(N,) whether indices are in a box of voxels, both faces included, up to the rounding of the affine."""
    tolerance = 0.5 + 1e-6
    return ((voxels >= np.array(box.start) - tolerance) & (voxels <= np.array(box.stop) - 1 + tolerance)).all(axis=1)


def _name(prompt: Prompt, click: int) -> str:
    return f"Click {click + 1} of {len(prompt.points)} on {prompt.image}"


def _place(prompt: Prompt, click: int, geometry: ImageGeometry) -> str:
    """A click with its place in the world and in the image, for errors. Axes are in the order that viewers show."""
    world = prompt.points[click]
    if geometry.file_affine is not None:
        axes, voxel = "i, j, k", geometry.to_file_index(world[None])[0]
    else:
        axes, voxel = "w, h, d", geometry.to_voxels(world[None])[0][::-1]
    return f"{_name(prompt, click)}, at (x, y, z) = {_numbers(world)} mm, is at voxel ({axes}) = {_numbers(voxel)} and"


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _size(geometry: ImageGeometry, shape: tuple[int, ...]) -> str:
    """Voxels of the image along the axes that `_place` uses."""
    size = np.array(shape)[::-1]
    if geometry.file_affine is not None:
        exchange = np.linalg.solve(geometry.file_affine[:3, :3], geometry.affine[:3, :3])
        size = np.abs(np.rint(exchange)).astype(int) @ np.array(shape)
    return " x ".join(map(str, size))
