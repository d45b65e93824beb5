"""The voxels of an image that its label maps and predictions lie on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.geometry.images import check_axes, read_image
from sam3d_nnunet.geometry.world import PLACED, REVERSED, ImageGeometry, read_header

SAME_PLACE = 0.1  # voxels by which corners may differ: headers are rounded


@dataclass(frozen=True)
class ImageGrid:
    """The voxels of an image as nnU-Net's reader returns them: how many, and where.

    Attributes:
        name: of the image in messages.
        shape: (D, H, W).
        geometry: where the voxels are in the world.
        as_read: the same from the reader alone. If qform and sform of a file differ, nibabel's world is not ITK's; what
            was written by a reader is compared with what it tells.
    """

    name: str
    shape: tuple[int, int, int]
    geometry: ImageGeometry
    as_read: ImageGeometry

    @classmethod
    def from_properties(
        cls, name: str, shape: tuple[int, int, int], geometry: ImageGeometry, properties: dict[str, Any]
    ) -> "ImageGrid":
        """Of an image that was read.

        Args:
            name, shape, geometry: as in the class.
            properties: from the reader.
        """
        return cls(name, shape, geometry, ImageGeometry.from_properties(properties, shape))

    @property
    def spacing(self) -> list[float]:
        """mm along (d, h, w)."""
        return self.geometry.spacing.tolist()

    def difference(self, properties: dict[str, Any]) -> str | None:
        """How far another file of the same shape, that the same reader has read, lies from this image.

        A format without a position in the world tells a spacing at most, and no spacing beside the file is none.

        Args:
            properties: from the reader.

        Returns:
            None where corners differ by less than `SAME_PLACE` voxels along each axis; else what differs most, and by
            how much.
        """
        if not PLACED & properties.keys() and set(properties["spacing"]) == {1}:
            return None
        return difference(ImageGeometry.from_properties(properties), self.as_read, self.shape)

    def voxels_apart(self, properties: dict[str, Any]) -> float:
        """By how many voxels another file of the same shape lies elsewhere, at the corner where it is most."""
        return voxels_apart(ImageGeometry.from_properties(properties), self.as_read, self.shape)


def read_grid(file: str | Path, reader: Any, like: dict[str, Any]) -> ImageGrid:
    """The voxels of an image. None is read where the header of the file tells all.

    Args:
        file: first channel of the image.
        reader: nnU-Net's for its format, an instance.
        like: what this reader told of a label map of the image.

    Raises:
        SAM3DError: the file can't be read, or it is not one volume.
    """
    name = f"its image {file}"
    if "sitk_stuff" in like and "original_orientation" not in like["sitk_stuff"]:  # all as in the header
        header = read_header(file)
        check_axes(file, "image")
        geometry = ImageGeometry.from_header(header)
        return ImageGrid(name, header.shape, geometry, geometry)
    image, properties = read_image([file], reader)
    return ImageGrid.from_properties(name, image.shape[1:], ImageGeometry.from_file(file, properties), properties)


def difference(found: ImageGeometry, wanted: ImageGeometry, shape: tuple[int, int, int]) -> str | None:
    """How far a geometry moves the corners of an image (D, H, W): see `ImageGrid.difference`."""
    voxels = voxels_apart(found, wanted, shape)
    if voxels <= SAME_PLACE:
        return None
    own, others = _parts(found), _parts(wanted)
    one_differs = {name: _geometry(**others | {name: own[name]}) for name in own}
    name = max(one_differs, key=lambda name: voxels_apart(one_differs[name], wanted, shape))
    texts = distinct_texts(own[name], others[name])
    return f"its {name} is {texts[0]} instead of {texts[1]}, and a corner is {voxels:.3g} voxels away"


def voxels_apart(found: ImageGeometry, wanted: ImageGeometry, shape: tuple[int, int, int]) -> float:
    """Largest shift of a corner along an axis: see `ImageGrid.voxels_apart`."""
    shifts = wanted.corner_shifts(found, shape)
    return np.abs(np.linalg.solve(wanted.affine[:3, :3], shifts.T)).max()


def _parts(geometry: ImageGeometry) -> dict[str, np.ndarray]:
    """Spacing along (i, j, k), direction and origin, as ITK has them."""
    affine = geometry.affine[:, REVERSED]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return {"spacing": spacing, "direction": affine[:3, :3] / spacing, "origin": affine[:3, 3]}


def _geometry(spacing: np.ndarray, direction: np.ndarray, origin: np.ndarray) -> ImageGeometry:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    return ImageGeometry(affine[:, REVERSED])


def distinct_texts(found: np.ndarray, wanted: np.ndarray) -> list[str]:
    """Two lists of numbers with as many digits as it takes to see where they differ most."""
    pair = [np.ravel(values) + 0.0 for values in (found, wanted)]  # no -0
    most = np.abs(pair[0] - pair[1]).argmax()
    for digits in range(4, 18):
        texts = [[f"{value:.{digits}g}" for value in values] for values in pair]
        if texts[0][most] != texts[1][most]:
            break
    return [f"({', '.join(text)})" for text in texts]
