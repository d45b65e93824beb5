"""How much do trainings of the same method differ by chance?

For each method: the mean over all cases of each of its trainings (seeds), their mean and standard deviation, and how
many of them are higher than the training of the baseline at the same place in the list.

Example:
    python benchmarks/seed_means.py results/spine_mr_ablations --protocol each_1 --target "all classes" \\
        --metric object_dice --baseline "ours (tiny)"
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.pooling import FOLDS, pool
from sam3d_nnunet.report.selection import Selection


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("For each") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="folder of results, or results/NAME")
    parser.add_argument("--protocol", required=True, help="of an iterated one, the last step counts")
    parser.add_argument("--target", required=True, help='a class, or "all classes"')
    parser.add_argument("--metric", default="dice", help="as in metrics.csv and scores.csv; dice")
    parser.add_argument("--baseline", required=True, help="name of a method, as in tables")
    options = parser.parse_args(arguments)
    try:
        means = by_training(options)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    if options.baseline not in means:
        what = f"{options.metric} of {options.target} under {options.protocol}"
        sys.exit(f"Error: {options.results} has no {what} by {options.baseline}.")
    print("| method | trainings | mean | deviation | higher in |\n| --- | --- | ---: | ---: | ---: |")
    for method, values in means.items():
        pairs = min(len(values), len(means[options.baseline]))
        higher = int((values[:pairs] > means[options.baseline][:pairs]).sum())
        compared = "–" if method == options.baseline else f"{higher} of {pairs}"
        deviation = f"{values.std(ddof=1):.4f}" if len(values) > 1 else "–"
        listed = ", ".join(f"{value:.4f}" for value in values)
        print(f"| {method} | {listed} | {values.mean():.4f} | {deviation} | {compared} |")


def by_training(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The mean of each training of each method, in the order of their folders.

    Raises:
        SAM3DError: the folder can't be read or compared, or there is no such protocol or baseline.
    """
    pools, _ = pool(Selection(Results(options.results), protocols=[options.protocol], baseline=options.baseline))
    # of the baseline, all protocols are there
    wanted = [p for p in pools if p.protocol.name == options.protocol and p.source == FOLDS and not p.area]
    found = {p.name: p.means_by("run", options.target, options.metric) for p in wanted if options.metric in p.rows}
    return {method: means for method, means in found.items() if len(means)}


if __name__ == "__main__":
    main()
