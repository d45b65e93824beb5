"""nnU-Net's fingerprint of a data set: the images that spoil it, and where CT is clipped."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from pydantic import Field

from sam3d_nnunet.datasets.raw_dataset import RawDataset, for_each_case
from sam3d_nnunet.datasets.spacing import LARGEST, SMALLEST
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_content import Content, Finite, check_content
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.io import listing, read_json
from sam3d_nnunet.nnunet.folders import dataset_number, preprocessed_root

FINGERPRINT = "dataset_fingerprint.json"
INTENSITIES = "foreground_intensity_properties_per_channel"
Voxels = Annotated[int, Field(ge=1, le=100_000)]
"""Along an axis of an image."""
Millimetres = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]


class Statistics(Content):
    """Intensities of a channel under the labels. They may be NaN: see `refuse_broken_statistics`."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class Fingerprint(Content):
    """What nnU-Net's extractor writes about a data set. Each image has an entry in the two lists."""

    spacings: Annotated[list[Annotated[list[Millimetres], Field(min_length=3, max_length=3)]], Field(min_length=1)]
    shapes_after_crop: Annotated[list[Annotated[list[Voxels], Field(min_length=3, max_length=3)]], Field(min_length=1)]
    median_relative_size_after_cropping: Finite
    foreground_intensity_properties_per_channel: dict[str, Statistics]


def read_fingerprint(name: str, channels: int) -> dict[str, Any]:
    """The fingerprint of a data set.

    Args:
        name: of the data set.
        channels: of its images.

    Raises:
        SAM3DError: there is none, or it isn't as nnU-Net writes it.
    """
    file = preprocessed_root() / name / FINGERPRINT
    hint = f"Delete it and run  nnUNetv2_extract_fingerprint -d {dataset_number(name)}"
    content = read_json(file, hint)
    check_content(content, Fingerprint, file, hint)
    if len(content["spacings"]) != len(content["shapes_after_crop"]):
        raise SAM3DError(f"{file}: spacings and shapes_after_crop are of different images. {hint}")
    if missing := {str(channel) for channel in range(channels)} - content[INTENSITIES].keys():
        raise SAM3DError(f"{file}: {INTENSITIES} has no channel {listing(missing)}. {hint}")
    return content


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
        if key in Statistics.model_fields and not math.isfinite(value)
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


def is_clipped(dataset_json: Mapping[str, Any]) -> bool:
    """Whether nnU-Net clips the first channel of a data set, as it does with CT.

    Its plans take the normalisation from the name of the channel. The others have no common limits: MR, for example,
    becomes the z-scores of each image.
    """
    first = next(iter(dataset_json["channel_names"].values()))
    return get_normalization_scheme(str(first)) is CTNormalization


def clipping_window(dataset: RawDataset) -> tuple[float, float] | None:
    """Lowest and highest intensity that nnU-Net leaves in the first channel of a data set; None if it does not clip.

    These are percentiles 0.5 and 99.5 of the foreground of all training images.

    Raises:
        SAM3DError: nothing says where to clip: there is no fingerprint, or it can't be used.
    """
    if not is_clipped(dataset.dataset_json):
        return None
    file = preprocessed_root() / dataset.name / FINGERPRINT
    extract = f"nnUNetv2_extract_fingerprint -d {dataset_number(dataset.name)}"
    if not file.is_file():
        raise SAM3DError(f"There is no {file}, which says where nnU-Net clips the images of {dataset.name}: {extract}")
    statistics = read_fingerprint(dataset.name, channels=1)[INTENSITIES]["0"]
    low, high = statistics["percentile_00_5"], statistics["percentile_99_5"]
    if not -np.inf < low < high < np.inf:
        raise SAM3DError(
            f"{file} gives {low:g} and {high:g} as percentiles of the first channel, between which no image can be "
            f"shown. Correct the images and labels of {dataset.name}, delete this file and run {extract}"
        )
    return low, high
