import numpy as np
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import check_crop, check_prompt

SHAPE = (10, 20, 30)  # (d, h, w)
# x runs against w, and 2 mm a voxel along d
AFFINE = np.array([[0, 0, -1.0, 100], [0, 1, 0, -50], [2, 0, 0, 7], [0, 0, 0, 1]])
FILE_AFFINE = AFFINE[:, [1, 2, 0, 3]]  # the file has (h, w, d)
GEOMETRY = ImageGeometry(AFFINE, FILE_AFFINE)


def clicks(*voxels: tuple, labels: list[int] | None = None) -> Prompt:
    points = GEOMETRY.to_world(np.array(voxels, float).reshape(-1, 3))
    return Prompt(points, labels or [1] * len(points), "case_7")


def test_clicks_that_fit():
    faces = (-0.5, -0.5, -0.5), (9.5, 19.5, 29.5)
    check_prompt(clicks((0, 0, 0), (9, 19, 29), *faces, labels=[1, 0, 2, 1]), GEOMETRY, SHAPE, [0, 1, 2])


def test_no_clicks():
    with pytest.raises(SAM3DError, match="no clicks on case_7"):
        check_prompt(clicks(), GEOMETRY, SHAPE, [0, 1])


def test_labels_that_the_model_does_not_know():
    with pytest.raises(SAM3DError, match=r"Click 2 of 3 on case_7 has the label 5.*knows 0, 1, 2\."):
        check_prompt(clicks((1, 1, 1), (2, 2, 2), (3, 3, 3), labels=[1, 5, 7]), GEOMETRY, SHAPE, {2, 0, 1})
    with pytest.raises(SAM3DError, match="label 0.*knows 1"):
        check_prompt(clicks((1, 1, 1), labels=[0]), GEOMETRY, SHAPE, [1])


@pytest.mark.parametrize("voxel", [(-0.6, 1, 1), (9.6, 1, 1), (1, 20, 1), (1, 1, -1), (1, 1, 1e300)])
def test_clicks_outside_the_image(voxel):
    with pytest.raises(SAM3DError, match="Click 2 of 2 on case_7.*outside the image"):
        check_prompt(clicks((1, 1, 1), voxel), GEOMETRY, SHAPE, [1])


def test_message_has_place_voxel_and_size_as_viewers_show_them():
    with pytest.raises(SAM3DError) as refused:
        check_prompt(clicks((2, 25, 3)), GEOMETRY, SHAPE, [1])
    for part in ("(x, y, z) = (97, -25, 11) mm", "(i, j, k) = (25, 3, 2)", "20 x 30 x 10 voxels"):
        assert part in str(refused.value)
    with pytest.raises(SAM3DError) as refused:
        check_prompt(clicks((2, 25, 3)), ImageGeometry(AFFINE), SHAPE, [1])
    for part in ("(x, y, z) = (97, -25, 11) mm", "(w, h, d) = (3, 25, 2)", "30 x 20 x 10 voxels"):
        assert part in str(refused.value)


def test_clicks_outside_the_crop():
    # axes of the grid: w, d, h; crop w 5..24, d 2..8, h 0..19
    grid = PreprocessedGrid((2, 0, 1), np.array([5, 2, 0]), np.array([20, 7, 20]), np.array([40, 14, 10]))
    check_crop(clicks((2, 0, 5), (8, 19, 24), (1.5, -0.5, 4.5), (8.5, 19.5, 24.5)), GEOMETRY, grid)
    check_crop(clicks(), GEOMETRY, grid)
    for voxel in ((1, 0, 5), (9, 0, 5), (2, 0, 4), (2, 0, 25)):
        prompt = clicks((3, 3, 6), voxel)
        check_prompt(prompt, GEOMETRY, SHAPE, [1])
        with pytest.raises(SAM3DError, match="Click 2 of 2 on case_7.*inside the image.*empty border"):
            check_crop(prompt, GEOMETRY, grid)
