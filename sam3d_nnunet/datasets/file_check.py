"""Check the names of files in a raw data set: channels, pairs of images and label maps, and names that clash."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sam3d_nnunet.datasets.case_files import image_name, name_fault
from sam3d_nnunet.datasets.faults import Fault
from sam3d_nnunet.file_names import same_on_some_systems
from sam3d_nnunet.io import composed, listing

IMAGES, LABELS, TEST_IMAGES = "imagesTr", "labelsTr", "imagesTs"


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case that are there.

    Attributes:
        name: of the case.
        images: by number of the channel.
        label: None where there is none, as in test sets.
    """

    name: str
    images: Mapping[int, Path]
    label: Path | None = None


@dataclass
class FolderFiles:
    """Image files in a folder, as nnU-Net takes them.

    Attributes:
        cases: files by channel, for each case.
        faults: of names.
    """

    cases: dict[str, dict[int, Path]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, ending: str) -> "FolderFiles":
        """List a folder, which may be missing."""
        found = cls()
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.is_file():
                found._add(file, ending)
        return found

    def _add(self, file: Path, ending: str) -> None:
        subject = f"{file.parent.name}/{file.name}"
        name = image_name(file, [ending])
        if not file.name.endswith(ending):
            if name is not None:
                todo = f"convert the file to {ending}, or remove it"
                self._fault(False, subject, f"nnU-Net leaves it out, as it does not end in {ending}", todo)
        elif name is None:
            self._fault(True, subject, "nnU-Net takes this hidden file for an image", "delete it")
        elif name.channel is None:
            todo = f"rename it to CASE_0000{ending}, and further channels to CASE_0001{ending} and so on"
            self._fault(True, subject, "the name ends in no number of a channel, such as _0000", todo)
        else:
            self.cases.setdefault(name.case, {})[name.channel] = file

    def _fault(self, serious: bool, subject: str, found: str, todo: str) -> None:
        self.faults.append(Fault(serious, subject, found, todo, counted="files"))


def label_files(folder: Path, ending: str) -> dict[str, Path]:
    """Label maps by case."""
    files = sorted(folder.iterdir()) if folder.is_dir() else ()
    return {f.name.removesuffix(ending): f for f in files if f.name.endswith(ending) and not f.name.startswith(".")}


def common_ending(folder: Path) -> str | None:
    """The ending of most images in a folder."""
    names = [image_name(file) for file in folder.iterdir()] if folder.is_dir() else []
    endings = Counter(name.ending for name in names if name)
    return endings.most_common(1)[0][0] if endings else None


def check_channels(case: CaseFiles, channels: int, place: str = "") -> Iterator[Fault]:
    """Compare the files of a case with the number of channels.

    Args:
        case: its files.
        channels: number of them in dataset.json.
        place: folder before the case's name.
    """
    subject = f"{place}{case.name}"
    missing = [number for number in range(channels) if number not in case.images]
    surplus = [number for number in case.images if number >= channels]
    if missing:
        todo = "add it, or correct channel_names in dataset.json"
        yield Fault(True, subject, "the image of a channel is missing", todo, _numbers(missing))
    if surplus:
        todo = "remove the file, rename it, or add the channel to channel_names in dataset.json"
        yield Fault(True, subject, "an image has a channel's number that dataset.json lacks", todo, _numbers(surplus))


def check_pairs(images: Collection[str], labels: Collection[str], ending: str) -> Iterator[Fault]:
    """Find images without a label map, and label maps without an image, by names of cases."""
    alone = {composed(name): name for name in set(labels) - set(images)}
    for name in sorted(set(images) - set(labels)):
        if alone.pop(composed(name), None):
            found = "the names of image and label map look the same, but are written in other forms of Unicode"
            yield Fault(True, name, found, "rename one of them; nnU-Net tells them apart")
        else:
            todo = f"add {LABELS}/CASE{ending} (without a channel's number), or move the image to {TEST_IMAGES}"
            yield Fault(True, name, "the image has no label map", todo)
    for name in sorted(alone.values()):
        todo = f"add {IMAGES}/CASE_0000{ending}, or remove the label map"
        yield Fault(False, name, "the label map has no image, so nnU-Net leaves the case out", todo)


def check_case_names(names: Collection[str], place: str = "", training: bool = True) -> Iterator[Fault]:
    """Find names with which nnU-Net or other commands would fail, or that are one name on other systems.

    Args:
        names: of cases in one folder.
        place: folder before the case's name in the report.
        training: whether they are training cases.
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(same_on_some_systems(name), []).append(name)
        fault = name_fault(name, training)
        if fault is not None:
            yield Fault(True, f"{place}{name}", f"the name {fault}", "rename the case's files")
    for name in (name for same in alike.values() if len(same) > 1 for name in same):
        found = "names differ only in upper and lower case or in their form of Unicode: other systems take them for one"
        yield Fault(training, f"{place}{name}", found, "rename them")


def _numbers(channels: Collection[int]) -> str:
    return listing(f"_{number:04}" for number in channels)
