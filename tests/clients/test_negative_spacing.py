"""napari-nninteractive passes on the scale of an image, which napari-nifti makes negative along all axes."""

import numpy as np
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.image_properties import spacing_and_geometry

AS_RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)  # direction, where the arrays of napari-nifti lie


@pytest.mark.parametrize("spacing", [np.array([-3.0, -0.8, -1.2]), [-3.0, -0.8, -1.2]], ids=["local", "remote"])
def test_tells_how_the_array_lies(spacing):
    found, geometry = spacing_and_geometry({"spacing": spacing})
    expected, known = spacing_and_geometry({"spacing": [3.0, 0.8, 1.2], "direction": AS_RAS})
    assert found == expected and np.array_equal(geometry.affine, known.affine)


def test_a_direction_tells_more():
    direction = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    _, geometry = spacing_and_geometry({"spacing": [-1.0, -1.0, -1.0], "direction": direction})
    _, known = spacing_and_geometry({"spacing": [1.0, 1.0, 1.0], "direction": direction})
    assert np.array_equal(geometry.affine, known.affine)


@pytest.mark.parametrize("spacing", [[-1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [0.0, -1.0, -1.0]])
def test_other_signs_are_refused(spacing):
    with pytest.raises(SAM3DError, match="Give three numbers above 0"):
        spacing_and_geometry({"spacing": spacing})
