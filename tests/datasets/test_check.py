"""Each fault of a raw data set is planted alone and with others, and must be found and named."""

import gzip
import json
import os
import re
import shutil
import struct
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets.check import check_dataset
from sam3d_nnunet.datasets.faults import Fault, findings, first_sentence
from sam3d_nnunet.errors import SAM3DError

NAME, ENDING = "Dataset077_Some", ".nii.gz"
SIDE = 12


def write(file: Path, array: np.ndarray, spacing=(1.5, 1.5, 2.0), origin=(10.0, 20.0, 30.0), vector=False) -> None:
    image = sitk.GetImageFromArray(array, isVector=vector)
    axes = image.GetDimension()
    image.SetSpacing([*spacing, 1.0][:axes])
    image.SetOrigin([*origin, 0.0][:axes])
    sitk.WriteImage(image, str(file))


def write_noise(*channels: Path) -> None:
    """Images that differ from those with other names."""
    for file in channels:
        rng = np.random.default_rng([*f"{file.parent.name}/{file.name}".encode(errors="surrogateescape")])
        write(file, rng.normal(size=(SIDE,) * 3).astype(np.float32))


def labels() -> np.ndarray:
    array = np.zeros((SIDE,) * 3, np.uint8)
    array[2:6, 3:7, 3:7], array[7:10, 3:7, 3:7] = 1, 2
    return array


@dataclass
class Raw:
    """A data set of two channels and two labels, in which faults are planted before it is checked."""

    folder: Path
    splits_file: Path
    description: dict = field(
        default_factory=lambda: {
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0, "core": 1, "rim": 2},
            "file_ending": ENDING,
        }
    )
    folds: tuple[Callable[[list[str]], list], ...] = ()

    def __post_init__(self) -> None:
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            (self.folder / part).mkdir(parents=True)

    def image(self, case: str, channel: int = 0) -> Path:
        return self.folder / "imagesTr" / f"{case}_{channel:04}{ENDING}"

    def label(self, case: str) -> Path:
        return self.folder / "labelsTr" / f"{case}{ENDING}"

    def files(self, case: str) -> list[Path]:
        return [self.image(case, 0), self.image(case, 1), self.label(case)]

    def add(self, case: str) -> None:
        write_noise(self.image(case, 0), self.image(case, 1))
        write(self.label(case), labels())

    def add_test(self, case: str) -> list[Path]:
        """Give the test set a case, too; returns its files."""
        files = [self.folder / "imagesTs" / self.image(case, channel).name for channel in (0, 1)]
        write_noise(*files)
        return files

    def set_folds(self, *folds: Callable[[list[str]], list]) -> None:
        """Those that nnU-Net trains on, and those beside the raw data, from the names of the cases."""
        self.folds = folds

    def rename(self, case: str, new: str) -> None:
        for file in self.files(case):
            file.rename(file.with_name(new + file.name.removeprefix(case)))

    def read_by_nibabel(self, change: Callable[..., None], *arguments: object) -> None:
        """ITK reads values in NIfTI that are not finite as 0."""
        self.description["overwrite_image_reader_writer"] = "NibabelIO"
        change(*arguments)

    def finish(self) -> None:
        images = [file.name for file in (self.folder / "imagesTr").glob(f"[!.]*_[0-9][0-9][0-9][0-9]{ENDING}")]
        cases = sorted({name.removesuffix(ENDING)[:-5] for name in images})
        description = {"numTraining": len(cases), **self.description}
        (self.folder / "dataset.json").write_text(json.dumps(description))
        for file, folds in zip((self.splits_file, self.folder / "splits_final.json"), self.folds):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(folds(cases)))


def make_raw(root: Path, cases: Iterable[str]) -> Raw:
    """The data set with cases of these names, anew; `finish` must follow."""
    folder, preprocessed = root / "raw" / NAME, root / "preprocessed" / NAME
    for old in (folder, preprocessed):
        shutil.rmtree(old, ignore_errors=True)
    made = Raw(folder, preprocessed / "splits_final.json")
    for case in cases:
        made.add(case)
    return made


@pytest.fixture
def raw(nnunet_folders, tmp_path) -> Callable[[Iterable[str]], Raw]:
    return partial(make_raw, tmp_path)


# --- what is planted ---


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * 0.8)])


