"""The augmentation of 3DSAM-adapter: zoom, quarter turns, flips, and a shift of the intensities."""

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform


class ShiftIntensity(ImageOnlyTransform):
    """Adds one number to all voxels."""

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


def loaded_size(patch_size: tuple[int, ...], lowest_zoom: float, cut_from: float) -> list[int]:
    """Voxels to load, so that nothing outside of them is ever seen; arguments as in `published_augmentation`."""
    return [int(np.ceil(n * (cut_from - 1 + 1 / lowest_zoom))) for n in patch_size]


def published_augmentation(
    patch_size: tuple[int, int, int], zoom: tuple[float, float], zoom_share: float, cut_from: float, shift: float
) -> list[BasicTransform]:
    """Transforms of a patch of `loaded_size`.

    Args:
        patch_size: voxels (d, h, w) that are left.
        zoom: smallest and largest; above 1 things become larger.
        zoom_share: probability of a zoom.
        cut_from: the patch is cut at random from one so many times as large.
        shift: largest shift of the intensities, as they are after normalisation.
    """
    loaded = loaded_size(patch_size, zoom[0], cut_from)
    transforms: list[BasicTransform] = [
        SpatialTransform(
            patch_size,
            patch_center_dist_from_border=[m / 2 - (cut_from - 1) / 2 * n for m, n in zip(loaded, patch_size)],
            random_crop=cut_from > 1,
            p_scaling=zoom_share,
            scaling=(1 / zoom[1], 1 / zoom[0]),  # of the grid that samples
            p_synchronize_scaling_across_axes=1,
            border_mode_seg="constant",
            padding_value_seg=-1,
        )
    ]
    turning = {axis for axis, n in enumerate(patch_size) if patch_size.count(n) > 1}  # others would change the shape
    if turning:
        transforms.append(RandomTransform(Rot90Transform(1, allowed_axes=turning), 0.5))
    return [*transforms, MirrorTransform((0, 1, 2)), RandomTransform(ShiftIntensity(shift), 0.5)]
