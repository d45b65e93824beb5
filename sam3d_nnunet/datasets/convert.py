"""`sam3d dataset convert`: a published data set into nnUNet_raw, each case checked on the way."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from sam3d_nnunet.datasets.description import refuse_problems
from sam3d_nnunet.datasets.file_check import label_files
from sam3d_nnunet.datasets.raw_dataset import for_each_case
from sam3d_nnunet.datasets.sources import ENDING, LAYOUTS, Source
from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.geometry.image_grid import difference
from sam3d_nnunet.geometry.images import check_axes, check_image_file
from sam3d_nnunet.geometry.label_values import whole_labels
from sam3d_nnunet.geometry.world import ImageGeometry, ImageHeader, read_header
from sam3d_nnunet.geometry.writing import write_volume
from sam3d_nnunet.io import kept_locale, listing, read_json, remove_left, whole_files, write_json
from sam3d_nnunet.nnunet.folders import new_dataset_name, raw_root
from sam3d_nnunet.processes import shared_lock

MARKER = "conversion.json"
"""In an unfinished data set: what it is made from."""


@dataclass(frozen=True)
class Conversion:
    """A data set that was converted completely or in part.

    Attributes:
        folder: the data set; while cases are missing, a folder with the cases so far, which the next attempt completes.
        complete: whether nnU-Net can use it.
        cases: number of training cases.
        failed: sentences by the names of cases that are missing.
        notes: what else the user should know.
    """

    folder: Path
    complete: bool
    cases: int
    failed: dict[str, str]
    notes: list[str]


def convert(
    source: str | Path,
    dataset: str,
    layout: str,
    allow_missing: bool = False,
    ignore_label_geometry: bool = False,
) -> Conversion:
    """Convert a published data set. It appears in nnUNet_raw when all its cases are converted.

    Args:
        source: its folder.
        dataset: id or full name of the new data set.
        layout: msd, kits or lits.
        allow_missing: finish without the cases that are missing or damaged.
        ignore_label_geometry: as `CaseConverter` takes it.

    Raises:
        SAM3DError: the source has another layout, the id is taken, or another conversion to it was begun.
    """
    source = Path(source).resolve()
    if not source.is_dir():
        raise SAM3DError(f"There is no folder {source}.")
    root = raw_root()
    found = LAYOUTS[layout](source)
    refuse_problems(_description(found), source)
    name = new_dataset_name(dataset, found.title)
    folder = _begin(root / f".{name}.part", {"source": str(source), "layout": layout}, bool(found.test))
    with _alone_in(folder):
        converter = CaseConverter(found, folder, ignore_label_geometry)
        default, failed = for_each_case(converter.training_case, found.training, "Training cases")
        more_default, more_failed = for_each_case(converter.test_image, found.test, "Test images")
        failed |= more_failed
        notes = _geometry_notes(default | more_default)
        if not default or (failed and not allow_missing):
            return Conversion(folder, False, len(default), failed, notes)
        _finish(folder, root / name, found)
    return Conversion(root / name, True, len(default), failed, notes)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from converting into the folder, where its file system can lock folders."""
    with ExitStack() as held:
        try:
            held.enter_context(shared_lock(folder))
        except BlockingIOError as e:
            raise SAM3DError(f"Another process is converting to {folder}. Wait until it has ended.") from e
        except OSError:  # Windows and some network shares can't
            pass
        for part in folder.iterdir():
            remove_left(part, seconds=0)  # by an attempt that was killed
        yield


def _begin(folder: Path, made_from: dict[str, str], has_test_images: bool) -> Path:
    """The folder of an unfinished data set: a new one, or that of an earlier attempt."""
    marker = folder / MARKER
    if folder.exists() and (not marker.is_file() or read_json(marker) != made_from):
        raise SAM3DError(f"{folder} belongs to an unfinished conversion of another source. Finish it or delete it.")
    folder.mkdir(exist_ok=True)
    write_json(marker, made_from)
    for part in ("imagesTr", "labelsTr", *(["imagesTs"] if has_test_images else [])):
        (folder / part).mkdir(exist_ok=True)
    return folder


def _description(source: Source) -> dict[str, Any]:
    """What dataset.json will hold."""
    return {
        "channel_names": {str(number): name for number, name in enumerate(source.channels)},
        "labels": source.labels,
        "numTraining": len(source.training),
        "file_ending": ENDING,
        "name": source.title,
        **source.more,
    }


def _finish(folder: Path, final: Path, source: Source) -> None:
    content = _description(source) | {"numTraining": len(label_files(folder / "labelsTr", ENDING))}
    write_json(folder / "dataset.json", content, indent=4)
    (folder / MARKER).unlink()
    os.rename(folder, final)


def _geometry_notes(default: dict[str, bool]) -> list[str]:
    names = [name for name, unknown in default.items() if unknown]
    if not names:
        return []
    return [
        f"{len(names)} image(s) have voxels of 1 x 1 x 1 mm, no rotation and no shift. Their geometry may be lost: "
        f"{listing(names)}. Resampling and distances rely on it."
    ]


