"""How much do trainings of the same method differ by chance?

For each method: the mean of each of its trainings over the cases that all of them and those of the baseline have; the
mean and standard deviation of these; and how many are higher than the training of the baseline with the same seed.

Example:
    python benchmarks/seed_means.py results/spine_mr_ablations --protocol each_1 --target "all classes" \\
        --metric object_dice --baseline "ours (tiny)"
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from case_groups import comparison_parser, measured, refuse_missing_baseline

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import METHOD, Results
from sam3d_nnunet.io import read_json_object


def main(arguments: Sequence[str] | None = None) -> None:
    options = comparison_parser(__doc__).parse_args(arguments)
    try:
        trainings = by_training(options)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    refuse_missing_baseline(options, trainings)
    baseline = trainings[options.baseline]
    print("| method | trainings | mean | deviation | higher in |\n| --- | --- | ---: | ---: | ---: |")
    for method, training in trainings.items():
        cases = training.index.intersection(baseline.index)
        values, others = training.loc[cases].mean(), baseline.loc[cases].mean()
        pairs = values.index.intersection(others.index)
        higher = f"{(values[pairs] > others[pairs]).sum()} of {len(pairs)}"
        deviation = f"{values.std():.4f}" if len(values) > 1 else "–"
        listed = ", ".join(f"{value:.4f}" for value in values)
        compared = "–" if method == options.baseline else higher
        print(f"| {method} | {listed} | {values.mean():.4f} | {deviation} | {compared} |")
        if len(cases) < len(baseline):
            print(f"{method} was measured on {len(cases)} of the {len(baseline)} cases.", file=sys.stderr)


def by_training(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """For each method: a row for each case that all its trainings have, a column for each seed.

    Trainings whose seed is not known have their place in the list instead.

    Raises:
        SAM3DError: the folder can't be read or compared, or there is no such protocol or baseline.
    """
    runs, found = Results(options.results).runs, {}
    for pooled in measured(options):
        table = pooled.by("run", options.target, options.metric)
        if len(table):
            seeds = {run: _seed(options.results / folder, run) for run, folder in enumerate(runs[pooled.method])}
            found[pooled.name] = table.rename(columns=seeds)
    return found


def _seed(folder: Path, place: int) -> int:
    seed = read_json_object(folder / METHOD).get("seed")
    return place if seed is None else seed


if __name__ == "__main__":
    main()
