"""Lay out the table that people read: a row for each method; automatic and prompted rows in sections of their own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sam3d_nnunet.evaluation.metrics import is_score, is_share, metric_name
from sam3d_nnunet.report.caption import caption
from sam3d_nnunet.report.content import Column, Content
from sam3d_nnunet.report.pooling import FOLDS, Pooled
from sam3d_nnunet.report.published import NSD, PaperRow
from sam3d_nnunet.report.statistics import Statistic
from sam3d_nnunet.report.training import COLUMNS, NEVER_AUTOMATIC, TITLE, UNKNOWN, never_without_clicks, notes

TEXT_COLUMNS = 2
"""The first columns, method and protocol, hold text; all others hold numbers."""
MARKS = {1: "*↑", 0: "", -1: "*↓"}
SOURCES = {FOLDS: "", "test": ", test set"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        value: number to sort by; None if `text` is not a number.
        interval: confidence interval as it is shown, or empty.
        mark: of significance.
        detail: further numbers, which HTML shows as a tooltip.
        bold: whether it is the best of its column.
    """

    text: str = UNKNOWN
    value: float | None = None
    interval: str = ""
    mark: str = ""
    detail: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under one heading."""

    title: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table, independent of the format that it is written in.

    Attributes:
        title: name of the data set.
        columns: headings.
        sections: rows with one cell for each column.
        caption: sentences.
        text_columns: how many of the first columns hold text; all others hold numbers.
        training: a second table, that says how the methods were trained.
    """

    title: str
    columns: list[str]
    sections: list[Section]
    caption: list[str]
    text_columns: int = TEXT_COLUMNS
    training: "Table | None" = None


@dataclass(frozen=True)
class _Cost:
    """A column with a cost of the method: a number of method.json, or the seconds of the row."""

    heading: str
    text: Callable[[float], str]
    key: str


COSTS = (
    _Cost("tuned parameters (M)", lambda n: f"{n / 1e6:.2f}", "tuned_parameters"),
    _Cost("training (h)", lambda hours: f"{hours:.1f}", "training_hours"),
    _Cost("seconds a case or click", lambda seconds: f"{seconds:.2f}", "seconds"),
    _Cost("peak memory (GiB)", lambda memory: f"{memory:.1f}", "peak_memory_gib"),
)


def lay_out(content: Content) -> Table:
    """Lay the numbers out as a table."""
    best = _best(content)
    rows: dict[str, list[list[Cell]]] = {}
    for place, pooled in enumerate(content.pools):
        title = ("Prompted" if pooled.prompted else "Automatic") + SOURCES[pooled.source]
        rows.setdefault(title, []).append(_row(content, place, pooled, best))
    for row in content.reported_rows:
        title = "automatic" if row.protocol.is_automatic else "prompted"
        rows.setdefault(f"{row.source} ({title})", []).append(_paper_row(content, row))
    headings = ["method", "protocol", "cases", *[_heading(*column) for column in content.columns]]
    sections = [Section(title, of_title) for title, of_title in rows.items()]
    table = Table(content.dataset, [*headings, *[c.heading for c in COSTS]], sections, caption(content))
    return replace(_without_empty(table), training=_training(content))


def _training(content: Content) -> Table:
    rows = [[Cell(text) for text in training.cells] for training in content.trainings]
    text_columns = sum(not column.is_number for column in COLUMNS)
    headings = [column.heading for column in COLUMNS]
    return Table(TITLE, headings, [Section("", rows)], notes(content.trainings), text_columns)


def cost(content: Content, pooled: Pooled, key: str) -> float | None:
    """A cost of a method under a protocol; None if it is unknown."""
    return pooled.seconds if key == "seconds" else content.facts[pooled.method].get(key)


def _heading(target: str, metric: str) -> str:
    return f"{target} {metric_name(metric)}"


