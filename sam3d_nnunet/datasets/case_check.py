"""Check the files of one case: damage, headers, intensities and labels."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from sam3d_nnunet.datasets.faults import Fault, first_sentence
from sam3d_nnunet.datasets.file_check import CaseFiles
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.damaged_files import refuse_damaged, refuse_name
from sam3d_nnunet.geometry.grid import SMALLEST_PATCH
from sam3d_nnunet.geometry.image_grid import ImageGrid
from sam3d_nnunet.geometry.images import check_axes, read_image
from sam3d_nnunet.geometry.label_maps import LabelMap, read_stored_values
from sam3d_nnunet.geometry.label_values import WHOLE, refuse_cut_labels
from sam3d_nnunet.geometry.world import ImageGeometry, read_header


@dataclass
class CaseReport:
    """What was found in a case.

    Attributes:
        faults: of its files.
        grid: voxels of the image. None where it could not be read.
        is_default: whether the image's header is that of programs that know no geometry.
        labels: in the label map. None where it could not be read.
        voxels: digest of the image's voxels, all channels. None where one could not be read.
    """

    faults: list[Fault] = field(default_factory=list)
    grid: ImageGrid | None = None
    is_default: bool = False
    labels: set[int] | None = None
    voxels: str | None = None


@dataclass(frozen=True)
class CaseChecker:
    """Checks cases of a data set.

    Attributes:
        reader: nnU-Net's, an instance.
        labels: values that label maps may hold. None: not known.
        ignore: value of the ignore label, if there is one.
    """

    reader: Any
    labels: Collection[int] | None
    ignore: int | None = None

    def check(self, case: CaseFiles, place: str = "") -> CaseReport:
        """Read and check the files of a case, each once.

        Args:
            case: its files.
            place: folder before the case's name in the report.
        """
        return _CaseCheck(self, f"{place}{case.name}").run(case)


class _CaseCheck:
    """The check of one case, whose report grows."""

    def __init__(self, checker: CaseChecker, subject: str) -> None:
        self.checker, self.subject, self.report = checker, subject, CaseReport()
        self.digest = blake2b()

    def run(self, case: CaseFiles) -> CaseReport:
        varied = [self._check_image(file) for _, file in sorted(case.images.items())]
        if False in varied and True not in varied:
            self._fault("all voxels of the image have the same value", "export the image again")
        elif varied and None not in varied:
            self.report.voxels = self.digest.hexdigest()
        if case.label is not None:
            self._check_label_map(case.label)
        return self.report

    def _fault(self, found: str, todo: str, detail: str | SAM3DError = "", serious: bool = True) -> None:
        self.report.faults.append(Fault(serious, self.subject, found, todo, first_sentence(detail)))

    def _is_whole_file(self, file: Path) -> bool:
        for refuse, found, todo in (
            (refuse_name, "the path of a file is no Unicode", "rename it"),
            (refuse_damaged, "a file is damaged", "copy it or make it again"),
        ):
            try:
                refuse(file)
            except SAM3DError as e:
                self._fault(found, todo, e)
                return False
        return True

    def _refused(self, file: Path, kind: str, error: SAM3DError) -> None:
        """Say why a file that is whole can't be read."""
        try:
            check_axes(file, kind, refused=True)
        except SAM3DError as e:
            self._fault(f"the {kind} is not one volume with one number per voxel", "convert it, or remove the case", e)
        else:
            self._fault(f"the {kind} can't be read", "make it again, or remove the case", error)

    # --- images ---

    def _check_image(self, file: Path) -> bool | None:
        """Whether the intensities differ from each other. None where they can't be read."""
        if not self._is_whole_file(file):
            return None
        try:
            image, properties = read_image([file], self.checker.reader)
            shape = image.shape[1:]
            geometry = ImageGeometry.from_properties(properties, shape)
        except SAM3DError as e:
            self._refused(file, "image", e)
            return None
        self._check_spacing(file)
        if self.report.grid is None:
            self._take(file, ImageGrid(f"its image {file}", shape, geometry, geometry))
        else:
            self._compare_channel(LabelMap(file, image[0], properties))
        self._check_finite(file, image, "sitk_stuff" in properties)
        self.digest.update(f"{image.shape}".encode())
        self.digest.update(np.ascontiguousarray(image))
        return bool(image.min() != image.max())

    def _check_finite(self, file: Path, image: np.ndarray, read_by_itk: bool) -> None:
        found, todo = "intensities are infinite or no numbers", "replace them, for example by the lowest intensity"
        if count := _not_finite(image):
            self._fault(found, todo, f"{count} voxel(s) of {file.name}")
        elif read_by_itk and (count := _not_finite(_stored_floats(file))):
            self._fault(f"{found}, which ITK reads as 0", todo, f"{count} voxel(s) of {file.name}", serious=False)

    def _take(self, file: Path, grid: ImageGrid) -> None:
        """Make this the image that others are compared with."""
        self.report.grid = grid
        self.report.is_default = bool((grid.geometry.spacing == 1).all()) and _has_default_header(file)
        if min(grid.shape) < SMALLEST_PATCH:
            todo = "patches are padded there; check that no slices are missing"
            shape = " x ".join(map(str, grid.shape))
            found = f"the image has fewer than {SMALLEST_PATCH} voxels along an axis"
            self._fault(found, todo, shape, serious=False)

    def _check_spacing(self, file: Path) -> None:
        sizes = _stored_spacing(file)
        if sizes is not None and not (np.isfinite(sizes) & (sizes > 0)).all():
            todo = "write it into image and label map; readers take 0 for 1 mm, and leave out a minus"
            self._fault("the header has no usable size of voxels", todo, f"{file.name} has {sizes.tolist()} mm")

    def _compare_channel(self, channel: LabelMap) -> None:
        try:
            channel.check_shape(self.report.grid.shape, "the first channel")
        except SAM3DError as e:
            self._fault("the channels of the image have different numbers of voxels", "resample them to one grid", e)
            return
        difference = self.report.grid.difference(channel.properties)
        if difference is not None:
            todo = "resample them to one grid, or correct the headers"
            self._fault(
                "by their headers, the channels of the image lie elsewhere", todo, f"{channel.file.name}: {difference}"
            )

    # --- label map ---

    def _check_label_map(self, file: Path) -> None:
        if not self._is_whole_file(file):
            return
        try:
            label_map = read_stored_values(file, self.checker.reader)
        except SAM3DError as e:
            self._refused(file, "label map", e)
            return
        if self.report.grid is not None:
            self._compare_label_map(label_map)
        self._check_values(label_map)

    def _compare_label_map(self, label_map: LabelMap) -> None:
        try:
            label_map.check_shape(self.report.grid.shape)
        except SAM3DError as e:
            self._fault("label map and image have different numbers of voxels", "resample the label map", e)
            return
        difference = self.report.grid.difference(label_map.properties)
        if difference is not None:
            found = (
                "by its header, the label map lies elsewhere than the image; nnU-Net pairs their voxels all the same"
            )
            todo = "resample it to the image, or give it the image's header if the voxels do correspond"
            self._fault(found, todo, difference)

    def _check_values(self, label_map: LabelMap) -> None:
        values = pd.unique(label_map.array.ravel())
        nearest = np.rint(values)
        with np.errstate(invalid="ignore"):  # infinite values
            near = np.abs(values - nearest) <= WHOLE
        if (values != nearest).any() or not near.all():
            try:
                refuse_cut_labels(label_map.array, label_map.file.name)
            except SAM3DError as e:
                self._fault("labels are no whole numbers", "correct them and save them as integers, without a scale", e)
        self.report.labels = set(nearest[near].astype(int).tolist())
        self._check_labels(self.report.labels)

    def _check_labels(self, labels: set[int]) -> None:
        known = self.checker.labels
        unknown = [] if known is None else sorted(labels - set(known))
        if unknown:
            todo = "correct the label map, or add the labels to dataset.json"
            self._fault("the label map has labels that dataset.json lacks", todo, ", ".join(map(str, unknown[:10])))
        if 0 not in labels:
            found, todo = "no voxel of the label map is background", "check that 0 means background in it"
            self._fault(found, todo, serious=False)
        if not labels - {0, self.checker.ignore}:
            todo = "correct it, unless there is nothing to segment"
            self._fault("no voxel of the label map is foreground", todo, serious=False)


