"""nnU-Net's reader of the files of a data set."""

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.damaged_files import refuse_crashing

WITHOUT_WORLD = (Tiff3DIO, NaturalImage2DIO)
"""Readers of formats without a position in the world. Their files may hold an image in several ways."""
TURNING = (SimpleITKIOWithReorient, NibabelIOWithReorient)
"""Readers that turn all images to one orientation."""


def find_reader(dataset_json: dict[str, Any], examples: Iterable[str | Path]) -> type[BaseReaderWriter]:
    """The reader that nnU-Net's planner takes: the first one for the file ending that can read an example.

    Without an example, TIFF would be taken for photographs, and ITK would get sheared NIfTI, which it refuses.

    Args:
        dataset_json: nnU-Net's description of the data set.
        examples: files of the data set, images first. The first one that any reader can read decides.

    Raises:
        SAM3DError: nnU-Net reads no such files.
    """
    for example in filter(lambda file: Path(file).is_file(), examples):
        # nnU-Net prints a traceback for each reader that refuses the example
        with contextlib.suppress(RuntimeError, SAM3DError), contextlib.redirect_stderr(io.StringIO()):
            refuse_crashing(example)
            return determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False)
    try:
        return determine_reader_writer_from_dataset_json(dataset_json, verbose=False)
    except RuntimeError as e:
        raise SAM3DError(
            f"nnU-Net has no reader for the data set's files, which end in {dataset_json['file_ending']}."
        ) from e
