"""Which image files belong to which case, by their names.

nnU-Net names images CASE_0000, CASE_0001, ..., one number for each channel. People's files often have no such number,
another one, or another ending than the data set, so these names are read as a person would read them.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_names import file_name_fault
from sam3d_nnunet.io import find_file, listing, same_name

ENDINGS = (
    *(".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".gipl", ".gipl.gz", ".hdr", ".img", ".img.gz"),
    *(".mgz", ".mgh", ".mnc", ".mrc", ".vtk", ".h5", ".hdf5", ".tif", ".tiff"),
)
"""Of files that hold volumes, in the formats that nnU-Net's readers open."""
WITH_HEADER = {".img": ".hdr", ".img.gz": ".hdr"}
"""Files that are the second half of an image, whose header has this ending."""
CONVERT = "DICOM slices can't be read one by one: convert the series to one file first, for example with dcm2niix."
NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})", re.DOTALL)


OF_PREDICTION = ("dataset", "plans")
"""Names of files that nnU-Net's tools need beside predictions, which CASE.json would overwrite."""
OF_TRAINING = (*OF_PREDICTION, "summary", "metrics", "settings", "prediction")
"""The same beside the predictions of a validation and of an evaluation."""
OTHER_NIFTI = re.compile(r"\.(nii|nia|hdr|img)(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageName:
    """The name of an image file and its parts.

    Attributes:
        file: path.
        stem: name without the ending.
        ending: such as ".nii.gz".
    """

    file: Path
    stem: str
    ending: str

    @property
    def case(self) -> str:
        """Without the number of the channel, if there is one."""
        match = NUMBERED.fullmatch(self.stem)
        return match["case"] if match else self.stem

    @property
    def channel(self) -> int | None:
        """The number at the end; None if there is none."""
        match = NUMBERED.fullmatch(self.stem)
        return int(match["channel"]) if match else None

    def renamed(self) -> str:
        """The name as nnU-Net wants it for the first channel."""
        return f"{self.stem}_0000{self.ending}"


def image_name(file: Path, endings: Iterable[str] = ()) -> ImageName | None:
    """The parts of a file's name, in upper or lower case. None: it is not a visible file with an image's ending.

    Args:
        file: need not exist.
        endings: further ones, such as that of the data set.
    """
    if file.name.startswith("."):  # macOS puts files ._CASE_0000 on disks of other systems
        return None
    name = file.name.lower()
    ending = max((e for e in (*ENDINGS, *endings) if name.endswith(e.lower())), key=len, default="")
    if not ending or len(ending) == len(name):
        return None
    return ImageName(file, file.name[: -len(ending)], file.name[-len(ending) :])


def cases_in_folder(folder: Path, ending: str, channels: int, needs_numbers: bool = False) -> dict[str, list[Path]]:
    """Image files of each case in a folder, one for each channel. Those of further channels may be missing.

    Files with the data set's ending are taken, or all images if there are none with it. Where there is one channel and
    no name ends in _0000, each file is a case with its whole name. A line on stderr says what was assumed.

    Args:
        folder: with the images. Hidden files and files of other kinds are left out.
        ending: of the data set.
        channels: of an image.
        needs_numbers: whether names must end in the number of a channel in any case.

    Raises:
        SAM3DError: there is no image, or its name doesn't tell the case and the channel.
    """
    files = _images(folder, ending)
    numbered = any(name.channel == 0 for name in files)
    if channels == 1 and not numbered and not needs_numbers:
        return _whole_names(folder, files)
    _refuse_without_numbers(folder, files, channels)
    found: dict[str, dict[int, ImageName]] = {}
    for name in files:
        if name.channel is None:  # a segmentation of this case
            continue
        if name.channel >= channels:
            raise SAM3DError(
                f"{name.file} is a channel too many: images have {channels} channel(s). If the last number is not that "
                f"of a channel, rename the file to {name.renamed()}."
            )
        of_case = found.setdefault(name.case, {})
        _refuse_two(of_case.get(name.channel), name)
        of_case[name.channel] = name
    return {case: list(_channels(folder, case, of_case, channels)) for case, of_case in sorted(found.items())}


def _images(folder: Path, ending: str) -> list[ImageName]:
    """The images in a folder that have the data set's ending, or else any other."""
    there = sorted(file for file in folder.iterdir() if file.is_file())
    names = [name for file in there if (name := image_name(file, [ending]))]
    headers = {(name.stem, name.ending.lower()) for name in names}
    names = [n for n in names if (n.stem, WITH_HEADER.get(n.ending.lower())) not in headers]
    own = [name for name in names if name.ending.lower() == ending.lower()]
    if not names:
        shown = listing([file.name for file in there if not file.name.startswith(".")], 5) or "no file"
        hint = f" {CONVERT}" if any(map(is_dicom, there[:5])) else ""
        raise SAM3DError(f"{folder} holds no image CASE_0000{ending}, as the model needs. It holds {shown}.{hint}")
    if own and len(own) < len(names):
        others = [name.file.name for name in names if name not in own]
        _note(f"left out of {folder}: {len(others)} image(s) that don't end in {ending}: {listing(others, 3)}")
    elif not own:
        _note(f"no image in {folder} ends in {ending}: taken are {listing({name.ending for name in names})}")
    return own or names


def _whole_names(folder: Path, files: list[ImageName]) -> dict[str, list[Path]]:
    """Each file is a case of its own."""
    found: dict[str, ImageName] = {}
    for name in files:
        _refuse_two(found.get(name.stem), name)
        found[name.stem] = name
    _note(f"no image in {folder} ends in _0000: each file is a case, such as {files[0].stem}")
    return {case: [name.file] for case, name in sorted(found.items())}


def _refuse_without_numbers(folder: Path, files: list[ImageName], channels: int) -> None:
    """Refuse images whose names don't tell their channel. CASE beside CASE_0000 is taken for its segmentation."""
    first = {name.case for name in files if name.channel == 0}
    strange = [n for n in files if n.case not in first and (n.channel is None or n.channel >= channels)]
    if strange:
        kept = f", as {_example(files)} does" if first else ""
        several = " to _0001, _0002, ... for the other channels" if channels > 1 else ""
        raise SAM3DError(
            f"{folder} holds {len(strange)} image(s) without the number of a channel: "
            f"{listing([name.file.name for name in strange], 5)}. Names need _0000{several}{kept}: rename "
            f"{strange[0].file.name} to {strange[0].renamed()}."
        )


def _example(files: list[ImageName]) -> str:
    return next(name.file.name for name in files if name.channel == 0)


def _refuse_two(one: ImageName | None, other: ImageName) -> None:
    if one is not None:
        raise SAM3DError(f"{one.file} and {other.file.name} are the same image by their names. Keep or rename one.")


def _channels(folder: Path, case: str, there: dict[int, ImageName], channels: int) -> Iterator[Path]:
    ending = next(iter(there.values())).ending
    for channel in range(channels):
        name = there.get(channel)
        yield folder / f"{case}_{channel:04}{ending}" if name is None else name.file


def name_fault(case: str, training: bool = False) -> str | None:
    """Why a case can't have this name, in words that follow "the name"; None if it can.

    Args:
        case: its name.
        training: whether it is one of those that nnU-Net preprocesses and validates.
    """
    if case in (OF_TRAINING if training else OF_PREDICTION):
        return f"is that of another file, {case}.json or {case}.csv"
    if case.startswith("."):
        return "makes hidden files, as those that macOS leaves on other disks"
    if training and case.endswith("_seg"):
        return "ends in _seg, as the files of preprocessed label maps do, so nnU-Net mixes both up"
    if match := OTHER_NIFTI.search(case):
        return f"ends in {match[0]}, which ITK takes for the file ending when it writes CASE.nii.gz"
    return file_name_fault(case)


def stem(file: str | Path, ending: str) -> str:
    """The name of an image file without its ending, which may be that of the data set or any other."""
    name = image_name(Path(file), [ending])
    return Path(file).stem if name is None else name.stem


def case_file(folder: Path, case: str, ending: str) -> Path:
    """The file CASE in a folder: with the data set's ending, else with another one. It may be missing.

    Raises:
        SAM3DError: there are several with other endings.
    """
    file = find_file(folder, f"{case}{ending}")
    if file.is_file() or not folder.is_dir():
        return file
    names = [name for other in sorted(folder.iterdir()) if (name := image_name(other, [ending]))]
    own = [name for name in names if same_name(name.stem, case) and name.ending not in WITH_HEADER]
    if len(own) > 1:
        _refuse_two(*own[:2])
    return own[0].file if own else file


def is_dicom(file: Path) -> bool:
    """Whether a file is one of the many of a DICOM series, by its ending or its first bytes."""
    if file.suffix.lower() in (".dcm", ".ima"):
        return True
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
