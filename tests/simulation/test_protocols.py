import re

import cc3d
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import case_generator, clicks_per_class
from sam3d_nnunet.simulation.protocol_clicks import (
    DRAWING,
    _off_target,
    draw_protocol,
    thirds_by_depth,
    trial_generator,
)
from sam3d_nnunet.simulation.protocols import FAMILIES, PAPER, Family, Protocol, protocol_help

SPACING = (3.0, 1.0, 0.5)
DRAWN = [name for name, family in FAMILIES.items() if family.is_drawn]
STEPS = {"iterated": range(1, 4), "cvpr25": range(6), "autopet": range(4)}
"""Of protocols with 3 clicks or rounds."""


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


def draw(name: str, segmentation: np.ndarray, seed: int = 0) -> VoxelPrompts:
    protocol = Protocol.parse(name)
    one_class = protocol.is_challenge and protocol.family.challenge.one_class
    uptake = np.random.default_rng(1).normal(size=segmentation.shape)
    rng = np.random.default_rng(seed)
    return draw_protocol(
        protocol, segmentation, [1, 2][: 1 if one_class else None], SPACING, rng, uptake=lambda: uptake
    )


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
    assert protocol == Protocol(FAMILIES[kind], clicks, percent / 100, mm if percent else 0)
    assert protocol.name == f"{kind}_{clicks}{off}" == Protocol.parse_or_other(protocol.name).name
    assert protocol.is_drawn and not protocol.is_automatic and not protocol.is_iterated and not protocol.steps


def test_names_without_drawn_clicks():
    assert Protocol.parse("automatic") == Protocol(FAMILIES["automatic"])
    assert Protocol.parse("iterated_5") == Protocol(FAMILIES["iterated"], 5)
    assert [Protocol.parse(name).name for name in ("automatic", "iterated_5")] == ["automatic", "iterated_5"]
    assert [protocol.name for protocol in PAPER] == ["automatic", "volume_1", "volume_3", "volume_10"]


@pytest.mark.parametrize(
    "name",
    ["", "volume", "volume_0", "volume_03", "volume_-1", "centre_1", "automatic_1", "iterated_5_off20_5mm"]
    + ["cvpr25_1", "autopet", "autopet_0", "autopet_3_off20_5mm", "automatic_human", "margin_1_human", "volume_human"]
    + ["volume_1_off20_5mm_human", "volume_1_human_off20_5mm", "volume_1_Human", "volume_1__human"]
    + ["volume_1_off0_5mm", "volume_1_off101_5mm", "volume_1_off20_0mm", "volume_1_off1.2.3_5mm", "volume_1 ", "../x"],
)
def test_other_names_are_refused(name):
    with pytest.raises(SAM3DError, match=f"{re.escape(repr(name))}.*volume_N, lesion_N"):
        Protocol.parse(name)
    other = Protocol.parse_or_other(name)
    assert (other.name, other.sentence) == (name, "drawn clicks")
    assert not (other.is_automatic or other.is_drawn or other.is_iterated or other.family.is_click_position)


@given(st.text())
def test_any_text_is_a_protocol_or_refused(text):
    try:
        assert Protocol.parse(Protocol.parse(text).name) == Protocol.parse(text)
    except SAM3DError as e:
        assert repr(text) in str(e)
    assert Protocol.parse_or_other(text).name == str(Protocol.parse_or_other(text)) == text


