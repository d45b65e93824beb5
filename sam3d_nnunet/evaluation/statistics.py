"""Statistics of one number a case: its mean with an interval, and paired comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, rankdata, wilcoxon
from statsmodels.stats.multitest import multipletests

RESAMPLES = 2000
FEWEST_PAIRS = 6
"""With fewer, no signed-rank test can fall below 0.05."""
DECIMALS = 12  # two means over the same trials may differ by rounding


@dataclass(frozen=True)
class Comparison:
    """A method against another, case by case.

    Attributes:
        pairs: how many cases both have.
        difference: mean over these, method minus the other; NaN without pairs.
        direction: 1 if the signed ranks say that the method is higher, -1 lower, 0 neither.
        p: of the two-sided signed-rank test; NaN for fewer than FEWEST_PAIRS.
    """

    pairs: int
    difference: float
    direction: int
    p: float


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its bootstrap interval (95 %, percentiles, fixed seed).

    The mean of nothing is NaN, and so is the interval for fewer than two values.
    """
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    drawn = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return float(np.mean(values)), *map(float, drawn.confidence_interval)


def spread(means: np.ndarray) -> float:
    """Standard deviation of a few means (n - 1); NaN for fewer than two."""
    return float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


def compare(values: pd.Series, baseline: pd.Series) -> Comparison:
    """Wilcoxon's paired signed-rank test (two-sided; zeros are dropped, as Wilcoxon 1945 did).

    Args:
        values, baseline: by case; only the cases of both count.
    """
    values, baseline = values.align(baseline, join="inner")
    differences = np.round((values - baseline).to_numpy(float), DECIMALS)
    pairs = len(differences)
    mean = float(differences.mean()) if pairs else np.nan
    if pairs < FEWEST_PAIRS:
        return Comparison(pairs, mean, 0, np.nan)
    changed = differences[differences != 0]
    if not len(changed):
        return Comparison(pairs, mean, 0, 1.0)
    direction = int(np.sign((rankdata(np.abs(changed)) * np.sign(changed)).sum()))
    return Comparison(pairs, mean, direction, float(wilcoxon(changed).pvalue))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Corrected by Holm's (1979) step-down method; NaN stays and does not count as a comparison."""
    p_values = np.asarray(p_values, float)
    corrected, tested = np.full(p_values.shape, np.nan), np.isfinite(p_values)
    if tested.any():
        corrected[tested] = multipletests(p_values[tested], method="holm")[1]
    return corrected
