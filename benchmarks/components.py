"""Does one click an object tell look-alikes apart better than the connected components of a mask without clicks?

For each method with masks without clicks there are two rows, and one for each method that got one click an object:

    components            The mask falls into connected components (26 neighbours). Each object gets one of them at
                          most, so that the sum of the Dice is the highest possible: only the truth can choose so.
    components at clicks  Each click takes the component of its class that is nearest to it, and voxels that several
                          clicks take go to the nearest click: the same clicks, on a network without any.
    each_1                The scores of sam3d evaluate, for the first clicks that were drawn.

    Dice of the clicked, others marked, instance Dice
                    as in the tables of sam3d table; an object without component has a Dice of 0. Means over cases; of
                    the instance Dice with its 95 % bootstrap interval
    merged          share of the objects whose component holds most of another object, too
    spare           components that no object gets, per case
    large           those of them with at least half the voxels of the smallest object of the case

The last columns compare the instance Dice with that of a row, on the cases that both have: the mean difference, on how
many cases it is higher, and p of the paired signed-rank test, corrected by Holm's method for the rows of the table.

Example:
    python benchmarks/components.py RESULTS --baseline "nnU-Net, components at clicks"
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.data import EvaluationData, spacing_of
from sam3d_nnunet.evaluation.each_prediction import ObjectScores
from sam3d_nnunet.evaluation.metrics import NAMES, OTHERS_MARKED
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.report.statistics import compare, holm, mean_interval
from sam3d_nnunet.simulation.draw import Components
from sam3d_nnunet.simulation.protocols import AUTOMATIC

PROTOCOL, CLICKED, INSTANCE = "each_1", "object_dice", "instance_dice"
COLUMNS = {CLICKED: "{:.3f}", OTHERS_MARKED: "{:.2%}", INSTANCE: "", "merged": "{:.1%}", "spare": "{:.1f}"}
COLUMNS |= {"large": "{:.1f}"}
"""Means of the table, and how they are written; the instance Dice has its interval."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("For each") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="folder of results, with masks")
    parser.add_argument("--baseline", required=True, help="a row, such as 'nnU-Net, components'")
    options = parser.parse_args(arguments)
    try:
        results = Results(options.results)
        rows = of_components(results) | of_clicks(results)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    if options.baseline not in rows:
        sys.exit(f"Error: there is no row '{options.baseline}', but: {'; '.join(rows)}.")
    print_table(rows, options.baseline)


def of_components(results: Results) -> dict[str, pd.DataFrame]:
    """For each row of the table: a row for each case of the folds, the mean over trainings.

    Raises:
        SAM3DError: data.json does not tell the data, or an image, a label map or the clicks on it can't be used.
    """
    folders = (Path(results.known(key)) for key in ("images", "truth"))
    data = EvaluationData(results.known("dataset"), *folders, results.dataset_json)
    wanted = [f for f in results.folders if f.protocol == AUTOMATIC and f.fold.isdecimal()]
    masks = [(folder.method, mask) for folder in wanted for mask in sorted(folder.path.glob(f"*{data.file_ending}"))]
    found: dict[str, list[dict]] = {}
    for method, mask in tqdm(masks, unit="mask"):
        case = mask.name.removesuffix(data.file_ending)
        truth, geometry = data.read_truth(case)
        labels = read_label_map(mask, data.reader)
        marked, _ = labels.own_grid().geometry.in_file_order(labels.array)
        classes = data.labels.foreground_labels
        objects = Components(truth, classes)
        components = Components(np.where(truth == data.labels.ignore_label, 0, marked), classes)
        if len(objects):
            prompt = read_prompt(results.prompt_file(PROTOCOL, 0, case))
            clicks = np.rint(geometry.to_voxels(prompt.points)).astype(int)
            rows = {"components": assigned(objects, components)}
            rows["components at clicks"] = at_clicks(objects, components, clicks, prompt.labels, spacing_of(geometry))
            for name, scores in rows.items():
                found.setdefault(f"{method}, {name}", []).append({"case": case} | scores)
    return {name: pd.DataFrame(scores).groupby("case").mean() for name, scores in sorted(found.items())}


