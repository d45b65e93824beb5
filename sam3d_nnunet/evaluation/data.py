"""The data that methods are evaluated on: images, true label maps, and the cases of each fold."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tqdm import tqdm

from sam3d_nnunet.datasets.case_files import cases_in_folder, image_name
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import read_fold, read_splits, splits_file
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import true_labels
from sam3d_nnunet.geometry.image_grid import read_grid
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.io import brief, listing
from sam3d_nnunet.nnunet.folders import preprocessed_root
from sam3d_nnunet.nnunet.readers import find_reader
from sam3d_nnunet.simulation.protocols import Protocol

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
    _noted: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

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
        cases = self.cases_with_truth()
        images = filter(None, map(self.image_file, cases))
        return find_reader(self.dataset_json, chain(images, map(self.truth_file, cases)))()

    def cases_of_fold(self, fold: str) -> list[str]:
        """The validation cases of a fold.

        Raises:
            SAM3DError: there are no folds, or not this one, or they can't be used, or a case has neither label map nor
                image. Where one of them is missing, the case fails when it is needed.
        """
        if not fold.isdecimal() or len(fold) > 9:
            raise SAM3DError(
                f"The fold {brief(fold)} has no validation cases of its own. Give a numbered fold, or a test set with "
                "--test."
            )
        there, where = (self.raw.cases, self.raw.folder) if self.raw else (self.cases_with_truth(), self.truth)
        file = splits_file(self.name)
        wanted = read_splits(file)[int(fold) : int(fold) + 1]
        with_image = [case for part in wanted for case in part["val"] if self.image_file(case)]
        return sorted(read_fold(file, int(fold), [*there, *with_image], where, parts=["val"])["val"])

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
            SAM3DError: dataset.json lists other cases only, or names in the folder of a test set don't tell the case.
        """
        if self.raw is not None:
            return self.raw.image_files(case)
        channels = range(len(self.dataset_json["channel_names"]))
        named = [self.images / f"{case}_{channel:04}{self.file_ending}" for channel in channels]
        return named if named[0].is_file() else self._test_images.get(case, named)

    @cached_property
    def _test_images(self) -> dict[str, list[Path]]:
        """Files of each case in the folder of a test set, whose names may lack the number of the channel."""
        if not self.images.is_dir() or not any(image_name(f, [self.file_ending]) for f in self.images.iterdir()):
            return {}  # predictions of other programs can be measured without images
        tiff = self.file_ending.lower() in Tiff3DIO.supported_file_endings
        return cases_in_folder(self.images, self.file_ending, len(self.dataset_json["channel_names"]), tiff)

    def truth_file(self, case: str) -> Path:
        """The label map of a case."""
        return self.truth / f"{case}{self.file_ending}"

    def image_file(self, case: str) -> Path | None:
        """The first channel of a case; None if the image is not there, as where imagesTr was deleted.

        Raises:
            SAM3DError: names in the folder of a test set don't tell the case.
        """
        try:
            file = self.image_files(case)[0]
        except SAM3DError:
            if self.raw is None:
                raise
            return None  # not in the list of dataset.json
        return file if file.is_file() else None

    def files_that_tell(self, case: str) -> list[Path]:
        """The files that metrics of a case depend on, as far as they are there: truth and image, with its spacing."""
        image = self.image_file(case)
        beside = [] if image is None else [image, image.with_name(f"{case}.json")]  # the spacing of TIFF
        return [file for file in (self.truth_file(case), *beside) if file.is_file()]

    def read_truth(self, case: str) -> tuple[np.ndarray, ImageGeometry]:
        """(D, H, W) label map, and where the voxels of its image are in the world.

        Its axes are those of the image file, so that all models get the same clicks: see
        `ImageGeometry.in_file_order`. If its header differs from the image's, a note says so; it counts only where
        there is no image.

        Raises:
            SAM3DError: the label map is missing or has other labels than the data set, it or the image can't be read,
                or they have different shapes.
        """
        label_map = read_label_map(self.truth_file(case), self.reader)
        label_map.check_labels(true_labels(self.dataset_json))
        image_file = self.image_file(case)
        if image_file is None:
            return label_map.own_grid().geometry.in_file_order(label_map.array)
        image = read_grid(image_file, self.reader, label_map.properties)
        self.note(case, label_map.place_note(image))
        return image.geometry.in_file_order(label_map.array)

    def read_uptake(self, case: str) -> np.ndarray:
        """(D, H, W) channel in which lesions are bright, with the axes of `read_truth`.

        That is the first channel whose name holds PET or SUV, or else the last one.

        Raises:
            SAM3DError: it is missing or can't be read.
        """
        names = [str(name).upper() for _, name in sorted(self.dataset_json["channel_names"].items(), key=_number)]
        bright = [place for place, name in enumerate(names) if "PET" in name or "SUV" in name]
        file = self.image_files(case)[bright[0] if bright else -1]
        image, properties = read_image([file], self.reader)
        return ImageGeometry.from_file(file, properties).in_file_order(image[0])[0]

    def refuse_many_classes(self, protocols: Sequence[Protocol]) -> None:
        """Refuse protocols whose rules know one class only, where there are more.

        Raises:
            SAM3DError: there are.
        """
        challenges = [protocol for protocol in protocols if protocol.is_challenge]
        single = [protocol.name for protocol in challenges if protocol.family.challenge.one_class]
        if single and len(self.labels.foreground_labels) > 1:
            raise SAM3DError(
                f"{listing(single)} is about data sets with one class, but {self.name} has "
                f"{len(self.labels.foreground_labels)}. Make a data set of one class (sam3d dataset target), and train "
                "on that one."
            )

    def note(self, case: str, sentence: str | None) -> None:
        """Print a sentence about the truth of a case, if there is one and the case had none before."""
        if sentence is not None and case not in self._noted:
            self._noted.add(case)
            tqdm.write(f"{case}: {sentence}", file=sys.stderr)


def _number(channel: tuple[str, str]) -> int:
    return int(channel[0])


def spacing_of(geometry: ImageGeometry) -> Sequence[float]:
    """mm along (d, h, w)."""
    return geometry.spacing.tolist()
