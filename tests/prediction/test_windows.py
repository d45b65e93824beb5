import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sam3d_nnunet.prediction.windows import Window, window_at_centre, window_seeing, windows_around

SIZES = st.tuples(*[st.integers(4, 24)] * 3)
SHAPES = st.tuples(*[st.integers(1, 60)] * 3)


@st.composite
def clicks_inside(draw: st.DrawFn, shape: tuple[int, ...], most: int = 6) -> np.ndarray:
    """Float coordinates up to the faces of the outermost voxels."""
    shares = draw(arrays(np.float64, (draw(st.integers(1, most)), 3), elements=st.floats(0, 1, exclude_max=True)))
    return shares * np.array(shape) - 0.5


SCENES = st.tuples(SHAPES, SIZES).flatmap(lambda s: st.tuples(clicks_inside(s[0]), st.just(s[0]), st.just(s[1])))
ANYWHERE = arrays(np.float64, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(-1e4, 1e4))


@given(SCENES)
def test_every_click_is_in_a_window(scene):
    points, shape, size = scene
    windows = windows_around(points, shape, size)
    assert np.any([window.contains(points) for window in windows], axis=0).all()
    assert len(windows) <= len(points)


@given(SCENES)
def test_clicks_that_fit_into_one_window_get_one(scene):
    points, shape, size = scene
    if (np.ptp(points, axis=0) < np.array(size) - 1).all():
        (window,) = windows_around(points, shape, size)
        assert window.contains(points).all()


@given(ANYWHERE, SHAPES, SIZES)
def test_windows_lie_inside_images_larger_than_them(points, shape, size):
    """Also those of clicks outside the image, whose number is bounded too."""
    windows = windows_around(points, shape, size)
    assert len(windows) <= len(points)
    for window in windows:
        assert window.size == size
        for start, length, extent in zip(window.start, size, shape):
            if extent >= length:
                assert 0 <= start <= extent - length
            else:
                assert start <= 0 and start + length >= extent
                assert abs((0 - start) - (start + length - extent)) <= 1  # as much before as after


@given(ANYWHERE, SHAPES, SIZES)
def test_overlap_is_the_same_part_of_both(points, shape, size):
    for window in windows_around(points, shape, size):
        inside = window.in_image(shape)
        slices = zip(inside.slices, inside.within(window.box).slices)
        for (here, there), start, length, extent in zip(slices, window.start, size, shape):
            assert 0 <= here.start < here.stop <= extent
            assert 0 <= there.start < there.stop <= length
            assert here.start - start == there.start and here.stop - start == there.stop
            assert here.stop - here.start == min(length, extent)


def test_window_is_centred_between_the_clicks():
    points = np.array([[20.0, 30, 40], [24, 30, 50]])
    assert windows_around(points, (100, 100, 100), (9, 9, 17)) == [Window((18, 26, 37), (9, 9, 17))]


def test_clicks_too_far_apart_get_windows_of_their_own():
    points = np.array([[10.0, 10, 10], [80, 80, 80], [12, 10, 10], [82, 80, 80]])
    windows = windows_around(points, (100, 100, 100), (16, 16, 16))
    assert [window.contains(points).tolist() for window in windows] == [
        [True, False, True, False],
        [False, True, False, True],
    ]


@given(SCENES)
def test_a_window_sees_the_voxel_that_it_is_put_around(scene):
    points, shape, size = scene
    voxels = np.clip(np.rint(points), 0, np.array(shape) - 1)
    assert window_seeing(voxels, shape, size).sees(voxels[:1], shape).all()


def test_a_window_sees_all_voxels_that_it_can():
    size, shape = (8, 16, 24), (100, 100, 100)
    apart = np.array([[50.0, 50, 50], [54, 60, 66]])
    assert window_seeing(apart, shape, size).sees(apart, shape).all()
    assert window_seeing(apart * [1, 1, 1.1], shape, size).sees(apart, shape).tolist() == [True, False]


def test_faces_of_a_window():
    window = Window((10, 10, 10), (4, 4, 4))
    points = np.array([[9.5, 10, 10], [9.49, 10, 10], [13.49, 13, 13], [13.5, 13, 13]])
    assert window.contains(points).tolist() == [True, False, True, False]


def test_no_clicks_no_windows():
    assert windows_around(np.zeros((0, 3)), (10, 10, 10), (4, 4, 4)) == []


# --- the window of the paper ---


@given(SCENES)
def test_one_window_lies_around_the_middle_of_all_clicks(scene):
    """Halfway between the outermost clicks, as many voxels before it as after; wherever the image ends."""
    points, shape, size = scene
    (window,) = window_at_centre(points, shape, size)
    for axis, (start, length) in enumerate(zip(window.start, window.size)):
        voxels = np.rint(points[:, axis])
        middle = int((voxels.min() + voxels.max()) // 2)
        assert (start, start + length) == (middle - length // 2, middle + length - length // 2)


def test_the_one_window_is_not_moved_into_the_image():
    points, size = np.array([[1.0, 20, 38]]), (8, 8, 8)
    assert window_at_centre(points, (40, 40, 40), size) == [Window((-3, 16, 34), size)]
    assert windows_around(points, (40, 40, 40), size) == [Window((0, 16, 32), size)]


def test_no_clicks_no_window():
    assert window_at_centre(np.zeros((0, 3)), (10, 10, 10), (4, 4, 4)) == []
