"""One file in two places."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from sam3d_nnunet.datasets.each_case import for_each_case
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.splits import FILE, Splits, read_splits, splits_file, write_splits
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import some, write_whole
from sam3d_nnunet.nnunet.folders import new_dataset_name, raw_root


def link_or_copy(file: Path, link: Path) -> bool:
    """Make `link` the same file, or a copy of it.

    A hard link outlives moves and removals of either folder. Where the file lies on another file system a symbolic link
    names it by its absolute path; where there are no links either it is copied.

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
    """A data set that was derived.

    Attributes:
        folder: in nnUNet_raw.
        cases: number of training cases.
        empty: names of the source's cases without the target.
        dropped: whether these were left out.
        linked: number of image files that are links.
        copied: number of those that had to be copied.
        splits: folds that were carried over, or None.
    """

    folder: Path
    cases: int
    empty: list[str]
    dropped: bool
    linked: int
    copied: int
    splits: Path | None

    def notes(self) -> list[str]:
        """What became of cases without the target."""
        if not self.empty:
            return []
        fate = "left out" if self.dropped else "kept; --drop-empty leaves such cases out"
        return [f"{len(self.empty)} case(s) without the target, {fate}: {some(self.empty)}"]


def derive_target(dataset: str, labels: list[str], new_dataset: str, drop_empty: bool = False) -> TargetDataset:
    """Make a data set whose label 1 is one label or region of another one, or several together; the rest is background.

    Args:
        dataset: id or name of the source in nnUNet_raw.
        labels: names in its dataset.json.
        new_dataset: id, or whole name, of the data set to be made.
        drop_empty: leave out cases without the target, as the paper did with LiTS17.

    Raises:
        SAM3DError: there is no such data set or label, the id is taken, or files can't be read. Nothing is left then.
    """
    source = RawDataset.find(dataset)
    values = target_values(source, labels)
    title = f"{source.name.split('_', 1)[-1]}_{'-'.join(labels)}"
    name, root, splits = new_dataset_name(new_dataset, title), raw_root(), _splits_of(source)
    with tempfile.TemporaryDirectory(prefix=f".{name}_", dir=root) as temporary:
        writer = _TargetWriter(source, values, Path(temporary) / name)
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
        links = [link for case in kept for link in writer.link_images(case)] + writer.link_test_images()
        description = json.dumps(_description(source, labels, len(kept)), indent=4)
        write_whole(writer.folder / "dataset.json", description + "\n")
        os.rename(writer.folder, root / name)
    carried = None if splits is None else _carry_splits(splits, name, kept)
    return TargetDataset(root / name, len(kept), empty, drop_empty, sum(links), len(links) - sum(links), carried)


def target_values(source: RawDataset, labels: list[str]) -> list[int]:
    """Values of label maps that belong to labels or regions, by their names.

    Raises:
        SAM3DError: a name is unknown, or means no foreground.
    """
    known = {k: v for k, v in source.dataset_json["labels"].items() if k not in ("background", "ignore")}
    unknown = [label for label in labels if label not in known]
    if unknown or not labels:
        raise SAM3DError(f"{source.name} has no label {some(unknown)}, but {', '.join(known)}.")
    return sorted({int(value) for label in labels for value in np.atleast_1d(known[label])})


class _TargetWriter:
    """Files of the new data set, in a folder without its final name."""

    def __init__(self, source: RawDataset, values: list[int], folder: Path) -> None:
        self.source, self.values, self.folder = source, values, folder
        self.ignore = source.dataset_json["labels"].get("ignore")
        example = str(source.image_files(source.cases[0])[0])
        self.files = determine_reader_writer_from_dataset_json(source.dataset_json, example, verbose=False)
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)

    def write_label(self, case: str) -> bool:
        """Write a label map with the geometry that it had. Returns whether it holds the target."""
        missing = [str(file) for file in self.source.image_files(case) if not file.is_file()]
        if missing:
            raise SAM3DError(f"There is no image {missing[0]}.")
        file, files = self.source.label_file(case), self.files()
        try:
            segmentation, properties = files.read_seg(str(file))
        except Exception as e:  # whatever the reader of the format raises
            reason = (str(e).strip().splitlines() or [""])[-1]
            raise SAM3DError(f"The label map {file} can't be read: {type(e).__name__}: {reason}.") from e
        target = np.isin(segmentation[0], self.values).astype(np.uint8)
        there = bool(target.any())
        if self.ignore is not None:
            target[segmentation[0] == self.ignore] = 2
        files.write_seg(target, str(self._label(case)), properties)
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
    dropped = ("dataset", "regions_class_order")  # files are where nnU-Net expects them; there are no regions any more
    content = {key: value for key, value in source.dataset_json.items() if key not in dropped}
    ignore = {"ignore": 2} if "ignore" in content["labels"] else {}
    return content | {
        "labels": {"background": 0, " and ".join(labels): 1} | ignore,
        "numTraining": cases,
        "derived_from": source.name,
    }


def _splits_of(source: RawDataset) -> Splits | None:
    """Folds of the source, which may lie beside the raw data until it is planned."""
    files = (splits_file(source.name), source.folder / FILE)
    return next((read_splits(file) for file in files if file.is_file()), None)


def _carry_splits(splits: Splits, name: str, cases: list[str]) -> Path:
    """Write the same folds for another data set, without the cases that it lacks."""
    file, there = splits_file(name), set(cases)
    write_splits([{part: [c for c in fold[part] if c in there] for part in ("train", "val")} for fold in splits], file)
    return file
