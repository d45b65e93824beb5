import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from helpers import read_array
from typer.testing import CliRunner

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets import target as link
from sam3d_nnunet.datasets.target import derive_target
from sam3d_nnunet.errors import SAM3DError


def describe(folder, **changes) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_one_label(small_hippocampus, nnunet_folders, verify):
    (small_hippocampus / "imagesTs").mkdir()
    test = small_hippocampus / "imagesTs/test_1_0000.nii.gz"
    shutil.copyfile(next((small_hippocampus / "imagesTr").iterdir()), test)
    done = derive_target("4", ["Posterior"], "40")
    assert done.folder == nnunet_folders.raw / "Dataset040_Hippocampus-Posterior"
    assert (done.cases, done.empty, done.linked, done.copied, done.splits) == (4, [], 5, 0, None)
    verify(done.folder)
    content = json.loads((done.folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "Posterior": 1}
    assert content["channel_names"] == {"0": "MRI"} and content["numTraining"] == 4
    for file in (small_hippocampus / "labelsTr").iterdir():
        new = done.folder / "labelsTr" / file.name
        assert (read_array(new) == (read_array(file) == 2)).all() and read_array(new).any()
        image = sitk.ReadImage(str(done.folder / "imagesTr" / file.name.replace(".nii", "_0000.nii")))
        label = sitk.ReadImage(str(new))
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert np.allclose(getattr(image, get)(), getattr(label, get)(), atol=1e-5)
    for part in ("imagesTr", "imagesTs"):
        for file in (small_hippocampus / part).iterdir():
            assert os.path.samefile(file, done.folder / part / file.name)
    assert [f.name for f in nnunet_folders.raw.iterdir() if f.name.startswith(".")] == []


def test_links_outlive_moves(small_hippocampus, tmp_path):
    done = derive_target("4", ["Anterior"], "40")
    image = next((done.folder / "imagesTr").iterdir())
    before = image.read_bytes()
    shutil.rmtree(small_hippocampus)
    done.folder.rename(tmp_path / "moved")
    assert (tmp_path / "moved/imagesTr" / image.name).read_bytes() == before


def test_several_labels_regions_and_ignore(nnunet_folders, write_dataset, verify):
    rng = np.random.default_rng(0)
    cases = {f"case_{n}": (rng.normal(size=(5, 6, 7)), rng.integers(0, 5, (5, 6, 7))) for n in range(2)}
    labels = {"background": 0, "organ": [1, 2, 3], "core": [2], "cyst": 3, "ignore": 4}
    more = {
        "regions_class_order": [1, 2, 3],
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "licence": "CC0",
    }
    folder = write_dataset(nnunet_folders.raw, "Dataset700_Some", cases, labels, (3.0, 1.0, 0.5), **more)
    for file in (folder / "labelsTr").iterdir():  # files that are not as the reader turns them
        for turned in (file, folder / "imagesTr" / file.name.replace(".nii", "_0000.nii")):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(turned)), "SAR"), str(turned))
    for number, names, values in [
        ("701", ["core", "cyst"], [2, 3]),
        ("702", ["organ"], [1, 2, 3]),
        ("703", ["core"], [2]),
    ]:
        done = derive_target("700", names, number)
        verify(done.folder)
        content = json.loads((done.folder / "dataset.json").read_text())
        assert content["labels"] == {"background": 0, " and ".join(names): 1, "ignore": 2}
        assert content["overwrite_image_reader_writer"] == "NibabelIOWithReorient" and content["licence"] == "CC0"
        assert "regions_class_order" not in content
        for case in cases:
            before, after = (sitk.ReadImage(str(f / "labelsTr" / f"{case}.nii.gz")) for f in (folder, done.folder))
            old, new = sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after)
            assert (new == np.where(old == 4, 2, np.isin(old, values))).all()
            assert np.allclose(before.GetDirection(), after.GetDirection())
            assert np.allclose(before.GetOrigin(), after.GetOrigin())


