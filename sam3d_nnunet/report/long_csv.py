"""All numbers of a table in long form, for other programs."""

from typing import Any

import pandas as pd

from sam3d_nnunet.report.content import Content
from sam3d_nnunet.report.layout import COSTS, cost
from sam3d_nnunet.report.pooling import Pooled
from sam3d_nnunet.report.published import NSD, PaperRow
from sam3d_nnunet.report.statistics import Statistic

KEYS = ["method", "name", "protocol", "clicks", "source", "target", "metric"]
NUMBERS = ["cases", "mean", "low", "high", "sd_folds", "sd_runs", "sd_trials", "baseline", "difference", "p", "p_holm"]
TEXT = [*(key for key in KEYS if key != "clicks"), "baseline"]
WHOLE = ["clicks", "cases", "tuned_parameters"]
"""Columns of integers, which may have gaps."""
PAPER = "paper"
"""What the column source says in the paper's rows."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that spreadsheets compute."""
DIGITS = "%.10g"  # further digits differ between processors


def to_csv(content: Content) -> str:
    """The content of the file: a row for each method, protocol, step, target and metric that has a value in any case.

    Scores are shares, not per cent. The area under the curve of an iterated protocol is a metric of its own, such as
    dice_area, with the last step in the column clicks. The column baseline names the method, protocol and step that
    the row is compared with. Text that would start a formula in a spreadsheet begins with an apostrophe.
    """
    rows = [
        _row(content, content.pools[place], target, metric, statistic)
        for (place, target, metric), statistic in content.statistics.items()
        if statistic.cases
    ]
    rows += [
        _paper_row(content, row, metric, value)
        for row in content.reported_rows
        for metric, value in (("dice", row.dice), (NSD, row.nsd))
        if value is not None
    ]
    table = pd.DataFrame(rows, columns=[*KEYS, *NUMBERS, *[item.key for item in COSTS]])
    for column in WHOLE:
        table[column] = table[column].astype("Int64")
    for column in TEXT:
        table[column] = table[column].map(_no_formula)
    return table.to_csv(index=False, float_format=DIGITS, lineterminator="\n")


def _no_formula(cell: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front, which marks it as text there."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _row(content: Content, pooled: Pooled, target: str, metric: str, statistic: Statistic) -> dict[str, Any]:
    compared, other = statistic.comparison, statistic.baseline
    return {
        "method": pooled.method,
        "name": pooled.name,
        "protocol": pooled.protocol.name,
        "clicks": pooled.clicks,
        "source": pooled.source,
        "target": target,
        "metric": f"{metric}_area" if pooled.area else metric,
        "cases": len(statistic.cases),
        "mean": statistic.mean,
        "low": statistic.low,
        "high": statistic.high,
        "sd_folds": statistic.sd_folds,
        "sd_runs": statistic.sd_runs,
        "sd_trials": statistic.sd_trials,
        "baseline": other and f"{other.name}, {other.label}",
        "difference": compared and compared.difference,
        "p": compared and compared.p,
        "p_holm": statistic.p_holm,
        **{item.key: cost(content, pooled, item.key) for item in COSTS},
    }


def _paper_row(content: Content, row: PaperRow, metric: str, value: float) -> dict[str, Any]:
    return {
        "method": row.method,
        "name": row.name,
        "protocol": row.protocol.name,
        "source": PAPER,
        "target": content.paper_target,
        "metric": metric,
        "mean": value,
        "tuned_parameters": row.tuned_parameters,
    }