def of_clicks(results: Results) -> dict[str, pd.DataFrame]:
    """The same for each method that was measured with one click an object; the first clicks that were drawn."""
    scores = results.scores
    if scores is None:
        return {}
    of_folds = scores["fold"].astype(str).str.isdecimal()
    rows = scores[of_folds & (scores["protocol"] == PROTOCOL) & (scores["trial"] == 0)]
    return {
        f"{method}, {PROTOCOL}": part.groupby("case")[[CLICKED, OTHERS_MARKED, INSTANCE]].mean()
        for method, part in rows.groupby("method")
    }


def assigned(objects: Components, components: Components) -> dict[str, float]:
    """Scores of a case whose objects get the components that fit best."""
    same = (objects.segmentation == components.segmentation) & (objects.numbers > 0)
    shared = np.zeros((len(objects), len(components)), np.int64)
    np.add.at(shared, (objects.numbers[same] - 1, components.numbers[same] - 1), 1)
    sizes = objects.sizes[1:]
    dice = 2 * shared / (sizes[:, None] + components.sizes[1:])
    pairs = linear_sum_assignment(dice, maximize=True)
    spare = np.delete(components.sizes[1:], pairs[1][dice[pairs] > 0])
    holds = shared > sizes[:, None] / 2  # at most one component for each object
    return {
        INSTANCE: dice[pairs].sum() / len(objects),
        "merged": holds[:, holds.sum(0) > 1].sum() / len(objects),
        "spare": len(spare),
        "large": (spare >= sizes.min() / 2).sum(),
    }


def at_clicks(
    objects: Components, components: Components, clicks: np.ndarray, labels: np.ndarray, spacing: Sequence[float]
) -> dict[str, float]:
    """Scores of a case whose objects get the components of their class that are nearest to their clicks.

    Args:
        objects, components: of the truth and of the mask.
        clicks: (N, 3) voxels, one for each object in its order.
        labels: (N,) classes.
        spacing: mm along (d, h, w).

    Raises:
        SAM3DError: there is not one click on each object.
    """
    if objects.numbers[tuple(clicks.T)].tolist() != list(range(1, len(objects) + 1)):
        raise SAM3DError("There is not one click on each object. Draw the clicks again from these label maps.")
    scores = ObjectScores(objects.numbers, spacing)
    numbers = {label: components.numbers * (components.segmentation == label) for label in np.unique(labels)}
    nearest = {
        label: distance_transform_edt(of_class == 0, spacing, return_distances=False, return_indices=True)
        for label, of_class in numbers.items()
    }
    for number, (click, label) in enumerate(zip(clicks, labels), start=1):
        component = numbers[label][tuple(nearest[label][(slice(None), *click)])]
        scores.add(number, (numbers[label] == component) & (component > 0), click[None])
    means = scores.means()
    return {key: means[key] for key in (CLICKED, OTHERS_MARKED, INSTANCE)}


def print_table(rows: dict[str, pd.DataFrame], baseline: str) -> None:
    """With a comparison of each row with the baseline."""
    others = rows[baseline][INSTANCE]
    compared = {name: compare(table[INSTANCE], others) for name, table in rows.items() if name != baseline}
    p_values = dict(zip(compared, holm([comparison.p for comparison in compared.values()]), strict=True))
    names = ["method", "cases", *(NAMES.get(column, column) for column in COLUMNS), "difference", "higher on", "p"]
    print(f"| {' | '.join(names)} |\n| --- |{' ---: |' * (len(names) - 1)}")
    for name, table in rows.items():
        cells = [name, str(len(table)), *(cell(table, column) for column in COLUMNS)]
        if name == baseline:
            cells += 3 * ["–"]
        else:
            difference = (table[INSTANCE] - others).dropna()
            higher = f"{(difference > 0).sum()} of {len(difference)}"
            cells += [f"{difference.mean():+.3f}", higher, f"{p_values[name]:.2g}"]
        print(f"| {' | '.join(cells)} |")


def cell(table: pd.DataFrame, column: str) -> str:
    if column not in table:
        return "–"
    if column == INSTANCE:
        mean, low, high = mean_interval(table[INSTANCE].to_numpy())
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return COLUMNS[column].format(table[column].mean()).replace("%", " %")


if __name__ == "__main__":
    main()
