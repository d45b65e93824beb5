"""Where the voxels of an image are in the world, from the header of its file and nnU-Net's reader.

Axis order is (d, h, w) in arrays, (x, y, z) in the world and (i, j, k) in image files. World coordinates are LPS
millimetres as ITK has them, whatever reads the image.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.damaged_files import refuse_crashing
from sam3d_nnunet.io import kept_locale

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
REVERSED = [2, 1, 0, 3]  # of homogeneous axes: (i, j, k) <-> (d, h, w)

PLACED = {"sitk_stuff", "nibabel_stuff"}
"""Keys in the properties of nnU-Net's readers, for formats that have a position in the world."""


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file, as ITK reads it.

    Attributes:
        size: voxels along i, j, k and, where one file holds several channels, their number.
        affine: (4, 4), homogeneous index (i, j, k) -> LPS millimetres.
        components: numbers per voxel; an intensity or a label is one, a colour three.
        is_complex: whether voxels hold complex numbers.
        is_integer: whether voxels hold whole numbers, which no scale in the header changes.
        bytes_of_number: that an intensity takes.
    """

    size: tuple[int, ...]
    affine: np.ndarray
    components: int
    is_complex: bool = False
    is_integer: bool = False
    bytes_of_number: int = 4

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the array that ITK reads, for one channel; a flat image is one slice."""
        return (*self.size, 1)[2::-1]

    @property
    def channels(self) -> int:
        """How many volumes the file holds."""
        return self.size[3] if len(self.size) == 4 else 1

    def is_default(self) -> bool:
        """Whether the header has the geometry of programs that know none: 1 mm, no rotation, no shift.

        NIfTI's axes are ITK's with the first two reversed.
        """
        return np.array_equal(np.abs(self.affine), np.eye(4))


@kept_locale()
def read_header(file: str | Path) -> ImageHeader:
    """The header of an image file; no voxels are read.

    Raises:
        SAM3DError: the file is missing, or ITK can't read it.
    """
    if not Path(file).is_file():
        raise SAM3DError(f"There is no image file {file}.")
    refuse_crashing(file)
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    try:
        header.ReadImageInformation()
    except RuntimeError as e:
        raise SAM3DError(f"ITK can't read the header of {file}: {last_line(e)}") from e
    affine = _itk_affine(header.GetDirection(), header.GetSpacing(), header.GetOrigin())
    kind = sitk.GetPixelIDValueAsString(header.GetPixelID())
    size, components = header.GetSize(), header.GetNumberOfComponents()
    bits = re.search(r"(\d+)-bit", kind)
    return ImageHeader(size, affine, components, "complex" in kind, "integer" in kind, int(bits[1]) // 8 if bits else 4)


@dataclass(frozen=True)
class ImageGeometry:
    """Voxels of an image as nnU-Net's reader returns it, in the world.

    Attributes:
        affine: (4, 4), homogeneous array index (d, h, w) -> world (x, y, z).
        file_affine: (4, 4), homogeneous index of the image file (i, j, k), i along x, as ITK and 3D Slicer have it ->
            world. It differs in more than the order of axes where the reader reorients. None where it is not known.

    Raises:
        SAM3DError: an affine is singular or not finite.
    """

    affine: np.ndarray
    file_affine: np.ndarray | None = None

    def __post_init__(self) -> None:
        for affine in (self.affine, self.file_affine):
            if affine is not None and not _is_usable(affine):
                raise SAM3DError(f"The image's header has an unusable affine, {affine.tolist()}. Repair it.")

    @classmethod
    def from_properties(cls, properties: dict[str, Any], shape: Sequence[int] | None = None) -> "ImageGeometry":
        """From the properties that any of nnU-Net's readers returns with an image.

        For formats without a position in the world (PNG, TIFF), the world has the origin and axes of the array. If
        qform and sform of a file differ, nibabel's world is not ITK's; use `from_file` then.

        Args:
            properties: from the reader.
            shape: (D, H, W) of the array. Without it, the axes of a file are not known where ITK has reoriented it.
        """
        if "sitk_stuff" in properties:
            itk = properties["sitk_stuff"]
            affine = _itk_affine(itk["direction"], itk["spacing"], itk["origin"])
            if "original_orientation" in itk:
                return cls(affine[:, REVERSED], None if shape is None else affine @ _itk_reorientation(itk, shape))
            return cls(affine[:, REVERSED], affine)
        if "nibabel_stuff" in properties:
            original = properties["nibabel_stuff"]["original_affine"]
            affine = properties["nibabel_stuff"].get("reoriented_affine", original)
            return cls((RAS_TO_LPS @ affine)[:, REVERSED], RAS_TO_LPS @ original)
        affine = np.diag([*properties["spacing"][::-1], 1.0])
        return cls(affine[:, REVERSED], affine)

    @classmethod
    def from_file(cls, path: str | Path, properties: dict[str, Any] | None = None) -> "ImageGeometry":
        """From the header of an image file, where ITK puts it in the world.

        Args:
            path: the image; no voxels are read.
            properties: what nnU-Net's reader returned with this image. They tell how it reoriented the array, and
                replace the header if the format has no position in the world (PNG, TIFF) or ITK refuses it (sheared
                axes). None: the array has the axes of the file, in reverse.

        Raises:
            SAM3DError: the file is missing, or ITK can't read it and there are no properties.
        """
        if properties is not None and not PLACED & properties.keys():
            return cls.from_properties(properties)
        try:
            header = read_header(path)
        except SAM3DError:
            if properties is None or not Path(path).is_file():
                raise
            return cls.from_properties(properties)
        if properties is None:
            return cls.from_header(header)
        if "sitk_stuff" in properties:
            return cls(cls.from_properties(properties).affine, header.affine)
        turned = header.affine @ _reorientation(properties["nibabel_stuff"], header.size)
        return cls(turned[:, REVERSED], header.affine)

    @classmethod
    def from_header(cls, header: ImageHeader) -> "ImageGeometry":
        """Of an array whose axes are those of the file, in reverse."""
        return cls(header.affine[:, REVERSED], header.affine)

    @property
    def spacing(self) -> np.ndarray:
        """(3,) millimetres between voxels along (d, h, w)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def orientation(self) -> str:
        """Where the array's axes run to in the patient, as a code: see `geometry.turn`. The nearest one if oblique."""
        return _code(self.affine[:, REVERSED])

    @property
    def file_orientation(self) -> str | None:
        """The same for the indices i, j, k of the image file; None where its axes are not known."""
        return None if self.file_affine is None else _code(self.file_affine)

    @property
    def axial_order(self) -> np.ndarray:
        """The image's axes in the order z, y, x of the patient, each the nearest one; none is reversed.

        Slices along the first of them are axial.
        """
        return np.argsort(-io_orientation(self.affine)[:, 0])

    def to_world(self, voxels: np.ndarray) -> np.ndarray:
        """(N, 3) array indices (d, h, w) -> (N, 3) millimetres (x, y, z)."""
        return _apply(self.affine, voxels)

    def to_voxels(self, world: np.ndarray) -> np.ndarray:
        """(N, 3) millimetres (x, y, z) -> (N, 3) array indices (d, h, w)."""
        return _invert(self.affine, world)

    def in_file_order(self, array: np.ndarray) -> tuple[np.ndarray, "ImageGeometry"]:
        """An array of the image (D, H, W) along the axes of the image file, in reverse, and where its voxels are.

        It is the same for all readers, however they turn images. If the axes of the file are not known, the array stays
        as it is.
        """
        if self.file_affine is None:
            return array, self
        in_file = self.file_affine[:, REVERSED]
        turn = io_orientation(np.linalg.solve(in_file, self.affine))
        affine = self.affine @ inv_ornt_aff(turn, array.shape)
        affine = in_file if np.allclose(affine, in_file, rtol=0, atol=1e-6) else affine  # without its rounding errors
        return apply_orientation(array, turn), ImageGeometry(affine, affine[:, REVERSED])

    def corner_shifts(self, other: "ImageGeometry", shape: Sequence[int]) -> np.ndarray:
        """How far another geometry moves the corner voxels of an image.

        Args:
            other: says where the same voxels are, too.
            shape: (D, H, W) of the image.

        Returns:
            (8, 3) millimetres (x, y, z).
        """
        corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))])
        return (corners @ (other.affine - self.affine).T)[:, :3]

    def from_file_index(self, indices: np.ndarray) -> np.ndarray:
        """(N, 3) indices of the image file (i, j, k) -> (N, 3) millimetres (x, y, z).

        Raises:
            SAM3DError: the order of the file's axes is not known.
        """
        return _apply(self._known_file_affine(), indices)

    def to_file_index(self, world: np.ndarray) -> np.ndarray:
        """(N, 3) millimetres (x, y, z) -> (N, 3) float indices of the image file (i, j, k).

        Raises:
            SAM3DError: the order of the file's axes is not known.
        """
        return _invert(self._known_file_affine(), world)

    def _known_file_affine(self) -> np.ndarray:
        if self.file_affine is None:
            raise SAM3DError(
                "Voxel indices (i, j, k) need the axes of the image file, which are unknown because its reader has "
                "reoriented the image. Give the image file, or clicks in world millimetres."
            )
        return self.file_affine


