"""Where published data sets keep images and label maps, and what their label values mean."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sam3d_nnunet.datasets.case_files import name_fault
from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_content import Content, check_content
from sam3d_nnunet.io import listing, read_json

ENDING = ".nii.gz"
KITS21_CASES = [f"case_{number:05}" for number in range(300)]
LITS17_CASES = [f"volume-{number}" for number in range(131)]
STS_CASES = [f"STS_{number:03}" for number in range(1, 52)]
STS_REFERENCES = [
    "Vallières M, Freeman CR, Skamene SR, El Naqa I. A radiomics model from joint FDG-PET and MRI texture features for "
    "the prediction of lung metastases in soft-tissue sarcomas of the extremities. The Cancer Imaging Archive, 2015. "
    "doi:10.7937/K9/TCIA.2015.7GO2GSKS",
    "The same authors and title. Physics in Medicine and Biology, 2015. doi:10.1088/0031-9155/60/14/5471",
    "Clark K et al. The Cancer Imaging Archive (TCIA): Maintaining and Operating a Public Information Repository. "
    "Journal of Digital Imaging, 2013. doi:10.1007/s10278-013-9622-7",
]
STS_ABOUT = {
    "description": (
        "Soft-tissue sarcomas of 51 patients, cropped 5 cm around the tumour (contour GTV_Mass). PET: SUV. T1 MR: "
        "bias-corrected (N4), normalised to subcutaneous fat. Prepared by A. Zwanenburg for the Image Biomarker "
        "Standardisation Initiative: https://github.com/theibsi/data_sets, folder ibsi_validation."
    ),
    "reference": "; ".join(STS_REFERENCES),
    "licence": "CC BY 3.0, https://creativecommons.org/licenses/by/3.0/",
}


@dataclass(frozen=True)
class SourceCase:
    """Files of a training case, whether they are there or not."""

    image: Path
    label: Path


@dataclass(frozen=True)
class Source:
    """A published data set on the disk.

    Attributes:
        title: of the data set.
        channels: names of an image's channels, for nnU-Net's choice of normalisation.
        labels: values by name, with the background.
        training: by the name of the case.
        test: images by the name of the case.
        more: further keys for dataset.json.
    """

    title: str
    channels: list[str]
    labels: dict[str, int]
    training: dict[str, SourceCase]
    test: dict[str, Path] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


Number = Annotated[str, Field(pattern=r"^[0-9]{1,4}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]


def _of_a_file(path: str) -> str:
    name = Path(path).name.removesuffix(ENDING)
    if fault := name_fault(name):
        raise ValueError(f"should be a path to a file: its name {fault}")
    return path


Given = Annotated[str, AfterValidator(_of_a_file)]
"""A path, of which the name counts."""


class DecathlonCase(Content):
    """A training case of the Decathlon."""

    label: Given


class Decathlon(Content):
    """dataset.json of a task of the Medical Segmentation Decathlon."""

    name: Text | None = None
    modality: dict[Number, Text]
    labels: dict[Number, Text]
    training: list[DecathlonCase]
    test: list[Given] = []


def find_msd(folder: Path) -> Source:
    """A task of the Medical Segmentation Decathlon: dataset.json, imagesTr, labelsTr, imagesTs.

    Raises:
        SAM3DError: its dataset.json is missing or not that of the Decathlon.
    """
    file = folder / "dataset.json"
    content = read_json(file, f"{folder} must be a task of the Decathlon.")
    check_content(content, Decathlon, file, "Give a task of the Decathlon. Data sets of nnU-Net need no conversion.")
    channels = [content["modality"][key] for key in sorted(content["modality"], key=int)]
    labels = {name: int(value) for value, name in content["labels"].items()}
    listed = [Path(case["label"]).name.removesuffix(ENDING) for case in content["training"]]
    tests = {Path(image).name.removesuffix(ENDING) for image in content.get("test", [])}
    if labels.get("background") != 0 or len(labels) != len(content["labels"]):
        raise SAM3DError(f'The "labels" of {file} need a different name for each value, and "background" for 0.')
    names = {*listed, *_names(folder / "imagesTr"), *_names(folder / "labelsTr")}
    training = {
        name: SourceCase(folder / "imagesTr" / f"{name}{ENDING}", folder / "labelsTr" / f"{name}{ENDING}")
        for name in sorted(names)
    }
    tests |= _names(folder / "imagesTs")
    if not (folder / "imagesTs").is_dir():
        tests = set()  # nobody trains on them
    test = {name: folder / "imagesTs" / f"{name}{ENDING}" for name in sorted(tests)}
    about = {key: content[key] for key in ("description", "reference", "licence", "release") if key in content}
    return Source(content.get("name") or folder.name, channels, labels, training, test, about)


def find_kits(folder: Path) -> Source:
    """KiTS21: case_00000 to case_00299, with the majority vote of the annotations.

    Its files have the slices along their first axis; a reader that turns images brings them in the usual order.

    Raises:
        SAM3DError: no case is there, or none with this annotation.
    """
    there = {path.name for path in folder.glob("case_*") if re.fullmatch(r"case_[0-9]{5}", path.name)}
    if not there:
        raise SAM3DError(f"{folder} holds no case_00000 of KiTS21. Give the folder where these are (kits21/data).")
    training = {
        name: SourceCase(folder / name / "imaging.nii.gz", folder / name / "aggregated_MAJ_seg.nii.gz")
        for name in sorted(there.union(KITS21_CASES))
    }
    if not any(case.label.is_file() for case in training.values()):
        raise SAM3DError(f"No case in {folder} has an aggregated_MAJ_seg.nii.gz: these are not the files of KiTS21.")
    labels = {"background": 0, "kidney": 1, "tumour": 2, "cyst": 3}
    return Source("KiTS21", ["CT"], labels, training, more={"overwrite_image_reader_writer": "SimpleITKIOWithReorient"})


def find_lits(folder: Path) -> Source:
    """The training volumes of LiTS17: volume-0 to volume-130 and segmentation-N, in this folder or any below it.

    Raises:
        SAM3DError: no volume is there, or one twice.
    """
    images, labels = _numbered(folder, "volume"), _numbered(folder, "segmentation")
    if not images:
        raise SAM3DError(f"{folder} and the folders in it hold no volume-0.nii of LiTS17.")
    names = {*LITS17_CASES, *(f"volume-{number}" for number in {*images, *labels})}
    training = {}
    for number in sorted(int(name.removeprefix("volume-")) for name in names):
        image = images.get(number, folder / f"volume-{number}.nii")
        training[f"volume-{number}"] = SourceCase(image, labels.get(number, folder / f"segmentation-{number}.nii"))
    return Source("LiTS17", ["CT"], {"background": 0, "liver": 1, "tumour": 2}, training)


@dataclass(frozen=True)
class StsImages:
    """One kind of image of the soft-tissue sarcomas.

    Attributes:
        title: of the data set.
        channel: its name in dataset.json.
        prefix: of the published files, as in PET_image.nii.gz and PET_mask.nii.gz.
    """

    title: str
    channel: str
    prefix: str


STS = {"pet": StsImages("STSPET", "PET", "PET"), "mr": StsImages("STSMRT1", "MR", "MR_T1")}


def find_sts(folder: Path, modality: str) -> Source:
    """The soft-tissue sarcomas as published, or as a data set of nnU-Net that `sam3d dataset fetch` wrote.

    Each kind of image has a mask of its own, on its voxels.

    Args:
        folder: with STS_001 to STS_051, or the repository or one of its folders above these; or the data set.
        modality: a key of `STS`.

    Raises:
        SAM3DError: the folder holds neither, or other images.
    """
    kind, labels = STS[modality], {"background": 0, "tumour": 1}
    places = [folder, folder / "nifti", *(folder / name / "nifti" for name in ("ibsi_validation", "ibsi_1_validation"))]
    published = next((place for place in places if any(place.glob(f"STS_*/{kind.prefix}_*{ENDING}"))), None)
    if published is not None:
        image, label = f"{{0}}/{kind.prefix}_image{ENDING}", f"{{0}}/{kind.prefix}_mask{ENDING}"
    else:
        hint = f"Name a folder with STS_001/{kind.prefix}_image{ENDING}, or a data set of nnU-Net made from it."
        file = folder / "dataset.json"
        if not file.is_file():
            raise SAM3DError(f"{folder} holds no {kind.channel} images of the soft-tissue sarcomas. {hint}")
        content = read_dataset_json(file)
        if content["channel_names"] != {"0": kind.channel} or content["labels"] != labels:
            raise SAM3DError(f"{file} has other channels or labels than {kind.channel} and {labels}. {hint}")
        published, image, label = folder, f"imagesTr/{{0}}_0000{ENDING}", f"labelsTr/{{0}}{ENDING}"
    training = {name: SourceCase(published / image.format(name), published / label.format(name)) for name in STS_CASES}
    return Source(kind.title, [kind.channel], labels, training, more=STS_ABOUT)


LAYOUTS: dict[str, Callable[[Path], Source]] = {
    "msd": find_msd,
    "kits": find_kits,
    "lits": find_lits,
    **{f"sts-{modality}": partial(find_sts, modality=modality) for modality in STS},
}


def _names(folder: Path) -> set[str]:
    """Cases in a folder, without the ._ files that macOS puts beside them."""
    return {f.name.removesuffix(ENDING) for f in folder.glob(f"*{ENDING}") if not f.name.startswith(".")}


def _numbered(folder: Path, kind: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for file in sorted(folder.rglob(f"{kind}-*.nii*")):
        match = re.fullmatch(rf"{kind}-([0-9]+)\.nii(\.gz)?", file.name)
        if match and int(match[1]) in found:
            files = listing([str(file), str(found[int(match[1])])])
            raise SAM3DError(f"{kind}-{match[1]} is there twice: {files}. Remove one of them.")
        if match:
            found[int(match[1])] = file
    return found
