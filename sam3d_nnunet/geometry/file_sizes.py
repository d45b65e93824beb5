"""How many bytes an image file needs by its header, for formats of which libraries read cut files without an error."""

import math
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import SimpleITK as sitk
from nibabel.nifti1 import data_type_codes

from sam3d_nnunet.io import kept_locale

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_VALUES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value in the list of a tag by the code of its kind."""
TIFF_AXES = (256, 257)
"""Tags of the voxels along the axes of a slice."""
MOST = 100_000
"""Voxels along an axis. ITK makes room for them before it reads them."""
TIFF_PRIVATE = 32768
"""The first tag that a program may use as it likes."""
VOXELS_AT_END: dict[str, Callable[[bytes], int | None]] = {
    ".gipl": lambda head: 256,
    ".mrc": lambda head: 1024 + int.from_bytes(head[92:96], "little"),
    ".vtk": lambda head: _vtk_header(head),
}
"""Length of the header by file ending. Behind it are the voxels, not compressed."""


def needed_bytes(file: Path, head: bytes) -> int | None:
    """Bytes up to the last voxel; None for formats that need no check, and where the header makes no sense.

    Args:
        file: the image.
        head: its first bytes, decompressed if the whole file is gzip.

    Raises:
        ValueError: says what is wrong with a TIFF file that has all its bytes.
    """
    if head.startswith(TIFF):
        return _tiff_end(file)
    ending = Path(file.name.lower().removesuffix(".gz")).suffix
    if ending in VOXELS_AT_END:
        return _behind_header(file, VOXELS_AT_END[ending](head))
    return nifti_bytes(head)


def nifti_bytes(head: bytes, in_header_file: bool = True) -> int | None:
    """Bytes up to the last voxel of a NIfTI or Analyze file; None if this is no header of one.

    Args:
        head: the first bytes of the header's file.
        in_header_file: whether the voxels follow the header in the same file.
    """
    for order in "<>":
        kind = struct.unpack_from(f"{order}i", head.ljust(4))[0]
        if kind == 348 and len(head) >= kind:  # NIfTI-1, Analyze
            dim, code, offset = _unpacked(head, order, ("8h", 40), ("h", 70), ("f", 108))
        elif kind == 540 and len(head) >= kind:  # NIfTI-2
            dim, code, offset = _unpacked(head, order, ("8q", 16), ("h", 12), ("q", 168))
        else:
            continue
        voxels = math.prod(max(1, length) for length in dim[1 : dim[0] + 1])
        start = int(offset[0]) if math.isfinite(offset[0]) else 0
        try:  # libraries don't look at bitpix, the number of bits, which some programs write wrongly
            size = data_type_codes.dtype[code[0]].itemsize
        except KeyError:  # will be an error of the reader, too
            return None
        return max(start, kind if in_header_file else 0) + voxels * size
    return None


def _unpacked(head: bytes, order: str, *fields: tuple[str, int]) -> Iterator[tuple]:
    return (struct.unpack_from(order + form, head, place) for form, place in fields)


def _vtk_header(head: bytes) -> int | None:
    last_line = re.search(rb"\nLOOKUP_TABLE .*\n", head)
    return last_line.end() if last_line and b"\nBINARY" in head else None


@kept_locale()
def _behind_header(file: Path, length: int | None) -> int | None:
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    try:
        header.ReadImageInformation()
        voxel = sitk.Image([1] * header.GetDimension(), header.GetPixelID(), header.GetNumberOfComponents())
    except RuntimeError:  # will be an error of the reader, too
        return None
    size = math.prod(header.GetSize()) * header.GetNumberOfComponents() * voxel.GetSizeOfPixelComponent()
    return None if length is None else length + size


def _tiff_end(file: Path) -> int:
    """Bytes up to the last directory of a TIFF file, or the last list of values of a tag.

    There is a directory for each slice, with the place of the next. Readers make room for a list before they read it,
    whatever the file's size.

    Raises:
        ValueError: directories follow one another in a circle, in which ITK goes around, or a slice is huge.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        order = "<" if stream.read(2) == b"II" else ">"
        big = _number(stream, order + "H") == 43
        count, entry, place = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
        stream.seek(8 if big else 4)
        end, position, seen = 0, _number(stream, order + place), set()
        while 0 < position < size:
            if position in seen:
                raise ValueError("its slices follow one another in a circle")
            seen.add(position)
            stream.seek(position)
            form = struct.Struct(order + entry)
            entries = stream.read(min(_number(stream, order + count), size) * form.size)
            for tag, kind, numbers, start in form.iter_unpack(entries[: len(entries) // form.size * form.size]):
                if tag in TIFF_AXES and TIFF_VALUES.get(kind, 0) >= 4 and start > MOST:
                    raise ValueError(f"a slice has {start} voxels along an axis")
                length = numbers * TIFF_VALUES.get(kind, 0)
                if tag < TIFF_PRIVATE and length > struct.calcsize(place):
                    end = max(end, start + length)
            end = max(end, stream.tell() + struct.calcsize(place))
            position = _number(stream, order + place)
    return max(end, position)


def _number(stream: BinaryIO, form: str) -> int:
    """The next number of a file; 0 behind its end."""
    data = stream.read(struct.calcsize(form))
    return struct.unpack(form, data)[0] if len(data) == struct.calcsize(form) else 0
