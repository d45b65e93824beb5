import cc3d
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class
from sam3d_nnunet.simulation.protocol_clicks import _off_target, draw_protocol, thirds_by_depth, trial_generator
from sam3d_nnunet.simulation.protocols import DRAWN, PAPER, Protocol

SPACING = (3.0, 1.0, 0.5)


@pytest.fixture
def segmentation() -> np.ndarray:
    """Class 1: a large ball and a small one; class 2: a box that touches the large ball; 3 is to be ignored."""
    place = np.stack(np.indices((16, 40, 60)), -1) * SPACING
    labels = np.zeros((16, 40, 60), np.uint8)
    labels[np.linalg.norm(place - (20, 18, 10), axis=-1) < 9] = 1
    labels[np.linalg.norm(place - (36, 34, 24), axis=-1) < 4] = 1
    labels[4:9, 25:36, 20:30][labels[4:9, 25:36, 20:30] == 0] = 2
    labels[:, :, -2:] = 3
    return labels


def draw(name: str, segmentation: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return draw_protocol(Protocol.parse(name), segmentation, [1, 2], SPACING, np.random.default_rng(seed))


def under(points: np.ndarray, array: np.ndarray) -> np.ndarray:
    return array[tuple(np.rint(points).astype(int).T)]


# --- names ---


@given(
    kind=st.sampled_from(DRAWN),
    clicks=st.integers(1, 999),
    percent=st.integers(0, 100),
    mm=st.sampled_from([0.5, 1, 2.25, 5, 30]),
)
def test_name_and_protocol_belong_together(kind, clicks, percent, mm):
    off = f"_off{percent}_{mm:g}mm" if percent else ""
    protocol = Protocol.parse(f"{kind}_{clicks}{off}")
    assert protocol == Protocol(kind, clicks, percent / 100, mm if percent else 0)
    assert protocol.name == f"{kind}_{clicks}{off}"


def test_names_without_drawn_clicks():
    assert Protocol.parse("automatic") == Protocol("automatic")
    assert Protocol.parse("iterated_5") == Protocol("iterated", 5)
    assert [Protocol.parse(name).name for name in ("automatic", "iterated_5")] == ["automatic", "iterated_5"]
    assert [protocol.name for protocol in PAPER] == ["automatic", "volume_1", "volume_3", "volume_10"]


@pytest.mark.parametrize(
    "name",
    ["", "volume", "volume_0", "volume_03", "volume_-1", "centre_1", "automatic_1", "iterated_5_off20_5mm"]
    + ["volume_1_off0_5mm", "volume_1_off101_5mm", "volume_1_off20_0mm", "volume_1_off1.2.3_5mm", "volume_1 ", "../x"],
)
def test_other_names_are_refused(name):
    with pytest.raises(SAM3DError, match="volume_N, lesion_N"):
        Protocol.parse(name)


@given(st.text())
def test_any_text_is_a_protocol_or_refused(text):
    try:
        assert Protocol.parse(Protocol.parse(text).name) == Protocol.parse(text)
    except SAM3DError as e:
        assert "There is no protocol" in str(e)


# --- clicks ---


def test_volume_has_the_clicks_of_a_trainings_validation(segmentation):
    points, labels = draw_protocol(
        Protocol.parse("volume_1"), segmentation, [1, 2], SPACING, trial_generator("case_7", 0)
    )
    expected = clicks_per_class(segmentation, [1, 2], 1, case_generator("case_7"))
    assert (points == expected[0]).all() and (labels == expected[1]).all()
    other = draw_protocol(Protocol.parse("volume_1"), segmentation, [1, 2], SPACING, trial_generator("case_7", 1))
    assert (points != other[0]).any()


@pytest.mark.parametrize("kind", DRAWN)
def test_clicks_lie_on_their_class_and_repeat(segmentation, kind):
    points, labels = draw(f"{kind}_3", segmentation)
    assert points.dtype == np.float32 and labels.dtype == np.int64
    assert (under(points, segmentation) == labels).all() and set(labels) == {1, 2}
    assert len(np.unique(points, axis=0)) == len(points)
    assert (draw(f"{kind}_3", segmentation)[0] == points).all()
    assert not np.array_equal(draw(f"{kind}_3", segmentation, seed=1)[0], points)


def test_counts(segmentation):
    assert np.bincount(draw("volume_10", segmentation)[1]).tolist() == [0, 10, 10]
    assert np.bincount(draw("iterated_5", segmentation)[1]).tolist() == [0, 1, 1]
    assert len(draw("automatic", segmentation)[1]) == 0

    points, labels = draw("lesion_2", segmentation)
    numbers = under(points, cc3d.connected_components(np.where(segmentation == 3, 0, segmentation), connectivity=26))
    assert np.bincount(numbers).tolist() == [0, 2, 2, 2]
    assert np.bincount(labels).tolist() == [0, 4, 2]

    points, labels = draw("slice_2", segmentation)
    for label in (1, 2):
        slices = np.bincount(points[labels == label, 0].astype(int), minlength=16)
        assert slices.tolist() == np.minimum(2, (segmentation == label).sum((1, 2))).tolist()


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_along_another_axis(segmentation, axis):
    rng = np.random.default_rng(0)
    points, labels = draw_protocol(Protocol.parse("slice_2"), segmentation, [1, 2], SPACING, rng, axial=axis)
    others = tuple(a for a in range(3) if a != axis)
    for label in (1, 2):
        slices = np.bincount(points[labels == label, axis].astype(int), minlength=segmentation.shape[axis])
        assert slices.tolist() == np.minimum(2, (segmentation == label).sum(others)).tolist()


@pytest.mark.parametrize("name", [*(f"{kind}_2" for kind in DRAWN), "iterated_2", "volume_1_off100_5mm"])
def test_classes_that_are_not_there_get_no_clicks(segmentation, name):
    assert len(draw(name, np.where(segmentation == 3, 3, 0))[1]) == 0
    assert set(draw(name, np.where(segmentation == 2, 0, segmentation))[1]) == {1}


def test_thirds_of_the_largest_lesion(segmentation):
    """Depth against the distance in the whole label map, by mm and not by voxels."""
    numbers = cc3d.connected_components(segmentation == 1, connectivity=26)
    largest = numbers == np.bincount(numbers.ravel())[1:].argmax() + 1
    depth = distance_transform_edt(largest, sampling=SPACING)
    low, high = np.quantile(depth[largest], [1 / 3, 2 / 3])
    size = int(largest.sum())
    depths = {}
    for kind in ("center", "surrounding", "margin"):
        points, labels = draw(f"{kind}_{size}", segmentation)
        depths[kind] = under(points[labels == 1], depth)
        assert under(points[labels == 1], largest).all()
        assert len(depths[kind]) in (size // 3, size // 3 + 1)
    assert depths["center"].min() >= high and depths["margin"].max() <= low
    assert depths["surrounding"].min() >= low and depths["surrounding"].max() <= high


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_of_small_lesions(size):
    voxels = np.array([[5, 5, 5 + i] for i in range(size)])
    shares = thirds_by_depth(voxels, (1, 1, 1), np.random.default_rng(0))
    assert [len(share) for share in shares] == {1: [1, 1, 1], 2: [2, 2, 2], 3: [1, 1, 1], 4: [2, 1, 1]}[size]
    assert {tuple(v) for share in shares for v in share} == {tuple(v) for v in voxels}


def test_clicks_off_target(segmentation):
    on, labels = draw("volume_50", segmentation)
    off, same_labels = draw("volume_50_off40_6mm", segmentation)
    assert (labels == same_labels).all()
    moved = (on != off).any(axis=1)
    assert 25 <= moved.sum() <= 55
    distance = np.linalg.norm((off - on)[moved] * SPACING, axis=1)
    inside = (np.rint(off) >= 0).all(axis=1) & (np.rint(off) < segmentation.shape).all(axis=1)
    assert inside.all()
    assert (under(off[moved], segmentation) != labels[moved]).all()
    # one deep in the ball may have no place so near that is outside
    assert (np.abs(distance - 6) < 1e-4).mean() > 0.9


@given(mm=st.sampled_from([0.1, 1.0, 4.0, 100.0]), seed=st.integers(0, 99))
def test_no_place_at_that_distance(mm, seed):
    """The nearest to that distance is taken; by trying all voxels."""
    segmentation = np.zeros((6, 12, 12), np.uint8)
    segmentation[1:5, 2:10, 2:10] = 1
    rng = np.random.default_rng(seed)
    on, _ = draw_protocol(Protocol("volume", 1), segmentation, [1], (2, 1, 1), np.random.default_rng(seed))
    off, labels = draw_protocol(Protocol("volume", 1, 1.0, mm), segmentation, [1], (2, 1, 1), rng)
    assert labels.tolist() == [1]
    assert under(off, segmentation).tolist() == [0]
    distance = np.linalg.norm((off[0] - on[0]) * (2, 1, 1))
    others = np.linalg.norm((np.argwhere(segmentation == 0) - on[0]) * (2, 1, 1), axis=1)
    assert abs(distance - mm) <= np.abs(others - mm).min() + 1e-4


def test_chance_decides_among_places_as_near():
    """Else all would be moved the same way, towards the first voxels of the array."""
    ball = np.linalg.norm(np.stack(np.indices((9, 9, 9)), -1) - 4, axis=-1) <= 4
    point, outside = np.array([4, 4, 4]), ~ball
    moved = {tuple(_off_target(point, outside, 1.0, np.ones(3), np.random.default_rng(seed))) for seed in range(20)}
    assert len(moved) > 5
    assert all(outside[place] for place in moved)


def test_a_class_that_fills_the_image_keeps_its_clicks():
    full = np.ones((4, 4, 4), np.uint8)
    on, _ = draw("volume_3", full)
    off, _ = draw("volume_3_off100_5mm", full)
    assert (on == off).all()