def flip_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def set_pixdim(file: Path, value: float) -> None:
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into("<f", content, 80, value)
    file.write_bytes(gzip.compress(bytes(content)))


def multiply(file: Path, factor: float) -> None:
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.float32) * np.float32(factor), image.affine), file)


def move(file: Path, **geometry: tuple[float, ...]) -> None:
    image = sitk.ReadImage(str(file))
    for name, value in geometry.items():
        getattr(image, f"Set{name}")(value)
    sitk.WriteImage(image, str(file))


def fill(file: Path, place: object, value: float) -> None:
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    array[place] = value
    filled = sitk.GetImageFromArray(array)
    filled.CopyInformation(image)
    sitk.WriteImage(filled, str(file))


def crop(file: Path, slices: int) -> None:
    image = sitk.ReadImage(str(file))
    sitk.WriteImage(image[:, :, :slices], str(file))


def volumes(file: Path, *arrays: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(np.stack(arrays, -1), nibabel.load(file).affine), file)


def turn(raw: Raw, case: str) -> None:
    for file in raw.files(case):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS"), str(file))


def each(files: list[Path], change: Callable[..., None], *arguments: object, **named: object) -> None:
    for file in files:
        change(file, *arguments, **named)


def set_key(key: str, value: object) -> Callable[[Raw, str], None]:
    return lambda raw, case: raw.description.__setitem__(key, value)


def drop_key(key: str) -> Callable[[Raw, str], object]:
    return lambda raw, case: raw.description.pop(key)


COLOUR = np.zeros((SIDE, SIDE, SIDE, 3), np.uint8)
NOISE = np.random.default_rng(5).normal(size=(SIDE,) * 3).astype(np.float32)

