"""Read label maps, and check them against their image and the known labels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.damaged_files import refuse_damaged
from sam3d_nnunet.geometry.image_grid import ImageGrid
from sam3d_nnunet.geometry.images import check_axes, refuse_empty
from sam3d_nnunet.geometry.label_values import whole_labels
from sam3d_nnunet.geometry.world import PLACED, ImageGeometry, turned_by_reader
from sam3d_nnunet.io import kept_locale


@dataclass(frozen=True)
class LabelMap:
    """A label map as nnU-Net's reader returns it.

    Attributes:
        file: it was read from.
        array: (D, H, W) labels.
        properties: what the reader tells of the file, with the spacing along (d, h, w).
    """

    file: Path
    array: np.ndarray
    properties: dict[str, Any]

    def check_shape(self, shape: Sequence[int], of: str = "its image") -> None:
        """Refuse a label map with other voxels than its image.

        Raises:
            SAM3DError: says both numbers of voxels.
        """
        if self.array.shape != tuple(shape):
            raise SAM3DError(f"{self.file} has {self.array.shape} voxels (d, h, w), but {of} has {tuple(shape)}.")

    def check_on(self, image: ImageGrid) -> None:
        """Refuse a label map that does not lie on the voxels of its image.

        Raises:
            SAM3DError: says both numbers of voxels, or what differs in the world.
        """
        self.check_shape(image.shape, image.name)
        found = image.difference(self.properties)
        if found is not None:
            raise SAM3DError(
                f"{self.file} lies elsewhere than {image.name}: {found}. Give it the voxels and the header of the "
                "original image."
            )

    def place_note(self, image: ImageGrid) -> str | None:
        """A sentence where the header of a true label map differs from its image's, which is no error.

        nnU-Net trains on such pairs voxel by voxel.

        Raises:
            SAM3DError: the shapes differ, or the reader has turned label map and image differently.
        """
        self._check_turn(image)
        self.check_shape(image.shape, image.name)
        found = image.difference(self.properties)
        if found is None:
            return None
        return (
            f"By its header, {self.file} lies elsewhere than {image.name}: {found}. The label map is taken voxel by "
            "voxel, as in nnU-Net's training, and the image's header counts."
        )

    def _check_turn(self, image: ImageGrid) -> None:
        """Refuse what a reader has turned by a header that may be wrong: its voxels are not those of the image then."""
        if not turned_by_reader(self.properties):
            return
        own = ImageGeometry.from_properties(self.properties, self.array.shape).file_orientation
        its = image.as_read.file_orientation
        lies_on = self.array.shape == image.shape and image.voxels_apart(self.properties) < 1
        if own != its and not lies_on:
            raise SAM3DError(
                f"By its header, {self.file} lies elsewhere than {image.name}, and in the orientation {own} instead of "
                f"{its}. The reader turns each by its own header, so that nnU-Net may pair voxels that don't "
                "belong together. Correct the header of the label map."
            )

    def own_grid(self) -> ImageGrid:
        """Its own voxels, where there is no image."""
        geometry = ImageGeometry.from_file(self.file, self.properties)
        return ImageGrid.from_properties(f"the truth {self.file}", self.array.shape, geometry, self.properties)

    def check_labels(self, known: Collection[int]) -> None:
        """Refuse a label map with other labels.

        Raises:
            SAM3DError: names the smallest of these, and those that are known.
        """
        unknown = np.setdiff1d(pd.unique(self.array.ravel()), list(known))  # np.unique would sort all voxels
        if len(unknown):
            known = ", ".join(map(str, sorted(known)))
            raise SAM3DError(
                f"{self.file} has the label {unknown[0]:g}, which is not among the known labels {known}. Correct the "
                "file, or dataset.json."
            )


def read_label_map(file: str | Path, reader: Any) -> LabelMap:
    """Read a label map. Values that are nearly whole numbers, as in files with a scale, are rounded.

    Args:
        file: the label map.
        reader: nnU-Net's for its format, an instance.

    Raises:
        SAM3DError: the file is missing, damaged or can't be read, or a value is no label.
    """
    label_map = read_stored_values(file, reader)
    return replace(label_map, array=whole_labels(label_map.array, f"The label map {file}"))


@kept_locale()
def read_stored_values(file: str | Path, reader: Any) -> LabelMap:
    """Read a label map as nnU-Net does: its array holds the values of the file as they are, which need not be whole.

    Arguments are those of `read_label_map`.

    Raises:
        SAM3DError: the file is missing, damaged or can't be read.
    """
    file = Path(file)
    if not file.is_file():
        raise SAM3DError(f"There is no label map {file}.")
    refuse_damaged(file)
    try:
        segmentation, properties = reader.read_seg(str(file))
    except Exception as e:  # each library of images has errors of its own
        check_axes(file, "label map", refused=True)
        raise SAM3DError(f"The label map {file} can't be read: {last_line(e)}") from e
    refuse_empty(segmentation, file)
    if PLACED & properties.keys():
        check_axes(file, "label map")
    return LabelMap(file, segmentation[0], properties)