def _is_usable(affine: np.ndarray) -> bool:
    """Whether an affine is finite, and its axes span space, so that each runs somewhere."""
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        return False
    return bool(np.isfinite(io_orientation(affine)).all())


def turned_by_reader(properties: dict[str, Any]) -> bool:
    """Whether nnU-Net's reader, which returned these properties, turns all images to one orientation."""
    return any(
        name in properties.get(library, {})
        for library, name in (("sitk_stuff", "original_orientation"), ("nibabel_stuff", "reoriented_affine"))
    )


def _code(affine: np.ndarray) -> str:
    """Where the indices i, j, k run to, from their (4, 4) affine."""
    return "".join(aff2axcodes(RAS_TO_LPS @ affine))


def _itk_affine(direction: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    """(4, 4) index (i, j, k) -> world, for an image with 2, 3 or 4 axes, the fourth for channels."""
    axes = min(3, len(spacing))
    cosines = np.reshape(direction, (len(spacing), len(spacing)))[:axes, :axes]
    affine = np.eye(4)
    affine[:axes, :axes] = cosines * spacing[:axes]
    affine[:axes, 3] = origin[:axes]
    return affine


def _itk_reorientation(itk: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
    """(4, 4) index in the file -> index in an image (D, H, W) that ITK has reoriented for nnU-Net's reader."""
    ends = (("R", "L"), ("A", "P"), ("I", "S"))  # of the axes of the world
    turned = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(itk["direction"])
    codes = [axcodes2ornt(code, ends) for code in (turned, itk["original_orientation"])]
    return inv_ornt_aff(ornt_transform(*codes), shape[::-1])


def _reorientation(nibabel: dict[str, np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """(4, 4) index in an image that nnU-Net's reader has reoriented to RAS -> index in the file."""
    if "reoriented_affine" not in nibabel:
        return np.eye(4)
    return inv_ornt_aff(io_orientation(nibabel["original_affine"]), size[:3])


def _apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points) @ affine[:3, :3].T + affine[:3, 3]


def _invert(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.linalg.solve(affine[:3, :3], (np.asarray(points) - affine[:3, 3]).T).T
