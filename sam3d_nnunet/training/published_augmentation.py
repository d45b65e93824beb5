"""The augmentation of 3DSAM-adapter, in the paper and in the released code."""

from dataclasses import dataclass

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform


class ShiftIntensity(ImageOnlyTransform):
    """Adds the same random number to all voxels."""

    def __init__(self, largest: float) -> None:
        """
        Args:
            largest: the number is uniform between this and its negative.
        """
        super().__init__()
        self.largest = largest

    def get_parameters(self, **data_dict: object) -> dict[str, float]:
        return {"shift": np.random.uniform(-self.largest, self.largest)}

    def _apply_to_image(self, image: torch.Tensor, shift: float) -> torch.Tensor:
        return image + shift


@dataclass(frozen=True)
class _Angles:
    """Random angles of a turn about one axis, in the form in which `SpatialTransform` asks for them."""

    about: int
    largest: float  # degrees

    def __call__(self, image: torch.Tensor, dim: int) -> float:
        return np.radians(np.random.uniform(-self.largest, self.largest)) if dim == self.about else 0.0


@dataclass(frozen=True)
class _Scales:
    """Random scales of the grid at which an image is sampled, the reciprocals of zooms, likewise."""

    zoom: tuple[float, float]
    unchanged: int | None  # axis that keeps its scale

    def __call__(self, image: torch.Tensor, dim: int | None) -> float:
        return 1.0 if dim is not None and dim == self.unchanged else 1 / np.random.uniform(*self.zoom)


@dataclass(frozen=True)
class PublishedAugmentation:
    """Zoom, turn, cut and quarter turns; flips and the shift of intensities are the same in all published trainings.

    The order of axes below is that of the patient: slices one upon another (z), then back to front (y), then left to
    right (x).

    Attributes:
        zoom: smallest and largest factor; above 1 objects become larger.
        zoom_share: probability of a zoom.
        in_plane: zoom within axial slices only, by a factor of its own along each of their axes; otherwise one factor
            holds for all axes.
        turn: largest angle, in degrees, of a turn within axial slices.
        turn_share: probability of such a turn.
        cut_from: the patch is cut at random from one that is so many times as large.
        quarter_turns: a quarter turn exchanges two of these axes (0 is z), where their sides are equal.
    """

    zoom: tuple[float, float]
    zoom_share: float
    in_plane: bool = False
    turn: float = 0.0
    turn_share: float = 0.0
    cut_from: float = 1.0
    quarter_turns: tuple[int, ...] = (0, 1, 2)

    def loaded_size(self, patch_size: tuple[int, int, int], axes: tuple[int, int, int] = (0, 1, 2)) -> list[int]:
        """Voxels (d, h, w) to load, so that the augmentation never needs others.

        Args:
            patch_size: voxels (d, h, w) of the augmented patch.
            axes: of the patch, in the order z, y, x of the patient.
        """
        z, y, x = axes
        sides = np.array(patch_size) / self.zoom[0]
        if self.in_plane:
            sides[z] = patch_size[z]
        turned = sides.copy()
        turned[y], turned[x] = self._turned(sides[y], sides[x]), self._turned(sides[x], sides[y])
        room = np.multiply(patch_size, self.cut_from - 1)
        return [int(np.ceil(round(n, 6))) for n in turned + room]

    def _turned(self, side: float, other: float) -> float:
        """The longest extent, along a side of a rectangle, that its turned copies have."""
        angle = min(np.radians(self.turn), np.arctan2(other, side))  # the latter lays the diagonal along the side
        return side * np.cos(angle) + other * np.sin(angle)

    def transforms(
        self, patch_size: tuple[int, int, int], shift: float, axes: tuple[int, int, int] = (0, 1, 2)
    ) -> list[BasicTransform]:
        """The transforms, for a patch of `loaded_size`.

        Args:
            patch_size: voxels (d, h, w) of the augmented patch.
            shift: largest shift of the normalised intensities.
            axes: of the patch, in the order z, y, x of the patient.
        """
        loaded = self.loaded_size(patch_size, axes)
        spatial = SpatialTransform(
            patch_size,
            patch_center_dist_from_border=[m / 2 - (self.cut_from - 1) / 2 * n for m, n in zip(loaded, patch_size)],
            random_crop=self.cut_from > 1,
            p_rotation=self.turn_share,
            rotation=_Angles(axes[0], self.turn),
            p_scaling=self.zoom_share,
            scaling=_Scales(self.zoom, axes[0] if self.in_plane else None),
            p_synchronize_scaling_across_axes=0 if self.in_plane else 1,
            border_mode_seg="constant",
            padding_value_seg=-1,
        )
        moves = [spatial, *self._quarter_turn(patch_size, axes), MirrorTransform((0, 1, 2))]
        return [*moves, RandomTransform(ShiftIntensity(shift), 0.5)]

    def _quarter_turn(self, patch_size: tuple[int, int, int], axes: tuple[int, int, int]) -> list[BasicTransform]:
        candidates = [axes[number] for number in self.quarter_turns]
        sides = [patch_size[axis] for axis in candidates]
        turning = {axis for axis, side in zip(candidates, sides) if sides.count(side) > 1}  # others change the shape
        return [RandomTransform(Rot90Transform(1, allowed_axes=turning), 0.5)] if turning else []