@pytest.fixture
def with_empty(small_hippocampus, nnunet_folders):
    """The first case has no posterior part; there are folds."""
    first, *others = sorted((small_hippocampus / "labelsTr").iterdir())
    image = sitk.ReadImage(str(first))
    sitk.WriteImage(sitk.Cast(image == 1, sitk.sitkUInt8), str(first))
    first, *others = (file.name.removesuffix(".nii.gz") for file in (first, *others))
    splits = [{"train": others[:2], "val": [first, others[2]]}, {"train": [first, others[2]], "val": others[:2]}]
    file = nnunet_folders.preprocessed / small_hippocampus.name / "splits_final.json"
    file.parent.mkdir()
    file.write_text(json.dumps(splits))
    return first, splits


def test_cases_without_the_target(with_empty, nnunet_folders, verify):
    first, splits = with_empty
    kept = derive_target("4", ["Posterior"], "40")
    assert kept.cases == 4 and kept.empty == [first] and "kept; --drop-empty" in kept.notes()[0]
    assert kept.splits == nnunet_folders.preprocessed / kept.folder.name / "splits_final.json"
    assert json.loads(kept.splits.read_text()) == [{p: sorted(f[p]) for p in ("train", "val")} for f in splits]
    verify(kept.folder)

    dropped = derive_target("4", ["Posterior"], "41", drop_empty=True)
    assert dropped.cases == 3 and dropped.empty == [first] and "left out: " + first in dropped.notes()[0]
    assert not list(dropped.folder.rglob(f"{first}*"))
    for old, new in zip(splits, json.loads(dropped.splits.read_text())):
        assert all(new[part] == sorted(set(old[part]) - {first}) for part in ("train", "val"))
    verify(dropped.folder)


def test_fold_that_would_be_empty(with_empty, nnunet_folders, small_hippocampus):
    first, (fold, _) = with_empty
    file = nnunet_folders.preprocessed / small_hippocampus.name / "splits_final.json"
    file.write_text(json.dumps([{"train": fold["train"], "val": [first]}]))
    with pytest.raises(SAM3DError, match='Fold 0 would hold no case in "val".*--drop-empty'):
        derive_target("4", ["Posterior"], "41", drop_empty=True)
    assert [folder.name for folder in nnunet_folders.raw.iterdir()] == [small_hippocampus.name]
    file.write_text(json.dumps([fold, {"train": fold["train"], "val": []}]))  # which the source's is, too
    assert json.loads(derive_target("4", ["Posterior"], "41", drop_empty=True).splits.read_text())[1]["val"] == []


def test_folds_beside_the_raw_data(with_empty, small_hippocampus, nnunet_folders):
    file = nnunet_folders.preprocessed / small_hippocampus.name / "splits_final.json"
    file.rename(small_hippocampus / file.name)
    assert derive_target("4", ["Anterior"], "40").splits.is_file()


def test_files_that_dataset_json_lists(small_hippocampus, nnunet_folders, verify):
    """Images may lie anywhere; derived, they lie where nnU-Net looks by itself."""
    elsewhere = nnunet_folders.raw.parent / "elsewhere"
    elsewhere.mkdir()
    listed = {}
    for n, label in enumerate(sorted((small_hippocampus / "labelsTr").iterdir())):
        image = small_hippocampus / "imagesTr" / label.name.replace(".nii", "_0000.nii")
        listed[f"case_{n}"] = {"images": [str(image.rename(elsewhere / f"{n}.nii.gz"))], "label": str(label)}
    describe(small_hippocampus, dataset=listed)
    done = derive_target("4", ["Anterior"], "40")
    assert done.cases == 4 and "dataset" not in json.loads((done.folder / "dataset.json").read_text())
    assert os.path.samefile(done.folder / "imagesTr/case_2_0000.nii.gz", elsewhere / "2.nii.gz")
    verify(done.folder)


