"""Refuse files that nnU-Net would read as something else than they are: damaged ones, and labels it cuts off."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.datasets.raw_dataset import for_each_case
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.damaged_files import refuse_damaged
from sam3d_nnunet.geometry.image_grid import read_grid
from sam3d_nnunet.geometry.images import check_image_file
from sam3d_nnunet.geometry.label_maps import read_stored_values
from sam3d_nnunet.geometry.label_values import refuse_cut_labels
from sam3d_nnunet.geometry.world import ImageGeometry, read_header


def refuse_unusable_files(
    label_maps: Mapping[str, Path], reader: Any, images: Mapping[str, Sequence[Path]] | None = None
) -> None:
    """Refuse files of a data set, before nnU-Net trains on them or measures with them.

    Args:
        label_maps: by case. Values are read only of files that do not store integers.
        reader: nnU-Net's for their format, an instance.
        images: files of the channels by case, for as many cases as are to be checked.

    Raises:
        SAM3DError: names files that are missing, damaged or sheared, and label maps whose values are not exactly
            labels, that have other voxels than their images, or that nnU-Net's reader turns otherwise than these.
    """

    def check(case: str) -> None:
        files = (images or {}).get(case, ())
        for file in files:
            check_image_file(file)
            if isinstance(reader, SimpleITKIO):  # the first image decides on the reader, so others may be sheared
                read_header(file)
        _check_label_map(label_maps[case], reader)
        for file in files[1:]:
            _refuse_other_size(file, files[0])
        if files and ((own := _layout(files[0])) is None or own != _layout(label_maps[case])):
            label_map = read_stored_values(label_maps[case], reader)
            label_map.place_note(read_grid(files[0], reader, label_map.properties))

    _, failed = for_each_case(check, label_maps, "Checking files")
    if failed:
        reasons = " ".join(list(failed.values())[:3])
        raise SAM3DError(f"{len(failed)} of {len(label_maps)} case(s) can't be used. {reasons}")


def _check_label_map(file: Path, reader: Any) -> None:
    if not file.is_file():
        raise SAM3DError(f"There is no label map {file}.")
    refuse_damaged(file)
    try:
        if read_header(file).is_integer:
            return
    except SAM3DError:  # a format that ITK doesn't read
        pass
    refuse_cut_labels(read_stored_values(file, reader).array, f"The label map {file}")


def _refuse_other_size(file: Path, first: Path) -> None:
    """Refuse the image of a further channel that has other numbers of voxels than the first one."""
    sizes = [layout and layout[0] for layout in (_layout(file), _layout(first))]
    if None not in sizes and sizes[0] != sizes[1]:
        shown = [" x ".join(map(str, size)) for size in sizes]
        raise SAM3DError(
            f"{file} has {shown[0]} voxels, but {first.name}, another channel of the image, has {shown[1]}. Resample "
            "one of them to the other."
        )


def _layout(file: Path) -> tuple | None:
    """Numbers of voxels along the axes of a file, and where these run to; None for a format that ITK doesn't read."""
    try:
        header = read_header(file)
        return header.size, ImageGeometry.from_header(header).orientation
    except SAM3DError:
        return None
