"""The orientation that all training images share, to which prediction turns new images."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.world import PLACED, ImageGeometry, turned_by_reader
from sam3d_nnunet.io import listing


def shared_orientation(images: Mapping[str, Path], reader: Any) -> str | None:
    """How the arrays of all images lie, as a code: see `geometry.turn`. Prints a line if they lie differently.

    Mostly headers are read. One array is read to see what the reader does, and others where ITK refuses the header.

    Args:
        images: the first channel of each case; at least one.
        reader: nnU-Net's for them, an instance.

    Returns:
        None if the images lie differently, or their format has no position in the patient (PNG, TIFF).

    Raises:
        SAM3DError: an image can't be read.
    """
    _, properties = read_image([next(iter(images.values()))], reader)
    if not PLACED & properties.keys():
        return None
    if turned_by_reader(properties):
        return ImageGeometry.from_properties(properties).orientation
    cases = defaultdict(list)
    for case, file in images.items():
        cases[_as_it_lies(file, reader).orientation].append(case)
    if len(cases) == 1:
        return next(iter(cases))
    shares = "; ".join(f"{code}: {listing(names, 3)}" for code, names in sorted(cases.items()))
    print(
        f"Training images lie in different orientations ({shares}). nnU-Net trains on them as they lie, and sam3d "
        "predict turns no image. Reorient them all alike if that is not wanted."
    )
    return None


def orientation_of_array(properties: dict[str, Any]) -> str | None:
    """How an array lies that nnU-Net has read; None if its format does not tell.

    Args:
        properties: of the array, from nnU-Net's reader.
    """
    return ImageGeometry.from_properties(properties).orientation if PLACED & properties.keys() else None


def _as_it_lies(file: Path, reader: Any) -> ImageGeometry:
    try:
        return ImageGeometry.from_file(file)
    except SAM3DError:  # ITK refuses sheared axes, which nibabel reads
        return ImageGeometry.from_properties(read_image([file], reader)[1])