# by name: what plants it in a case, its mark, and what its line must say; CASE stands for the case's name
IN_CASE = {
    "cut image": (lambda raw, case: cut(raw.image(case, 1)), "FAIL", "CASE.*CASE_0001.nii.gz.*damaged"),
    "flipped byte": (lambda raw, case: flip_byte(raw.image(case)), "FAIL", "CASE.*CASE_0000.nii.gz.*damaged"),
    "cut label map": (lambda raw, case: cut(raw.label(case)), "FAIL", "CASE.*labelsTr/CASE.nii.gz.*damaged"),
    "text": (lambda raw, case: raw.image(case).write_text("no image"), "FAIL", "CASE.*CASE_0000.nii.gz"),
    "empty file": (lambda raw, case: raw.label(case).write_bytes(b""), "FAIL", "CASE.*labelsTr/CASE.nii.gz"),
    "label origin": (
        lambda raw, case: move(raw.label(case), Origin=(18, 28, 36)),
        "FAIL",
        "CASE.*label map lies elsewhere",
    ),
    "label spacing": (
        lambda raw, case: move(raw.label(case), Spacing=(1, 1, 1)),
        "FAIL",
        "CASE.*label map lies elsewhere",
    ),
    "label direction": (
        lambda raw, case: move(raw.label(case), Direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
        "FAIL",
        "CASE.*label map lies elsewhere",
    ),
    "label shape": (lambda raw, case: crop(raw.label(case), 10), "FAIL", "CASE.*different numbers of voxels.*10"),
    "channel origin": (
        lambda raw, case: move(raw.image(case, 1), Origin=(18, 28, 36)),
        "FAIL",
        "CASE.*channels.*CASE_0001",
    ),
    "channel shape": (lambda raw, case: crop(raw.image(case, 1), 10), "FAIL", "CASE.*channels.*CASE_0001"),
    "turned image": (turn, "note", "CASE.*turned.*SimpleITKIOWithReorient"),
    "two time points": (lambda raw, case: volumes(raw.image(case), NOISE, NOISE), "FAIL", "CASE.*2 (volumes|time)"),
    "colours": (
        lambda raw, case: write(raw.image(case), COLOUR, vector=True),
        "FAIL",
        "CASE.*CASE_0000.*3 components per voxel",
    ),
    "label map of two volumes": (
        lambda raw, case: volumes(raw.label(case), labels(), labels()),
        "FAIL",
        "CASE.*label map.*2 (volumes|time)",
    ),
    "2-D image": (lambda raw, case: write(raw.image(case), NOISE[0]), "FAIL", "CASE.*CASE_0000.*2 axes"),
    "scaled labels": (lambda raw, case: multiply(raw.label(case), 0.9961), "FAIL", "CASE.*whole numbers.*0.9961"),
    "half labels": (lambda raw, case: multiply(raw.label(case), 0.5), "FAIL", "CASE.*whole numbers.*0.5"),
    "unknown label": (lambda raw, case: fill(raw.label(case), (0, 0, 0), 7), "FAIL", "CASE.*dataset.json lacks.*7"),
    "no foreground": (lambda raw, case: fill(raw.label(case), ..., 0), "note", "CASE.*no voxel.*foreground"),
    "no background": (lambda raw, case: fill(raw.label(case), labels() == 0, 2), "note", "CASE.*no voxel.*background"),
    "nothing in the image": (
        lambda raw, case: each(raw.files(case)[:2], fill, ..., 0),
        "FAIL",
        "CASE.*same value",
    ),
    "thin volume": (lambda raw, case: each(raw.files(case), crop, 6), "note", "CASE.*fewer than 8.*6 x 12 x 12"),
    "no size of voxels": (
        lambda raw, case: each(raw.files(case), set_pixdim, 0),
        "FAIL",
        "CASE.*no usable size of voxels.*0.0",
    ),
    "no label map": (lambda raw, case: raw.label(case).unlink(), "FAIL", "CASE.*no label map"),
    "no image": (
        lambda raw, case: each(raw.files(case)[:2], Path.unlink),
        "note",
        "CASE.*label map has no image",
    ),
    "missing channel": (lambda raw, case: raw.image(case, 1).unlink(), "FAIL", "CASE.*channel.*missing.*_0001"),
    "surplus channel": (
        lambda raw, case: shutil.copy(raw.image(case), raw.image(case, 2)),
        "FAIL",
        "CASE.*channel.*lacks.*_0002",
    ),
    "many surplus channels": (
        lambda raw, case: [shutil.copy(raw.image(case), raw.image(case, channel)) for channel in range(2, 40)],
        "FAIL",
        "CASE.*channel.*lacks.*_0021 and 18 more",
    ),
    "no channel": (
        lambda raw, case: shutil.copy(raw.image(case), raw.image(case).with_name(f"{case}{ENDING}")),
        "FAIL",
        "imagesTr/CASE.nii.gz.*no number of a channel",
    ),
    "hidden file": (
        lambda raw, case: raw.image(f"._{case}").write_bytes(b"\0"),
        "FAIL",
        r"imagesTr/\._CASE_0000.nii.gz.*hidden",
    ),
    "other ending": (
        lambda raw, case: raw.image(case).with_name(f"{case}_0000.mha").touch(),
        "note",
        "CASE_0000.mha.*leaves it out",
    ),
    "name of a preprocessed label map": (
        lambda raw, case: raw.rename(case, f"{case}_seg"),
        "FAIL",
        "CASE_seg.*preprocessed label maps",
    ),
    "label map in another form of Unicode": (
        lambda raw, case: [
            file.rename(file.with_name(unicodedata.normalize(form, "é") + file.name))
            for file, form in zip(raw.files(case), ("NFC", "NFC", "NFD"))
        ],
        "FAIL",
        "éCASE.*other forms of Unicode",
    ),
    "reserved name": (lambda raw, case: raw.rename(case, f"{case}.nii"), "FAIL", r"CASE\.nii: the name ends in .nii"),
    "same name in capitals": (lambda raw, case: raw.add(case.upper()), "FAIL", "CASE.*upper and lower case"),
    "same name in unicode": (
        lambda raw, case: [raw.add(unicodedata.normalize(form, f"é{case}")) for form in ("NFC", "NFD")],
        "FAIL",
        "éCASE.*unicode",
    ),
    "damaged test image": (lambda raw, case: cut(raw.add_test(case)[0]), "FAIL", "imagesTs/CASE.*damaged"),
    "missing channel of a test image": (
        lambda raw, case: raw.add_test(case)[1].unlink(),
        "FAIL",
        "imagesTs/CASE.*channel.*missing.*_0001",
    ),
}
NOT_FINITE = {
    "infinite voxel": (
        lambda raw, case: raw.read_by_nibabel(fill, raw.image(case), (1, 1, 1), np.inf),
        "FAIL",
        "CASE.*infinite.*1 voxel",
    ),
    "NaN": (
        lambda raw, case: raw.read_by_nibabel(fill, raw.image(case, 1), (1, 1, slice(3)), np.nan),
        "FAIL",
        "CASE.*infinite.*3 voxel",
    ),
    "infinite test image": (
        lambda raw, case: raw.read_by_nibabel(fill, raw.add_test(case)[1], (0, 0, 0), np.inf),
        "FAIL",
        "imagesTs/CASE.*infinite",
    ),
}
IN_DESCRIPTION = {
    "no names of channels": (drop_key("channel_names"), "FAIL", 'dataset.json.*"channel_names" is missing'),
    "list of channels": (set_key("channel_names", ["T1", "T2"]), "FAIL", 'dataset.json.*"channel_names"'),
    "channels from 1": (set_key("channel_names", {"1": "T1", "2": "T2"}), "FAIL", 'dataset.json.*"channel_names"'),
    "no labels": (drop_key("labels"), "FAIL", 'dataset.json.*"labels" is missing'),
    "labels the old way": (set_key("labels", {"0": "background", "1": "core", "2": "rim"}), "FAIL", '"labels"'),
    "nested labels": (set_key("labels", {"background": 0, "core": {"x": [1]}}), "FAIL", '"labels".*core'),
    "labels without background": (set_key("labels", {"core": 1, "rim": 2}), "FAIL", '"labels".*background'),
    "gap between labels": (set_key("labels", {"background": 0, "core": 1, "rim": 3}), "FAIL", '"labels".*gaps'),
    "no ending": (drop_key("file_ending"), "FAIL", '"file_ending" is missing'),
    "another ending": (set_key("file_ending", ".nrrd"), "FAIL", "no image ends in.*.nrrd.*.nii.gz"),
    "ending without dot": (set_key("file_ending", "nii.gz"), "FAIL", '"file_ending".*dot'),
    "wrong number of cases": (set_key("numTraining", 99), "note", '"numTraining" is 99'),
    "number of cases as text": (set_key("numTraining", "4"), "FAIL", '"numTraining"'),
    "order of regions": (set_key("regions_class_order", "1, 2"), "FAIL", '"regions_class_order"'),
    "unknown reader": (set_key("overwrite_image_reader_writer", "NoSuchIO"), "note", "NoSuchIO"),
    "two files of folds": (
        lambda raw, case: raw.set_folds(
            lambda cases: [{"train": cases[1:], "val": cases[:1]}],
            lambda cases: [{"train": cases[:1], "val": cases[1:]}],
        ),
        "FAIL",
        "splits_final.json.*hold different folds",
    ),
    "folds of absent cases": (
        lambda raw, case: raw.set_folds(lambda cases: [{"train": cases, "val": ["ghost"]}]),
        "FAIL",
        "splits_final.json.*ghost",
    ),
    "empty fold": (
        lambda raw, case: raw.set_folds(lambda cases: [{"train": cases, "val": []}]),
        "FAIL",
        "splits_final.json.*val",
    ),
    "folds of numbers": (lambda raw, case: raw.set_folds(lambda cases: [{"train": 3}]), "FAIL", "splits_final.json"),
    "incomplete folds": (
        lambda raw, case: raw.set_folds(lambda cases: [{"train": cases[2:], "val": cases[:1]}]),
        "note",
        "splits_final.json.*leaves out 1",
    ),
}
EVERYWHERE = {
    "a label that never occurs": (
        lambda raw: raw.description["labels"].update({"third": 3}),
        "note",
        "label third: no label map",
    ),
    "no foreground at all": (
        lambda raw: [fill(raw.label(case), ..., 0) for case in "abc"],
        "FAIL",
        "label maps: none holds foreground",
    ),
    "small voxels": (
        lambda raw: [each(raw.files(case), move, Spacing=(0.05, 0.05, 0.1)) for case in "abc"],
        "note",
        "images: Voxels of 1 mm.*0.1 x 0.05 x 0.05 mm",
    ),
    "voxels in metres": (
        lambda raw: [each(raw.files(case), move, Spacing=(0.0015, 0.0015, 0.002)) for case in "b"],
        "FAIL",
        "images: Voxels of 1 x 1 x 1 mm are too large: b has",
    ),
    "lost headers": (
        lambda raw: [each(raw.files(case), move, Spacing=(1, 1, 1), Origin=(0, 0, 0)) for case in "abc"],
        "note",
        r"3 cases \(a, b, c\): .*1 x 1 x 1 mm",
    ),
    "one lost header": (
        lambda raw: each(raw.files("b"), move, Spacing=(1, 1, 1), Origin=(0, 0, 0)),
        "note",
        "b: .*1 x 1 x 1 mm",
    ),
    "negative size of voxels": (
        lambda raw: [each(raw.files(case), set_pixdim, -1.5) for case in "abc"],
        "FAIL",
        "3 cases.*no usable size of voxels.*-1.5",
    ),
    "no cases": (lambda raw: [f.unlink() for f in raw.folder.rglob("*.nii.gz")], "FAIL", "there is no image .*_0000"),
    "flat volumes": (lambda raw: [each(raw.files(case), crop, 1) for case in "abc"], "FAIL", "images: they are 2-D"),
    "shared fault": (
        lambda raw: [flip_byte(raw.label(case)) for case in "ac"],
        "FAIL",
        r"2 cases \(a, c\): .*labelsTr/a.nii.gz",
    ),
}


# --- what is found ---


def pattern(mark: str, words: str, case: str) -> re.Pattern:
    return re.compile(rf"\[ *{mark} *\] .*{words.replace('CASE', case)}", re.IGNORECASE)


def lines(faults: list[Fault]) -> list[str]:
    return [unicodedata.normalize("NFC", str(line)) for line in findings(faults)]


def test_clean(raw):
    raw("abc").finish()
    done = CliRunner().invoke(cli.app, ["doctor", "77"])
    assert (done.exit_code, done.stdout) == (0, f"no fault found: {NAME}, 3 training cases\n")


def code(name: str) -> str:
    """The case in which a fault is planted."""
    return f"case{sorted(IN_CASE).index(name):02}"


@pytest.fixture(scope="module", params=["SimpleITKIO", "NibabelIO"])
def all_faults_at_once(request, tmp_path_factory) -> list[Fault]:
    """What is found with a reader where each fault is planted in a case of its own."""
    root = tmp_path_factory.mktemp("all")
    made = make_raw(root, [*map(code, IN_CASE), *"abc"])
    made.description["overwrite_image_reader_writer"] = request.param
    for name, (plant, _, _) in IN_CASE.items():
        plant(made, code(name))
    made.finish()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed"):
            patch.setenv(f"nnUNet_{name}", str(root / name))
        return check_dataset("77").faults


@pytest.mark.parametrize("name", IN_CASE)
def test_one_fault_in_a_case(all_faults_at_once, name):
    _, mark, words = IN_CASE[name]
    (line,) = lines([fault for fault in all_faults_at_once if code(name) in fault.subject.lower()])
    assert pattern(mark, words, code(name)).match(line), line
    assert " -> " in line and "\n" not in line


def test_healthy_cases_beside_faulty_ones(all_faults_at_once):
    assert all("case" in fault.subject.lower() for fault in all_faults_at_once)


@pytest.mark.parametrize("name", ["cut image", "thin volume", *NOT_FINITE])
def test_exit_code(raw, name):
    plant, mark, words = (IN_CASE | NOT_FINITE)[name]
    made = raw("ax")
    plant(made, "x")
    made.finish()
    done = CliRunner().invoke(cli.app, ["doctor", "77"])
    assert done.exit_code == (mark == "FAIL")
    assert [bool(pattern(mark, words, "x").match(line)) for line in done.stdout.splitlines()] == [True]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_itk_hides(raw, value):
    made = raw("abc")
    fill(made.image("b", 1), (1, 1, slice(3)), value)
    made.finish()
    report = check_dataset("77")
    (line,) = lines(report.faults)
    assert re.match(r"\[note\] b: .*infinite.*ITK reads as 0 \(3 voxel", line)
    assert report.usable


REFUSED_BY_NNUNET = [
    *("text", "colours", "two time points", "label shape", "label spacing", "channel shape", "unknown label"),
    *("scaled labels", "no label map", "missing channel", "surplus channel", "hidden file", "NaN"),
]


@pytest.mark.parametrize("name", REFUSED_BY_NNUNET)
def test_what_nnunets_own_check_refuses(raw, verify, name):
    made = raw("ax")
    (IN_CASE | NOT_FINITE)[name][0](made, "x")
    made.finish()
    with pytest.raises((Exception, SystemExit)):
        verify(made.folder)
    assert not check_dataset("77").usable


@pytest.mark.parametrize("name", IN_DESCRIPTION)
def test_one_fault_in_the_description(raw, name):
    plant, mark, words = IN_DESCRIPTION[name]
    made = raw("abc")
    plant(made, "")
    made.finish()
    checked = check_dataset("77")
    (line,) = lines(checked.faults)
    assert pattern(mark, words, "").match(line), line
    assert " -> " in line and "\n" not in line
    assert checked.usable == (mark == "note")


@pytest.mark.parametrize("name", EVERYWHERE)
def test_fault_of_the_whole_set(raw, name):
    plant, mark, words = EVERYWHERE[name]
    made = raw("abc")
    plant(made)
    made.finish()
    checked = check_dataset("77")
    assert len([line for line in lines(checked.faults) if pattern(mark, words, "").match(line)]) == 1
    assert checked.usable == (mark == "note")


@given(
    st.lists(st.sampled_from(sorted(IN_CASE | NOT_FINITE)), min_size=2, max_size=6, unique=True),
    st.lists(st.sampled_from(sorted(IN_DESCRIPTION)), max_size=1),
)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_faults_do_not_hide_each_other(raw, in_cases, in_description):
    cases = {name: f"case{number}" for number, name in enumerate(in_cases)}
    made = raw([*cases.values(), *"abcdef"])
    for name, case in cases.items():
        (IN_CASE | NOT_FINITE)[name][0](made, case)
    for name in in_description:
        IN_DESCRIPTION[name][0](made, "")
    made.finish()
    if any("labels" in name for name in in_description):
        cases.pop("unknown label", None)  # nothing tells which labels are known
    faults = check_dataset("77").faults
    found = {name: (mark, words) for name, (_, mark, words) in (IN_CASE | NOT_FINITE).items()}
    if "unknown reader" in in_description:  # ITK reads the image then
        found |= {
            name: ("note", words.replace("infinite", "infinite.*ITK")) for name, (_, _, words) in NOT_FINITE.items()
        }
    planted = [pattern(*found[name], case) for name, case in cases.items()]
    planted += [pattern(*IN_DESCRIPTION[name][1:], "") for name in in_description]
    each_line = [line for fault in faults for line in lines([fault])]
    for one in planted:
        assert any(map(one.match, each_line)), (one, each_line)
    for line in each_line:
        assert any(one.match(line) for one in planted), line
    shown = lines(faults)
    assert len(shown) == len(set(shown)) <= len(planted)
    assert [line.startswith("[FAIL]") for line in shown] == sorted(
        (x.startswith("[FAIL]") for x in shown), reverse=True
    )


# --- other data sets ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "no JSON object"),
        ("{", "line 1"),
        ('{"labels": [[]], "channel_names": 3, "file_ending": null, "numTraining": {}, "dataset": [1]}', "labels"),
        ('{"labels": {"background": 0, "a": 1}, "dataset": {"a": 5}}', "dataset"),
        ("\0\1", "dataset.json"),
    ],
)
def test_hostile_descriptions_hide_no_other_fault(raw, text, words):
    made = raw("abc")
    flip_byte(made.label("b"))
    made.finish()
    (made.folder / "dataset.json").write_text(text)
    done = CliRunner().invoke(cli.app, ["doctor", "77"])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert re.search(rf"\[FAIL\] dataset.json: .*{words}", done.stdout)
    assert "b: a file is damaged" in done.stdout


