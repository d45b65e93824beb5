"""Tell files of nnU-Net's that were cut off: it writes them in place, so that a kill or a full disk leaves a part."""

import os
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import read_json

END_OF_ZIP, ZIP_TAIL = b"PK\5\6", 22  # torch saves zip files, whose directory comes last
END_OF_PICKLE = b"."


def has_whole_json(file: Path) -> bool:
    """Whether a file is there and holds JSON."""
    try:
        read_json(file)
    except SAM3DError:
        return False
    return True


def has_whole_pickle(file: Path) -> bool:
    """Whether a file is there and ends as a pickle does."""
    return file.is_file() and _tail(file, len(END_OF_PICKLE)) == END_OF_PICKLE


def has_whole_checkpoint(file: Path) -> bool:
    """Whether a file is there and ends as torch's files do."""
    return file.is_file() and _tail(file, ZIP_TAIL).startswith(END_OF_ZIP)


def is_shorter(copy: Path, original: Path) -> bool:
    """Whether a copy is there and lacks the end of its original, if that is still there."""
    return copy.is_file() and original.is_file() and copy.stat().st_size < original.stat().st_size


def _tail(file: Path, count: int) -> bytes:
    """The last bytes of a file, or all of them if there are fewer.

    Raises:
        OSError: the file can't be read. It is not taken for one that is cut off, which can be deleted.
    """
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - count))
        return stream.read()
