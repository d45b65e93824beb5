import json

import numpy as np
import pytest
import SimpleITK as sitk

from sam3d_nnunet.demo.phantom import Ellipsoid, make_phantom, read_manifest, world_grid

COUNT = 6


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, seed=3, count=COUNT)
    return folder


def load(folder, case):
    image = sitk.ReadImage(str(folder / "imagesTr" / f"{case}_0000.nii.gz"))
    truth = sitk.ReadImage(str(folder / "labelsTr" / f"{case}.nii.gz"))
    return image, sitk.GetArrayFromImage(image), truth, sitk.GetArrayFromImage(truth)


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_seeded(phantom, tmp_path):
    make_phantom(tmp_path / "again", seed=3, count=COUNT)
    assert files(tmp_path / "again") == files(phantom)
    make_phantom(tmp_path / "other", seed=4, count=COUNT)
    assert files(tmp_path / "other").keys() == files(phantom).keys()
    assert files(tmp_path / "other")["labelsTr/phantom_000.nii.gz"] != files(phantom)["labelsTr/phantom_000.nii.gz"]


def test_layout_is_nnunets(phantom):
    content = json.loads((phantom / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "lesion": 1}
    assert content["numTraining"] == COUNT == len(read_manifest(phantom))
    assert len(list((phantom / "imagesTr").iterdir())) == len(list((phantom / "labelsTr").iterdir())) == COUNT


def test_image_and_label_map_fit(phantom):
    spacings = set()
    for case in read_manifest(phantom):
        image, _, truth, labels = load(phantom, case)
        for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            assert getattr(image, get)() == getattr(truth, get)()
        assert set(np.unique(labels)) == {0, 1}
        x, y, z = image.GetSpacing()
        assert x == pytest.approx(y) and z > 1.5 * x
        spacings.add(round(x, 4))
        assert all(40 < n * s < 70 for n, s in zip(image.GetSize(), image.GetSpacing()))
    assert len(spacings) == COUNT


def test_label_is_the_lesion_of_the_manifest(phantom):
    for name, case in read_manifest(phantom).items():
        _, _, truth, labels = load(phantom, name)
        np.testing.assert_array_equal(labels == 1, case.lesion.mask(world_grid(truth)))


def test_lookalike_is_equal_and_not_labelled(phantom):
    cases = read_manifest(phantom)
    pairs = {name: case for name, case in cases.items() if case.lookalike is not None}
    assert len(pairs) == COUNT // 2
    for name, case in pairs.items():
        lesion, lookalike = case.lesion, case.lookalike
        assert (lesion.radii, lesion.rotation) == (lookalike.radii, lookalike.rotation)
        image, voxels, _, labels = load(phantom, name)
        other = lookalike.mask(world_grid(image))
        assert other.any() and not labels[other].any()
        distance = np.linalg.norm(np.subtract(lesion.centre, lookalike.centre))
        assert 2 * max(lesion.radii) < distance < 21  # apart, yet patches of 32 mm often hold both
        means = [voxels[mask].mean() for mask in (labels == 1, other)]
        assert means[0] == pytest.approx(means[1], abs=25)  # up to the coarse grains of the texture
        assert other.sum() == pytest.approx(labels.sum(), rel=0.15)


def test_lesion_lies_on_either_side(tmp_path):
    make_phantom(tmp_path, seed=0, count=24)
    pairs = [case for case in read_manifest(tmp_path).values() if case.lookalike is not None]
    left = [case.lesion.centre[0] < case.lookalike.centre[0] for case in pairs]
    assert 0.2 < np.mean(left) < 0.8


def test_depth_of_an_ellipsoid():
    turned = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))  # by 90 degrees around z: x becomes y
    solid = Ellipsoid((10.0, 0.0, 0.0), (6.0, 2.0, 3.0), turned)
    points = np.array([[10.0, 0.0, 0.0], [10.0, 5.5, 0.0], [15.5, 0.0, 0.0], [10.0, 6.0, 0.0]])
    np.testing.assert_allclose(solid.depth(points)[[0, 3]], [2, 0], atol=1e-9)
    assert solid.mask(points)[:3].tolist() == [True, True, False]
