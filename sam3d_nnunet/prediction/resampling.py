"""nnU-Net's resampling as one matrix for each axis, so that any part of a grid can be resampled on its own.

Every function here that nnU-Net's plans name is linear along each axis. Its matrix is what the function makes of the
unit matrix. A voxel of the grid depends on few voxels of the image: cubic splines decay by a factor of 3.7 a voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box

NEGLIGIBLE = 1e-8  # weight of a voxel that is left out
MAX_GRID = 1 << 31  # voxels: 1290^3


@dataclass(frozen=True)
class Resampling:
    """Resampling of an image to its grid.

    Attributes:
        axes: a float64 matrix for each axis, with a row for each voxel of the grid and a column for each of the image;
            negligible weights are 0.
        ends_in_range: whether values are clipped to the range of the image.
        slices: the axis that is resampled apart from the others, where it is: the range is that of each slice along
            this axis of the image. None: of the whole image.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    ends_in_range: bool
    slices: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the grid."""
        return tuple(len(matrix) for matrix in self.axes)

    def source(self, box: Box) -> Box:
        """The part of the image on which a box of the grid depends."""
        ends = []
        for matrix, start, stop in zip(self.axes, box.start, box.stop):
            used = np.flatnonzero(matrix[start:stop].any(axis=0))
            ends.append((used[0], used[-1] + 1))
        return Box.from_lists(ends)

    def run(self, voxels: np.ndarray, source: Box, box: Box, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
        """A box of the grid.

        Args:
            voxels: (d, h, w) float32 of `source`.
            source: the part of the image that the method `source` names for the box.
            box: of the grid.
            lowest, highest: range of the image; one for each slice of the source where slices are resampled apart.

        Returns:
            array of the box, float32.
        """
        weights = [torch.from_numpy(m[g, s].copy()) for m, g, s in zip(self.axes, box.slices, source.slices)]
        ends = [torch.from_numpy(np.asarray(end, np.float64)) for end in (lowest, highest)]
        done = torch.from_numpy(voxels.astype(np.float64))
        for axis in sorted((2, 1, 0), key=lambda axis: axis == self.slices):  # slices last
            if axis == self.slices and self.ends_in_range:
                done = done.clamp(*(end.view([-1 if a == axis else 1 for a in range(3)]) for end in ends))
            done = torch.tensordot(done, weights[axis], ([axis], [1])).movedim(-1, axis)
        if self.slices is None and self.ends_in_range:
            done = done.clamp(*ends)
        return done.float().numpy()


def can_resample(configuration: ConfigurationManager) -> bool:
    """Whether a plan resamples images in a way that `resampling_of` knows."""
    name, options = _function(configuration)
    if len(configuration.spacing) != 3 or options.get("is_seg", False):
        return False
    if name == "resample_torch_fornnunet":
        across = options.get("aniso_axis_mode", "nearest-exact")
        return options.get("mode", "linear") == "linear" and across in ("linear", "nearest", "nearest-exact")
    return name in ("resample_data_or_seg_to_shape", "no_resampling_hack")


def resampling_of(configuration: ConfigurationManager, shape: Sequence[int], spacing: Sequence[float]) -> Resampling:
    """How a plan resamples an image.

    Args:
        configuration: of the plan, see `can_resample`.
        shape: voxels of the image after cropping, along the axes of the grid.
        spacing: mm along these axes.

    Raises:
        SAM3DError: the image is thinner than half a voxel of the grid, or the grid has too many voxels.
    """
    name, options = _function(configuration)
    if name == "no_resampling_hack":
        return Resampling(tuple(map(np.eye, shape)), False, None)
    new = compute_new_shape(shape, spacing, configuration.spacing).tolist()
    if min(new) < 1:
        thin = int(np.argmin(new))
        raise SAM3DError(
            f"The image shows {shape[thin] * spacing[thin]:.3g} mm along an axis on which the model's voxels have "
            f"{configuration.spacing[thin]:.3g} mm: nothing is left of it. Give a thicker image, or check its spacing."
        )
    if (voxels := np.prod(new, dtype=float)) > MAX_GRID:
        extent = " x ".join(f"{n * mm:.4g}" for n, mm in zip(shape, spacing))
        raise SAM3DError(
            f"The image shows {extent} mm. With the model's voxels it would have {voxels:.2g} of them; "
            f"the most are {MAX_GRID:.2g}. Check its spacing (millimetres)."
        )
    rule = _by_torch if name == "resample_torch_fornnunet" else _by_splines
    return rule(tuple(shape), tuple(new), (spacing, configuration.spacing), **options)


def _function(configuration: ConfigurationManager) -> tuple[str, dict[str, Any]]:
    """The plan's function and its options."""
    return configuration.configuration["resampling_fn_data"], configuration.configuration["resampling_fn_data_kwargs"]


# --- the functions, with nnU-Net's names of their options ---

Shape = tuple[int, int, int]
Spacings = tuple[Sequence[float], Sequence[float]]
"""Of the image and of the grid."""


def _by_splines(
    old: Shape,
    new: Shape,
    spacings: Spacings,
    is_seg: bool = False,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = False,
    **threshold: Any,
) -> Resampling:
    """nnU-Net's default. Slices are resampled apart where they are thick."""
    apart, slices = determine_do_sep_z_and_axis(force_separate_z, *spacings, **threshold)
    if old == new or not apart:
        return Resampling(tuple(_spline(*ends, order) for ends in zip(old, new)), old != new, None)
    axes = [
        _between_slices(*ends, order_z) if axis == slices else _spline(*ends, order)
        for axis, ends in enumerate(zip(old, new))
    ]
    return Resampling(tuple(axes), True, int(slices))


def _by_torch(
    old: Shape,
    new: Shape,
    spacings: Spacings,
    is_seg: bool = False,
    num_threads: int = 4,
    device: Any = None,
    memefficient_seg_resampling: bool = False,
    force_separate_z: bool | None = None,
    mode: str = "linear",
    aniso_axis_mode: str = "nearest-exact",
    **threshold: Any,
) -> Resampling:
    """nnU-Net's faster function, linear in each axis, but perhaps not across thick slices."""
    apart, slices = determine_do_sep_z_and_axis(force_separate_z, *spacings, **threshold)
    modes = [aniso_axis_mode if apart and axis == slices else "linear" for axis in range(3)]
    return Resampling(tuple(_torch(*ends, mode) for *ends, mode in zip(old, new, modes)), False, None)


@lru_cache(16)
def _spline(old: int, new: int, order: int) -> np.ndarray:
    if old == new:
        return np.eye(old)
    return _without_negligible(resize(np.eye(old), (new, old), order, mode="edge", anti_aliasing=False, clip=False))


@lru_cache(16)
def _between_slices(old: int, new: int, order: int) -> np.ndarray:
    """Of the axis across thick slices; the others have their new size by then."""
    if old == new:
        return np.eye(old)
    positions = (np.arange(new) + 0.5) * (old / new) - 0.5
    coordinates = np.meshgrid(positions, np.arange(old), indexing="ij")
    return _without_negligible(map_coordinates(np.eye(old), coordinates, order=order, mode="nearest"))


@lru_cache(16)
def _torch(old: int, new: int, mode: str) -> np.ndarray:
    resampled = torch.nn.functional.interpolate(torch.eye(old)[None], new, mode=mode)[0]
    return _without_negligible(resampled.T.double().numpy())


def _without_negligible(matrix: np.ndarray) -> np.ndarray:
    kept = np.where(np.abs(matrix) > NEGLIGIBLE, matrix, 0)
    kept.setflags(write=False)  # several images share it
    return kept