def test_no_file_is_an_image(raw, capfd):
    made = raw("abc")
    for file in made.folder.rglob("*.nii.gz"):
        file.write_text("<html>404</html>")
    made.finish()
    shown = lines(check_dataset("77").faults)
    assert [line.split(": ", 1)[1].split(" (")[0] for line in shown] == [
        "the image can't be read",
        "the label map can't be read",
    ]
    assert all("3 cases (a, b, c)" in line for line in shown)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", [b"line\nbreak", b"latin\xfc"])
def test_names_that_nothing_can_print(raw, name, capfd):
    made = raw("abc")
    made.rename("b", os.fsdecode(name))
    made.finish()
    done = CliRunner().invoke(cli.app, ["doctor", "77"])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    (line,) = [line for line in done.stdout.splitlines() if "the name holds a line break" in line]
    assert line.startswith(("[FAIL] line break: ", "[FAIL] latin\\udcfc: "))
    assert "Traceback" not in "".join(capfd.readouterr())


def test_no_such_data_set(nnunet_folders):
    with pytest.raises(SAM3DError, match="77"):
        check_dataset("77")
    with pytest.raises(SAM3DError, match="no data set .*Dataset077_Some"):
        check_dataset("Dataset077_Some")


def test_without_preprocessed(raw, monkeypatch):
    raw("abc").finish()
    monkeypatch.delenv("nnUNet_preprocessed")
    assert check_dataset("77").faults == []