class CaseConverter:
    """Writes cases of a data set into a folder, except those that are there already."""

    def __init__(self, source: Source, folder: Path, ignore_label_geometry: bool) -> None:
        """
        Args:
            source: the published data set.
            folder: with imagesTr, labelsTr and imagesTs.
            ignore_label_geometry: take label maps to lie on the voxels of their images, whatever their headers say.
        """
        self.source, self.folder, self.ignore_label_geometry = source, folder, ignore_label_geometry

    def training_case(self, name: str) -> bool:
        """Write image and label map.

        Returns:
            Whether the image's header says nothing about its geometry.

        Raises:
            SAM3DError: a file is missing or damaged, both don't fit together, or a value has no meaning.
        """
        case = self.source.training[name]
        header = _volume_header(case.image)
        label = self.folder / "labelsTr" / f"{name}{ENDING}"
        if not label.exists():  # written last
            rewrite = self._check_label(case.label, header, case.image)
            self._write_image(case.image, header, self.folder / "imagesTr", name)
            with whole_files(label.parent) as part:
                if rewrite:
                    _write_with_geometry(case.label, case.image, part / label.name)
                else:
                    _copy(case.label, part / label.name)
        return header.is_default()

    def test_image(self, name: str) -> bool:
        """Write an image without label map; as `training_case`."""
        image = self.source.test[name]
        header = _volume_header(image)
        last = f"{name}_{len(self.source.channels) - 1:04}{ENDING}"
        if not (self.folder / "imagesTs" / last).exists():
            self._write_image(image, header, self.folder / "imagesTs", name)
        return header.is_default()

    def _check_label(self, file: Path, header: ImageHeader, image: Path) -> bool:
        """Whether the label map needs the image's header."""
        check_axes(file, "label map")
        own = _volume_header(file)
        if own.size != header.size[:3]:
            raise SAM3DError(f"{file} has {own.size} voxels, its image {image} {header.size[:3]}.")
        geometry, place = ImageGeometry.from_header(header), ImageGeometry.from_header(own)
        found = difference(place, geometry, header.shape)
        if found is not None and not self.ignore_label_geometry:
            raise SAM3DError(
                f"{file} doesn't lie on its image {image} by the headers: {found}. If the voxels correspond all the "
                "same, use --ignore-label-geometry."
            )
        stored = sitk.GetArrayFromImage(_read(file))
        labels = whole_labels(stored, f"The label map {file}")
        strange = sorted(set(pd.unique(np.ravel(labels)).tolist()) - set(self.source.labels.values()))
        if strange:
            raise SAM3DError(f"{file} holds values without a meaning: {', '.join(map(str, strange[:10]))}.")
        return not (np.array_equal(place.affine, geometry.affine) and np.array_equal(stored, labels))

    def _write_image(self, file: Path, header: ImageHeader, folder: Path, name: str) -> None:
        channels = len(self.source.channels)
        if header.channels != channels:
            raise SAM3DError(f"{file} has {header.channels} channel(s), the data set {channels}.")
        files = [f"{name}_{channel:04}{ENDING}" for channel in range(channels)]
        with whole_files(folder, last=files[-1]) as part:
            if len(header.size) == 3:
                _copy(file, part / files[0])
            else:
                image = _read(file)
                for channel, written in enumerate(files):
                    write_volume(image[:, :, :, channel], part / written)


def _volume_header(file: Path) -> ImageHeader:
    """The header of a whole file that has three axes, or four with channels, and one number per voxel."""
    check_image_file(file)
    header = read_header(file)
    if len(header.size) not in (3, 4):
        raise SAM3DError(f"{file} has {len(header.size)} axes; a volume has 3, and 4 with channels.")
    if header.components != 1:
        raise SAM3DError(f"{file} has {header.components} numbers per voxel; an intensity or a label is one.")
    return header


def _copy(file: Path, written: Path) -> None:
    """The same bytes where they are compressed already."""
    if file.name.endswith(ENDING):
        shutil.copyfile(file, written)
    else:
        write_volume(_read(file), written)


def _write_with_geometry(file: Path, like: Path, written: Path) -> None:
    stored = sitk.GetArrayFromImage(_read(file))
    label, header = sitk.GetImageFromArray(whole_labels(stored, str(file))), read_header(like)
    spacing = np.linalg.norm(header.affine[:3, :3], axis=0)
    label.SetSpacing(spacing.tolist())
    label.SetDirection((header.affine[:3, :3] / spacing).ravel().tolist())
    label.SetOrigin(header.affine[:3, 3].tolist())
    write_volume(label, written)


@kept_locale()
def _read(file: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(file))
    except RuntimeError as e:
        raise SAM3DError(f"{file} can't be read: {last_line(e)}") from e
