"""A data set in nnUNet_raw: its description, the files of its training cases, and work on many of them at once."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from nnunetv2.configuration import default_num_processes
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tqdm import tqdm

from sam3d_nnunet.datasets.case_files import NUMBERED, name_fault
from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.errors import FULL, SAM3DError, reason
from sam3d_nnunet.file_names import alike
from sam3d_nnunet.io import find_file
from sam3d_nnunet.nnunet.folders import dataset_name, raw_root


@dataclass(frozen=True)
class RawDataset:
    """Training cases of a data set.

    Attributes:
        folder: in nnUNet_raw.
        dataset_json: nnU-Net's description of it, as `read_dataset_json` reads it.
    """

    folder: Path
    dataset_json: dict[str, Any]

    @classmethod
    def find(cls, dataset: str) -> "RawDataset":
        """The data set with an id or name.

        Raises:
            SAM3DError: there is none in nnUNet_raw, or its dataset.json can't be used.
        """
        folder = raw_root() / dataset_name(dataset)
        return cls(folder, read_dataset_json(folder / "dataset.json"))

    @property
    def name(self) -> str:
        """Such as Dataset004_Hippocampus."""
        return self.folder.name

    @property
    def file_ending(self) -> str:
        """Of images and label maps."""
        return self.dataset_json["file_ending"]

    @cached_property
    def cases(self) -> list[str]:
        """Names of the training cases, those of the label maps.

        Raises:
            SAM3DError: there is none.
        """
        if self.listed is not None:
            return sorted(self.listed)
        labels = (self.folder / "labelsTr").glob(f"*{self.file_ending}")
        cases = sorted(f.name.removesuffix(self.file_ending) for f in labels if not f.name.startswith("."))
        if not cases:
            raise SAM3DError(f"{self.folder / 'labelsTr'} holds no label map CASE{self.file_ending}.")
        return cases

    @cached_property
    def cases_with_images(self) -> list[str]:
        """Names of the training cases that nnU-Net trains on.

        Raises:
            SAM3DError: there is none.
        """
        cases = [case for case in self.cases if self.image_files(case)[0].is_file()]
        if not cases:
            raise SAM3DError(f"There is no image of the {len(self.cases)} training case(s) of {self.name}.")
        return cases

    def refuse_case_names(self, cases: Iterable[str] | None = None) -> None:
        """Refuse names of training cases with which nnU-Net or an evaluation would fail later.

        Args:
            cases: their names. None: those of the label maps.

        Raises:
            SAM3DError: names the first such case, and says what to do.
        """
        for case in self.cases if cases is None else cases:
            if fault := name_fault(case, training=True):
                raise SAM3DError(f"{self.name} can't have a case {case!a}: the name {fault}. Rename its files.")

    def refuse_file_names(self) -> None:
        """Refuse names of training files that nnU-Net would take otherwise than they are meant, or not see.

        Raises:
            SAM3DError: names the first such file, or there is no image, and says what to do.
        """
        cases = self._channels_of_nnunet() if self.listed is None else self._listed_channels()
        if not cases:
            raise SAM3DError(
                f"{self.folder / 'imagesTr'} holds no image CASE_0000{self.file_ending}. Put the images there, or "
                'correct "file_ending" in dataset.json.'
            )
        self.refuse_case_names(cases)
        self._refuse_channels(cases)
        if same := alike(cases):
            raise SAM3DError(
                f"{self.name} has the cases {same[0]!a} and {same[1]!a}, whose files are one on some systems: capitals "
                "don't tell names apart there, nor do two forms of Unicode. Rename one of them."
            )
        for case in cases:
            label = self.label_file(case)
            other = find_file(label.parent, label.name)
            if not label.is_file() and other.is_file():
                raise SAM3DError(
                    f"The names of {other} and of its image look the same, but use two forms of Unicode, which nnU-Net "
                    "tells apart. Rename one of them."
                )

    def _refuse_channels(self, channels: Mapping[str, Sequence[int]]) -> None:
        """Refuse images with other channels than dataset.json names: nnU-Net numbers those that are there anew.

        Args:
            channels: numbers of the files by case.
        """
        wanted = list(range(len(self.dataset_json["channel_names"])))
        for case, numbers in channels.items():
            if list(numbers) != wanted:
                there, names = (", ".join(f"_{n:04}" for n in part) for part in (numbers, wanted))
                raise SAM3DError(
                    f"{self.name}: the image {case!a} has the channels {there}, but by channel_names in dataset.json "
                    f"it needs {names}. Add or remove files, or correct channel_names."
                )

    def _listed_channels(self) -> dict[str, list[int]]:
        """As below, of the files that dataset.json lists."""
        return {case: list(range(len(files["images"]))) for case, files in sorted(self.listed.items())}

    def _channels_of_nnunet(self) -> dict[str, list[int]]:
        """Cases in imagesTr, with the number of each file that nnU-Net takes for an image."""
        files = sorted((self.folder / "imagesTr").glob(f"*{self.file_ending}"))
        for file in files:
            if file.name.startswith("."):
                raise SAM3DError(f"nnU-Net takes the hidden file {file} for an image. Delete all files ._* there.")
            if not NUMBERED.fullmatch(file.name.removesuffix(self.file_ending)):
                example = f"{file.name.removesuffix(self.file_ending)}_0000{self.file_ending}"
                raise SAM3DError(f"{file} has no number of a channel: names need _0000. Rename it, say to {example}.")
        channels: dict[str, list[int]] = {}
        for match in (NUMBERED.fullmatch(file.name.removesuffix(self.file_ending)) for file in files):
            channels.setdefault(match["case"], []).append(int(match["channel"]))
        return dict(sorted(channels.items()))

    def image_files(self, case: str) -> list[Path]:
        """One for each channel.

        Raises:
            SAM3DError: dataset.json lists other cases only.
        """
        if self.listed is not None:
            return [Path(file) for file in self._listed_case(case)["images"]]
        channels = range(len(self.dataset_json["channel_names"]))
        return [self.folder / "imagesTr" / f"{case}_{channel:04}{self.file_ending}" for channel in channels]

    def label_file(self, case: str) -> Path:
        """The label map of a case.

        Raises:
            SAM3DError: dataset.json lists other cases only.
        """
        if self.listed is not None:
            return Path(self._listed_case(case)["label"])
        return self.folder / "labelsTr" / f"{case}{self.file_ending}"

    @cached_property
    def listed(self) -> dict[str, dict[str, Any]] | None:
        """Files that dataset.json lists, by case: "images" and "label", which may lie anywhere, by absolute paths.

        None where they lie in imagesTr and labelsTr.
        """
        if not self.dataset_json.get("dataset"):
            return None
        content = copy.deepcopy(self.dataset_json)  # nnU-Net writes the absolute paths into it
        return get_filenames_of_train_images_and_targets(str(self.folder), content)

    def _listed_case(self, case: str) -> dict[str, Any]:
        if case not in self.listed:
            raise SAM3DError(f"{self.folder / 'dataset.json'} lists no files of the case {case}. Add them there.")
        return self.listed[case]


Result = TypeVar("Result")


def for_each_case(
    work: Callable[[str], Result], cases: Collection[str], title: str
) -> tuple[dict[str, Result], dict[str, str]]:
    """Do the same work on many cases; an error in one case doesn't stop the others.

    Threads are enough: most of the time goes into compression, which lets other threads run. nnUNet_def_n_proc sets
    their number.

    Args:
        work: takes the name of a case.
        cases: their names.
        title: of the progress bar.

    Returns:
        results by case, and sentences about the cases that failed.
    """
    results, failed = {}, {}
    pool = ThreadPoolExecutor(default_num_processes)
    try:
        waiting = {pool.submit(work, case): case for case in cases}
        for future in tqdm(as_completed(waiting), desc=title, total=len(waiting), unit="case", disable=not cases):
            case, error = waiting[future], future.exception()
            if error is None:
                results[case] = future.result()
            elif isinstance(error, OSError) and error.errno in FULL:  # nothing is wrong with the case
                raise error
            else:
                failed[case] = reason(error)
    finally:
        pool.shutdown(cancel_futures=True)  # when the user interrupts, cases that have not begun never do
    return results, dict(sorted(failed.items()))
