from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.cases import ImageCase, clicks_in_components, read_previous_mask
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE

SHAPE = (12, 14, 16)


def example() -> np.ndarray:
    """Components of 75, 27 and 1 voxels, the first of them at a border."""
    segmentation = np.zeros(SHAPE, np.uint8)
    segmentation[0:3, 1:6, 1:6] = 2
    segmentation[7:10, 8:11, 9:12] = 1
    segmentation[11, 0, 15] = 2
    segmentation[6, 7, 8] = 2  # touches another label: a component of its own
    return segmentation


def test_clicks_in_components():
    points, labels, count = clicks_in_components(example())
    assert points.tolist()[:2] == [[1, 2, 2], [8, 9, 10]]
    assert {tuple(p) for p in points[2:]} == {(11, 0, 15), (6, 7, 8)}
    assert labels.tolist() == [2, 1, 2, 2]
    assert count == 4
    points, labels, count = clicks_in_components(example(), 1)
    assert (points.tolist(), labels.tolist(), count) == ([[1, 2, 2]], [2], 4)


def test_no_component():
    points, labels, count = clicks_in_components(np.zeros(SHAPE, np.int16))
    assert points.shape == (0, 3) and labels.shape == (0,) and count == 0


def write(path, array, spacing=(0.5, 1, 2), origin=(3, 4, 5)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return path


def case_and_model(folder, reader) -> tuple[ImageCase, SimpleNamespace]:
    image = write(folder / "case_0000.nii.gz", np.zeros(SHAPE, np.float32))
    _, properties = reader().read_images([str(image)])
    properties["shape_before_cropping"] = (16, 12, 14)
    grid = PreprocessedGrid((2, 0, 1), np.array([2, 0, 0]), np.array([14, 11, 14]), np.array([14, 22, 14]))
    model = SimpleNamespace(
        plans=SimpleNamespace(image_reader_writer_class=reader), labels=SimpleNamespace(foreground_labels=[1, 2])
    )
    geometry = ImageGeometry.from_file(image, properties)
    return ImageCase(np.zeros((1, 14, 22, 14)), properties, geometry, grid, SHAPE), model


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient])
def test_mask_and_clicks_lie_on_the_grid(tmp_path, reader):
    case, model = case_and_model(tmp_path, reader)
    previous = read_previous_mask(write(tmp_path / "case.nii.gz", example()), case, model, "case")
    assert previous.prompt.image == "case"
    maps = previous.maps.cut(case.grid.box)
    assert maps.shape == (3, 14, 22, 14)
    assert (maps[[SCRIBBLE, BOX]] == NOTHING).all()
    on_grid = case.grid.from_image(case.geometry.to_voxels(previous.prompt.points))
    nearest = np.clip(np.rint(on_grid - 1e-6).astype(int), 0, np.array(case.grid.shape) - 1)
    assert (maps[(MASK, *nearest.T)] == previous.prompt.labels).all()
    assert set(np.unique(maps[MASK])) == {0, 1, 2}


def test_outside_the_crop_is_left_out(tmp_path):
    case, model = case_and_model(tmp_path, SimpleITKIO)
    assert (example()[11:] > 0).any()
    previous = read_previous_mask(write(tmp_path / "case.nii.gz", example()), case, model, "case")
    assert previous.components == 3


@pytest.mark.parametrize(
    "array, more, message",
    [
        (example()[1:], {}, "has .11, 14, 16. voxels .*image has .12, 14, 16."),
        (example(), {"origin": (3.2, 4, 5)}, "lies elsewhere"),
        (example(), {"spacing": (0.5, 1, 2.1)}, "lies elsewhere"),
        (3 * example(), {}, "case.nii.gz .* 3.* 0, 1, 2"),
    ],
)
def test_other_images_and_labels(tmp_path, array, more, message):
    case, model = case_and_model(tmp_path, SimpleITKIO)
    with pytest.raises(SAM3DError, match=message):
        read_previous_mask(write(tmp_path / "case.nii.gz", array, **more), case, model, "case")


def test_missing_and_broken_files(tmp_path):
    case, model = case_and_model(tmp_path, SimpleITKIO)
    with pytest.raises(SAM3DError, match="no .*a.nii.gz"):
        read_previous_mask(tmp_path / "a.nii.gz", case, model, "a")
    (tmp_path / "a.nii.gz").write_text("nothing")
    with pytest.raises(SAM3DError, match="a.nii.gz"):
        read_previous_mask(tmp_path / "a.nii.gz", case, model, "a")


def test_rounded_headers_are_the_same_place(tmp_path):
    case, model = case_and_model(tmp_path, SimpleITKIO)
    file = write(tmp_path / "case.nii.gz", example(), origin=(3.0001, 4, 5))
    assert read_previous_mask(file, case, model, "case").components == 3


def test_each_scattered_voxel_of_a_single_slice_is_a_component():
    """cc3d expects fewer in such arrays."""
    label_map = np.zeros((1, 7, 9), np.int16)
    label_map[0, ::2, ::2] = 2
    points, labels, count = clicks_in_components(label_map)
    assert count == len(points) == 20 and (labels == 2).all()
