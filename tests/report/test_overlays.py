import numpy as np
import pytest
from matplotlib.colors import to_rgba

from sam3d_nnunet.evaluation.metrics import targets_of
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.report.case_images import CaseImage, PatientView
from sam3d_nnunet.report.overlays import Panel, draw_panels, largest_slice, most_clicked_slice
from sam3d_nnunet.report.style import target_colour

TARGETS = {"tumour": (1,)}


@pytest.fixture
def case() -> CaseImage:
    """30 slices of 4 mm, pixels of 2 x 1 mm; the lesion is largest on slice 12."""
    shape = (30, 100, 200)
    affine = np.diag([1.0, 2.0, 4.0, 1.0])[:, [2, 1, 0, 3]]
    truth = np.zeros(shape, np.uint8)
    truth[11, 40:44, 60:64] = 1
    truth[12, 40:46, 60:68] = 1
    image = np.random.default_rng(0).normal(size=shape)
    return CaseImage("c", image, truth, PatientView(ImageGeometry(affine), shape), False)


def _markers(axis):
    return {line.get_marker(): line for line in axis.lines if line.get_marker() in ("*", "X")}


def test_slice_is_the_one_with_the_largest_area(case):
    assert largest_slice(case.truth, TARGETS, np.array([[3.0, 0, 0]])) == 12


def test_slice_without_truth_is_the_clicked_one(case):
    empty = np.zeros_like(case.truth)
    clicks = np.array([[3.2, 0, 0], [7.4, 0, 0], [6.9, 1, 1]])
    assert largest_slice(empty, TARGETS, clicks) == 7
    assert largest_slice(empty, TARGETS, np.empty((0, 3))) == 15
    assert most_clicked_slice(5, np.array([[99.0, 0, 0]])) == 4


def test_clicks_lie_at_their_pixel_and_fade_off_the_slice(case):
    clicks = np.array([[12.2, 41.25, 62.5], [14.0, 43.0, 66.0], [20.0, 1.0, 1.0]])
    figure = draw_panels(case, TARGETS, [[Panel("p", 12, case.truth[12], clicks, np.array([1, 0, 1]))]])
    markers = _markers(figure.axes[0])
    assert markers["*"].get_xydata().tolist() == [[62.5, 41.25]]
    assert markers["X"].get_xydata().tolist() == [[66.0, 43.0]]
    assert markers["*"].get_alpha() == 1.0
    assert markers["X"].get_alpha() < 1.0
    assert "1 of 3 clicks" in figure.axes[0].get_xlabel()  # 32 mm away
    assert "slice 13 of 30" in figure.axes[0].get_xlabel()


def test_panels_show_image_mask_and_truth(case):
    mask = np.zeros_like(case.truth[12])
    mask[70:80, 20:30] = 1
    figure = draw_panels(case, TARGETS, [[Panel("truth", 12), Panel("m", 12, mask)]])
    truth_axis, mask_axis = figure.axes
    image, fill = mask_axis.images
    assert np.array_equal(image.get_array(), case.image[12])
    assert np.array_equal(~np.ma.getmaskarray(fill.get_array()), mask == 1)
    assert np.array_equal(~np.ma.getmaskarray(truth_axis.images[1].get_array()), case.truth[12] == 1)
    line = mask_axis.collections[-1]
    assert tuple(line.get_edgecolor()[0]) == to_rgba(target_colour(0))
    vertices = line.get_paths()[0].vertices
    assert vertices.min(axis=0).tolist() == [59.5, 39.5]
    assert vertices.max(axis=0).tolist() == [67.5, 45.5]


def test_panels_have_the_voxels_shape_and_show_all_that_is_drawn(case):
    mask = np.zeros_like(case.truth[12])
    mask[70:80, 120:130] = 1
    axis = draw_panels(case, TARGETS, [[Panel("m", 12, mask)]]).axes[0]
    assert axis.get_aspect() == 2.0  # 2 mm down for 1 mm across
    assert axis.get_xlim()[0] < 59.5 and axis.get_xlim()[1] > 129.5
    low, high = axis.get_ylim()
    assert low > 79.5 and high < 39.5 and low > high  # rows run down: front up


def test_ct_has_a_window_of_its_own(case):
    ct = CaseImage(case.name, case.image, case.truth, case.view, True)
    assert draw_panels(ct, TARGETS, [[Panel("truth", 12)]]).axes[0].images[0].get_clim() == (-160, 240)


def test_click_has_the_colour_of_the_smallest_region(case):
    targets = {"whole": (1, 2), "core": (2,)}
    clicks = np.array([[12.0, 40, 60], [12.0, 44, 66], [12.0, 50, 50]])
    axis = draw_panels(case, targets, [[Panel("m", 12, case.truth[12], clicks, np.array([1, 2, 0]))]]).axes[0]
    colours = [line.get_color() for line in axis.lines if line.get_marker() in ("*", "X")]
    assert colours == [target_colour(0), target_colour(1), "white"]


def test_targets_are_labels_and_regions_without_background_and_ignore():
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert targets_of({"labels": labels}) == {"whole": (1, 2), "core": (2,)}
