"""Find image files that are cut off or changed, where the libraries of images read them without an error.

ITK and nibabel don't compare the checksums of compressed files, and ITK fills the missing end of some formats with
whatever is in memory. Of other formats, such as NRRD and MetaImage without compression, they refuse cut files. A
changed byte can't be found in a file without checksums.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.file_sizes import needed_bytes, nifti_bytes
from sam3d_nnunet.io import brief

BLOCK = 1 << 18  # bytes that are read at once
HEAD = 4096  # bytes that hold the header of every format of which the size is checked
LONGEST_LINE = 1 << 24  # bytes in the header of a segmentation that lists its segments
REMEMBERED = 10_000  # files
LONGEST_FIELD = 500
"""Bytes of a field in NRRD's header. From about 1000 on, ITK writes what it can't read beyond the end of its memory."""
WORDED = ("content",)
"""Fields of NRRD's header of which ITK reads any length."""
META_IMAGE = (".mha", ".mhd")
DIMENSIONS, LONGEST_NAME = [str(count) for count in range(11)], 250
"""Of MetaImage's header. ITK writes more beyond the end of its memory."""
PATTERN = re.compile(r"[^%]*%0?[0-9]{0,2}d[^%]*")
"""Of the names of several files with voxels."""
GZIP, PNG = b"\x1f\x8b", b"\x89PNG\r\n\x1a\n"
PAIR = re.compile(r"(.+)\.(hdr|img)(\.gz)?", re.IGNORECASE)


def refuse_damaged(file: str | Path) -> None:
    """Refuse an image file that is cut off or changed. A process decompresses the same file only once for this.

    Raises:
        SAM3DError: names the file, and says what is wrong with it.
    """
    refuse_crashing(file)
    try:
        _check(Path(file))
    except _Damage as e:
        raise SAM3DError(f"{file} is damaged: {e}. Copy or make it again.") from e
    except OSError as e:
        raise SAM3DError(f"{file} can't be read: {e.strerror or e}.") from e


