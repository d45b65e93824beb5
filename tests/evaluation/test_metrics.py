import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from surface_distance import compute_robust_hausdorff, compute_surface_dice_at_tolerance, compute_surface_distances

from sam3d_nnunet.evaluation.metrics import case_metrics, targets_of

TOLERANCES = (1.0, 2.5, 5.0)


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    field = gaussian_filter(rng.normal(size=shape), 2)
    return field > np.quantile(field, rng.uniform(0.7, 0.98))


def test_surface_metrics_are_those_of_surface_distance_on_the_whole_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape, spacing = rng.integers(12, 30, 3), rng.uniform(0.3, 7, 3)
        truth, prediction = blobs(rng, shape), blobs(rng, shape)
        distances = compute_surface_distances(truth, prediction, spacing)
        found = case_metrics(truth, prediction, spacing, TOLERANCES)
        for tolerance in TOLERANCES:
            expected = compute_surface_dice_at_tolerance(distances, tolerance)
            assert found[f"nsd_{tolerance:g}mm"] == pytest.approx(expected, abs=1e-6)
        assert found["hd95_mm"] == pytest.approx(compute_robust_hausdorff(distances, 95), abs=1e-6)
        assert found["dice"] == pytest.approx(2 * (truth & prediction).sum() / (truth.sum() + prediction.sum()))


def test_volumes_by_hand():
    truth, prediction = np.zeros((2, 4, 10, 12), bool)
    truth[1, 2, 1:5] = True
    prediction[1, 2, 3:6] = True
    found = case_metrics(truth, prediction, (5.0, 2.0, 1.0))
    assert (found["truth_voxels"], found["prediction_voxels"]) == (4, 3)
    assert found["truth_ml"] == pytest.approx(0.04) and found["prediction_ml"] == pytest.approx(0.03)
    assert found["volume_error"] == pytest.approx(-0.25) and found["dice"] == pytest.approx(4 / 7)


def test_lesions():
    truth, prediction = np.zeros((2, 3, 10, 20), bool)
    truth[1, 1, 0:4] = True  # found by two predicted lesions: 3 of 4 voxels, and one outside
    truth[1, 5, 5:7] = True  # missed
    truth[1, 8, 10:14] = True  # found as a whole
    prediction[1, 1, 0:2] = prediction[1, 1, 3:5] = True
    prediction[1, 8, 10:14] = True
    prediction[1, 3, 15:18] = True  # wrong
    found = case_metrics(truth, prediction, (1, 1, 1))
    assert [found[f"lesions_{what}"] for what in ("truth", "predicted", "found", "right")] == [3, 4, 2, 3]
    assert found["lesion_sensitivity"] == pytest.approx(2 / 3)
    assert found["lesion_precision"] == pytest.approx(3 / 4)
    assert found["lesion_f1"] == pytest.approx(2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4))
    assert found["lesion_dice"] == pytest.approx((6 / 8 + 0 + 1) / 3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_lesions_counted_one_by_one(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, 4, 6, 8)) > rng.uniform(0.5, 1, (2, 1, 1, 1))
    found = case_metrics(truth, prediction, (1, 1, 1))
    wanted, drawn = (cc3d.connected_components(mask, connectivity=26) for mask in (truth, prediction))
    dice = []
    for lesion in range(1, wanted.max() + 1):
        hits = set(drawn[wanted == lesion]) - {0}
        union = np.isin(drawn, list(hits))
        dice.append(2 * (union & (wanted == lesion)).sum() / (union.sum() + (wanted == lesion).sum()))
    assert found["lesions_found"] == sum(d > 0 for d in dice)
    assert found["lesions_right"] == len(set(drawn[truth]) - {0})
    assert found["lesion_dice"] == pytest.approx(np.mean(dice) if dice else np.nan, nan_ok=True)


def test_empty_truth_is_undefined_and_counted_as_false_positive_volume():
    truth, prediction = np.zeros((2, 4, 4, 4), bool)
    prediction[1, 1, 1:3] = True
    found = case_metrics(truth, prediction, (5, 10, 20))
    assert found["false_positive_ml"] == pytest.approx(2.0)
    for name in ("dice", "nsd_5mm", "hd95_mm", "volume_error", "lesion_sensitivity", "lesion_f1", "lesion_dice"):
        assert np.isnan(found[name]), name
    assert np.isnan(found["lesion_precision"]) and found["lesions_predicted"] == 1


def test_nothing_found_counts_as_zero_but_has_no_distance():
    truth, prediction = np.zeros((2, 4, 4, 4), bool)
    truth[1, 1, 1:3] = True
    found = case_metrics(truth, prediction, (1, 1, 1))
    assert [found[n] for n in ("dice", "nsd_5mm", "lesion_sensitivity", "lesion_f1", "lesion_dice")] == [0] * 5
    assert found["volume_error"] == -1
    assert np.isnan(found["hd95_mm"]) and np.isnan(found["false_positive_ml"]) and np.isnan(found["lesion_precision"])


def test_both_empty():
    found = case_metrics(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool), (1, 1, 1))
    assert found["false_positive_ml"] == 0 and np.isnan(found["dice"]) and found["lesions_truth"] == 0


def test_targets():
    labels = {"background": 0, "organ": 1, "tumour": 2}
    assert targets_of({"labels": labels | {"ignore": 3}}) == {"organ": (1,), "tumour": (2,)}
    regions = {"background": [0], "whole": [1, 2], "tumour": [2], "ignore": 3}
    assert targets_of({"labels": regions}) == {"whole": (1, 2), "tumour": (2,)}


def test_scattered_lesions_of_a_single_slice_are_counted():
    """cc3d fails on such masks if they are boolean."""
    truth = np.zeros((1, 7, 9), bool)
    truth[0, ::2, ::2] = True
    found = case_metrics(truth, truth, (1, 1, 1))
    assert found["lesions_truth"] == found["lesions_found"] == 20 and found["lesion_f1"] == 1
