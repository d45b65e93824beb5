import numpy as np
import pytest

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prediction.session_image import MAX_POINTS, box_points, fill_contour, spread_points


def disc(radius: float, across: int = 0) -> np.ndarray:
    """In one slice of 40^3."""
    plane = np.hypot(*(np.indices((40, 40)) - 20)) <= radius
    mask = np.zeros((40, 40, 40), bool)
    np.moveaxis(mask, across, 0)[17] = plane
    return mask


@pytest.mark.parametrize("across", [0, 1, 2])
def test_points_of_a_disc_are_deep_in_its_plane(across):
    points = spread_points(disc(12, across))
    assert len(points) == MAX_POINTS and (points[:, across] == 17).all()
    in_plane = np.delete(points, across, axis=1)
    assert (np.linalg.norm(in_plane - 20, axis=1) <= 7).all()
    assert (in_plane[0] == 20).all()
    assert min(np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]) > 4


def test_points_of_a_line_lie_along_it():
    mask = np.zeros((40, 40, 40), bool)
    mask[7, 3:33, 9] = True
    points = spread_points(mask)
    assert mask[tuple(points.T)].all() and len(points) == MAX_POINTS
    assert np.ptp(points[:, 1]) >= 10


def test_points_of_a_voxel():
    mask = np.zeros((4, 5, 6), bool)
    mask[3, 0, 5] = True
    assert spread_points(mask).tolist() == [[3, 0, 5]]


def test_points_are_always_the_same():
    mask = np.random.default_rng(0).random((30, 30, 30)) < 0.3
    assert (spread_points(mask) == spread_points(mask.copy())).all()


def test_points_of_a_box_lie_in_the_ellipsoid_that_fills_it():
    low, high = np.array([2, 5, 10]), np.array([12, 35, 30])
    points = box_points(Box(low, high))
    assert len(points) == 5 and points[0].tolist() == [6.5, 19.5, 19.5]
    assert (np.linalg.norm((points - (low + high - 1) / 2) / ((high - low) / 2), axis=1) < 1).all()
    assert np.ptp(points, axis=0).tolist() == [0, 15, 10]
    assert box_points(Box((2, 5, 7), (3, 6, 8))).tolist() == [[2, 5, 7]]


@pytest.mark.parametrize("across", [0, 1, 2])
def test_contours_are_filled(across):
    full = disc(12, across)
    contour = full & ~disc(11, across)
    assert (fill_contour(contour) == full).all() and contour.sum() < full.sum()
    assert (fill_contour(full) == full).all()
