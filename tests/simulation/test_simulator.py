import numpy as np
from helpers import all_kinds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE, VoxelPrompts
from sam3d_nnunet.simulation.draw import Components
from sam3d_nnunet.simulation.maps import MapSimulator
from sam3d_nnunet.simulation.simulator import ClickSimulator, PromptSimulator

SEEDS = st.integers(0, 2**32)
SHAPES = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8)
LABEL_MAPS = arrays(np.int16, SHAPES, elements=st.sampled_from([-1, 0, 0, 0, 0, 1, 2, 4]))


def clicks(no_click_share: float = 0.15) -> ClickSimulator:
    return ClickSimulator("default", [1, 2], True, no_click_share)


def lesions() -> np.ndarray:
    """Four of class 1, three of class 2."""
    segmentation = np.zeros((12, 12, 60), np.int16)
    for i in range(7):
        segmentation[3:8, 3:8, 2 + 8 * i : 7 + 8 * i] = 1 + i % 2
    segmentation[:, :, 59] = 4
    return segmentation


def test_most_clicks_bounds_those_on_each_class():
    rng = np.random.default_rng(0)
    for most in (1, 2, 10):
        simulator = ClickSimulator("default", [1, 2], True, 0, most)
        drawn = [simulator.draw(lesions(), [1, 2], rng).labels for _ in range(200)]
        counts = np.array([np.bincount(labels, minlength=3) for labels in drawn])
        stray = 1
        assert counts[:, 1:].max() in (most, most + stray) and counts[:, 0].max() == -(-most // 2)


@given(LABEL_MAPS, SEEDS)
def test_semantic_keeps_the_target(segmentation, seed):
    simulator = PromptSimulator(clicks(), MapSimulator([1, 2], 0.5, 0.5, 0.5))
    drawn, target = simulator(segmentation, np.random.default_rng(seed))
    assert (target == segmentation).all()
    assert all_kinds(drawn.maps).shape == (3, *segmentation.shape)


@given(LABEL_MAPS, SEEDS)
def test_without_maps_only_clicks_are_drawn(segmentation, seed):
    drawn, _ = PromptSimulator(clicks())(segmentation, np.random.default_rng(seed))
    points, labels, _ = clicks()(segmentation, np.random.default_rng(seed))
    assert (drawn.points == points).all() and (drawn.labels == labels).all() and drawn.maps is None


@given(LABEL_MAPS, st.booleans(), SEEDS)
def test_the_target_is_what_clicks_and_marks_select(segmentation, together, seed):
    simulator = PromptSimulator(clicks(), MapSimulator([1, 2], 0.3, 0.3, 0.3), select=True, together=together)
    drawn, target = simulator(segmentation, np.random.default_rng(seed))
    components = Components(segmentation, [1, 2], together)
    marked = np.argwhere(drawn.maps[SCRIBBLE] > 0)
    points = np.concatenate([drawn.points, marked])
    labels = np.concatenate([drawn.labels, drawn.maps[SCRIBBLE][tuple(marked.T)]])
    if (drawn.maps[BOX] != NOTHING).any():  # which doesn't say whose it is
        assert ((target == segmentation) | (target == 0)).all()
        selected = components.holding(VoxelPrompts(points, labels))
        assert (target[selected > 0] == selected[selected > 0]).all()
    elif (labels >= 0).any():
        assert (target == components.holding(VoxelPrompts(points, labels))).all()
    else:
        assert (target == segmentation).all()


def test_a_click_selects_mostly_one_lesion():
    rng = np.random.default_rng(0)
    simulator = PromptSimulator(clicks(), MapSimulator([1, 2], 0.2, 0.1, 0.1), select=True)
    counts, automatic, rejected = [], 0, 0
    for _ in range(300):
        drawn, target = simulator(lesions(), rng)
        said = (drawn.labels >= 0).any() or (all_kinds(drawn.maps)[[SCRIBBLE, BOX]] != NOTHING).any()
        if not said:
            automatic += 1
            assert (target == lesions()).all()
            continue
        counts += [len(Components(target, [c])) for c in (1, 2) if (target == c).any()]
        background = tuple(drawn.points[drawn.labels == 0].astype(int).T)
        rejected += (lesions()[background] > 0).any()
        assert (target[background] == 0).all()
    assert 0.5 < np.mean(np.array(counts) == 1) < 0.9 and max(counts) >= 3
    assert 20 < automatic < 60
    assert rejected > 80


def test_scribbles_and_boxes_also_select_alone():
    rng = np.random.default_rng(0)
    for shares, kind in (((0, 1, 0), SCRIBBLE), ((0, 0, 1), BOX)):
        simulator = PromptSimulator(clicks(), MapSimulator([1, 2], *shares), select=True)
        alone = 0
        for _ in range(100):
            drawn, target = simulator(lesions(), rng)
            if (drawn.labels >= 0).any():
                continue
            alone += 1
            labels = set(np.unique(drawn.maps[kind])) - {NOTHING, 0}
            for label in (1, 2):
                assert len(Components(target, [label])) == (label in labels)
        assert 35 < alone < 80


def test_the_previous_mask_is_one_of_the_target():
    rng = np.random.default_rng(0)
    simulator = PromptSimulator(clicks(0), MapSimulator([1, 2], 1, 0, 0), select=True)
    right, wrong = 0, 0
    for _ in range(100):
        drawn, target = simulator(lesions(), rng)
        masked = drawn.maps[MASK] > 0
        right += (masked & (target > 0)).sum()
        wrong += (masked & (lesions() > 0) & (target == 0)).sum()
    assert wrong < 0.1 * right


@given(LABEL_MAPS, SEEDS)
def test_unlabelled_clicks_select_what_lies_under_them(segmentation, seed):
    """All are shown as label 1; none is a background click on what was left out, which would look like another one."""
    simulator = PromptSimulator(ClickSimulator("paper", [1, 2], False, 0.15), select=True)
    drawn, target = simulator(segmentation, np.random.default_rng(seed))
    assert set(drawn.labels) <= {-1, 1}
    at = tuple(drawn.points[drawn.labels == 1].astype(int).T)
    components = Components(segmentation, [1, 2])
    if np.isin(segmentation, [1, 2]).any():
        assert (components.numbers[at] > 0).all() and len(at[0])
        assert (target == components.only(np.unique(components.numbers[at]))).all()
    else:
        assert (target == segmentation).all()
