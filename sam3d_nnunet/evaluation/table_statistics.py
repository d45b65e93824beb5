"""All numbers of a table: means, intervals, spreads, and tests against the baseline."""

from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from sam3d_nnunet.evaluation.crossval import Pooled
from sam3d_nnunet.evaluation.statistics import Comparison, compare, holm, mean_interval, spread
from sam3d_nnunet.evaluation.table_metrics import is_score, metrics_of

LEVEL = 0.05


@dataclass(frozen=True)
class Statistic:
    """One metric of one target and one method under one protocol.

    Attributes:
        cases: those that are averaged.
        mean, low, high: mean over cases and its bootstrap interval (95 %).
        sd_folds: standard deviation of the means of the folds.
        sd_trials: standard deviation of the means of the trials of drawn clicks.
        baseline: what it is compared with; None without comparison.
        comparison: with the baseline.
        p_holm: corrected for all comparisons of this metric in the table.
    """

    cases: frozenset[str]
    mean: float
    low: float
    high: float
    sd_folds: float
    sd_trials: float
    baseline: Pooled | None = None
    comparison: Comparison | None = None
    p_holm: float = np.nan

    @property
    def direction(self) -> int:
        """1 if it is significantly higher than the baseline's (p < 0.05 after correction), -1 if lower, else 0."""
        return self.comparison.direction if self.p_holm < LEVEL else 0


Statistics = dict[tuple[int, str, str], Statistic]
"""By place among what was pooled, target and metric."""


def table_statistics(pools: list[Pooled], targets: list[str], baseline: str | None) -> Statistics:
    """Everything that can be said about each metric.

    Args:
        pools: the rows of the table.
        targets: their names.
        baseline: folder name of the method that the others are compared with under the same protocol, or under the
            automatic one; None: no comparison.
    """
    statistics = {}
    for place, pooled in enumerate(tqdm(pools, desc="Statistics", unit="row")):
        other = reference_of(pooled, pools, baseline)
        for target in targets:
            for metric in metrics_of(pooled.rows):
                compared = other if is_score(metric) else None
                statistics[place, target, metric] = _statistic(pooled, compared, target, metric)
    return _corrected(statistics)


def reference_of(pooled: Pooled, pools: list[Pooled], baseline: str | None) -> Pooled | None:
    """What a row is compared with: the baseline under the same protocol and step, else its automatic prediction."""
    if pooled.method == baseline:
        return None
    others = [p for p in pools if p.method == baseline and p.source == pooled.source]
    same = [p for p in others if p.label == pooled.label and p.clicks == pooled.clicks]
    automatic = [] if pooled.area else [p for p in others if not p.prompted]
    return next(iter(same + automatic), None)


def _statistic(pooled: Pooled, other: Pooled | None, target: str, metric: str) -> Statistic:
    values = pooled.values(target, metric)
    of_case = values.droplevel("fold")
    return Statistic(
        frozenset(of_case.index),
        *mean_interval(values.to_numpy()),
        spread(values.groupby("fold").mean().to_numpy()),
        spread(pooled.trial_means(target, metric)),
        other,
        other and compare(of_case, other.values(target, metric).droplevel("fold")),
    )


def _corrected(statistics: Statistics) -> Statistics:
    """With Holm's correction for all comparisons of each metric, over rows and targets."""
    corrected = dict(statistics)
    for wanted in {metric for *_, metric in statistics}:
        keys = [k for k, s in statistics.items() if k[2] == wanted and s.comparison is not None]
        for key, p in zip(keys, holm([statistics[k].comparison.p for k in keys])):
            corrected[key] = replace(statistics[key], p_holm=float(p))
    return corrected
