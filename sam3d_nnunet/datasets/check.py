"""`sam3d doctor DATASET`: check a raw data set before anyone trains on it."""

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from sam3d_nnunet.datasets.case_check import CaseChecker, CaseReport
from sam3d_nnunet.datasets.description import description_problems, label_values
from sam3d_nnunet.datasets.faults import SHOWN, Fault, findings, first_sentence
from sam3d_nnunet.datasets.file_check import (
    IMAGES,
    LABELS,
    TEST_IMAGES,
    CaseFiles,
    FolderFiles,
    check_case_names,
    check_channels,
    check_pairs,
    common_ending,
    label_files,
)
from sam3d_nnunet.datasets.raw_dataset import RawDataset, for_each_case
from sam3d_nnunet.datasets.set_check import check_geometries, check_labels, check_twins
from sam3d_nnunet.datasets.splits import FILE, Splits, fold_notes, read_splits, refuse_other_splits, splits_file
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing, read_json_object
from sam3d_nnunet.nnunet.doctor import Finding
from sam3d_nnunet.nnunet.folders import dataset_name, raw_root
from sam3d_nnunet.nnunet.readers import find_reader

DESCRIPTION = "dataset.json"
FALLBACK_ENDING = ".nii.gz"
TRIED = 5  # images that may not tell nnU-Net's reader


@dataclass(frozen=True)
class CheckedDataset:
    """What `check_dataset` found.

    Attributes:
        name: of the data set.
        cases: number of training cases.
        faults: of the data set and its cases.
    """

    name: str
    cases: int
    faults: list[Fault]

    @property
    def findings(self) -> list[Finding]:
        """Lines of the report, one for each kind of fault, serious ones first."""
        return findings(self.faults)

    @property
    def usable(self) -> bool:
        """Whether training and measuring can be right."""
        return not any(fault.serious for fault in self.faults)


def check_dataset(dataset: str) -> CheckedDataset:
    """Look for faults in a raw data set.

    Args:
        dataset: id or name in nnUNet_raw.

    Raises:
        SAM3DError: there is no such data set.
    """
    folder = raw_root() / dataset_name(dataset)
    if not folder.is_dir():
        raise SAM3DError(f"There is no data set {folder}. Check its id, and the variable nnUNet_raw.")
    check = _DatasetCheck(folder)
    with _quiet():
        check.run()
    return CheckedDataset(folder.name, len(check.training), [fault.inside(folder) for fault in check.faults])