# --- families ---


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_a_sentence_an_order_help_and_clicks(name, segmentation):
    family, text = FAMILIES[name], {}
    for count in (1, 3) if family.is_numbered else (0,):
        protocol = Protocol(family, count)
        assert Protocol.parse(protocol.name) == protocol == protocol.ideal
        text[count] = protocol.sentence
        assert text[count] and not set("{}") & set(text[count])
        assert text[count] == text[count].strip()
        if family.has_human:
            human = Protocol(family, count, human=True)
            assert Protocol.parse(f"{protocol.name}_human") == human == Protocol.parse_or_other(human.name)
            assert human.name == f"{protocol.name}_human" and human.ideal == protocol and human.order > protocol.order
            assert human.sentence == f"{protocol.sentence}, placed as by a person" and human.has_trials
            assert not (human.is_plotted_against_clicks or human.gives_one_click) and human.steps == protocol.steps
        else:
            with pytest.raises(SAM3DError, match="no protocol"):
                Protocol.parse(f"{protocol.name}_human")
    assert len(set(text.values())) == len(text)
    others = {other.sentence for other in FAMILIES.values() if other is not family}
    assert family.sentence not in others
    assert family.help.startswith(family.form) and family.help in protocol_help()
    assert protocol.order[0] == list(FAMILIES).index(name)
    assert sum([protocol.is_automatic, protocol.is_drawn, protocol.is_iterated]) == 1
    assert protocol.steps == STEPS.get(name, range(0))
    points, labels, _ = draw(protocol.name, segmentation)
    assert points.shape == (len(labels), 3) and (len(labels) == 0) == protocol.is_automatic


def test_a_new_family_needs_an_entry_and_a_drawing(segmentation, monkeypatch):
    monkeypatch.setitem(FAMILIES, "edge", Family("edge", "{clicks} on the edge"))
    monkeypatch.setitem(DRAWING, "edge", DRAWING["margin"])
    assert np.bincount(draw("edge_4", segmentation)[1]).tolist() == [0, 4, 4]
    assert Protocol.parse("edge_4_off20_5mm").sentence == "4 clicks on the edge, 20 % of them moved 5 mm off target"
    assert "edge_N: N clicks on the edge" in protocol_help()


def test_nothing_is_drawn_for_an_unknown_family():
    assert list(DRAWING) == list(FAMILIES)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("automatic", "no clicks"),
        ("volume_1", "1 click on each class of a volume"),
        ("slice_10", "10 clicks on each slice with the class"),
        ("margin_3_off20_5mm", "3 clicks in the outer third of the largest lesion, 20 % of them moved 5 mm off target"),
        ("iterated_5", "one click on each class, then corrective clicks one after another, 5 steps in all"),
        ("volume_3_human", "3 clicks on each class of a volume, placed as by a person"),
        ("bbox_3", "drawn clicks"),
        ("volume_1_off20.0_5mm", "drawn clicks"),  # sam3d evaluate writes it as volume_1_off20_5mm
    ],
)
def test_sentences(name, sentence):
    assert Protocol.parse_or_other(name).sentence == sentence


def test_order_is_that_of_families_then_few_clicks_then_names():
    names = [
        "automatic",
        "volume_1",
        "volume_1_human",
        "volume_1_off20_5mm",
        "volume_3",
        "volume_10",
        "slice_3",
        "center_1",
        "margin_1",
    ]
    names += ["iterated_3", "cvpr25", "cvpr25_human", "autopet_3", "autopet_3_human", "autopet_10"]
    names += ["scribbles", "bbox_3", "bbox_10"]
    shuffled = [Protocol.parse_or_other(name) for name in sorted(names)]
    assert [protocol.name for protocol in sorted(shuffled, key=lambda protocol: protocol.order)] == names


def test_what_figures_show():
    names = ["automatic", "volume_3", "volume_3_off20_5mm", "lesion_1", "center_1", "center_1_off20_5mm", "iterated_1"]
    protocols = {name: Protocol.parse_or_other(name) for name in [*names, "bbox_1"]}
    assert {n: p.clicks for n, p in protocols.items() if p.is_plotted_against_clicks} == {"automatic": 0, "volume_3": 3}
    assert [n for n, p in protocols.items() if p.family.is_click_position] == ["center_1", "center_1_off20_5mm"]
    assert [n for n, p in protocols.items() if p.gives_one_click] == ["lesion_1", "center_1", "iterated_1", "bbox_1"]