def refuse_name(file: str | Path) -> None:
    """Refuse a path that is no Unicode, as in archives of old systems: ITK crashes on it.

    Raises:
        SAM3DError: names the file.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError as e:
        raise SAM3DError(f"The path {str(file)!a} is no Unicode, which ITK can't open. Rename the file.") from e


def refuse_crashing(file: str | Path) -> None:
    """Refuse a file that would end the process instead of ITK's reader, by its path or its header.

    Raises:
        SAM3DError: names the file.
    """
    refuse_name(file)
    try:
        with Path(file).open("rb") as stream:
            if stream.read(4) == b"NRRD":
                wrong = [key for key, value in _lines(stream, ":", last="") if _crashes_nrrd(key, value)]
            elif Path(file).suffix.lower() in META_IMAGE:
                stream.seek(0)
                lines = _lines(stream, "=", last="elementdatafile")
                wrong = [key for key, value in lines if _crashes_meta_image(key, value)]
            else:
                return
    except OSError:
        return  # will be an error of the reader, too
    if wrong:
        raise SAM3DError(f"{file} is damaged: {brief(wrong[0])} in its header can't be read. Copy or make it again.")


def _crashes_nrrd(key: str, value: str) -> bool:
    is_text = key.startswith("#") or value.startswith("=") or key in WORDED  # comments, pairs, texts
    return not is_text and len(key) + len(value) > LONGEST_FIELD


def _crashes_meta_image(key: str, value: str) -> bool:
    if key == "ndims":
        return value not in DIMENSIONS
    if key == "name":
        return len(value) > LONGEST_NAME
    return key == "elementdatafile" and "%" in value and not PATTERN.fullmatch(value)  # ITK hands it to printf


class _Damage(Exception):
    """What is wrong with a file: the rest of a sentence."""


def _check(file: Path) -> None:
    head, size = _content(file)
    pair = PAIR.fullmatch(file.name)
    if head.startswith(b"NRRD"):
        _check_compressed_nrrd(file)
    elif head.startswith(PNG):
        _check_png(file)
    elif file.suffix.lower() in META_IMAGE:
        _check_compressed_meta_image(file)
    elif pair:
        _check_pair(file.parent, pair[1])
    else:
        try:
            needed = needed_bytes(file, head)
        except ValueError as e:
            raise _Damage(str(e)) from e
        _check_size(size, needed)


def _check_size(size: int, needed: int | None, name: str = "it") -> None:
    if needed is not None and size < needed:
        raise _Damage(f"{name} holds {size} bytes instead of {needed}")


def _check_pair(folder: Path, name: str) -> None:
    """NIfTI or Analyze with the header in NAME.hdr and the voxels in NAME.img."""
    there = {half: _one_of(folder, name, half) for half in (".hdr", ".img")}
    if None not in there.values():
        head, size = _content(there[".hdr"])[0], _content(there[".img"])[1]
        _check_size(size, nifti_bytes(head, in_header_file=False), there[".img"].name)


def _one_of(folder: Path, name: str, ending: str) -> Path | None:
    files = (folder / f"{name}{e}" for e in (ending, f"{ending}.gz", ending.upper()))
    return next((file for file in files if file.is_file()), None)


# --- compressed data, which have checksums ---


def _content(file: Path) -> tuple[bytes, int]:
    """The first bytes of a file and the number of all bytes; decompressed if the whole file is gzip."""
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    return _decompressed(file) if head.startswith(GZIP) else (head, file.stat().st_size)


def _decompressed(file: Path, start: int = 0) -> tuple[bytes, int]:
    """Decompress gzip or zlib data that begin at `start`.

    Returns:
        The first bytes, and the number of all bytes.

    Raises:
        _Damage: the data are cut off, or don't fit their checksum.
    """
    state = file.stat()
    return _decompressed_once(file, start, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(REMEMBERED)
def _decompressed_once(file: Path, start: int, state: tuple[int, ...]) -> tuple[bytes, int]:
    head, size, data = b"", 0, b""
    with file.open("rb") as stream:
        stream.seek(start)
        while True:
            member = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib; the file may hold one after the other
            while not member.eof:
                data = data or stream.read(BLOCK)
                if not data:
                    raise _Damage("its compressed data are cut off")
                try:
                    part = member.decompress(data, 4 * BLOCK)
                except zlib.error as e:
                    raise _Damage(f"its compressed data are broken ({e})") from e
                head, size, data = head + part[: HEAD - len(head)], size + len(part), member.unconsumed_tail
            data = member.unused_data + stream.read(BLOCK if len(member.unused_data) < len(GZIP) else 0)
            if not data.startswith(GZIP):  # zeros, or the rest of a longer file that was overwritten: of no meaning
                return head, size


def _check_compressed_nrrd(file: Path) -> None:
    with file.open("rb") as stream:
        fields = _fields(stream, ":", last="")
        if fields.get("encoding") in ("gz", "gzip") and fields.get("lineskip", "0") == "0":
            _check_compressed_data(file, stream.tell(), fields.get("datafile"))


def _check_compressed_meta_image(file: Path) -> None:
    with file.open("rb") as stream:
        fields = _fields(stream, "=", last="elementdatafile")
        if fields.get("compresseddata", "").lower() in ("true", "1"):
            name = fields.get("elementdatafile", "")
            _check_compressed_data(file, stream.tell(), None if name.lower() == "local" else name)


def _check_compressed_data(header: Path, start: int, name: str | None) -> None:
    """Compressed data behind a header, or in a file of their own. Lists and patterns of files are not followed."""
    if name is None:
        _decompressed(header, start)
    elif (header.parent / name).is_file():
        try:
            _decompressed(header.parent / name)
        except _Damage as e:
            raise _Damage(f"{e} in {name}") from e


def _fields(stream: BinaryIO, separator: str, last: str) -> dict[str, str]:
    """What `_lines` gives, by key."""
    return dict(_lines(stream, separator, last))


def _lines(stream: BinaryIO, separator: str, last: str) -> Iterator[tuple[str, str]]:
    """The lines "key: value" of a header up to the key `last`; keys in small letters without spaces."""
    key = None
    while key != last and (line := stream.readline(LONGEST_LINE)):
        key, _, value = line.decode("latin-1").partition(separator)
        key = "".join(key.split()).lower()
        yield key, value.strip()


def _check_png(file: Path) -> None:
    with file.open("rb") as stream:
        stream.seek(len(PNG))
        kind = b""
        while kind != b"IEND":
            length, kind = struct.unpack(">I4s", stream.read(8).ljust(8, b"\0"))
            body, checksum = stream.read(length), stream.read(4)
            if len(checksum) < 4:
                raise _Damage("it is cut off")
            if zlib.crc32(kind + body) != int.from_bytes(checksum, "big"):
                raise _Damage("a part doesn't fit its checksum")