class _DatasetCheck:
    """The check of one data set, whose faults grow.

    What can't be used of dataset.json is taken from the files, so that one fault does not hide others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.description: dict[str, Any] = {}
        self.training: dict[str, CaseFiles] = {}
        self.test: dict[str, CaseFiles] = {}

    def run(self) -> None:
        self._read_description()
        self._find_cases()
        reports = self._check_cases()
        training = {case: reports[case] for case in self.training if case in reports}
        self.faults += check_geometries(training)
        self.faults += check_labels(training, self.description.get("labels"))
        self.faults += check_twins(reports, self._check_splits())

    def _fault(self, serious: bool, subject: str, found: str, todo: str, detail: object = "") -> None:
        self.faults.append(Fault(serious, subject, found, todo, str(detail)))

    def _read_description(self) -> None:
        try:
            content = read_json_object(self.folder / DESCRIPTION)
        except SAM3DError as e:
            self._fault(True, DESCRIPTION, first_sentence(e), "write it as nnU-Net's documentation describes")
            return
        problems = description_problems(content)
        for key, problem in problems.items():
            self._fault(True, DESCRIPTION, f'"{key}" {problem}', "correct it" if key in content else "add it")
        self.description = {key: value for key, value in content.items() if key not in problems}

    # --- files ---

    def _find_cases(self) -> None:
        listed = self._listed_cases()
        ending = self._ending(listed is not None)
        self.description["file_ending"] = ending
        if listed is None:
            images, labels = self._images(IMAGES, ending), label_files(self.folder / LABELS, ending)
        else:
            images, labels = listed
        tests = self._images(TEST_IMAGES, ending)
        self.training = {case: CaseFiles(case, files, labels.get(case)) for case, files in images.items()}
        self.test = {case: CaseFiles(case, files) for case, files in tests.items()}
        if not images:
            self._fault(True, IMAGES, f"there is no image CASE_0000{ending}", "add images, or correct file_ending")
        self.faults += check_pairs(images, labels, ending)
        self.faults += check_case_names(images)
        self.faults += check_case_names(tests, f"{TEST_IMAGES}/", training=False)
        self._check_count(len(images))
        self._check_channels()

    def _images(self, part: str, ending: str) -> dict[str, dict[int, Path]]:
        found = FolderFiles.read(self.folder / part, ending)
        self.faults += found.faults
        return found.cases

    def _listed_cases(self) -> tuple[dict[str, dict[int, Path]], dict[str, Path]] | None:
        """Images by channel and label maps that dataset.json lists, by case; files that are missing are left out."""
        listed = RawDataset(self.folder, self.description).listed
        if listed is None:
            return None
        images = {c: {n: Path(f) for n, f in enumerate(e["images"]) if Path(f).is_file()} for c, e in listed.items()}
        return images, {c: Path(e["label"]) for c, e in listed.items() if Path(e["label"]).is_file()}

    def _ending(self, listed: bool) -> str:
        """The data set's, or that of most files where none has it."""
        ending, there = self.description.get("file_ending"), common_ending(self.folder / IMAGES)
        if ending is None or listed or there is None:
            return ending or there or FALLBACK_ENDING
        if any(file.name.endswith(ending) for file in (self.folder / IMAGES).iterdir()):
            return ending
        self._fault(True, DESCRIPTION, f'no image ends in the "file_ending" {ending}', f'write "{there}", as most end')
        return there

    def _check_count(self, cases: int) -> None:
        count = self.description.get("numTraining", cases)
        if count != cases:
            found = f'"numTraining" is {count}, but there are {cases} training cases'
            self._fault(False, DESCRIPTION, found, "correct it; nnU-Net's own check of a data set compares them")

    def _check_channels(self) -> None:
        names = self.description.get("channel_names")
        counts = Counter(len(case.images) for case in self.training.values())
        channels = len(names) if names else counts.most_common(1)[0][0] if counts else 1
        for cases, place in ((self.training, ""), (self.test, f"{TEST_IMAGES}/")):
            for case in cases.values():
                self.faults += check_channels(case, channels, place)

    # --- voxels ---

    def _check_cases(self) -> dict[str, CaseReport]:
        """Reports of training cases by name, and of test cases by folder and name; their faults are noted."""
        reader = self._reader()
        if reader is None:
            return {}
        labels = self.description.get("labels")
        known = None if labels is None else label_values(labels)
        checker = CaseChecker(reader(), known, None if labels is None else labels.get("ignore"))
        jobs = {case: (files, "") for case, files in self.training.items()}
        jobs |= {f"{TEST_IMAGES}/{case}": (files, f"{TEST_IMAGES}/") for case, files in self.test.items()}
        reports, failed = for_each_case(lambda job: checker.check(*jobs[job]), jobs, "Cases")
        for job, sentence in failed.items():
            self._fault(True, job, "the case can't be checked", "look at its files", first_sentence(sentence))
        for job in jobs:
            self.faults += reports[job].faults if job in reports else []
        return reports

    def _reader(self) -> type[BaseReaderWriter] | None:
        """The one that nnU-Net takes."""
        name = self.description.get("overwrite_image_reader_writer")
        if name not in (None, "None") and not _is_reader(name):
            found = f'nnU-Net has no reader {name!r}, as "overwrite_image_reader_writer" asks, and takes another'
            self._fault(False, DESCRIPTION, found, "correct the name, or remove the key")
        images = [file for case in self.training.values() for file in case.images.values()]
        try:
            return find_reader(self.description, images[:TRIED])
        except SAM3DError as e:
            self._fault(True, DESCRIPTION, first_sentence(e), "convert the files, for example to .nii.gz")
            return None

    # --- folds ---

    def _check_splits(self) -> list[Splits]:
        """The folds beside the raw data and those that nnU-Net trains on, checked."""
        files = [self.folder / FILE]
        with suppress(SAM3DError):  # nnUNet_preprocessed is not set yet
            files.append(splits_file(self.folder.name))
        there = [file for file in files if file.is_file()]
        used = [splits for file in there if (splits := self._check_folds(file))]
        if len(used) == 2:
            try:
                refuse_other_splits(self.folder.name)
            except SAM3DError as e:
                todo = "delete the first if the second is right; else the second, and train the folds again"
                self._fault(True, FILE, first_sentence(e), todo)
        return used

    def _check_folds(self, file: Path) -> Splits | None:
        """The folds of a file, if it holds any."""
        try:
            splits = read_splits(file)
        except SAM3DError as e:
            self._fault(True, FILE, first_sentence(e), "correct it, or delete the file if nnU-Net is to draw folds")
            return None
        for number, fold in enumerate(splits):
            self._check_fold(file, number, fold)
        named = {name for fold in splits for part in fold.values() for name in part}
        absent, unused = named - self.training.keys(), self.training.keys() - named
        if absent:
            found = f"{file} names cases that the data set lacks: {listing(absent, SHOWN)}"
            self._fault(True, FILE, found, "add these cases, or remove their names")
        if unused:
            found = f"{file} leaves out {len(unused)} case(s): {listing(unused, SHOWN)}"
            self._fault(False, FILE, found, "add their names if they are to be trained on")
        return splits

    def _check_fold(self, file: Path, number: int, fold: Mapping[str, Sequence[str]]) -> None:
        for part, names in fold.items():
            if not names:
                found = f'fold {number} of {file} has no cases in "{part}"'
                self._fault(True, FILE, found, "add some; other folds can be trained")
        for note in fold_notes(number, fold):
            self._fault(False, FILE, f"{file}: {note}", "correct it, unless it is meant; nnU-Net trains all the same")


def _is_reader(name: str) -> bool:
    try:
        recursive_find_reader_writer_by_name(name)
    except RuntimeError:
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of readers: the report says what matters of them."""
    shows, logger = sitk.ProcessObject.GetGlobalWarningDisplay(), logging.getLogger("nibabel.global")
    level = logger.level
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shows)
        logger.setLevel(level)
