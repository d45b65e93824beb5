import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.report.case_images import CaseReader, PatientView

SHAPE = (4, 5, 6)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.integers(0, 119))
def test_view_turns_any_orientation_to_the_patient_and_keeps_the_world(axes, signs, number):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(axes)] * np.array(signs) * (3.0, 0.8, 0.7)
    affine[:3, 3] = (-20, 30, 7)
    geometry = ImageGeometry(affine)
    view = PatientView(geometry, SHAPE)
    # columns of the turned affine: d along z, h along y, w along x, none of them reversed
    assert np.array_equal(np.argmax(np.abs(view.geometry.affine[:3, :3]), axis=0), [2, 1, 0])
    assert (view.geometry.affine[:3, :3] >= 0).all()
    array = np.zeros(SHAPE)
    voxel = np.unravel_index(number, SHAPE)
    array[voxel] = 1
    there = np.argwhere(view.turn(array))
    assert np.allclose(view.geometry.to_world(there), geometry.to_world([voxel]))


def test_spacing_follows_the_axes():
    affine = np.diag([0.8, 0.7, 3.0, 1.0])[:, [2, 1, 0, 3]]  # array (z, y, x)
    assert PatientView(ImageGeometry(affine), SHAPE).spacing == pytest.approx([3.0, 0.7, 0.8])


def test_the_spacing_beside_an_automatic_prediction_is_no_prompt_file(results_folder):
    """nnU-Net writes the spacing of TIFF images to CASE.json."""
    results = Results(results_folder)
    folder = next(folder for folder in results.folders if folder.protocol == "automatic")
    (folder.path / "case_00.json").write_text('{"spacing": [3.0, 1.0, 0.8]}')
    reader = CaseReader(results)
    points, labels = reader.clicks(reader.image("case_00"), folder)
    assert points.shape == (0, 3) and labels.shape == (0,)
