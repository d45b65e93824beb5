"""The rules of the autoPET IV challenge, against loops over components; `test_autopet_clicks` has its clicks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import generate_binary_structure, label

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation import autopet

SPACING = (3.0, 2.0, 0.5)
ML = 0.003  # of a voxel
FACES_AND_EDGES = generate_binary_structure(3, 2)
ROUNDS = [[("fg", (0, 1, 2)), ("bg", (3, 4, 5))], [("fg", (1, 1, 1))], []]


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.random((7, 9, 8)) < share for share in rng.uniform(0.02, 0.2, 2))


def without_touch(mask: np.ndarray, other: np.ndarray) -> int:
    """Voxels of components that no voxel of the other mask belongs to."""
    numbers, count = label(mask, FACES_AND_EDGES)
    return sum((numbers == n).sum() for n in range(1, count + 1) if not (other & (numbers == n)).any())


def wrong(seed: int) -> list[str]:
    """Which scores differ from those of the loops."""
    truth, found = random_masks(seed)
    scores = autopet.score(truth.astype(np.uint8), found.astype(np.int16), SPACING)
    expected = {
        "dsc": 2 * (truth & found).sum() / (truth.sum() + found.sum()),
        "fpv": without_touch(found, truth) * ML,
        "fnv": without_touch(truth, found) * ML,
    }
    return [name for name in expected if scores[name] != pytest.approx(expected[name], abs=1e-12)]


@given(st.integers(0, 10_000))
def test_scores_are_those_of_loops(seed):
    assert wrong(seed) == []


MUTATIONS = {
    "6 neighbours": ("NEIGHBOURS", 6, {"fpv", "fnv"}),
    "26 neighbours": ("NEIGHBOURS", 26, {"fpv", "fnv"}),
    "wrong voxels instead of components": ("untouched", lambda mask, other: (mask & ~other).sum(), {"fpv", "fnv"}),
    "all components": ("untouched", lambda mask, other: mask.sum(), {"fpv", "fnv"}),
    "the other way round": ("untouched", lambda mask, other: without_touch(other, mask), {"fpv", "fnv"}),
    "intersection over union": ("dice", lambda a, b: (a & b).sum() / (a | b).sum(), {"dsc"}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_rule_counts(name, monkeypatch):
    where, what, broken = MUTATIONS[name]
    monkeypatch.setattr(autopet, where, what)
    assert set().union(*map(wrong, range(20))) == broken


def test_rounds_areas_and_last_values():
    """The area has trapezoids one round apart, from the prediction without clicks on."""
    truth, first = (mask.astype(np.uint8) for mask in random_masks(1))
    calls, answers = [], [mask.astype(np.uint8) for mask in (*random_masks(2), random_masks(3)[0])]

    def respond(segmentation, clicks):
        calls.append((segmentation, clicks))
        return answers[len(calls) - 1]

    result = autopet.run(truth, first, respond, SPACING, ROUNDS)
    assert [clicks for _, clicks in calls] == ROUNDS
    assert all(seen is last for (seen, _), last in zip(calls, [first, *answers]))
    assert result["clicks"] == [[["fg", [0, 1, 2]], ["bg", [3, 4, 5]]], [["fg", [1, 1, 1]]], []]
    scores = [autopet.score(truth, mask, SPACING) for mask in (first, *answers)]
    for name in ("dsc", "fpv", "fnv"):
        curve = [score[name] for score in scores]
        assert result[name] == curve and result[f"{name}_final"] == curve[3]
        assert result[f"{name}_auc"] == pytest.approx(curve[0] / 2 + curve[1] + curve[2] + curve[3] / 2)
    assert set(result) == {"clicks"} | {n + end for n in ("dsc", "fpv", "fnv") for end in ("", "_auc", "_final")}


def test_perfect_and_empty_segmentations():
    truth, _ = random_masks(0)
    perfect = autopet.run(truth, truth, lambda *_: truth, SPACING, [[]] * 10)
    assert (perfect["dsc_auc"], perfect["fpv_auc"], perfect["fnv_auc"]) == (10, 0, 0)
    nothing = autopet.score(truth, truth & False, SPACING)
    assert nothing == {"dsc": 0, "fpv": 0, "fnv": pytest.approx(truth.sum() * ML)}
    healthy = autopet.run(truth & False, truth, lambda *_: truth, SPACING, [[]])
    assert np.isnan(healthy["dsc_final"]) and healthy["fnv_final"] == 0
    assert healthy["fpv_auc"] == pytest.approx(truth.sum() * ML)


def test_another_shape_is_refused():
    truth, _ = random_masks(0)
    with pytest.raises(SAM3DError, match=r"shape \(7, 9, 7\), but the truth \(7, 9, 8\)"):
        autopet.run(truth, truth, lambda *_: truth[..., 1:], SPACING, [[]])
