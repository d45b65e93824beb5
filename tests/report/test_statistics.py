import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from sam3d_nnunet.report.statistics import FEWEST_PAIRS, compare, holm, mean_interval, smallest_p, spread


def test_interval_is_near_the_normal_one_for_many_values():
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    mean, low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert mean == values.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.2 * half)


def test_interval_is_that_of_resampled_means_and_always_the_same():
    values = np.random.default_rng(2).uniform(size=15)
    mean, low, high = mean_interval(values)
    assert mean_interval(values) == (mean, low, high)
    resampled = np.random.default_rng(3).choice(values, (20_000, len(values))).mean(axis=1)
    assert (low, high) == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.02)


def test_few_values_have_no_interval():
    assert mean_interval(np.array([0.5])) == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)
    assert np.isnan(mean_interval(np.array([]))).all()
    assert np.isnan(spread(np.array([0.5])))
    assert spread(np.array([1.0, 3.0])) == pytest.approx(2**0.5)


@pytest.mark.parametrize("shift", [0.2, -0.2, 0.0])
def test_comparison_is_scipys_on_the_cases_of_both(shift):
    rng = np.random.default_rng(4)
    cases = [f"c{i}" for i in range(20)]
    ours = pd.Series(rng.uniform(size=18), cases[2:])
    theirs = pd.Series(rng.uniform(size=19) - shift, cases[:19]).sample(frac=1, random_state=0)  # in another order
    found = compare(ours, theirs)
    common = cases[2:19]
    expected = wilcoxon(ours[common], theirs[common])
    assert found.pairs == 17
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx((ours[common] - theirs[common]).mean())
    ranks = wilcoxon(ours[common], theirs[common], alternative="greater").statistic  # of those where ours is higher
    assert found.direction == np.sign(ranks - 17 * 18 / 4)
    theirs["c5"] = ours["c5"]
    with_equal, without = compare(ours, theirs), compare(ours, theirs.drop("c5"))
    assert (with_equal.pairs, with_equal.p, with_equal.direction) == (17, without.p, without.direction)


@pytest.mark.parametrize("pairs", [FEWEST_PAIRS - 1, FEWEST_PAIRS, 9])
def test_smallest_p_is_scipys_where_one_is_higher_in_all_pairs(pairs):
    assert smallest_p(pairs) == pytest.approx(wilcoxon(np.arange(1.0, pairs + 1)).pvalue)
    assert (smallest_p(pairs) < 0.05) == (pairs >= FEWEST_PAIRS)


def test_few_pairs_and_no_difference_are_not_significant():
    values = pd.Series(np.arange(FEWEST_PAIRS) / 10, [f"c{i}" for i in range(FEWEST_PAIRS)])
    few = compare(values[1:], values - 1)
    assert (few.pairs, few.direction) == (FEWEST_PAIRS - 1, 0)
    assert np.isnan(few.p)
    assert few.difference == pytest.approx(1)
    assert compare(values, values - 1).p < 0.05
    same = compare(values, values + 1e-15)  # as two sums of the same numbers may differ
    assert (same.p, same.direction) == (1, 0)
    assert np.isnan(compare(values, values.set_axis(list("uvwxyz"))).difference)


def test_holm_is_statsmodels_without_what_was_not_tested():
    p_values = [0.01, np.nan, 0.04, 0.012, 0.5]
    expected = multipletests([0.01, 0.04, 0.012, 0.5], method="holm")[1]
    corrected = holm(p_values)
    assert np.isnan(corrected[1])
    assert np.delete(corrected, 1) == pytest.approx(expected)
    assert np.isnan(holm([np.nan, np.nan])).all()
