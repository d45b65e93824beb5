"""How far trainings have come: loss and validation Dice from nnU-Net's logs, at the same number of steps for all.

Prints a table for each number, with the mean over the folds of each model; only epochs that all its folds have finished
count. The validation Dice is nnU-Net's "pseudo Dice", of the patches that the trainer itself draws: with clicks for
trainers with prompts, without any for others. With -o, draws the curves.

Example:
    python benchmarks/training_curves.py $nnUNet_results/Dataset921_SpineMR/*__3d_fullres -o curves.svg
"""

import argparse
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

LOSS = re.compile(r"train_loss (-?[\d.]+|nan)")
DICE = re.compile(r"Pseudo dice \[(.*)\]")
SECONDS = re.compile(r"Epoch time: ([\d.]+) s")
NUMBER = re.compile(r"(?<!float)(\d+\.\d+|nan)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("Example") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", type=Path, nargs="+", help="folders TRAINER__PLANS__CONFIGURATION")
    parser.add_argument("--every", type=int, default=5, help="epochs of a column")
    parser.add_argument("-o", dest="figure", type=Path, help="SVG or PNG file for the curves")
    arguments = parser.parse_args()
    models = {name: read_folds(folder) for name, folder in zip(names(arguments.models), arguments.models)}
    for name, place in (("Training loss", 0), ("Validation Dice", 1)):
        print(f"\n{name}, mean over the folds\n")
        print_table({trainer: curves[place] for trainer, curves in models.items()}, arguments.every)
    print()
    for trainer, (losses, _, seconds) in models.items():
        print(f"{trainer}: {len(losses)} fold(s), median {np.median(seconds):.1f} s an epoch")
    if arguments.figure:
        draw(models, arguments.figure)


def names(models: list[Path]) -> list[str]:
    """Trainers, with the plans where models share a trainer, and the whole folder where they share these, too."""
    for parts in (1, 2, 3):
        found = ["__".join(folder.name.split("__")[:parts]) for folder in models]
        if len(set(found)) == len(found):
            return found
    return [str(folder) for folder in models]


def read_folds(model: Path) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Loss and Dice of a model, (folds, epochs) each, and the seconds of all epochs but the first, which starts up."""
    folds = [read_log(sorted(fold.glob("training_log_*.txt"))) for fold in sorted(model.glob("fold_*"))]
    folds = [fold for fold in folds if len(fold[0])]
    if not folds:
        raise SystemExit(f"{model} has no fold with a training log of nnU-Net.")
    epochs = min(len(dice) for _, dice, _ in folds)
    losses, dices = (np.array([fold[place][:epochs] for fold in folds]) for place in (0, 1))
    return losses, dices, [s for _, _, seconds in folds for s in seconds[1:]]


def read_log(files: list[Path]) -> tuple[list[float], list[float], list[float]]:
    """Loss, Dice and seconds of each epoch of a fold; a training that was continued has several files."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    dices = [np.nanmean([float(value) for value in NUMBER.findall(values)]) for values in DICE.findall(text)]
    return [float(v) for v in LOSS.findall(text)], dices, [float(v) for v in SECONDS.findall(text)]


def print_table(curves: dict[str, np.ndarray], every: int) -> None:
    epochs = max(curve.shape[1] for curve in curves.values()) // every * every
    starts = range(0, epochs, every)
    print("| trainer | " + " | ".join(f"epochs {start + 1}–{start + every}" for start in starts) + " |")
    print("| --- |" + " ---: |" * len(starts))
    for trainer, curve in curves.items():
        parts = [curve[:, start : start + every] for start in starts]
        print(f"| {trainer} | " + " | ".join(f"{p.mean():.3f}" if p.shape[1] == every else "–" for p in parts) + " |")


def draw(models: dict[str, tuple[np.ndarray, np.ndarray, list[float]]], file: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, place, title in zip(figure.subplots(1, 2), (0, 1), ("training loss", "validation Dice of patches")):
        for trainer, curves in models.items():
            mean = curves[place].mean(0)
            smooth = np.convolve(mean, np.ones(5) / 5, "valid")
            axes.plot(np.arange(len(smooth)) + 3, smooth, label=trainer)
        axes.set(xlabel="epoch (mean of five)", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
