"""Read label maps, and check them against their image and the known labels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.world import PLACED, ImageGeometry, read_header

SAME_PLACE = 0.1  # voxels by which corners may differ: headers are rounded


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

    def astype(self, dtype: DTypeLike) -> "LabelMap":
        """The label map with labels of another type."""
        return replace(self, array=self.array.astype(dtype))

    def in_file_order(self) -> tuple[np.ndarray, ImageGeometry] | None:
        """(D, H, W) labels along the axes of the file, in reverse, and where their voxels are in the world.

        Clicks that are drawn in this array are the same for all models, however their readers turn images.

        Returns:
            None where only the reader can tell: for formats without a position in the world (PNG, TIFF), headers that
            ITK refuses (sheared axes), and files of more or less than three axes.
        """
        if not PLACED & self.properties.keys():
            return None
        try:
            header = read_header(self.file)
            if len(header.size) != 3 or header.components != 1:
                return None
            turned = _is_turned(self.properties)
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(self.file))) if turned else self.array
        except (SAM3DError, RuntimeError):  # what ITK refuses
            return None
        return array, ImageGeometry.from_header(header)

    def check_shape(self, shape: Sequence[int], of: str = "its image") -> None:
        """Refuse a label map with other voxels than its image.

        Raises:
            SAM3DError: says both numbers of voxels.
        """
        if self.array.shape != tuple(shape):
            raise SAM3DError(f"{self.file} has {self.array.shape} voxels (d, h, w), but {of} has {tuple(shape)}.")

    def check_place(self, image: ImageGeometry) -> None:
        """Refuse a label map that is not on its image, which has the same shape.

        Raises:
            SAM3DError: a corner is more than `SAME_PLACE` voxels away along an axis.
        """
        geometry = ImageGeometry.from_file(self.file, self.properties)
        shifts = np.linalg.solve(image.affine[:3, :3], image.corner_shifts(geometry, self.array.shape).T)
        if np.abs(shifts).max() > SAME_PLACE:
            raise SAM3DError(
                f"{self.file} lies elsewhere in the world than its image: origin, spacing or axes differ. A corner is "
                f"{np.abs(shifts).max():.3g} voxels away."
            )

    def check_labels(self, known: Collection[int]) -> None:
        """Refuse a label map with other labels.

        Raises:
            SAM3DError: names the smallest of these, and those that are known.
        """
        unknown = np.setdiff1d(self.array, list(known))
        if len(unknown):
            known = ", ".join(map(str, sorted(known)))
            raise SAM3DError(f"{self.file} has the label {unknown[0]:g}, which is not among the known labels {known}.")


def read_label_map(file: str | Path, reader: Any) -> LabelMap:
    """Read a label map.

    Args:
        file: the label map.
        reader: nnU-Net's for its format, an instance.

    Raises:
        SAM3DError: the file is missing or can't be read.
    """
    file = Path(file)
    if not file.is_file():
        raise SAM3DError(f"There is no label map {file}.")
    try:
        segmentation, properties = reader.read_seg(str(file))
    except Exception as e:  # each library of images has errors of its own
        raise SAM3DError(f"The label map {file} can't be read: {last_line(e)}") from e
    return LabelMap(file, segmentation[0], properties)


def _is_turned(properties: dict[str, Any]) -> bool:
    """Whether nnU-Net's reader has turned the image, so that its array has other axes than the file."""
    return any(
        name in properties.get(library, {})
        for library, name in (("sitk_stuff", "original_orientation"), ("nibabel_stuff", "reoriented_affine"))
    )