def test_the_protocol_of_a_challenge():
    protocol = Protocol.parse("cvpr25")
    assert protocol.is_challenge and protocol.is_iterated and protocol.steps == range(6)
    assert not protocol.has_trials and Protocol.parse("volume_1").has_trials
    for name in ("cvpr25_5", "cvpr25_off20_5mm", "cvpr"):
        with pytest.raises(SAM3DError, match="There is no protocol"):
            Protocol.parse(name)


def test_centres_of_boxes(segmentation):
    points, labels, _ = draw("cvpr25", segmentation)
    assert labels.tolist() == [1, 2]
    for label, point in zip(labels, points):
        voxels = np.argwhere(segmentation == label)
        assert (point == (voxels.min(0) + voxels.max(0)) / 2).all()


# --- clicks ---


def test_volume_has_the_clicks_of_a_trainings_validation(segmentation):
    points, labels, _ = draw_protocol(
        Protocol.parse("volume_1"), segmentation, [1, 2], SPACING, trial_generator("case_7", 0)
    )
    expected = clicks_per_class(segmentation, [1, 2], 1, case_generator("case_7"))
    assert (points == expected[0]).all() and (labels == expected[1]).all()
    other = draw_protocol(Protocol.parse("volume_1"), segmentation, [1, 2], SPACING, trial_generator("case_7", 1))
    assert (points != other[0]).any()


@pytest.mark.parametrize("kind", DRAWN)
def test_clicks_lie_on_their_class_and_repeat(segmentation, kind):
    points, labels, _ = draw(f"{kind}_3", segmentation)
    assert points.dtype == np.float32 and labels.dtype == np.int64
    assert (under(points, segmentation) == labels).all() and set(labels) == {1, 2}
    assert len(np.unique(points, axis=0)) == len(points)
    assert (draw(f"{kind}_3", segmentation)[0] == points).all()
    assert not np.array_equal(draw(f"{kind}_3", segmentation, seed=1)[0], points)


def test_counts(segmentation):
    assert np.bincount(draw("volume_10", segmentation)[1]).tolist() == [0, 10, 10]
    assert np.bincount(draw("iterated_5", segmentation)[1]).tolist() == [0, 1, 1]
    assert len(draw("automatic", segmentation)[1]) == 0

    points, labels, _ = draw("lesion_2", segmentation)
    numbers = under(points, cc3d.connected_components(np.where(segmentation == 3, 0, segmentation), connectivity=26))
    assert np.bincount(numbers).tolist() == [0, 2, 2, 2]
    assert np.bincount(labels).tolist() == [0, 4, 2]

    points, labels, _ = draw("slice_2", segmentation)
    for label in (1, 2):
        slices = np.bincount(points[labels == label, 0].astype(int), minlength=16)
        assert slices.tolist() == np.minimum(2, (segmentation == label).sum((1, 2))).tolist()


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_along_another_axis(segmentation, axis):
    rng = np.random.default_rng(0)
    points, labels, _ = draw_protocol(Protocol.parse("slice_2"), segmentation, [1, 2], SPACING, rng, axial=axis)
    others = tuple(a for a in range(3) if a != axis)
    for label in (1, 2):
        slices = np.bincount(points[labels == label, axis].astype(int), minlength=segmentation.shape[axis])
        assert slices.tolist() == np.minimum(2, (segmentation == label).sum(others)).tolist()


@pytest.mark.parametrize("name", [*(f"{kind}_2" for kind in DRAWN), "iterated_2", "cvpr25", "volume_1_off100_5mm"])
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
        points, labels, _ = draw(f"{kind}_{size}", segmentation)
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
    on, labels, _ = draw("volume_50", segmentation)
    off, same_labels, _ = draw("volume_50_off40_6mm", segmentation)
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
    on, *_ = draw_protocol(Protocol(FAMILIES["volume"], 1), segmentation, [1], (2, 1, 1), np.random.default_rng(seed))
    off, labels, _ = draw_protocol(Protocol(FAMILIES["volume"], 1, 1.0, mm), segmentation, [1], (2, 1, 1), rng)
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
    on, *_ = draw("volume_3", full)
    off, *_ = draw("volume_3_off100_5mm", full)
    assert (on == off).all()
