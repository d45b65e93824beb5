"""`sam3d dataset target`: a data set whose label 1 is one label or region of another data set."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam3d_nnunet.datasets.description import refuse_problems
from sam3d_nnunet.datasets.raw_dataset import RawDataset, for_each_case
from sam3d_nnunet.datasets.splits import FILE, PARTS, Splits, read_splits, splits_file, write_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.writing import write_label_map
from sam3d_nnunet.io import listing, whole_folder, write_json
from sam3d_nnunet.nnunet.folders import new_dataset_name, raw_root
from sam3d_nnunet.nnunet.readers import find_reader

HEADERS = (".mhd", ".nhdr", ".hdr")
"""Endings of files whose voxels lie in another file."""


def link_or_copy(file: Path, link: Path) -> bool:
    """Make `link` the same file, or a copy of it.

    A hard link stays valid when either folder is moved or removed. On another file system a symbolic link with the
    file's absolute path takes its place, and where links are impossible a copy.

    Returns:
        Whether it is a link.
    """
    file = file.resolve()
    for make in (os.link, os.symlink):
        try:
            make(file, link)
            return True
        except OSError:
            pass
    shutil.copyfile(file, link)
    return False


@dataclass(frozen=True)
class TargetDataset:
    """A derived data set.

    Attributes:
        folder: in nnUNet_raw.
        cases: number of training cases.
        empty: names of the source's cases without the target.
        dropped: whether these cases were left out.
        linked: number of image files that are links.
        copied: number of image files that had to be copied.
        splits: file of the folds that were taken over, or None.
    """

    folder: Path
    cases: int
    empty: list[str]
    dropped: bool
    linked: int
    copied: int
    splits: Path | None

    def notes(self) -> list[str]:
        """What happened to cases without the target."""
        if not self.empty:
            return []
        fate = "left out" if self.dropped else "kept; --drop-empty leaves such cases out"
        return [f"{len(self.empty)} case(s) without the target, {fate}: {listing(self.empty)}"]


def derive_target(dataset: str, labels: list[str], new_dataset: str, drop_empty: bool = False) -> TargetDataset:
    """Make a data set whose label 1 is one or several labels or regions of another data set; the rest is background.

    Args:
        dataset: id or name of the source in nnUNet_raw.
        labels: names in its dataset.json.
        new_dataset: id or full name of the new data set.
        drop_empty: leave out cases without the target, as the paper did with LiTS17.

    Raises:
        SAM3DError: there is no such data set or label, the id is taken, or files can't be read. Nothing is written
            then.
    """
    source = RawDataset.find(dataset)
    values = target_values(source, labels)
    title = f"{source.name.split('_', 1)[-1]}_{'-'.join(labels)}"
    name, root, splits = new_dataset_name(new_dataset, title), raw_root(), _splits_of(source)
    with whole_folder(root / name) as part:
        writer = _TargetWriter(source, values, part)
        found, failed = for_each_case(writer.write_label, source.cases, "Label maps")
        if failed:
            reasons = " ".join(list(failed.values())[:5])
            raise SAM3DError(f"{len(failed)} of {len(source.cases)} case(s) of {source.name} failed. {reasons}")
        empty = sorted(case for case, there in found.items() if not there)
        if len(empty) == len(found):
            raise SAM3DError(f"No case of {source.name} holds {' or '.join(labels)}.")
        dropped = empty if drop_empty else []
        for case in dropped:
            writer.remove_label(case)
        kept = sorted(found.keys() - dropped)
        splits = splits and _restricted(splits, kept)
        links = [link for case in kept for link in writer.link_images(case)] + writer.link_test_images()
        content = _description(source, labels, len(kept))
        refuse_problems(content, root / name / "dataset.json")
        write_json(part / "dataset.json", content, indent=4)
    folds = splits_file(name) if splits else None
    if folds:
        write_splits(splits, folds)
    return TargetDataset(root / name, len(kept), empty, drop_empty, sum(links), len(links) - sum(links), folds)


def target_values(source: RawDataset, labels: list[str]) -> list[int]:
    """Values in label maps of labels or regions, by the names of these.

    Raises:
        SAM3DError: a name is unknown, or is not one of foreground.
    """
    known = {k: v for k, v in source.dataset_json["labels"].items() if k not in ("background", "ignore")}
    unknown = [label for label in labels if label not in known]
    if unknown or not labels:
        raise SAM3DError(f"{source.name} has no label {listing(unknown)}, but {', '.join(known)}.")
    return sorted({int(value) for label in labels for value in np.atleast_1d(known[label])})


class _TargetWriter:
    """Writes the files of the new data set."""

    def __init__(self, source: RawDataset, values: list[int], folder: Path) -> None:
        self.source, self.values, self.folder = source, values, folder
        self.ignore = source.dataset_json["labels"].get("ignore")
        self.files = find_reader(source.dataset_json, (source.image_files(case)[0] for case in source.cases))
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)

    def write_label(self, case: str) -> bool:
        """Write a label map with its original geometry. Returns whether it holds the target."""
        for image in self.source.image_files(case):
            if not image.is_file():
                raise SAM3DError(f"There is no image {image}.")
            if not image.name.endswith(self.source.file_ending):
                raise SAM3DError(
                    f"{image} does not end in {self.source.file_ending}, as file_ending in dataset.json says, and "
                    "can't be taken over under another ending. Convert it, or correct file_ending."
                )
            if image.suffix.lower() in HEADERS:
                raise SAM3DError(f"The voxels of {image} lie in another file. Convert it to one file, such as .nii.gz.")
        file, files = self.source.label_file(case), self.files()
        label_map = read_label_map(file, files)
        target = np.isin(label_map.array, self.values).astype(np.uint8)
        there = bool(target.any())
        if self.ignore is not None:
            target[label_map.array == self.ignore] = 2
        write_label_map(target, self._label(case), label_map.properties, files)
        return there

    def remove_label(self, case: str) -> None:
        self._label(case).unlink()

    def link_images(self, case: str) -> list[bool]:
        """For each channel whether it is a link."""
        images, ending = self.folder / "imagesTr", self.source.file_ending
        files = self.source.image_files(case)
        spacing = files[0].with_name(f"{case}.json")  # beside TIFF
        if spacing.is_file():
            link_or_copy(spacing, images / spacing.name)
        return [link_or_copy(file, images / f"{case}_{channel:04}{ending}") for channel, file in enumerate(files)]

    def link_test_images(self) -> list[bool]:
        """For each file of imagesTs whether it is a link."""
        folder = self.source.folder / "imagesTs"
        if not folder.is_dir():
            return []
        (self.folder / "imagesTs").mkdir()
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
        return [link_or_copy(file, self.folder / "imagesTs" / file.name) for file in files]

    def _label(self, case: str) -> Path:
        return self.folder / "labelsTr" / f"{case}{self.source.file_ending}"


def _description(source: RawDataset, labels: list[str], cases: int) -> dict[str, Any]:
    # files are where nnU-Net looks by itself, and there are no regions
    dropped = ("dataset", "regions_class_order")
    content = {key: value for key, value in source.dataset_json.items() if key not in dropped}
    ignore = {"ignore": 2} if "ignore" in content["labels"] else {}
    return content | {
        "labels": {"background": 0, " and ".join(labels): 1} | ignore,
        "numTraining": cases,
        "derived_from": source.name,
    }


def _splits_of(source: RawDataset) -> Splits | None:
    """Folds of the source; until it is planned, they may be beside the raw data."""
    files = (splits_file(source.name), source.folder / FILE)
    return next((read_splits(file) for file in files if file.is_file()), None)


def _restricted(splits: Splits, cases: list[str]) -> Splits:
    """The same folds, without the cases that the new data set lacks."""
    there = set(cases)
    folds = [{part: [case for case in fold[part] if case in there] for part in PARTS} for fold in splits]
    for number, fold in enumerate(folds):
        for part in PARTS:
            if splits[number][part] and not fold[part]:
                raise SAM3DError(
                    f'Fold {number} would hold no case in "{part}", because all of them lack the target. Keep these '
                    "cases (without --drop-empty), or remove the splits_final.json of the source."
                )
    return folds