def test_listed_files(raw):
    made = raw("abc")
    made.finish()
    content = json.loads((made.folder / "dataset.json").read_text())
    for part in ("imagesTr", "labelsTr"):
        (made.folder / part).rename(made.folder / f"other_{part}")
    content["dataset"] = {
        case: {
            "images": [f"other_imagesTr/{case}_{channel:04}{ENDING}" for channel in (0, 1)],
            "label": f"other_labelsTr/{case}{ENDING}",
        }
        for case in "abc"
    }
    (made.folder / "dataset.json").write_text(json.dumps(content))
    assert check_dataset("77").faults == []
    (made.folder / f"other_labelsTr/b{ENDING}").unlink()
    flip_byte(made.folder / f"other_imagesTr/c_0001{ENDING}")
    shown = lines(check_dataset("77").faults)
    assert [line.split(" (")[0].split(" ->")[0] for line in shown] == [
        "[FAIL] b: the image has no label map",
        "[FAIL] c: a file is damaged",
    ]


def test_tiff(raw):
    """The spacing of TIFF is beside the image; the label map needs none."""
    made = raw("")
    made.description |= {"file_ending": ".tif", "channel_names": {"0": "EM"}, "numTraining": 3}
    for shift, case in enumerate("abc"):
        tifffile.imwrite(made.folder / f"imagesTr/{case}_0000.tif", NOISE + shift)
        tifffile.imwrite(made.folder / f"labelsTr/{case}.tif", labels())
        (made.folder / f"imagesTr/{case}.json").write_text('{"spacing": [2, 1.5, 1.5]}')
    made.finish()
    assert check_dataset("77").faults == []
    (made.folder / "labelsTr/b.json").write_text('{"spacing": [5, 1, 1]}')
    cut(made.folder / "imagesTr/c_0000.tif")
    shown = lines(check_dataset("77").faults)
    assert [line.split(" (")[0] for line in shown] == [
        "[FAIL] b: by its header, the label map lies elsewhere than the image; nnU-Net pairs their voxels all the same",
        "[FAIL] c: a file is damaged",
    ]


