"""A click saved as markups of 3D Slicer names the same voxel for ITK, on real images."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from data_fixtures import DATA
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.slicer_markups import to_markups

IMAGES = {
    "images/brain_1.nrrd": [SimpleITKIO],  # MR, 0.78 x 0.78 x 6.5 mm
    "images/brain_2.nrrd": [SimpleITKIO],
    "images/ct.nii.gz": [SimpleITKIO, NibabelIO, NibabelIOWithReorient],  # CT, 3 mm
    "Dataset004_Hippocampus/imagesTr/hippocampus_148_0000.nii.gz": [SimpleITKIO, NibabelIO, NibabelIOWithReorient],
}


def write(prompt: Prompt, file: Path, system: str) -> None:
    if system == "LPS":
        write_prompt(prompt, file)
    else:
        file.write_text(to_markups(prompt, system))


@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize("name", IMAGES)
def test_markups_name_the_voxel_for_itk(tmp_path, name, system):
    image = sitk.ReadImage(str(DATA / name))
    size = np.array(image.GetSize())
    inner = np.random.default_rng(0).integers(0, size, (200, 3))
    indices = np.concatenate([inner, [[0, 0, 0]], [size - 1]])
    points = ImageGeometry.from_file(DATA / name).from_file_index(indices)
    write(Prompt(points, np.arange(len(points)) % 3, "case"), tmp_path / "case.mrk.json", system)

    # as any program with ITK reads the file, without our reader
    markup = json.loads((tmp_path / "case.mrk.json").read_text())["markups"][0]
    assert markup["coordinateSystem"] == system
    signs = (1, 1, 1) if system == "LPS" else (-1, -1, 1)
    positions = np.array([p["position"] for p in markup["controlPoints"]]) * signs
    assert [image.TransformPhysicalPointToIndex(p) for p in positions.tolist()] == [tuple(i) for i in indices.tolist()]
    centres = [image.TransformIndexToPhysicalPoint(i) for i in indices.tolist()]
    print(f"{name}, {system}: {len(indices)} clicks, at most {np.abs(positions - centres).max():.1e} mm off")

    prompt = read_prompt(tmp_path / "case.mrk.json")
    assert (prompt.points == points).all() and (prompt.labels == np.arange(len(points)) % 3).all()
    for reader in IMAGES[name]:
        array, properties = reader().read_images([str(DATA / name)])
        for geometry in (ImageGeometry.from_file(DATA / name, properties), ImageGeometry.from_properties(properties)):
            voxels = geometry.to_voxels(prompt.points)
            np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-3)
            found = array[(0, *np.rint(voxels).astype(int).T)]
            assert (found == [np.float32(image.GetPixel(i)) for i in indices.tolist()]).all()
