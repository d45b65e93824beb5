"""Statistics of a table: means, intervals, spreads, and paired tests against a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, rankdata, wilcoxon
from statsmodels.stats.multitest import multipletests
from tqdm import tqdm

from sam3d_nnunet.evaluation.metrics import is_tested, metrics_of
from sam3d_nnunet.report.pooling import Pooled

RESAMPLES = 2000
FEWEST_PAIRS = 6
"""With fewer pairs, the p of a signed-rank test can't fall below 0.05."""
DECIMALS = 12  # means over the same trials in another order may differ by rounding


@dataclass(frozen=True)
class Comparison:
    """A method compared with another one, case by case.

    Attributes:
        pairs: number of cases that both have.
        difference: mean over these cases of method minus the other; NaN without pairs.
        direction: 1 if the signed ranks are higher for the method, -1 if they are lower, else 0.
        p: of the two-sided signed-rank test; NaN for fewer than FEWEST_PAIRS.
    """

    pairs: int
    difference: float
    direction: int
    p: float


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its bootstrap interval (95 %, percentiles, fixed seed).

    The mean of no values is NaN, and so is the interval of fewer than two.
    """
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    return float(np.mean(values)), *_interval(tuple(values), RESAMPLES)


@cache  # rows of a table may hold the same predictions, such as volume_1 and iterated_10 after one click
def _interval(values: tuple[float, ...], resamples: int) -> tuple[float, float]:
    drawn = bootstrap((values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(0))
    return tuple(map(float, drawn.confidence_interval))


def spread(means: np.ndarray) -> float:
    """Standard deviation of a few means (n - 1); NaN for fewer than two."""
    return float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


def compare(values: pd.Series, baseline: pd.Series) -> Comparison:
    """Wilcoxon's paired signed-rank test (two-sided; zeros are dropped, as Wilcoxon 1945 did).

    Args:
        values, baseline: by case; only cases that both have count.
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
    return Comparison(pairs, mean, direction, _signed_rank_p(tuple(changed)))


def smallest_p(pairs: int) -> float:
    """The p of the signed-rank test if one method is higher in each of so many pairs."""
    return 2.0 ** (1 - pairs)


@cache  # as above; with ties among a few pairs, it takes a second
def _signed_rank_p(differences: tuple[float, ...]) -> float:
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected by Holm's (1979) step-down method. NaN stays NaN and does not count as a comparison."""
    p_values = np.asarray(p_values, float)
    corrected, tested = np.full(p_values.shape, np.nan), np.isfinite(p_values)
    if tested.any():
        corrected[tested] = multipletests(p_values[tested], method="holm")[1]
    return corrected


LEVEL = 0.05


@dataclass(frozen=True)
class Statistic:
    """One metric of one target and one method under one protocol.

    Attributes:
        cases: names of those that are averaged.
        mean, low, high: mean over cases and its bootstrap interval (95 %).
        sd_folds: standard deviation of the means of the folds.
        sd_runs: standard deviation of the means of the trainings.
        sd_trials: standard deviation of the means of the trials of drawn clicks.
        baseline: what it is compared with; None without comparison.
        comparison: with the baseline.
        p_holm: p after correction for all comparisons of this metric in the table.
    """

    cases: frozenset[str]
    mean: float
    low: float
    high: float
    sd_folds: float
    sd_runs: float
    sd_trials: float
    baseline: Pooled | None = None
    comparison: Comparison | None = None
    p_holm: float = np.nan

    @property
    def direction(self) -> int:
        """1 if it is significantly higher than the baseline (p < 0.05 after correction), -1 if it is lower, else 0."""
        return self.comparison.direction if self.p_holm < LEVEL else 0


Statistics = dict[tuple[int, str, str], Statistic]
"""By index of the pool, target and metric."""


@dataclass(frozen=True)
class Baselines:
    """What rows are compared with: folder names of methods; None: with nothing.

    Attributes:
        automatic: for rows without clicks.
        prompted: for rows with clicks.
    """

    automatic: str | None = None
    prompted: str | None = None

    def of(self, pooled: Pooled) -> str | None:
        """The one for a row."""
        return self.prompted if pooled.prompted else self.automatic


def table_statistics(pools: list[Pooled], targets: list[str], baselines: Baselines) -> Statistics:
    """All statistics of each pool, target and metric.

    Args:
        pools: the rows of the table.
        targets: names.
        baselines: what they are compared with.
    """
    statistics = {}
    for place, pooled in enumerate(tqdm(pools, desc="Statistics", unit="row")):
        other = reference_of(pooled, pools, baselines)
        for target in targets:
            for metric in metrics_of(pooled.rows):
                compared = other if is_tested(metric) else None
                statistics[place, target, metric] = _statistic(pooled, compared, target, metric)
    return _corrected(statistics)


def reference_of(pooled: Pooled, pools: list[Pooled], baselines: Baselines) -> Pooled | None:
    """What a row is compared with: its baseline under the same protocol and step.

    The automatic prediction of a baseline stands in only where the baseline was never measured with clicks, and never
    for an area.
    """
    baseline = [p for p in pools if p.method == baselines.of(pooled)]
    if pooled.method == baselines.of(pooled):
        return None
    same = [p for p in baseline if (p.source, p.label, p.clicks) == (pooled.source, pooled.label, pooled.clicks)]
    without_clicks = [] if pooled.area or any(p.prompted for p in baseline) else baseline
    return next(iter(same + [p for p in without_clicks if p.source == pooled.source]), None)


def _statistic(pooled: Pooled, other: Pooled | None, target: str, metric: str) -> Statistic:
    values = pooled.values(target, metric)
    of_case = values.droplevel("fold")
    return Statistic(
        frozenset(of_case.index),
        *mean_interval(values.to_numpy()),
        spread(values.groupby("fold").mean().to_numpy()),
        spread(pooled.means_by("run", target, metric)) if pooled.runs > 1 else np.nan,
        spread(pooled.means_by("trial", target, metric)) if pooled.trials > 1 else np.nan,
        other,
        other and compare(of_case, other.values(target, metric).droplevel("fold")),
    )


def _corrected(statistics: Statistics) -> Statistics:
    """Holm's correction for all comparisons of each metric, over rows and targets."""
    corrected = dict(statistics)
    for wanted in {metric for *_, metric in statistics}:
        keys = [k for k, s in statistics.items() if k[2] == wanted and s.comparison is not None]
        for key, p in zip(keys, holm([statistics[k].comparison.p for k in keys])):
            corrected[key] = replace(statistics[key], p_holm=float(p))
    return corrected