def test_folds_that_nnunet_trains_all_the_same(raw):
    made = raw("abc")
    made.set_folds(lambda cases: [{"train": [*cases, "a"], "val": ["b"]}])
    made.finish()
    shown = lines(check_dataset("77").faults)
    assert [line.split(": ", 2)[2] for line in shown if "validates" in line or "several" in line] == [
        "fold 0 validates on what it trains on: 1 case(s): b -> "
        "correct it, unless it is meant; nnU-Net trains all the same",
        'fold 0 names several times in "train": 1 case(s): a -> '
        "correct it, unless it is meant; nnU-Net trains all the same",
    ]
    assert all(line.startswith("[note]") for line in shown)


def fold(train: str, val: str) -> dict[str, list[str]]:
    return {"train": [*train], "val": [*val]}


APART, TOGETHER = (
    ", so one may be trained on and another measured -> remove",
    "image -> remove all but one, unless it is meant",
)


@pytest.mark.parametrize(
    "folds, mark, words",
    [
        (None, "FAIL", APART),  # nnU-Net will draw them
        ([fold("ac", "b"), fold("b", "ac")], "FAIL", APART),
        ([fold("ab", "c"), fold("c", "ab")], "note", TOGETHER),
    ],
)
def test_cases_with_the_same_image(raw, folds, mark, words):
    made = raw("abcd")
    for channel in (0, 1):
        shutil.copy(made.image("a", channel), made.image("b", channel))
    shutil.copy(made.image("a", 0), made.image("d", 0))  # only one of two channels
    if folds is not None:
        made.set_folds(lambda cases: [{**each, "train": [*each["train"], "d"]} for each in folds])
    made.finish()
    (line,) = lines(check_dataset("77").faults)
    assert line.startswith(f"[{mark}] a: the cases a, b have the same image") and words in line


