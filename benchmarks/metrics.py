"""Seconds to measure one case with all metrics, beside surface-distance alone on the same full arrays.

Examples:
    python benchmarks/metrics.py
    python benchmarks/metrics.py --shape 300 512 512 --spacing 1 0.8 0.8
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from surface_distance import compute_robust_hausdorff, compute_surface_dice_at_tolerance, compute_surface_distances
from tqdm import tqdm

from sam3d_nnunet.evaluation.metrics import HD_PERCENT, case_metrics, nsd_column

TOLERANCE = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Examples") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), help="voxels along (d, h, w)")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 0.8, 0.8), help="mm")
    parser.add_argument("--radius", type=float, default=40, help="of the organ, mm")
    parser.add_argument("--runs", type=int, default=3, help="medians are printed")
    arguments = parser.parse_args()
    truth, prediction = organ(arguments, 0), organ(arguments, 1)
    timed = [
        (clock(case_metrics, truth, prediction, arguments), clock(plain, truth, prediction, arguments))
        for _ in tqdm(range(arguments.runs), desc="Measuring", leave=False)
    ]
    ours, theirs = (statistics.median(run[i][0] for run in timed) for i in (0, 1))
    (_, found), (_, (nsd, hd95)) = timed[-1]
    size = " x ".join(map(str, arguments.shape))
    print(f"{size} voxels, {truth.sum()} of them in the organ, medians of {arguments.runs}")
    print(f"all of our metrics {ours:8.2f} s   NSD {found[nsd_column(TOLERANCE)]:.6f}   HD95 {found['hd95_mm']:.4f} mm")
    print(f"surface-distance   {theirs:8.2f} s   NSD {nsd:.6f}   HD95 {hd95:.4f} mm")
    print(f"ours / theirs: seconds {ours / theirs:.3f}; peak memory of both {peak_gib():.1f} GiB")


def organ(arguments: argparse.Namespace, seed: int) -> np.ndarray:
    """A bumpy ball in the middle."""
    rough = gaussian_filter(np.random.default_rng(seed).normal(size=[n // 8 + 1 for n in arguments.shape]), 2)
    bumps = np.kron(rough / rough.std(), np.ones((8, 8, 8)))[tuple(slice(n) for n in arguments.shape)]
    axes = [(np.arange(n) - n / 2) * s for n, s in zip(arguments.shape, arguments.spacing)]
    squared = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    return squared < (arguments.radius + 4 * bumps) ** 2


def plain(
    truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float], tolerances: tuple[float, ...]
) -> tuple[float, float]:
    """NSD and HD95 by surface-distance."""
    distances = compute_surface_distances(truth, prediction, spacing)
    return compute_surface_dice_at_tolerance(distances, tolerances[0]), compute_robust_hausdorff(distances, HD_PERCENT)


def clock(
    measure: Callable, truth: np.ndarray, prediction: np.ndarray, arguments: argparse.Namespace
) -> tuple[float, dict | tuple]:
    """Seconds and result."""
    start = time.perf_counter()
    found = measure(truth, prediction, arguments.spacing, (TOLERANCE,))
    return time.perf_counter() - start, found


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
