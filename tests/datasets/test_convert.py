import gzip
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets import sources
from sam3d_nnunet.datasets.convert import convert
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import PART
from sam3d_nnunet.processes import shared_lock


@pytest.fixture
def arrays():
    """Image and label map, with the values up to a given one."""
    rng = np.random.default_rng(0)

    def draw(largest: int) -> tuple[np.ndarray, np.ndarray]:
        label = rng.integers(0, largest + 1, (5, 6, 7)).astype(np.uint8)
        return rng.normal(0, 300, (5, 6, 7)).astype(np.int16), label

    return draw


@pytest.fixture
def msd(tmp_path, nnunet_folders, write_image, arrays):
    """A task with two channels in each file."""
    folder, names = tmp_path / "Task55_My_Task", ["some_001", "some_012"]
    for name in names:
        image, label = arrays(2)
        write_image(folder / f"imagesTr/{name}.nii.gz", np.stack([image, -image]))
        write_image(folder / f"labelsTr/{name}.nii.gz", label)
        (folder / f"imagesTr/._{name}.nii.gz").write_text("from macOS")
        (folder / f"labelsTr/._{name}.nii.gz").write_text("from macOS")
    write_image(folder / "imagesTs/some_002.nii.gz", np.stack([image, image]))
    content = {
        "name": "My Task",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/some_002.nii.gz"],
        "numTraining": 2,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def kits(tmp_path, nnunet_folders, write_image, arrays, monkeypatch):
    """Three cases, as if KiTS21 had no more."""
    monkeypatch.setattr(sources, "KITS21_CASES", [f"case_{n:05}" for n in range(3)])
    for n in range(3):
        image, label = arrays(3)
        write_image(tmp_path / f"kits/case_{n:05}/imaging.nii.gz", image)
        write_image(tmp_path / f"kits/case_{n:05}/aggregated_MAJ_seg.nii.gz", label)
        write_image(tmp_path / f"kits/case_{n:05}/aggregated_AND_seg.nii.gz", label * 0)
    return tmp_path / "kits"


@pytest.fixture
def lits(tmp_path, nnunet_folders, write_image, arrays, monkeypatch):
    """Three cases in two folders, as if LiTS17 had no more."""
    monkeypatch.setattr(sources, "LITS17_CASES", [f"volume-{n}" for n in range(3)])
    for n, (folder, ending) in enumerate([("Batch 1", ".nii"), ("Batch 2", ".nii.gz"), ("Batch 2", ".nii")]):
        image, label = arrays(2)
        write_image(tmp_path / f"lits/{folder}/volume-{n}{ending}", image)
        write_image(tmp_path / f"lits/{folder}/segmentation-{n}{ending}", label)
    write_image(tmp_path / "lits/test-volume-0.nii", image)
    return tmp_path / "lits"


def same(file, original) -> bool:
    """Whether two images have the same voxels at the same places."""
    one, other = sitk.ReadImage(str(file)), sitk.ReadImage(str(original))
    grids = [np.concatenate([i.GetSpacing(), i.GetOrigin(), i.GetDirection()]) for i in (one, other)]
    return np.allclose(*grids, atol=1e-5) and (sitk.GetArrayFromImage(one) == sitk.GetArrayFromImage(other)).all()


def files(folder) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_msd(msd, nnunet_folders, verify):
    done = convert(msd, "55", "msd")
    assert done.complete and done.cases == 2 and not done.failed and not done.notes
    assert done.folder == nnunet_folders.raw / "Dataset055_My-Task"
    names = [f"imagesTr/some_{n}_{c:04}.nii.gz" for n in ("001", "012") for c in (0, 1)]
    names += ["imagesTs/some_002_0000.nii.gz", "imagesTs/some_002_0001.nii.gz"]
    names += ["labelsTr/some_001.nii.gz", "labelsTr/some_012.nii.gz", "dataset.json"]
    assert files(done.folder) == sorted(names)
    assert json.loads((done.folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "name": "My Task",
        "licence": "CC-BY-SA 4.0",
    }
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(msd / "imagesTr/some_012.nii.gz")))
    for channel in (0, 1):
        image = sitk.ReadImage(str(done.folder / f"imagesTr/some_012_{channel:04}.nii.gz"))
        assert (sitk.GetArrayFromImage(image) == whole[channel]).all()
        assert np.allclose(image.GetOrigin(), (-20.0, 13.5, 7.0)) and np.allclose(image.GetSpacing(), (0.75, 1.0, 2.5))
        assert np.allclose(image.GetDirection(), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1), atol=1e-6)
    assert same(done.folder / "labelsTr/some_012.nii.gz", msd / "labelsTr/some_012.nii.gz")
    verify(done.folder)


