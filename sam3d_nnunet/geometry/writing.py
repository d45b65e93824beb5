"""Write images with foreign libraries, and read them back.

ITK's writer of NIfTI says nothing where a disk is full or a file has reached its largest size: it leaves a file that is
cut off. So what was written is read again before anyone takes it for finished.
"""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.damaged_files import refuse_damaged

CUT_OFF = "it was cut off while it was written, so the disk, a quota or the largest size of a file is reached"


def write_label_map(labels: np.ndarray, file: Path, properties: dict[str, Any], reader: Any) -> None:
    """Write a label map with nnU-Net's reader.

    Args:
        labels: (D, H, W), axes as the reader has them.
        file: to write, with an ending that the reader knows.
        properties: of the image, as the reader tells them.
        reader: nnU-Net's, an instance.

    Raises:
        OSError: the file can't be written, or holds something else afterwards.
    """
    try:
        reader.write_seg(labels, str(file), properties)
        refuse_cut_off(file)  # ITK reads what is missing as zeros, which most voxels of a segmentation are
        stored, _ = reader.read_seg(str(file))
    except Exception as e:  # each library of images has errors of its own
        raise _failure(e, file) from e
    if not np.array_equal(np.asarray(stored).reshape(-1), labels.reshape(-1)):
        raise OSError(errno.ENOSPC, CUT_OFF, str(file))


def refuse_cut_off(file: Path) -> None:
    """Refuse an image that nnU-Net has written, if it is not whole.

    Raises:
        OSError: it is cut off.
    """
    try:
        refuse_damaged(file)
    except SAM3DError as e:
        raise OSError(errno.ENOSPC, CUT_OFF, str(file)) from e


def write_volume(image: sitk.Image, file: Path) -> None:
    """Write an image with ITK, compressed.

    Raises:
        OSError: the file can't be written, or holds something else afterwards.
    """
    try:
        sitk.WriteImage(image, str(file), True)
        refuse_cut_off(file)
        stored = sitk.ReadImage(str(file), image.GetPixelID())
    except Exception as e:  # ITK's errors are RuntimeError
        raise _failure(e, file) from e
    voxels, found = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(stored)
    finite = np.isfinite(voxels)  # ITK reads NaN in NIfTI as 0
    if found.shape != voxels.shape or not np.array_equal(found[finite], voxels[finite]):
        raise OSError(errno.ENOSPC, CUT_OFF, str(file))


def _failure(error: Exception, file: Path) -> Exception:
    """What to raise: the system's own errors as they are, a file that was begun as cut off, others by their reason."""
    if isinstance(error, OSError) and error.errno is not None:
        error.filename = error.filename or str(file)
        return error
    if file.is_file():
        return OSError(errno.ENOSPC, CUT_OFF, str(file))
    return OSError(errno.EIO, last_line(error), str(file))