def test_each_pair_with_the_same_image_is_named(raw):
    made = raw("abcd")
    for one, other in ("ab", "cd"):
        for channel in (0, 1):
            shutil.copy(made.image(one, channel), made.image(other, channel))
    made.finish()
    assert [line[: line.index(" have")] for line in lines(check_dataset("77").faults)] == [
        "[FAIL] a: the cases a, b",
        "[FAIL] c: the cases c, d",
    ]


def test_listed_cases_without_images_do_not_share_one(raw):
    made = raw("ab")
    made.finish()
    content = json.loads((made.folder / "dataset.json").read_text())
    content["dataset"] = {c: {"images": ["gone"], "label": f"labelsTr/{c}{ENDING}"} for c in "ab"}
    (made.folder / "dataset.json").write_text(json.dumps(content))
    assert not [fault for fault in check_dataset("77").faults if "same image" in fault.found]


def test_test_cases_with_the_same_image(raw):
    """Between each other they are a note, unless one is a training case."""
    made = raw("ab")
    files = [made.add_test(case) for case in "xyz"]
    for channel in (0, 1):
        shutil.copy(files[0][channel], files[1][channel])
        shutil.copy(made.image("b", channel), files[2][channel])
    made.set_folds(lambda cases: [fold("a", "b"), fold("b", "a")])
    made.finish()
    assert lines(check_dataset("77").faults) == [
        "[FAIL] b: the cases b, imagesTs/z have the same image, so one may be trained on and another measured -> "
        "remove it from imagesTr or imagesTs",
        "[note] imagesTs/x: the cases imagesTs/x, imagesTs/y have the same image -> "
        "remove all but one, unless it is meant",
    ]


