"""Read images with nnU-Net's readers: the one place that opens an image, checks its files and words its errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.damaged_files import refuse_damaged


def read_image(files: Sequence[str | Path], reader: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image.

    Args:
        files: one for each channel.
        reader: nnU-Net's for their format, an instance.

    Returns:
        (C, D, H, W) intensities, and what the reader tells of the files, with the spacing along (d, h, w).

    Raises:
        SAM3DError: a file is missing, damaged or can't be read, or the channels have different voxels.
    """
    for file in files:
        check_image_file(file)
    try:
        return reader.read_images([str(file) for file in files])
    except Exception as e:  # each library of images has errors of its own
        raise SAM3DError(f"The image {_cause(files, reader)} can't be read: {last_line(e)}") from e


def check_image_file(file: str | Path) -> None:
    """Refuse a file that other code is going to read as an image, where it is missing or damaged.

    Raises:
        SAM3DError: names the file.
    """
    if not Path(file).is_file():
        raise SAM3DError(f"There is no image file {file}.")
    refuse_damaged(file)


def _cause(files: Sequence[str | Path], reader: Any) -> str:
    """The first file that can't be read alone; all files where each can be."""
    for file in files if len(files) > 1 else ():
        try:
            reader.read_images([str(file)])
        except Exception:  # the same as for all files
            return str(file)
    return ", ".join(map(str, files))
