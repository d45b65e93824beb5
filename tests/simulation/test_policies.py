import numpy as np
import pytest
from helpers import labels_under
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sam3d_nnunet.simulation.simulator import POLICIES, ClickSimulator, default_policy, paper_policy, released_policy

OUTSIDE, IGNORE = -1, 4
SEEDS = st.integers(0, 2**32)
SHAPES = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8)
LABEL_MAPS = st.sets(st.sampled_from([OUTSIDE, 0, 1, 2, 3, IGNORE]), min_size=1).flatmap(
    lambda present: arrays(np.int16, SHAPES, elements=st.sampled_from(sorted(present)))
)
# label 3 is on the map but may be no class, as when labels are left out of the training
CLASSES = st.sampled_from([[1], [2, 1], [1, 2, 3]])
POLICY = st.sampled_from(sorted(POLICIES))


def simulator(policy: str, classes: list[int], labelled: bool = True, no_click_share: float = 0.15) -> ClickSimulator:
    return ClickSimulator(policy, classes, labelled, no_click_share)


@given(POLICY, LABEL_MAPS, CLASSES, SEEDS)
def test_clicks_lie_where_they_claim_to(policy, segmentation, classes, seed):
    points, labels, _ = simulator(policy, classes)(segmentation, np.random.default_rng(seed))
    assert points.shape == (POLICIES[policy][1], 3) and labels.shape == (POLICIES[policy][1],)
    real = labels != -1
    found, claimed = labels_under(segmentation, points[real]), labels[real]
    # never outside the image, never where labels are ignored or no class
    assert set(found) <= {0, *classes}
    # a stray click of the default policy may lie anywhere, yet claims a class
    wrong = claimed != found
    assert wrong.sum() <= (1 if policy == "default" else 0)
    assert set(claimed[wrong]) <= set(classes)


@given(POLICY, LABEL_MAPS, CLASSES, SEEDS)
def test_same_seed_same_clicks(policy, segmentation, classes, seed):
    draw = simulator(policy, classes)
    first, second = (draw(segmentation, np.random.default_rng(seed)) for _ in range(2))
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()


@given(POLICY, LABEL_MAPS, CLASSES, SEEDS)
def test_unlabelled_clicks_are_the_same_clicks_with_label_1(policy, segmentation, classes, seed):
    labelled = simulator(policy, classes)(segmentation, np.random.default_rng(seed))
    unlabelled = simulator(policy, classes, labelled=False)(segmentation, np.random.default_rng(seed))
    assert (labelled[0] == unlabelled[0]).all()
    assert (unlabelled[1] == np.where(labelled[1] == -1, -1, 1)).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("value", [OUTSIDE, IGNORE])
def test_nothing_to_click_at(policy, value):
    points, labels, _ = simulator(policy, [1, 2], no_click_share=0)(
        np.full((5, 6, 7), value, np.int16), np.random.default_rng(0)
    )
    assert points.shape == (POLICIES[policy][1], 3)
    assert (labels == -1).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_background_voxel_beside_the_outside(policy):
    segmentation = np.full((4, 4, 4), OUTSIDE, np.int16)
    segmentation[1, 2, 3] = 0
    points, labels, _ = simulator(policy, [1, 2], no_click_share=0)(segmentation, np.random.default_rng(0))
    assert labels[labels != -1].tolist() == [0]
    assert points[labels == 0].tolist() == [[1, 2, 3]]


@given(LABEL_MAPS, CLASSES, SEEDS)
def test_paper_counts(segmentation, classes, seed):
    points, labels, _ = paper_policy(segmentation, classes, np.random.default_rng(seed))
    foreground = np.isin(segmentation, classes).sum()
    assert len(points) == (min(40, foreground) if foreground else min(10, (segmentation == 0).sum()))
    assert set(labels) <= (set(classes) if foreground else {0})


@given(LABEL_MAPS, CLASSES, SEEDS)
def test_released_counts(segmentation, classes, seed):
    points, labels, _ = released_policy(segmentation, classes, np.random.default_rng(seed))
    foreground, usable = (np.isin(segmentation, values).sum() for values in (classes, [0, *classes]))
    assert len(points) == min(10, foreground) + min(20, usable)
    assert np.isin(labels[: min(10, foreground)], classes).all()


def test_released_clicks_anywhere_follow_the_volume():
    segmentation = np.zeros((10, 10, 10), np.int16)
    segmentation[:2] = 1
    rng = np.random.default_rng(0)
    labels = np.array([released_policy(segmentation, [1], rng)[1][10:] for _ in range(200)])
    assert np.isclose(np.mean(labels == 1), 0.2, atol=0.03)


def scene() -> np.ndarray:
    """Background, two classes, an ignored slab and a border that is outside the image."""
    segmentation = np.zeros((16, 16, 16), np.int16)
    segmentation[3:7, 3:7, 3:7] = 1
    segmentation[9:13, 9:13, 9:13] = 2
    segmentation[:, :, 14] = IGNORE
    segmentation[:, :, 15] = OUTSIDE
    return segmentation


def test_share_of_patches_without_clicks():
    draw = simulator("default", [1, 2])
    rng = np.random.default_rng(0)
    empty = [(draw(scene(), rng)[1] == -1).all() for _ in range(2000)]
    assert np.isclose(np.mean(empty), 0.15, atol=4 * np.sqrt(0.15 * 0.85 / 2000))


@pytest.mark.parametrize("share", [0, 1])
def test_share_of_patches_without_clicks_is_a_setting(share):
    draw = simulator("default", [1, 2], no_click_share=share)
    rng = np.random.default_rng(0)
    assert {bool((draw(scene(), rng)[1] == -1).all()) for _ in range(100)} == {bool(share)}


def test_default_is_varied():
    """Each class alone, both, with and without background clicks, stray clicks; few clicks far more often than many."""
    rng = np.random.default_rng(0)
    seen, counts, strays = set(), [], 0
    for _ in range(3000):
        points, labels, _ = default_policy(scene(), [1, 2], rng, no_click_share=0)
        wrong = labels != labels_under(scene(), points)
        strays += wrong.sum()
        seen.add(tuple(sorted(set(labels[~wrong].tolist()))))
        counts += [n for n in ((labels[~wrong] == 1).sum(), (labels[~wrong] == 2).sum()) if n]
    assert {(1,), (2,), (1, 2), (0, 1), (0, 2), (0, 1, 2)} <= seen
    histogram = np.bincount(counts, minlength=11)
    assert histogram[1:11].min() > 0 and histogram[1] > 3 * histogram[5] > 0
    assert max(counts) <= 11  # a stray click may meet the class it claims
    # one patch in ten has one, and it mostly lies off the class it claims (128 of 3584 usable voxels are a class)
    assert 0.07 < strays / 3000 < 0.12


def test_default_without_foreground_clicks_the_background():
    rng = np.random.default_rng(0)
    for _ in range(100):
        labels = default_policy(np.zeros((8, 8, 8), np.int16), [1, 2], rng, no_click_share=0).labels
        assert 1 <= len(labels) <= 10 and (labels == 0).all()


def test_more_clicks_than_room_keep_every_class_in_play():
    """Ten classes want up to 115 clicks of 32."""
    segmentation = np.arange(11, dtype=np.int16).repeat(50).reshape(11, 5, 10)
    draw = simulator("default", list(range(1, 11)), no_click_share=0)
    rng = np.random.default_rng(0)
    drawn = [draw(segmentation, rng)[1] for _ in range(300)]
    assert max((labels != -1).sum() for labels in drawn) == 32
    assert set(np.concatenate(drawn)) == set(range(-1, 11))
