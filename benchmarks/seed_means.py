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

import numpy as np
from case_groups import comparison_parser, measured, refuse_missing_baseline

from sam3d_nnunet.errors import SAM3DError


def main(arguments: Sequence[str] | None = None) -> None:
    options = comparison_parser(__doc__).parse_args(arguments)
    try:
        means = by_training(options)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    refuse_missing_baseline(options, means)
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
    found = {p.name: p.means_by("run", options.target, options.metric) for p in measured(options)}
    return {method: means for method, means in found.items() if len(means)}


if __name__ == "__main__":
    main()
