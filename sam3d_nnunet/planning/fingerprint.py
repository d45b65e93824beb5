"""nnU-Net's fingerprint of a data set, and the images that spoil it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from sam3d_nnunet.datasets.raw_dataset import for_each_case
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.io import listing

INTENSITIES = "foreground_intensity_properties_per_channel"


def extract_fingerprint(name: str, images: Mapping[str, list[Path]], reader: BaseReaderWriter) -> None:
    """Write the fingerprint of a data set.

    Args:
        name: of the data set.
        images: files of its cases, one for each channel.
        reader: nnU-Net's for these files.

    Raises:
        SAM3DError: images hold NaN, which nnU-Net refuses without their names.
    """
    try:
        DatasetFingerprintExtractor(name, default_num_processes).run()
    except AssertionError:
        refuse_broken_images(name, images, reader)
        raise


def refuse_broken_statistics(
    name: str, fingerprint: Mapping[str, Any], images: Mapping[str, list[Path]], reader: BaseReaderWriter, file: Path
) -> None:
    """Refuse a fingerprint whose intensities under the labels are not finite, and say what caused them.

    Args:
        name: of the data set.
        fingerprint: nnU-Net's.
        images: files of its cases, one for each channel.
        reader: nnU-Net's for these files.
        file: of the fingerprint.

    Raises:
        SAM3DError: they are not finite.
    """
    wrong = [
        f"the {key} is {value}"
        for statistics in fingerprint[INTENSITIES].values()
        for key, value in statistics.items()
        if not np.isfinite(value)
    ]
    if not wrong:
        return
    refuse_broken_images(name, images, reader, f", delete {file}")
    raise SAM3DError(
        f"{file} tells of intensities under the labels of {name} that are not finite ({wrong[0]}), but no image holds "
        "NaN or infinite voxels. The label maps hold no foreground voxel, or values are too large to be squared, or "
        "images were corrected since. Correct them, delete this file and plan again."
    )


def refuse_broken_images(name: str, images: Mapping[str, list[Path]], reader: BaseReaderWriter, also: str = "") -> None:
    """Refuse images with NaN or infinite voxels.

    Args:
        name: of the data set.
        images: files of its cases, one for each channel.
        reader: nnU-Net's for these files.
        also: what else to do before planning again.

    Raises:
        SAM3DError: there are some. It names them.
    """

    def is_broken(case: str) -> bool:
        return not np.isfinite(read_image(images[case], reader)[0]).all()

    found, failed = for_each_case(is_broken, images, "Looking for NaN and infinite voxels")
    if failed:
        raise SAM3DError(next(iter(failed.values())))
    broken = [case for case, is_so in found.items() if is_so]
    if broken:
        raise SAM3DError(
            f"Images of {len(broken)} case(s) of {name} hold NaN or infinite voxels: {listing(broken)}. Correct these "
            f"images{also} and plan again."
        )
