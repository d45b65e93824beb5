"""The rules of the CVPR 2025 challenge, against what its own functions gave: see `tests/data/golden_referee`."""

import json
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from data_fixtures import REFEREE
from scipy.integrate import trapezoid
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation import cvpr25

TOLERANCE = 1e-9
SCORES = ("dsc", "nsd", "dsc_auc", "nsd_auc", "dsc_final", "nsd_final")
CASES = {case["seed"]: case for case in json.loads((REFEREE / "cvpr25.json").read_text())}


def differences(responder: ModuleType, seed: int) -> list[str]:
    """Which entries of a golden case `run` doesn't reproduce."""
    truth, first, spacing = responder.truth_and_first(seed)
    found, golden = cvpr25.run(truth, first, responder.respond, spacing), CASES[seed]
    assert found.keys() == golden.keys() - {"seed"}
    different = [key for key in SCORES if np.abs(np.subtract(found[key], golden[key])).max() > TOLERANCE]
    return different + ["clicks"] * (found["clicks"] != golden["clicks"])


def test_there_are_60_golden_cases():
    assert sorted(CASES) == list(range(60))


@pytest.mark.parametrize("seed", CASES)
def test_golden_case(responder, seed):
    assert differences(responder, seed) == []


def descending(truth: np.ndarray) -> list[int]:
    return sorted(np.unique(truth[truth > 0]).tolist(), reverse=True)


def depth(mask: np.ndarray) -> np.ndarray:
    return distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def first_deepest(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(depth(mask) == depth(mask).max())[0])


def deepest_of_one_generator() -> Callable[[np.ndarray], tuple[int, ...]]:
    rng = np.random.RandomState(42)

    def draw(mask: np.ndarray) -> tuple[int, ...]:
        places = np.argwhere(depth(mask) == depth(mask).max())
        return tuple(int(i) for i in places[rng.choice(len(places))])

    return draw


def deepest_without_border(mask: np.ndarray) -> tuple[int, ...]:
    inside = distance_transform_edt(mask)
    places = np.argwhere(inside == inside.max())
    return tuple(int(i) for i in places[np.random.RandomState(42).choice(len(places))])


def score_with_limit_for_each_class(truth, segmentation, classes, spacing) -> tuple[float, float]:
    return tuple(np.mean([SCORE(truth, segmentation, [label], spacing) for label in classes], axis=0))


SCORE = cvpr25.score