@pytest.mark.parametrize("spoil", ["label", "image", "unreadable"])
def test_bad_case_leaves_nothing(small_hippocampus, nnunet_folders, spoil):
    part = "imagesTr" if spoil == "image" else "labelsTr"
    file = sorted((small_hippocampus / part).iterdir())[1]
    if spoil == "label":
        file.write_text("nothing")
    elif spoil == "image":
        file.unlink()
    else:
        file.unlink()
        file.mkdir()
    with pytest.raises(SAM3DError, match=f"1 of 4 case.*{file}"):
        derive_target("4", ["Anterior"], "40")
    assert [f.name for f in nnunet_folders.raw.iterdir()] == [small_hippocampus.name]


def test_files_that_a_link_would_spoil(small_hippocampus, nnunet_folders):
    """What nnU-Net reads where dataset.json lists it, but not under another ending or without its voxels."""
    images = sorted((small_hippocampus / "imagesTr").iterdir())
    for ending, message in ((".mha", "does not end in .nii.gz, as file_ending"), (".mhd", "lie in another file")):
        listing = {}
        for n, image in enumerate(images):
            file = small_hippocampus / f"listed_{n}{ending}"
            sitk.WriteImage(sitk.GetImageFromArray(read_array(image)), str(file))
            label = small_hippocampus / "labelsTr" / image.name.replace("_0000", "")
            listing[f"c{n}"] = {"images": [str(file)], "label": str(label)}
        told = {"file_ending": ending, "overwrite_image_reader_writer": "SimpleITKIO"} if ending == ".mhd" else {}
        describe(small_hippocampus, dataset=listing, **told)
        with pytest.raises(SAM3DError, match=message):
            derive_target("4", ["Anterior"], "40")
    assert [f.name for f in nnunet_folders.raw.iterdir()] == [small_hippocampus.name]


def test_wrong_arguments(small_hippocampus, monkeypatch):
    with pytest.raises(SAM3DError, match="has no label tumour, but Anterior, Posterior"):
        derive_target("4", ["tumour", "Anterior"], "40")
    with pytest.raises(SAM3DError, match="has no label background"):
        derive_target("4", ["background"], "40")
    with pytest.raises(SAM3DError, match="4 is taken by Dataset004"):
        derive_target("4", ["Anterior"], "4")
    describe(small_hippocampus, labels={"background": 0, "Anterior": 1, "Posterior": 2, "absent": 3})
    with pytest.raises(SAM3DError, match="No case of Dataset004_Hippocampus holds absent"):
        derive_target("4", ["absent"], "40")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(SAM3DError, match="nnUNet_preprocessed"):
        derive_target("4", ["Anterior"], "40")


def test_link_or_copy(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("content")
    (tmp_path / "alias").symlink_to("file")

    def refuse(*arguments):
        raise OSError("not on this file system")

    assert link.link_or_copy(tmp_path / "alias", tmp_path / "hard")
    assert not (tmp_path / "hard").is_symlink() and os.path.samefile(file, tmp_path / "hard")
    monkeypatch.setattr(link.os, "link", refuse)
    assert link.link_or_copy(tmp_path / "alias", tmp_path / "symbolic")
    assert os.readlink(tmp_path / "symbolic") == str(file)
    monkeypatch.setattr(link.os, "symlink", refuse)
    assert not link.link_or_copy(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content" and not os.path.samefile(file, tmp_path / "copy")


def test_command(with_empty):
    run = CliRunner().invoke
    done = run(cli.app, "dataset target -d 4 --label Anterior --label Posterior -o Dataset041_Both".split())
    assert done.exit_code == 0, done.output
    assert "4 training cases: " in done.output and "images: 4 linked, 0 copied" in done.output
    assert "splits_final.json" in done.output
    done = run(cli.app, "dataset target -d 4 --label Posterior -o 42".split())
    assert "1 case(s) without the target, kept" in done.output