def test_msd_as_nnunet_converts_it(msd, nnunet_folders):
    """Another implementation: nnU-Net's own, which takes folders with one underscore only."""
    from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti

    done = convert(msd, "55", "msd")
    theirs = nnunet_folders.raw / "theirs"
    theirs.mkdir()
    for name in ("some_001", "some_012"):
        split_4d_nifti(str(msd / f"imagesTr/{name}.nii.gz"), str(theirs))
    assert len(files(theirs)) == 4
    assert all(same(done.folder / "imagesTr" / file, theirs / file) for file in files(theirs))


def test_kits(kits, nnunet_folders, verify):
    done = convert(kits, "Dataset220_KiTS21", "kits")
    assert done.complete and done.folder == nnunet_folders.raw / "Dataset220_KiTS21"
    for n in range(3):
        case = f"case_{n:05}"
        assert same(done.folder / f"imagesTr/{case}_0000.nii.gz", kits / case / "imaging.nii.gz")
        assert same(done.folder / f"labelsTr/{case}.nii.gz", kits / case / "aggregated_MAJ_seg.nii.gz")
    content = json.loads((done.folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "kidney": 1, "tumour": 2, "cyst": 3}
    assert content["channel_names"] == {"0": "CT"}
    verify(done.folder)


def test_lits(lits, nnunet_folders, verify):
    done = convert(lits, "222", "lits")
    assert done.complete and done.folder == nnunet_folders.raw / "Dataset222_LiTS17"
    assert not (done.folder / "imagesTs").exists()
    for n, original in enumerate(["Batch 1/{}-0.nii", "Batch 2/{}-1.nii.gz", "Batch 2/{}-2.nii"]):
        assert same(done.folder / f"imagesTr/volume-{n}_0000.nii.gz", lits / original.format("volume"))
        assert same(done.folder / f"labelsTr/volume-{n}.nii.gz", lits / original.format("segmentation"))
    verify(done.folder)


def test_all_cases_of_the_data_sets_are_expected(tmp_path):
    (tmp_path / "case_00007").mkdir()
    (tmp_path / "case_00007/aggregated_MAJ_seg.nii.gz").touch()
    (tmp_path / "volume-130.nii").touch()
    assert len(sources.find_kits(tmp_path).training) == 300
    assert list(sources.find_lits(tmp_path).training) == [f"volume-{n}" for n in range(131)]


def cut(file) -> None:
    """Half a download."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def wrong_bytes(file) -> None:
    data = bytearray(gzip.decompress(file.read_bytes()))
    whole = bytearray(gzip.compress(bytes(data)))
    whole[len(whole) // 2] ^= 0xFF
    file.write_bytes(whole)


@pytest.mark.parametrize("part", ["imaging", "aggregated_MAJ_seg"])
@pytest.mark.parametrize("spoil", [cut, wrong_bytes, lambda f: f.unlink(), lambda f: f.write_text("nothing")])
def test_bad_file_and_another_attempt(kits, nnunet_folders, verify, spoil, part):
    file = kits / f"case_00001/{part}.nii.gz"
    whole = file.read_bytes()
    spoil(file)
    done = convert(kits, "220", "kits")
    assert not done.complete and done.cases == 2
    assert list(done.failed) == ["case_00001"] and str(file) in done.failed["case_00001"]
    assert [f.name for f in nnunet_folders.raw.iterdir()] == [".Dataset220_KiTS21.part"]
    finished = done.folder / "imagesTr/case_00002_0000.nii.gz"
    time = finished.stat().st_mtime_ns

    file.write_bytes(whole)
    done = convert(kits, "220", "kits")
    assert done.complete and done.cases == 3
    assert (done.folder / "imagesTr/case_00002_0000.nii.gz").stat().st_mtime_ns == time
    assert [f.name for f in nnunet_folders.raw.iterdir()] == ["Dataset220_KiTS21"]
    verify(done.folder)


def test_two_at_once(kits, nnunet_folders, verify):
    (kits / "case_00001/imaging.nii.gz").rename(kits / "later.nii.gz")
    folder = convert(kits, "220", "kits").folder
    left = folder / "labelsTr" / f"{PART}killed"
    left.mkdir()
    with shared_lock(folder), pytest.raises(SAM3DError, match="Another process is converting"):
        convert(kits, "220", "kits")
    assert left.is_dir()
    (kits / "later.nii.gz").rename(kits / "case_00001/imaging.nii.gz")
    done = convert(kits, "220", "kits")
    assert done.complete and json.loads((done.folder / "dataset.json").read_text())["numTraining"] == 3
    assert not (done.folder / "labelsTr" / left.name).exists()


def test_without_a_case(kits, verify):
    cut(kits / "case_00001/imaging.nii.gz")
    done = convert(kits, "220", "kits", allow_missing=True)
    assert done.complete and list(done.failed) == ["case_00001"]
    assert json.loads((done.folder / "dataset.json").read_text())["numTraining"] == 2
    verify(done.folder)


def test_unfinished_conversion_from_elsewhere(kits, tmp_path):
    shutil.copytree(kits, tmp_path / "other")
    (kits / "case_00001/imaging.nii.gz").unlink()
    assert not convert(kits, "220", "kits").complete
    with pytest.raises(SAM3DError, match=r"\.Dataset220_KiTS21\.part"):
        convert(tmp_path / "other", "220", "kits")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"array": np.zeros((5, 6, 8), np.uint8)}, r"has \(8, 6, 5\) voxels, its image .* \(7, 6, 5\)"),
        ({"array": np.full((5, 6, 7), 9, np.uint8)}, "values without a meaning: 9"),
        ({"array": np.full((5, 6, 7), 0.5, np.float32)}, "holds 0.5 at voxel"),
        ({"array": np.zeros((2, 5, 6, 7), np.uint8)}, "has 2 time points"),
        ({"origin": (-20.0, 13.5, 7.5)}, "origin is .* 7.5. .*a corner is 0.2 voxels away.*--ignore-label-geometry"),
        ({"spacing": (0.75, 1.0, 3.0)}, "spacing is .0.75, 1, 3. .*a corner is .* voxels away"),
    ],
)
def test_label_map_that_does_not_fit(kits, write_image, change, message):
    label = kits / "case_00001/aggregated_MAJ_seg.nii.gz"
    write_image(label, **{"array": np.zeros((5, 6, 7), np.uint8)} | change)
    done = convert(kits, "220", "kits")
    assert not done.complete and re.search(message, done.failed["case_00001"])


@pytest.mark.parametrize("shift, ignore", [(0.01, False), (30.0, True)])
def test_label_map_gets_the_geometry_of_its_image(kits, write_image, arrays, verify, shift, ignore):
    label, values = kits / "case_00001/aggregated_MAJ_seg.nii.gz", arrays(3)[1]
    write_image(label, values, origin=(-20.0, 13.5, 7.0 + shift))
    done = convert(kits, "220", "kits", ignore_label_geometry=ignore)
    assert done.complete
    written = sitk.ReadImage(str(done.folder / "labelsTr/case_00001.nii.gz"))
    image = sitk.ReadImage(str(done.folder / "imagesTr/case_00001_0000.nii.gz"))
    assert (sitk.GetArrayFromImage(written) == values).all()
    assert np.allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-5)
    assert np.allclose(written.GetDirection(), image.GetDirection(), atol=1e-5)
    verify(done.folder)


def test_scaled_label_map_gets_whole_numbers(kits, write_image, arrays, verify):
    values = arrays(3)[1]
    write_image(kits / "case_00001/aggregated_MAJ_seg.nii.gz", (values * 0.997).astype(np.float32))
    done = convert(kits, "220", "kits")
    written = sitk.ReadImage(str(done.folder / "labelsTr/case_00001.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(written), values)
    verify(done.folder)


def test_lost_geometry_is_noted(kits, arrays):
    image, label = arrays(3)
    sitk.WriteImage(sitk.GetImageFromArray(image), str(kits / "case_00002/imaging.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(label), str(kits / "case_00002/aggregated_MAJ_seg.nii.gz"))
    done = convert(kits, "220", "kits")
    assert done.complete and len(done.notes) == 1
    assert "1 image(s)" in done.notes[0] and "case_00002" in done.notes[0]


def test_wrong_number_of_channels(msd, kits, write_image):
    colours = sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(kits / "case_00001/imaging.nii.gz"))
    assert "3 numbers per voxel" in convert(kits, "220", "kits").failed["case_00001"]
    write_image(msd / "imagesTr/some_001.nii.gz", np.zeros((5, 6, 7), np.int16))
    assert "has 1 channel(s), the data set 2" in convert(msd, "55", "msd").failed["some_001"]


def test_wrong_sources(msd, kits, lits, tmp_path, monkeypatch):
    for folder, layout, message in [
        (tmp_path / "none", "msd", "There is no folder"),
        (kits, "msd", "kits/dataset.json.*Decathlon"),
        (msd, "kits", "holds no case_00000"),
        (kits, "lits", "hold no volume-0.nii"),
    ]:
        with pytest.raises(SAM3DError, match=message):
            convert(folder, "300", layout)
    (lits / "Batch 1/volume-1.nii").touch()
    with pytest.raises(SAM3DError, match="volume-1 is there twice"):
        convert(lits, "300", "lits")
    for case in kits.iterdir():
        (case / "aggregated_MAJ_seg.nii.gz").rename(case / "segmentation.nii.gz")
    with pytest.raises(SAM3DError, match="not the files of KiTS21"):
        convert(kits, "300", "kits")
    for broken in ("{", "[]", '{"labels": {}}', '{"modality": {}, "labels": {"1": "a"}, "training": []}'):
        (msd / "dataset.json").write_text(broken)
        with pytest.raises(SAM3DError, match="dataset.json"):
            convert(msd, "300", "msd")
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SAM3DError, match="nnUNet_raw"):
        convert(msd, "300", "msd")


@pytest.mark.parametrize(
    "name", ["0", "1000", "-1", "x", "Dataset22_A", "Dataset000_A", "Dataset220", "Dataset220_a/b"]
)
def test_wrong_names(kits, name):
    with pytest.raises(SAM3DError, match="1 to 999"):
        convert(kits, name, "kits")


def test_id_that_is_taken(kits, nnunet_folders):
    (nnunet_folders.results / "Dataset220_Old").mkdir()
    with pytest.raises(SAM3DError, match="220 is taken by Dataset220_Old"):
        convert(kits, "220", "kits")


def test_command(kits):
    run = CliRunner().invoke
    (kits / "case_00001/imaging.nii.gz").rename(kits / "elsewhere")
    command = ["dataset", "convert", str(kits), "-d", "220", "--layout", "kits"]
    done = run(cli.app, command)
    assert done.exit_code == 1
    assert re.search("case_00001: There is no .*", done.output)
    assert "Error: 1 case(s) failed. 2 are in " in done.output and "--allow-missing" in done.output
    (kits / "elsewhere").rename(kits / "case_00001/imaging.nii.gz")
    done = run(cli.app, command)
    assert done.exit_code == 0 and "3 training cases: " in done.output
    done = run(cli.app, command)
    assert "is taken" in str(done.exception)


def test_help_names_what_the_paper_used():
    text = " ".join(CliRunner().invoke(cli.app, ["dataset", "convert", "--help"]).output.split())
    for words in ("281 cases", "126 cases", "all 300 cases", "aggregated_MAJ_seg.nii.gz", "the 118 with a tumour"):
        assert words in text