def _row(content: Content, place: int, pooled: Pooled, best: set[tuple[int, Column]]) -> list[Cell]:
    name = f"{pooled.name} (baseline)" if pooled.method == content.baselines.of(pooled) else pooled.name
    marked = pooled.without_clicks and never_without_clicks(content.facts[pooled.method])
    label = f"{pooled.label} {NEVER_AUTOMATIC}" if marked else pooled.label
    cells = [Cell(name), Cell(label), Cell(str(len(pooled.cases)), len(pooled.cases))]
    for column in content.columns:
        statistic = content.statistics.get((place, *column))
        cells.append(_metric_cell(column[1], statistic, (place, column) in best) if statistic else Cell())
    return cells + [_cost_cell(item, cost(content, pooled, item.key)) for item in COSTS]


def _paper_row(content: Content, row: PaperRow) -> list[Cell]:
    values = {"dice": row.dice, NSD: row.nsd}
    cells = [Cell(row.name), Cell(row.protocol.name), Cell()]
    for target, metric in content.columns:
        value = values.get(metric) if target == content.paper_target else None
        cells.append(Cell() if value is None else Cell(_number(metric, value), value))
    return cells + [_cost_cell(item, getattr(row, item.key, None)) for item in COSTS]


def _metric_cell(metric: str, statistic: Statistic, bold: bool) -> Cell:
    if not statistic.cases:
        return Cell()
    interval = ""
    if np.isfinite(statistic.low):
        interval = f"[{_number(metric, statistic.low)}, {_number(metric, statistic.high)}]"
    mark, detail = MARKS[statistic.direction], _detail(metric, statistic)
    return Cell(_number(metric, statistic.mean), statistic.mean, interval, mark, detail, bold)


def _detail(metric: str, statistic: Statistic) -> str:
    parts = [_count(len(statistic.cases))]
    spreads = {"folds": statistic.sd_folds, "trainings": statistic.sd_runs, "trials": statistic.sd_trials}
    for what, spread in spreads.items():
        parts += [f"s.d. over {what} {_number(metric, spread)}"] if np.isfinite(spread) else []
    comparison = statistic.comparison
    if comparison is not None and comparison.pairs:
        other = f"{statistic.baseline.name}, {statistic.baseline.label}"
        sign = "+" if comparison.difference >= 0 else "−"
        parts.append(
            f"{sign}{_number(metric, abs(comparison.difference))} against {other} ({_count(comparison.pairs)})"
        )
        parts += [f"p = {statistic.p_holm:.3g} after Holm"] if np.isfinite(statistic.p_holm) else []
    return "; ".join(parts)


def _count(cases: int) -> str:
    return "1 case" if cases == 1 else f"{cases} cases"


def _cost_cell(item: _Cost, value: float | None) -> Cell:
    return Cell() if value is None else Cell(item.text(value), float(value))


def _number(metric: str, value: float) -> str:
    """A share in per cent, any other metric as it is."""
    return f"{100 * value:.2f}" if is_share(metric) else f"{value:.2f}"


def _best(content: Content) -> set[tuple[int, Column]]:
    """The best of several methods under the same protocol and step; only methods that have all the cases take part."""
    groups: dict[tuple, list[int]] = {}
    for place, pooled in enumerate(content.pools):
        groups.setdefault((pooled.source, pooled.label, pooled.clicks), []).append(place)
    best = set()
    for places in groups.values():
        for column in (c for c in content.columns if is_score(c[1])):
            found = {place: s for place in places if (s := content.statistics.get((place, *column))) and s.cases}
            cases = frozenset().union(*(s.cases for s in found.values()))
            means = {place: float(_number(column[1], s.mean)) for place, s in found.items() if s.cases == cases}
            if len(means) > 1:
                best |= {(place, column) for place, mean in means.items() if mean == max(means.values())}
    return best


def _without_empty(table: Table) -> Table:
    """Leave out columns without any known value."""
    rows = [row for section in table.sections for row in section.rows]
    kept = [i for i in range(len(table.columns)) if any(row[i].text != UNKNOWN for row in rows)]
    sections = [Section(s.title, [[row[i] for i in kept] for row in s.rows]) for s in table.sections]
    return replace(table, columns=[table.columns[i] for i in kept], sections=sections)
