"""Pool the folds of a method, so that each case counts once, and check that its numbers can be compared."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.metrics import VOLUMES, is_score, metrics_of
from sam3d_nnunet.evaluation.results import PREDICTION, WEIGHTS, PredictionFolder
from sam3d_nnunet.io import listing
from sam3d_nnunet.report.selection import Selection
from sam3d_nnunet.simulation.protocols import Protocol

FOLDS = "folds"
"""Source of the validation cases of numbered folds. The test set is never pooled with them."""
GROUP = ["source", "protocol", "clicks", "method"]
NO_STEP = -1
"""In the column clicks: the protocol is not iterated."""
MOST_NAMES = 5
"""How many cases a sentence names."""
Splits = list[tuple[frozenset[str], frozenset[str]]]
"""Training and validation cases of each fold."""


@dataclass(frozen=True)
class Pooled:
    """All that one method predicted under one protocol.

    Attributes:
        method: name of its folder.
        name: display name of the method.
        protocol: under which it was predicted.
        source: FOLDS or "test".
        clicks: number of clicks, or rounds, after which it was measured; None if the protocol is not iterated.
        area: the values are areas under the curve up to `clicks` instead of those measured after `clicks`.
        rows: of metrics.csv, with the columns run, fold and trial.
        seconds: median per case, or per click of an iterated protocol; None if unknown.
    """

    method: str
    name: str
    protocol: Protocol
    source: str
    clicks: int | None
    area: bool
    rows: pd.DataFrame
    seconds: float | None

    @property
    def label(self) -> str:
        """Protocol and step."""
        if self.area:
            return f"{self.protocol}, area"
        return self.protocol.name if self.clicks is None else f"{self.protocol}, after {self.clicks}"

    @property
    def without_clicks(self) -> bool:
        """Whether nothing was clicked before this prediction."""
        is_first = self.clicks == 0 and not self.area
        return self.protocol.is_automatic or (is_first and self.protocol.starts_without_prompts)

    @property
    def prompted(self) -> bool:
        """Whether clicks were given."""
        return not self.protocol.is_automatic

    @property
    def folds(self) -> list[str]:
        """The folds that were pooled, as nnU-Net names them."""
        return sorted(self.rows["fold"].unique(), key=lambda fold: (len(fold), fold))

    @property
    def runs(self) -> int:
        """How many times the method was trained on each fold."""
        return self.rows["run"].nunique()

    @property
    def trials(self) -> int:
        """How many times clicks were drawn."""
        return self.rows["trial"].nunique()

    @property
    def cases(self) -> set[str]:
        """All of them."""
        return set(self.rows["case"])

    def values(self, target: str, metric: str) -> pd.Series:
        """One number per case, the mean over its runs and trials, by fold and case; without undefined ones."""
        return self._of_targets("fold")[target][metric].dropna()

    def means_by(self, what: str, target: str, metric: str) -> np.ndarray:
        """Mean of each "trial" or "run", over the cases that all of them have."""
        return self.by(what, target, metric).mean().dropna().to_numpy()

    def by(self, what: str, target: str, metric: str) -> pd.DataFrame:
        """A row for each case that all trials or runs have, a column for each "trial" or "run"."""
        return self._of_targets(what)[target][metric].unstack(what).dropna()

    def _of_targets(self, what: str) -> dict[str, pd.DataFrame]:
        """Means of all metrics by `what` and case, for each target: grouped once, because it takes long."""
        if what not in self._means:
            rows, metrics = self.rows, metrics_of(self.rows)
            empty = rows[:0].groupby([what, "case"])[metrics].mean()
            means = {t: part.groupby([what, "case"])[metrics].mean() for t, part in rows.groupby("target")}
            self._means[what] = defaultdict(lambda: empty, means)
        return self._means[what]

    @cached_property
    def _means(self) -> dict[str, dict[str, pd.DataFrame]]:
        return {}


def pool(selection: Selection) -> tuple[list[Pooled], list[str]]:
    """Pool the folds of each method and protocol, and check that the numbers can be compared.

    Args:
        selection: the methods and protocols.

    Returns:
        pools, in the order of protocols, steps and methods; the area under the curve of an iterated protocol follows
        its steps, unless one is missing. And sentences about what is incomplete or could not be checked.

    Raises:
        SAM3DError: methods were trained on different splits, a case is not a validation case of its fold, a case was
            measured twice, or two runs of a method are the same training.
    """
    _refuse_same_training(selection)
    table = _with_source(pd.concat([selection.table, selection.score_rows()], ignore_index=True))
    splits, notes = _common_splits(selection, table)
    pools = _groups(selection, table)
    for pooled in pools:
        _refuse_twice(pooled)
        if pooled.source == FOLDS and splits is not None:
            notes += _check_folds(pooled, splits)
        notes += _missing_runs(pooled, selection) + _missing_in_trials(pooled)
    if splits is not None:
        notes += _missing_folds([pooled for pooled in pools if pooled.source == FOLDS], splits)
    with_areas, missing_steps = _with_areas(pools)
    return with_areas, list(dict.fromkeys(notes + missing_steps + _missing_cases(pools)))


def _groups(selection: Selection, table: pd.DataFrame) -> list[Pooled]:
    groups, seconds = dict(list(table.groupby(GROUP))), _seconds(selection)
    protocols = {name: Protocol.parse_or_other(name) for _, name, *_ in groups}
    pools = []
    for key in sorted(groups, key=lambda k: (k[0] != FOLDS, k[0], protocols[k[1]].order, *k[2:])):
        source, protocol, clicks, method = key
        rows, name = groups[key].copy(), selection.name(method)
        undefined = [metric for metric in metrics_of(rows) if metric not in VOLUMES]
        rows[undefined] = rows[undefined].where(rows["truth_voxels"] > 0)  # the rule for an empty truth
        step = None if clicks == NO_STEP else clicks
        pools.append(Pooled(method, name, protocols[protocol], source, step, False, rows, seconds.get(key)))
    return pools


def _with_source(table: pd.DataFrame) -> pd.DataFrame:
    """With a column source, and integers in the column clicks, so that pandas can group by both."""
    source = table["fold"].map(lambda fold: FOLDS if fold.isdecimal() else fold)
    return table.assign(source=source, clicks=table["clicks"].fillna(NO_STEP).astype(int))


def _seconds(selection: Selection) -> dict[tuple, float]:
    """Median of each group. Predictions from other programs may have no times."""
    if not any((folder.path / PREDICTION).is_file() for folder in selection.results.folders):
        return {}
    return _with_source(selection.results.costs).groupby(GROUP)["seconds"].median().dropna().to_dict()


def _common_splits(selection: Selection, table: pd.DataFrame) -> tuple[Splits | None, list[str]]:
    """The splits that all methods share (None if none has any), and a sentence for each method without splits."""
    common, first, notes = None, "", []
    methods = set(table.loc[table["source"] == FOLDS, "method"])
    for method in (m for m in selection.methods if m in methods):
        splits, name = _splits(selection, method), selection.name(method)
        if splits is None:
            notes.append(f"{name}: it is not known which splits it was trained on.")
        elif common is None:
            common, first = splits, name
        elif splits != common:
            raise SAM3DError(
                f"{selection.results.root}: {first} and {name} were trained on different splits. Their folds can't be "
                "compared. Train both on the same splits_final.json, or choose one of them with --method."
            )
    return common, notes


def _splits(selection: Selection, method: str) -> Splits | None:
    splits = selection.results.splits(method)
    return splits and [(frozenset(fold["train"]), frozenset(fold["val"])) for fold in splits]


def _refuse_twice(pooled: Pooled) -> None:
    in_several_folds = pooled.rows.groupby("case")["fold"].transform("nunique") > 1  # also in different runs or trials
    again = pooled.rows[in_several_folds | pooled.rows.duplicated(["run", "trial", "case", "target"])]
    if len(again):
        case = again["case"].iloc[0]
        folds = sorted(pooled.rows.loc[pooled.rows["case"] == case, "fold"].unique())
        raise SAM3DError(
            f"{pooled.name}, {pooled.label}: the case {case} was measured twice, in fold {' and '.join(folds)}. "
            "Remove the folder of the fold that it does not belong to, or measure again."
        )


def _refuse_same_training(selection: Selection) -> None:
    """Runs of a method are different trainings, by the fingerprints of their weights."""
    runs = {method: folders for method, folders in selection.results.runs.items() if method in selection.methods}
    seen: dict[tuple[str, str], PredictionFolder] = {}
    for folder in (f for f in selection.results.folders if len(runs.get(f.method, ())) > 1):
        weights = folder.settings.get(WEIGHTS)
        first = seen.setdefault((folder.method, str(weights)), folder)
        if weights and first.run != folder.run:
            one, other = (runs[folder.method][f.run] for f in (first, folder))
            raise SAM3DError(
                f"{selection.results.root}: {one} and {other} count as two trainings of {folder.method}, but "
                f"{first.path} and {folder.path} were predicted with the same weights. Evaluate another training under "
                "one of these names, or remove its folder."
            )


def _check_folds(pooled: Pooled, splits: Splits) -> list[str]:
    """Sentences about cases that are missing.

    Raises:
        SAM3DError: a case is not among the validation cases of its fold.
    """
    notes = []
    for fold, rows in pooled.rows.groupby("fold"):
        validation = splits[int(fold)][1] if int(fold) < len(splits) else frozenset()
        wrong = sorted(set(rows["case"]) - validation)
        if wrong:
            raise SAM3DError(
                f"{pooled.name}, {pooled.label}: {listing(wrong, MOST_NAMES)} in fold {fold} is not a validation case "
                "of that fold in splits_final.json: the model may have been trained on it. Evaluate the fold with the "
                "splits it was trained on."
            )
        missing = sorted(validation - set(rows["case"]))
        if missing:
            notes.append(f"{pooled.name}, {pooled.label}: fold {fold} lacks {listing(missing, MOST_NAMES)}.")
    return notes


def _missing_folds(pools: list[Pooled], splits: Splits) -> list[str]:
    """One sentence for each set of missing folds, with the methods that lack it."""
    lacking: dict[str, list[str]] = {}
    for pooled in pools:
        left = ", ".join(str(fold) for fold in range(len(splits)) if str(fold) not in pooled.folds)
        names = lacking.setdefault(left, [])
        names += [name for name in [f"{pooled.name}, {pooled.protocol}"] if name not in names]
    if len(lacking) == 1:
        lacking = {left: ["All methods"] for left in lacking}
    return [f"{'; '.join(names)}: without fold {left} of {len(splits)}." for left, names in lacking.items() if left]


def _missing_runs(pooled: Pooled, selection: Selection) -> list[str]:
    known = len(selection.results.runs[pooled.method])
    return [f"{pooled.name}, {pooled.label}: {pooled.runs} of {known} trainings."] if pooled.runs < known else []


def _missing_in_trials(pooled: Pooled) -> list[str]:
    return [
        f"{pooled.name}, {pooled.label}: {f'training {run + 1}, ' if pooled.runs > 1 else ''}trial {trial} lacks "
        f"{listing(missing, MOST_NAMES)}."
        for (run, trial), rows in pooled.rows.groupby(["run", "trial"])
        if (missing := sorted(pooled.cases - set(rows["case"])))
    ]


def _missing_cases(pools: list[Pooled]) -> list[str]:
    """One sentence for each method that lacks cases that another method has."""
    notes = []
    for pooled in pools:
        known = set().union(*(other.cases for other in pools if other.source == pooled.source))
        if pooled.cases != known:
            notes.append(f"{pooled.name}, {pooled.label}: {len(pooled.cases)} of {len(known)} cases.")
    return notes


def _with_areas(pools: list[Pooled]) -> tuple[list[Pooled], list[str]]:
    """Add the area under the curve of each method after the last step of an iterated protocol.

    Areas over different steps can't be compared: a method that lacks a step of another one has none, and a sentence
    says so. Challenges measure areas in their own way (scores.csv).
    """
    of_protocols: dict[tuple, list[Pooled]] = {}
    for pooled in pools:
        of_protocols.setdefault((pooled.source, pooled.protocol), []).append(pooled)
    with_areas, notes = [], []
    for (_, protocol), of_protocol in of_protocols.items():
        with_areas += of_protocol
        known = {pooled.clicks for pooled in of_protocol}
        for steps in _by_method(of_protocol):
            missing = sorted(known - {step.clicks for step in steps})
            if missing:
                listed = ", ".join(map(str, missing))
                so = "" if protocol.is_challenge else ", and so without area"
                notes.append(f"{steps[0].name}, {protocol}: not measured after {listed}{so}.")
            elif len(known) > 1 and not protocol.is_challenge:
                with_areas.append(replace(steps[-1], area=True, seconds=None, rows=_area_rows(steps)))
    return with_areas, notes


def _by_method(pools: Iterable[Pooled]) -> Iterable[list[Pooled]]:
    methods: dict[str, list[Pooled]] = {}
    for pooled in pools:
        methods.setdefault(pooled.method, []).append(pooled)
    return methods.values()


def _area_rows(steps: list[Pooled]) -> pd.DataFrame:
    """Trapezoids between the first and the last step, divided by their distance; NaN where a case lacks a step."""
    clicks = [step.clicks for step in steps]
    tables = [step.rows.set_index(["run", "fold", "trial", "case", "target"]) for step in steps]
    areas = pd.DataFrame(index=tables[-1].index)
    for metric in metrics_of(tables[-1]):
        curves = pd.concat([table[metric] for table in tables], axis=1).reindex(areas.index)
        area = trapezoid(curves.to_numpy(), clicks, axis=1) / (clicks[-1] - clicks[0])
        areas[metric] = area if is_score(metric) else np.nan
    return areas.reset_index()