# the rule that is broken, what replaces it, a golden case that shows it, and an entry that differs there
MUTATIONS = {
    "6 neighbours": ("NEIGHBOURS", 6, 7, "clicks"),
    "18 neighbours": ("NEIGHBOURS", 18, 12, "clicks"),
    "not the largest error": ("largest_component", lambda mask: mask, 7, "clicks"),
    "first of the deepest voxels": ("deepest_voxel", first_deepest, 7, "clicks"),
    "another seed": ("SEED", 0, 7, "clicks"),
    "no new start of the generator": ("deepest_voxel", deepest_of_one_generator(), 7, "clicks"),
    "border of the image open": ("deepest_voxel", deepest_without_border, 7, "clicks"),
    "classes descending": ("classes_of", descending, 7, "clicks"),
    "NSD at 1 mm": ("TOLERANCE", 1.0, 7, "nsd"),
    "NSD at 3 mm": ("TOLERANCE", 3.0, 7, "nsd"),
    "no limit on Dice": ("LEAST_DICE", 0.0, 45, "nsd"),
    "limit for each class": ("score", score_with_limit_for_each_class, 10, "nsd"),
    "area with the boxes": ("area", lambda values: float(trapezoid(values)), 7, "dsc_auc"),
    "area from 0 to 1": ("area", lambda values: float(trapezoid(values[1:]) / 4), 7, "dsc_auc"),
    "sum of the scores": ("area", lambda values: float(sum(values[1:])), 7, "dsc_auc"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_rule_matters(responder, monkeypatch, name):
    rule, replacement, seed, entry = MUTATIONS[name]
    monkeypatch.setattr(cvpr25, rule, replacement)
    assert entry in differences(responder, seed)


def cube(shape: tuple[int, int, int], *slices: slice, label: int = 1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[slices] = label
    return mask


def test_without_boxes_the_first_scores_are_0_and_clicks_correct_nothing():
    truth = cube((9, 9, 9), slice(2, 7), slice(2, 7), slice(2, 7), label=3)
    seen = []

    def respond(segmentation, new_clicks):
        seen.append((int(segmentation.max()), new_clicks))
        return truth

    result = cvpr25.run(truth, None, respond, (1, 1, 1))
    assert result["dsc"] == [0, 1, 1, 1, 1, 1] and result["nsd"] == [0, 1, 1, 1, 1, 1]
    assert result["dsc_auc"] == result["nsd_auc"] == 4
    assert seen[0] == (0, [(3, "fg", (4, 4, 4))])
    assert result["clicks"] == [[[3, "fg", [4, 4, 4]]], [], [], [], []]


def test_the_model_answers_without_clicks_where_nothing_is_wrong():
    truth = cube((5, 5, 5), slice(1, 4), slice(1, 4), slice(1, 4))
    answers = []
    cvpr25.run(truth, truth, lambda segmentation, clicks: answers.append(clicks) or segmentation, (1, 1, 1))
    assert answers == [[]] * 5


def test_only_wrong_classes_are_clicked():
    shape, middle = (5, 5, 9), slice(1, 4)
    truth = cube(shape, middle, middle, slice(1, 4)) + cube(shape, middle, middle, slice(5, 8), label=2)
    found = np.where(truth == 2, 0, truth)
    assert cvpr25.next_clicks(truth, found, [1, 2]) == [(2, "fg", (2, 2, 6))]
    assert cvpr25.next_clicks(found, truth, [1, 2]) == [(2, "bg", (2, 2, 6))]


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_equal_errors_the_first_is_clicked(order):
    shape, ends = (9, 5, 9), (slice(1, 4), slice(5, 8))  # the first error in (d, h, w) is the second along w
    truth = cube(shape, ends[0], slice(1, 4), ends[1]) | cube(shape, ends[1], slice(1, 4), ends[0])
    truth = np.asarray(truth, order=order)
    assert cvpr25.next_clicks(truth, np.zeros_like(truth), [1]) == [(1, "fg", (2, 2, 6))]


def test_nsd_is_0_up_to_a_dice_of_one_fifth():
    truth = cube((3, 3, 12), 1, 1, slice(0, 9))
    at_limit = cube((3, 3, 12), 1, 1, slice(8, 9))  # Dice 2 / 10
    above = cube((3, 3, 12), 1, 1, slice(7, 9))  # Dice 4 / 11
    assert cvpr25.score(truth, at_limit, [1], (1, 1, 1)) == (0.2, 0.0)
    assert cvpr25.score(truth, above, [1], (1, 1, 1))[1] > 0


def test_a_truth_without_classes_is_refused():
    with pytest.raises(SAM3DError, match="no class"):
        cvpr25.run(np.zeros((3, 3, 3), np.uint8), None, lambda segmentation, clicks: segmentation, (1, 1, 1))


def test_a_segmentation_of_another_shape_is_refused():
    truth = cube((3, 3, 3), 1, 1, 1)
    with pytest.raises(SAM3DError, match=r"\(3, 3, 4\)"):
        cvpr25.run(truth, np.zeros((3, 3, 4), np.uint8), lambda segmentation, clicks: segmentation, (1, 1, 1))
    with pytest.raises(SAM3DError, match=r"\(3, 3\)"):
        cvpr25.run(truth, None, lambda segmentation, clicks: segmentation[0], (1, 1, 1))
