"""The data that methods are evaluated on: images, true label maps, and the cases of each fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import read_splits, splits_file
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import listing
from sam3d_nnunet.nnunet.folders import preprocessed_root

TestFolders = tuple[str | Path, str | Path]
"""Images and true label maps of a separate test set."""


@dataclass(frozen=True)
class EvaluationData:
    """Images and truth of a data set.

    Attributes:
        name: of the data set, such as Dataset004_Hippocampus.
        images: folder of CASE_0000 and so on, unless dataset.json lists them.
        truth: folder of the label maps CASE.
        dataset_json: nnU-Net's description of both; the files that it lists have absolute paths.
        raw: tells the images of training cases; None for a test set.
    """

    name: str
    images: Path
    truth: Path
    dataset_json: dict[str, Any]
    raw: RawDataset | None = None

    @classmethod
    def from_nnunet(cls, dataset: str) -> "EvaluationData":
        """The training cases of a data set in nnUNet_raw.

        Where dataset.json lists their files, the truth are the copies that nnU-Net's preprocessing makes and its own
        validation uses.

        Args:
            dataset: id or name.

        Raises:
            SAM3DError: there is no such data set, or its dataset.json can't be used.
        """
        raw = RawDataset.find(dataset)
        images, truth, content = raw.folder / "imagesTr", raw.folder / "labelsTr", raw.dataset_json
        if raw.listed is not None:
            truth = preprocessed_root() / raw.name / "gt_segmentations"
            content = content | {"dataset": raw.listed}
        return cls(raw.name, images, truth, content, raw)

    def test_set(self, images: str | Path, truth: str | Path) -> "EvaluationData":
        """Images of the same kind that nobody trains on. Their cases need names that no training case has.

        Raises:
            SAM3DError: a folder is not there, there are no label maps, or a case has the name of a training case.
        """
        for folder in (images, truth):
            if not Path(folder).is_dir():
                raise SAM3DError(f"There is no folder {folder}. Give the images and the label maps of the test set.")
        test = replace(self, images=Path(images).absolute(), truth=Path(truth).absolute(), raw=None)
        if test.truth.resolve() == self.truth.resolve():
            raise SAM3DError(f"{test.truth} holds the training cases. Evaluate them by folds, without a test set.")
        same = [case for case in test.cases_with_truth() if self.truth_file(case).is_file()]
        if same:
            raise SAM3DError(
                f"{test.truth} and {self.truth} both hold {listing(same)}. Rename the cases of the test set."
            )
        return test

    @property
    def file_ending(self) -> str:
        """Of images and label maps."""
        return self.dataset_json["file_ending"]

    @cached_property
    def labels(self) -> LabelManager:
        """What the values of label maps mean."""
        return LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))

    @cached_property
    def reader(self) -> BaseReaderWriter:
        """nnU-Net's reader of these files."""
        return determine_reader_writer_from_dataset_json(self.dataset_json, verbose=False)()

    def cases_of_fold(self, fold: str) -> list[str]:
        """The validation cases of a fold.

        Raises:
            SAM3DError: there are no folds, or not this one.
        """
        if not fold.isdecimal():
            raise SAM3DError(
                f"The fold {fold} has no validation cases of its own. Give a numbered fold, or a test set with --test."
            )
        file = splits_file(self.name)
        splits = read_splits(file)
        if int(fold) >= len(splits):
            raise SAM3DError(f"{file} has no fold {fold}, only 0 to {len(splits) - 1}.")
        return sorted(splits[int(fold)]["val"])

    def cases_with_truth(self) -> list[str]:
        """All cases that have a label map.

        Raises:
            SAM3DError: there is none.
        """
        ending = self.file_ending
        cases = sorted(f.name.removesuffix(ending) for f in self.truth.glob(f"[!.]*{ending}"))
        if not cases:
            raise SAM3DError(f"{self.truth} holds no label map CASE{ending}.")
        return cases

    def image_files(self, case: str) -> list[Path]:
        """One for each channel.

        Raises:
            SAM3DError: dataset.json lists other cases only.
        """
        if self.raw is not None:
            return self.raw.image_files(case)
        channels = range(len(self.dataset_json["channel_names"]))
        return [self.images / f"{case}_{channel:04}{self.file_ending}" for channel in channels]

    def truth_file(self, case: str) -> Path:
        """The label map of a case."""
        return self.truth / f"{case}{self.file_ending}"

    def read_truth(self, case: str) -> tuple[np.ndarray, ImageGeometry]:
        """(D, H, W) label map and where its voxels are in the world.

        Its axes are those of the file wherever the file tells, so that all models get the same clicks: see
        `LabelMap.in_file_order`.

        Raises:
            SAM3DError: the label map is missing, or it or the image can't be read.
        """
        file = self.truth_file(case)
        label_map = read_label_map(file, self.reader)
        in_file_order = label_map.in_file_order()
        if in_file_order is not None:
            return in_file_order
        # use the image's header if there is an image: TIFF may have its spacing in a file beside the image only
        file = next((image for image in self.image_files(case) if image.is_file()), file)
        _, properties = read_image([file], self.reader)
        return label_map.array, ImageGeometry.from_file(file, properties)


def spacing_of(geometry: ImageGeometry) -> Sequence[float]:
    """mm along (d, h, w)."""
    return geometry.spacing.tolist()