def test_reader_that_turns_images(raw):
    """Then files may lie in any way, and a label map other than its image."""
    made = raw("abc")
    made.description["overwrite_image_reader_writer"] = "SimpleITKIOWithReorient"
    turn(made, "a")
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(made.label("b"))), "PIR"), str(made.label("b")))
    made.finish()
    assert check_dataset("77").faults == []


def test_sheared_image(raw):
    """ITK refuses it; if the first image is sheared, nnU-Net reads the whole data set by nibabel."""
    made = raw("abc")
    image = nibabel.load(made.image("b"))
    sheared = image.affine.copy()
    sheared[0, 1] = 0.4
    each(made.files("b"), lambda file: nibabel.save(nibabel.Nifti1Image(nibabel.load(file).get_fdata(), sheared), file))
    made.finish()
    faults = check_dataset("77").faults
    assert {(fault.subject, fault.found) for fault in faults} == {
        ("b", "the image can't be read"),
        ("b", "the label map can't be read"),
    }
    assert "orthonormal" in lines(faults)[0]
    made.rename("b", "0")
    made.finish()
    assert check_dataset("77").faults == []


def test_real_data(small_hippocampus):
    """Five of its cases have headers of 1 x 1 x 1 mm at the origin, and all others voxels of 1 mm, too."""
    assert check_dataset("4").faults == []


@pytest.mark.parametrize(
    "error, first",
    [
        (
            "The file /a/Dr. Smith/raw/x.nii.gz is damaged. Fetch it again.",
            "The file /a/Dr. Smith/raw/x.nii.gz is damaged",
        ),
        (r"C:\Dr. Smith\x is damaged. nnU-Net can't read it.", r"C:\Dr. Smith\x is damaged"),
        ("Voxels of 0.5 mm are too small. Choose others.", "Voxels of 0.5 mm are too small"),
        ("Nothing else.", "Nothing else"),
    ],
)
def test_first_sentence(error, first):
    assert first_sentence(error) == first
