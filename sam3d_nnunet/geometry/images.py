"""Read images with nnU-Net's readers: the one place that opens an image, checks its files and words its errors."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.damaged_files import refuse_damaged
from sam3d_nnunet.geometry.world import PLACED, ImageHeader, read_header
from sam3d_nnunet.io import kept_locale

REAL = {
    *(sitk.sitkInt8, sitk.sitkInt16, sitk.sitkInt32, sitk.sitkInt64),
    *(sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkUInt32, sitk.sitkUInt64),
    *(sitk.sitkFloat32, sitk.sitkFloat64),
}
"""ITK's types of one real number per voxel."""


@kept_locale()
def read_image(files: Sequence[str | Path], reader: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image.

    Args:
        files: one for each channel.
        reader: nnU-Net's for their format, an instance.

    Returns:
        (C, D, H, W) intensities, and what the reader tells of the files, with the spacing along (d, h, w).

    Raises:
        SAM3DError: a file is missing, damaged or can't be read, is not one volume, or the channels have different
            voxels.
    """
    for file in files:
        check_image_file(file)
    try:
        image, properties = reader.read_images([str(file) for file in files])
    except Exception as e:  # each library of images has errors of its own
        for file in files:
            check_axes(file, "image", refused=True)
        raise SAM3DError(_refusal(files, reader, e)) from e

    refuse_empty(image, files[0])
    if PLACED & properties.keys():  # flat and coloured images are right in formats of photographs
        for file in files:
            check_axes(file, "image")
    return image, properties


def refuse_empty(image: np.ndarray, file: str | Path) -> None:
    """Refuse an image without voxels, which ITK reads from a header with a length of 0.

    Raises:
        SAM3DError: names the file.
    """
    if not image.size:
        raise SAM3DError(f"{file} holds no voxel: a length in its header is 0. Copy or make it again.")


@kept_locale()
def read_stored_image(files: Sequence[str | Path], reader: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Like `read_image`, but one channel that ITK reads keeps the type of numbers in which it is stored.

    nnU-Net's readers make float32 of all numbers, which takes twice the memory of a CT and as long as reading it.
    """
    if len(files) == 1 and type(reader).__name__ == "SimpleITKIO":  # this very class, which returns voxels as they lie
        check_image_file(files[0])
        with contextlib.suppress(RuntimeError):  # worded by read_image
            image = sitk.ReadImage(str(files[0]))
            if image.GetDimension() == 3 and image.GetPixelID() in REAL:
                header = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
                properties = {"sitk_stuff": header, "spacing": [abs(s) for s in reversed(image.GetSpacing())]}
                refuse_empty(voxels := sitk.GetArrayFromImage(image), files[0])
                return voxels[None], properties
    return read_image(files, reader)


def check_image_file(file: str | Path) -> None:
    """Refuse a file that other code is going to read as an image, where it is missing or damaged.

    Raises:
        SAM3DError: names the file.
    """
    if not Path(file).is_file():
        raise SAM3DError(f"There is no image file {file}.")
    refuse_damaged(file)


def _refusal(files: Sequence[str | Path], reader: Any, error: Exception) -> str:
    """Why the reader refuses an image: a channel that can't be read alone, or channels that don't fit together."""
    names, shapes, spacings = ", ".join(map(str, files)), [], []
    for file in files if len(files) > 1 else ():
        try:
            channel, properties = reader.read_images([str(file)])
        except Exception:  # the same as for all files
            return f"The image {file} can't be read: {last_line(error)}"
        shapes.append(channel.shape[1:])
        spacings.append(tuple(map(float, properties["spacing"])))
    for found, what in ((shapes, "numbers of voxels"), (spacings, "spacings in mm")):
        if len(set(found)) > 1:
            each = ", ".join(map(str, found))
            return f"The channels {names} have different {what} along (d, h, w): {each}. Resample them to one grid."
    return f"The image {names} can't be read: {last_line(error)}"


def check_axes(file: str | Path, kind: str, refused: bool = False) -> None:
    """Refuse a file that is not one volume with one number per voxel. Readers take some of these for other images.

    Args:
        file: whole.
        kind: "image", or "label map", which may have a fourth axis of one volume.
        refused: whether the reader has refused the file.

    Raises:
        SAM3DError: says what the file holds instead.
    """
    found = _other_content(file, kind == "label map", refused)
    if found is not None:
        hint = ", and each channel a file of its own" if kind == "image" else ""
        raise SAM3DError(f"The {kind} {file} {found}. It must have three axes and one number per voxel{hint}.")


def _other_content(file: str | Path, fourth_axis: bool, refused: bool) -> str | None:
    """What a file holds instead of one volume; None where that is not known."""
    try:
        header = read_header(file)
    except SAM3DError:
        return None
    if header.is_complex:
        return "has complex numbers"
    if header.components > 1:
        return f"has {header.components} components per voxel"
    if header.channels > 1:
        return f"has {header.channels} time points or channels in one file"
    if len(header.size) == 2:
        return "has 2 axes, a single slice"
    axes = _stored_axes(file, header) if refused else len(header.size)
    return None if axes == 3 or (axes == 4 and fourth_axis and not refused) else f"has {axes} axes"


def _stored_axes(file: str | Path, header: ImageHeader) -> int:
    """ITK drops a fourth axis of one volume from NIfTI, nibabel does not."""
    try:
        return len(nibabel.load(file).shape)
    except Exception:  # not a format of nibabel's
        return len(header.size)
