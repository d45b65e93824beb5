"""The image on the page of `sam3d serve`: opened as `sam3d predict` opens it, and saved with its geometry.

The page works in RAS millimetres, as NIfTI has them. Arrays here are (d, h, w), and the world is LPS.
"""

import mmap
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np

from sam3d_nnunet.datasets.case_files import image_name
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.images import read_stored_image
from sam3d_nnunet.geometry.world import RAS_TO_LPS, REVERSED, ImageGeometry, read_header
from sam3d_nnunet.geometry.writing import write_label_map
from sam3d_nnunet.io import read_bytes
from sam3d_nnunet.prediction.cases import find_cases
from sam3d_nnunet.prediction.model_folder import TrainedModel

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Of the files that the page opens. Each holds header and voxels, and can't send the server to another file."""
SHOWN_TYPES = {"float64": np.float32, "float16": np.float32, "int64": np.int32, "uint64": np.int32, "bool": np.uint8}
"""What NiiVue gets instead of types that NIfTI does not have or that only take memory."""
HEADER = 1 << 20  # bytes that hold the header of an NRRD file
PLANES = ("axial", "coronal", "sagittal")
STEPS = 4  # samples of a stroke for each voxel


@dataclass(frozen=True)
class PageImage:
    """An image that is open.

    Attributes:
        name: of the case, for files that are saved.
        array: (C, D, H, W) as the reader has it.
        properties: from the reader.
        geometry: where the voxels are.
        reader: nnU-Net's for the model, an instance.
    """

    name: str
    array: np.ndarray
    properties: dict[str, Any]
    geometry: ImageGeometry
    reader: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (d, h, w)."""
        return self.array.shape[1:]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.geometry.affine[:3, :3]))) / 1000

    @property
    def for_session(self) -> dict[str, Any]:
        """Properties for `SAM3DSession.set_image`, so that it sees the image as `sam3d predict` does."""
        return {"spacing": list(self.properties["spacing"]), "affine": RAS_TO_LPS @ self.geometry.affine}

    def to_lps(self, points_ras: Sequence[Sequence[float]]) -> np.ndarray:
        """(N, 3) RAS millimetres of NIfTI -> (N, 3) LPS millimetres."""
        return np.asarray(points_ras, float).reshape(-1, 3) @ RAS_TO_LPS[:3, :3]

    def to_voxels(self, points_ras: Sequence[Sequence[float]]) -> np.ndarray:
        """(N, 3) RAS millimetres of NIfTI -> (N, 3) float array indices (d, h, w)."""
        return self.geometry.to_voxels(self.to_lps(points_ras))

    def nifti(self, channel: int = 0) -> bytes:
        """One channel as NIfTI, uncompressed: the array as it is, placed by its affine."""
        voxels = self.array[channel]
        voxels = voxels.astype(SHOWN_TYPES.get(voxels.dtype.name, voxels.dtype))
        affine = RAS_TO_LPS @ self.geometry.affine[:, REVERSED]
        return nibabel.Nifti1Image(voxels.T, affine).to_bytes()

    def segmentation_file(self, label_map: np.ndarray) -> bytes:
        """A compressed NIfTI with the geometry of the image, as nnU-Net writes its segmentations.

        Args:
            label_map: (D, H, W).
        """
        with TemporaryDirectory(prefix="sam3d_page_") as folder:
            file = Path(folder) / "segmentation.nii.gz"
            write_label_map(label_map, file, self.properties, self.reader)
            return read_bytes(file)

    # --- what users draw ---

    def click(self, point_ras: Sequence[float]) -> np.ndarray:
        """(3,) voxel of a click. The page rounds its numbers, so that a click at the border may lie beside it."""
        voxel = self.to_voxels([point_ras])[0]
        inside = np.clip(voxel, -0.5, np.array(self.shape) - 0.5)
        return inside if np.abs(voxel - inside).max() < 1e-3 else voxel

    def stroke(self, line_ras: Sequence[Sequence[float]], plane: str) -> tuple[Box, np.ndarray]:
        """The voxels under a line on one slice, which is two voxels wide in this slice.

        Args:
            line_ras: (N, 3) corners of the line in RAS millimetres.
            plane: of the slice, one of `PLANES`.

        Returns:
            A box of the image, and (bool) its voxels.

        Raises:
            SAM3DError: the line lies outside the image.
        """
        corners = self.to_voxels(line_ras)
        across = self._across(corners, plane)
        samples = [corners[:1]]
        for start, end in zip(corners, corners[1:]):
            steps = int(np.ceil(np.abs(end - start).max() * STEPS)) + 1
            samples.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
        line = np.concatenate(samples)
        line[:, across] = np.rint(line[:, across])
        ends = {tuple(axis) for axis in np.ndindex(2, 2)}
        inside = [axis for axis in range(3) if axis != across]
        touched = []
        for pair in ends:
            near = line.copy()
            near[:, inside] = np.floor(line[:, inside]) + pair
            touched.append(near)
        voxels = np.unique(np.concatenate(touched).astype(int), axis=0)
        voxels = voxels[((voxels >= 0) & (voxels < self.shape)).all(axis=1)]
        if not len(voxels):
            raise SAM3DError("The line lies outside the image. Draw it on the image.")
        box = Box(voxels.min(axis=0), voxels.max(axis=0) + 1)
        drawn = np.zeros(box.shape, bool)
        drawn[tuple((voxels - box.start).T)] = True
        return box, drawn

    def box(self, corners_ras: Sequence[Sequence[float]], plane: str) -> list[list[int]]:
        """[[low, high], ...] voxels along (d, h, w) of a rectangle on one slice, `high` not included.

        Args:
            corners_ras: two opposite corners in RAS millimetres.
            plane: of the slice, one of `PLANES`.
        """
        corners = self.to_voxels(corners_ras)
        across = self._across(corners, plane)
        low, high = np.rint(corners.min(axis=0)).astype(int), np.rint(corners.max(axis=0)).astype(int) + 1
        high[across] = low[across] + 1
        return [[int(a), int(b)] for a, b in zip(low, high)]

    def _across(self, corners: np.ndarray, plane: str) -> int:
        """The axis of the array along which the slices of a plane follow one another.

        Viewers choose the axes of an oblique image by rules of their own. Whatever was drawn lies in one slice.

        Args:
            corners: (N, 3) voxels of what was drawn.
            plane: one of `PLANES`.
        """
        named, extent = int(self.geometry.axial_order[PLANES.index(plane)]), np.ptp(corners, axis=0)
        return named if extent[named] < 0.5 else int(extent.argmin())


def open_image(files: Sequence[Path], name: str, model: TrainedModel, largest: int) -> PageImage:
    """Read the channels of an image as `sam3d predict` does.

    Args:
        files: one for each channel.
        name: of the case.
        model: that will segment it.
        largest: bytes of its voxels with all channels, as they are stored.

    Raises:
        SAM3DError: a file is missing, too large or can't be read.
    """
    if len(files) != model.channels:
        raise SAM3DError(f"The model takes {model.channels} channel(s), one file for each, but got {len(files)}.")
    for file in files:
        refuse_other_files(file)
        header = read_header(file)
        size = np.prod([float(n) for n in header.size]) * header.bytes_of_number * len(files)
        if size > largest:
            raise SAM3DError(
                f"{file} has {size / 1e9:.3g} GB of voxels; this server takes up to {largest / 1e9:.3g} GB "
                "(--max-image-gb)."
            )
    reader = model.plans.image_reader_writer_class()
    array, properties = read_stored_image([str(file) for file in files], reader)
    return PageImage(name, array, properties, ImageGeometry.from_file(files[0], properties), reader)


def refuse_other_files(file: Path) -> None:
    """Refuse files of other formats, and headers that may name another file with the voxels.

    Readers choose the format by the ending of the name. A header is taken only if it says in the plainest way that the
    voxels are in the file itself, because readers find fields in places where a search for them would not.

    Raises:
        SAM3DError: names the file.
    """
    name = image_name(file)
    ending = None if name is None else name.ending.lower()
    if ending not in ENDINGS:
        raise SAM3DError(f"{file} is not an image that the page opens. Its name must end in {', '.join(ENDINGS)}.")
    holds_voxels = {".mha": _mha_holds_voxels, ".nrrd": _nrrd_holds_voxels}.get(ending)
    if holds_voxels is None:
        return
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if holds_voxels(content):
                return
    except OSError as e:
        raise SAM3DError(f"{file} can't be read: {e.strerror}.") from e
    except ValueError as e:
        raise SAM3DError(f"{file} is empty.") from e
    raise SAM3DError(
        f"{file} may hold no voxels but name other files with them: its header is not as usual. "
        "Save the image as one file, for instance as .nii.gz."
    )


def _mha_holds_voxels(content: mmap.mmap) -> bool:
    """Whether the field that says where the voxels are occurs once in the whole file, and says: here."""
    key = b"ElementDataFile"
    place = content.find(key)
    said = re.match(rb"[ \t]*=[ \t]*(LOCAL|Local|local)[ \t]*\r?\n", content[place + len(key) : place + len(key) + 100])
    at_line_start = place == 0 or content[place - 1 : place] == b"\n"
    return place >= 0 and at_line_start and said is not None and content.find(key, place + 1) < 0


def _nrrd_holds_voxels(content: mmap.mmap) -> bool:
    """Whether the whole header has been seen, with one kind of line ends, and no field of it names a file."""
    head = content[:HEADER]
    line_end = b"\r\n" if head.partition(b"\n")[0].endswith(b"\r") else b"\n"
    header, blank_line, _ = head.partition(2 * line_end)
    is_plain = not re.search(rb"[\r\n]", header.replace(line_end, b""))
    names_file = re.search(rb"^\s*data\s*file\s*:(?!=)", header, re.IGNORECASE | re.MULTILINE)
    return header.startswith(b"NRRD") and bool(blank_line) and is_plain and names_file is None


class ImageFolders:
    """The images in the folders that the server was started with, and nothing outside of them."""

    def __init__(self, folders: Iterable[str | Path]) -> None:
        """
        Args:
            folders: the images lie in them, not in folders below.

        Raises:
            SAM3DError: one of them is no folder.
        """
        self.folders = [Path(folder).resolve() for folder in folders]
        for folder in self.folders:
            if not folder.is_dir():
                raise SAM3DError(f"There is no folder {folder} for --images.")

    def names(self, channels: int) -> list[list[str]]:
        """Names of the images in each folder: the first channel of each where the model takes several."""
        return [sorted(self._images(folder, channels)) for folder in self.folders]

    def files(self, folder: int, name: str, model: TrainedModel) -> tuple[str, list[Path]]:
        """Case and files of an image, one for each channel.

        Args:
            folder: number of the folder.
            name: one of `names`.
            model: for the number of channels.

        Raises:
            SAM3DError: there is no such image in the folder, or a channel is missing or lies elsewhere.
        """
        there = self._images(self.folders[folder], model.channels) if 0 <= folder < len(self.folders) else {}
        if name not in there:
            raise SAM3DError("There is no such image in the folders of this server.")
        ((case, files),) = find_cases(there[name], model).items()
        for file in files:
            if not _is_inside(file, self.folders[folder]):
                raise SAM3DError(f"There is no file {file.name} in the folder of {name}: each channel needs one.")
        return case, files

    @staticmethod
    def _images(folder: Path, channels: int) -> dict[str, Path]:
        """Files by name. Names from clients are looked up here; they never become part of a path."""
        found = {}
        try:
            files = list(folder.iterdir())
        except OSError:  # it is gone, or can't be reached any more; the others can
            return found
        for file in files:
            name = image_name(file)
            if name is None or name.ending.lower() not in ENDINGS or not _is_inside(file, folder):
                continue
            if channels == 1 or name.channel == 0:
                found[file.name] = file
        return found


def _is_inside(file: Path, folder: Path) -> bool:
    """Whether a path is a file directly in a folder, links followed."""
    return file.is_file() and file.resolve().parent == folder


# --- masks as runs ---


def runs(values: np.ndarray) -> list[int]:
    """[value, length, value, length, ...] of the values in order, x fastest for arrays (d, h, w)."""
    flat = values.ravel()
    if not len(flat):
        return []
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=len(flat))
    return np.stack([flat[starts].astype(int), lengths], axis=1).ravel().tolist()


def changes(before: np.ndarray | None, after: np.ndarray, start: Sequence[int] = (0, 0, 0)) -> dict[str, Any] | None:
    """What a viewer has to replace, in the order of NIfTI.

    Args:
        before: (D, H, W) what it shows. None: nothing is known, so all is replaced.
        after: (D, H, W).
        start: first voxel of the image that both cover.

    Returns:
        "box": [[low, high], ...] along (x, y, z), `high` not included, and "runs" of the new values in it, x fastest;
        None if nothing changed.
    """
    box = Box.of_shape(after.shape) if before is None else Box.from_mask(before != after)
    if box is None:
        return None
    return {"box": box.shifted(start).as_lists()[::-1], "runs": runs(after[box.slices])}