def _not_finite(values: np.ndarray) -> int:
    """How many values are infinite or no numbers."""
    return values.size - np.count_nonzero(np.isfinite(values))


def _stored_floats(file: Path) -> np.ndarray:
    """Values as a NIfTI file stores them, if it can store other than finite ones; else a zero."""
    if _is_nifti(file):
        with suppress(Exception):  # a file that another reader can read
            stored = nibabel.load(file).dataobj
            if stored.dtype.kind == "f":
                return stored.get_unscaled()
    return np.zeros(1)


def _is_nifti(file: Path) -> bool:
    return file.name.lower().endswith((".nii", ".nii.gz"))


def _has_default_header(file: Path) -> bool:
    try:
        return read_header(file).is_default()
    except SAM3DError:  # a format that ITK can't read
        return False


def _stored_spacing(file: Path) -> np.ndarray | None:
    """(3,) millimetres as NIfTI's header has them, which readers change if they are wrong. None for other formats."""
    if not _is_nifti(file):
        return None
    try:
        with nibabel.openers.Opener(str(file)) as stream:
            size = int.from_bytes(stream.read(4), "little")
            header = nibabel.Nifti2Header if size in (540, 0x1C020000) else nibabel.Nifti1Header
            stream.seek(0)
            return header.from_fileobj(stream, check=False)["pixdim"][1:4]
    except Exception:  # a file that another reader can read
        return None
