"""A label map as the truth of clicks."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import PLACED


def read_label_map(file: Path, reader: Any) -> tuple[np.ndarray, bool]:
    """(D, H, W) label map, and whether its axes are those of the file, in reverse.

    They are wherever ITK can do that, so that all models get the same clicks, whatever turns the images that they see.
    Otherwise (PNG, TIFF, sheared axes, files that are no volume to ITK) they are as nnU-Net's reader has them.

    Args:
        file: the label map.
        reader: nnU-Net's, an instance.

    Raises:
        SAM3DError: the file is missing or can't be read.
    """
    if not file.is_file():
        raise SAM3DError(f"There is no label map {file}.")
    try:
        segmentation, properties = reader.read_seg(str(file))
    except Exception as e:  # whatever the reader of the format raises
        raise SAM3DError(f"The label map {file} can't be read: {type(e).__name__}.") from e
    if PLACED & properties.keys():
        try:
            as_it_lies = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        except RuntimeError:
            as_it_lies = np.empty(0)
        if as_it_lies.ndim == 3:
            return as_it_lies, True
    return segmentation[0], False
