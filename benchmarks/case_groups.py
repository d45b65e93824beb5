"""Do differences between methods hold in each part of a data set, such as its sites or sources?

For each pattern of case names: means of the methods over these cases, differences from the baseline on the cases that
both have, and on how many of them the method is higher. There are no tests here: who chooses parts after looking finds
some that differ.

Example:
    python benchmarks/case_groups.py results/spine_mr_cpu --protocol each_1 --target "all classes" \\
        --metric object_dice --baseline "prompted nnU-Net" --groups "VB1*" "VB3*"
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.pooling import FOLDS, Pooled, pool
from sam3d_nnunet.report.selection import Selection


def main(arguments: Sequence[str] | None = None) -> None:
    parser = comparison_parser(__doc__)
    parser.add_argument("--groups", nargs="+", required=True, help="patterns of case names, such as VB1*")
    options = parser.parse_args(arguments)
    try:
        values = by_method(options)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    refuse_missing_baseline(options, values)
    print("| cases | method | number | mean | difference | higher on |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for pattern in options.groups:
        rows = values[[fnmatch(case, pattern) for case in values.index]]
        if rows.empty:
            sys.exit(f"Error: no case is named like {pattern}.")
        for method in rows:
            difference = (rows[method] - rows[options.baseline]).dropna()
            compared = f"{difference.mean():+.4f} | {(difference > 0).sum()} of {len(difference)}"
            compared = "– | –" if method == options.baseline else compared
            print(f"| {pattern} | {method} | {rows[method].count()} | {rows[method].mean():.4f} | {compared} |")


def by_method(options: argparse.Namespace) -> pd.DataFrame:
    """One row per case of the folds, one column per method.

    Raises:
        SAM3DError: the folder can't be read or compared, or there is no such protocol or baseline.
    """
    found = {p.name: p.values(options.target, options.metric) for p in measured(options)}  # the last step comes last
    return pd.DataFrame({name: values.droplevel("fold") for name, values in found.items()})


# --- for all scripts that compare methods with a baseline ---


def comparison_parser(doc: str) -> argparse.ArgumentParser:
    """What to compare.

    Args:
        doc: of the script; what follows "For each" explains its table.
    """
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0],
        epilog=doc[doc.index("For each") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="folder of results, or results/NAME")
    parser.add_argument("--protocol", required=True, help="of an iterated one, the last step counts")
    parser.add_argument("--target", required=True, help='a class, or "all classes"')
    parser.add_argument("--metric", default="dice", help="as in metrics.csv and scores.csv; dice")
    parser.add_argument("--baseline", required=True, help="name of a method, as in tables")
    return parser


def measured(options: argparse.Namespace) -> list[Pooled]:
    """What was measured of each method on the folds, under the protocol and with the metric.

    Raises:
        SAM3DError: the folder can't be read or compared, or there is no such protocol or baseline.
    """
    pools, _ = pool(Selection(Results(options.results), protocols=[options.protocol], baseline=options.baseline))
    # of the baseline, all protocols are there
    wanted = [p for p in pools if p.protocol.name == options.protocol and p.source == FOLDS and not p.area]
    return [p for p in wanted if options.metric in p.rows]


def refuse_missing_baseline(options: argparse.Namespace, methods: Collection[str]) -> None:
    """End the script where the baseline was not measured."""
    if options.baseline not in methods:
        what = f"{options.metric} of {options.target} under {options.protocol}"
        sys.exit(f"Error: {options.results} has no {what} by {options.baseline}.")


if __name__ == "__main__":
    main()
