"""Clicks as a person places them."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.simulation import human
from sam3d_nnunet.simulation.draw import case_generator, correction_click
from sam3d_nnunet.simulation.human import SCATTER_MM, WRONG_SIDE, human_clicks
from sam3d_nnunet.simulation.protocol_clicks import draw_protocol, hand_of
from sam3d_nnunet.simulation.protocols import FAMILIES, Protocol

SPACING = (3.0, 1.0, 0.5)
HUMAN = [name for name, family in FAMILIES.items() if family.has_human]


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """Radius 9 mm, its centre at voxel (8, 20, 40); two voxels of it lie at the border of the image."""
    place = np.stack(np.indices((14, 40, 70)), -1) * SPACING
    return np.linalg.norm(place - (24, 20, 20), axis=-1) < 9


def many(mask: np.ndarray, people: int = 12) -> np.ndarray:
    """Clicks of so many people, up to 40 each."""
    rng = np.random.default_rng(0)
    return np.concatenate([human_clicks(mask, 40, rng, SPACING) for _ in range(people)])


def under(points: np.ndarray, array: np.ndarray) -> np.ndarray:
    assert (points >= 0).all() and (points < array.shape).all() and (points == np.rint(points)).all()
    return array[tuple(points.astype(int).T)]


def test_share_on_the_wrong_side_and_how_far(ball, monkeypatch):
    points = many(ball)
    outside = ~under(points, ball)
    assert abs(outside.mean() - WRONG_SIDE) < 3 * np.sqrt(WRONG_SIDE * (1 - WRONG_SIDE) / len(points))
    monkeypatch.setattr(human, "WRONG_SIDE", 1.0)
    points = many(ball)
    assert not under(points, ball).any()
    squares = under(points, distance_transform_edt(~ball, sampling=SPACING)) ** 2
    distance = distance_transform_edt(~ball, sampling=SPACING)[~ball]
    chances = np.exp(-(distance**2) / (2 * SCATTER_MM**2))
    expected = (distance**2 * chances).sum() / chances.sum()  # over the whole image
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(len(squares))


def test_clicks_prefer_the_middle_and_scatter(ball, monkeypatch):
    """Without scatter, the mean depth of clicks drawn in proportion to depth is known."""
    monkeypatch.setattr(human, "WRONG_SIDE", 0.0)
    depth = distance_transform_edt(np.pad(ball, 1), sampling=SPACING)[1:-1, 1:-1, 1:-1]
    scattered = under(many(ball), depth)
    monkeypatch.setattr(human, "SCATTER_MM", 1e-3)
    exact = under(many(ball), depth)
    expected = (depth[ball] ** 2).sum() / depth[ball].sum()
    assert abs(exact.mean() - expected) < 4 * exact.std() / np.sqrt(len(exact))
    assert scattered.min() > 0 and scattered.mean() > depth[ball].mean()
    assert len(np.unique(many(ball, 1), axis=0)) > 35  # and not always the deepest voxel


def test_scatter_is_in_millimetres(monkeypatch):
    monkeypatch.setattr(human, "WRONG_SIDE", 0.0)
    mask, aim = np.ones((41, 61, 121), bool), np.array([20, 30, 60])
    rng = np.random.default_rng(0)
    moves = np.array([human._scattered(aim, mask, SPACING, rng) - aim for _ in range(400)]) * SPACING
    assert moves.std(axis=0) == pytest.approx([SCATTER_MM] * 3, rel=0.2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 7), (5, 1, 1), (3, 3, 3)])
def test_small_objects_and_whole_images(shape):
    """A mask that fills the array has no wrong side; an array of one slice is never left."""
    full = np.ones(shape, bool)
    assert under(many(full), full).all()
    assert len(human_clicks(full, 100, np.random.default_rng(0), SPACING)) == full.size
    assert human_clicks(~full, 3, np.random.default_rng(0), SPACING).shape == (0, 3)
    one = np.zeros((7, 9, 9), bool)
    one[6, 0, 4] = True
    points = many(one, 60)
    assert len(points) == 60
    assert under(points, one).mean() > 0.8 and (np.abs(points - (6, 0, 4)) * SPACING < 7).all()


def test_small_objects_in_fine_images_get_all_their_clicks():
    """Their surroundings are thinned out, which leaves fewer voxels of the object than clicks."""
    mask = np.zeros((200, 200, 200), bool)
    mask[100, 100, 99:102] = True
    for seed in range(5):
        points = human_clicks(mask, 5, np.random.default_rng(seed), (0.1, 0.1, 0.1))
        assert len(points) == 3
        under(points, mask)


def test_large_objects_are_thinned_out(monkeypatch, ball):
    fine = many(ball)
    monkeypatch.setattr("sam3d_nnunet.simulation.draw.MOST_VOXELS", 2000)
    monkeypatch.setattr(human, "SCATTER_MM", 1e-3)
    coarse = many(ball)
    assert under(coarse, ball).mean() > 0.85
    assert (coarse * SPACING).mean(0) == pytest.approx((fine * SPACING).mean(0), abs=1.5)
    assert {tuple(point % 3) for point in coarse} == {(d, h, w) for d in range(3) for h in range(3) for w in range(3)}


@pytest.mark.parametrize("family", [name for name in HUMAN if name != "cvpr25"])  # it clicks on errors only
def test_protocols_repeat_by_case_and_trial(ball, family):
    """Clicks of a person keep the label that was meant."""
    segmentation = ball.astype(np.uint8)
    segmentation[1:3, 30:36, 5:20] = 1
    protocol = Protocol.parse(f"{family}_6_human")
    uptake = np.random.default_rng(0).normal(size=ball.shape)

    def draw(case: str, trial: int, protocol: Protocol = protocol):
        rng = case_generator(case, trial)
        return draw_protocol(protocol, segmentation, [1], SPACING, rng, uptake=lambda: uptake)

    points, labels, _ = draw("a", 0)
    under(points, segmentation)
    assert set(labels.tolist()) == ({0, 1} if family == "autopet" else {1})
    assert np.array_equal(draw("a", 0).points, points)
    assert not np.array_equal(draw("a", 1).points, points)
    assert not np.array_equal(draw("b", 0).points, points)
    ideal = draw("a", 0, protocol.ideal)
    assert np.bincount(ideal.labels).tolist() == np.bincount(labels).tolist()


def test_clicks_in_slices_stay_there(ball):
    rng = np.random.default_rng(0)
    points, _, _ = draw_protocol(Protocol.parse("slice_5_human"), ball.astype(int), [1], SPACING, rng)
    counts = np.bincount(points[:, 0].astype(int), minlength=len(ball))
    assert counts.tolist() == np.minimum(5, ball.sum((1, 2))).tolist()


def test_each_lesion_is_clicked_where_it_is(ball, monkeypatch):
    """Also on the wrong side of its border, which may be outside the box around it."""
    monkeypatch.setattr(human, "WRONG_SIDE", 0.5)
    segmentation = ball.astype(np.uint8)
    segmentation[1:3, 2:4, 2:4] = 2
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points, labels, _ = draw_protocol(Protocol.parse("lesion_1_human"), segmentation, [1, 2], SPACING, rng)
        assert sorted(labels.tolist()) == [1, 2]
        found.append(points[labels.tolist().index(2)])
    found = np.array(found)
    assert (np.abs(found - (1.5, 2.5, 2.5)) * SPACING < 8).all()
    assert 0.2 < (under(found, segmentation) != 2).mean() < 0.8


def test_a_correction_by_hand_keeps_the_label_of_the_error(ball):
    prediction, target = np.zeros(ball.shape, np.int16), ball.astype(np.int16)
    hand = hand_of(Protocol.parse("iterated_2_human"), SPACING)
    rng = np.random.default_rng(0)
    clicks = [correction_click(prediction, target, rng, hand) for _ in range(80)]
    assert {label for _, label in clicks} == {1}
    inside = under(np.array([voxel for voxel, _ in clicks]), ball)
    assert 0.8 < inside.mean() < 1
    assert {label for _, label in (correction_click(target, prediction, rng, hand) for _ in range(10))} == {0}
    assert hand_of(Protocol.parse("iterated_2"), SPACING) is None
