"""What do clicks select? Dice of the clicked objects, and the share of the other ones that is marked, by method.

`sam3d evaluate` measures a prediction against all objects of a class. A model whose target is what a click selects
(target policy "clicked") is right where it marks the clicked objects alone.

Example: python benchmarks/selected.py -d 921 RESULTS
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from sam3d_nnunet.evaluation.data import EvaluationData
from sam3d_nnunet.evaluation.results import PredictionFolder, Results
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import Components


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Example: python benchmarks/selected.py -d 921 RESULTS"
    )
    parser.add_argument("results", type=Path, help="folder of results of sam3d evaluate or sam3d benchmark")
    parser.add_argument("-d", dest="dataset", required=True, help="id or name of the data set")
    parser.add_argument("--csv", type=Path, help="also write the values of each case there")
    arguments = parser.parse_args()
    data, results = EvaluationData.from_nnunet(arguments.dataset), Results(arguments.results)
    folders = [f for f in results.folders if f.clicks is None and f.protocol != "automatic"]
    if not folders:
        parser.error(f"{arguments.results} holds no predictions from drawn clicks")
    rows = pd.DataFrame([row for folder in tqdm(folders, leave=False) for row in measured(folder, data, results)])
    if arguments.csv:
        rows.to_csv(arguments.csv, index=False)
    means = rows.groupby(["method", "protocol"], sort=False)[["dice", "others"]].agg(["mean", "std"])
    means = 100 * means.join(rows.groupby(["method", "protocol"], sort=False).size().div(100).rename(("cases", "")))
    print("| method | protocol | predictions | Dice of the clicked ones | others marked |")
    print("| --- | --- | ---: | ---: | ---: |")
    for (method, protocol), of_method in means.iterrows():
        dice, others = (f"{of_method[key, 'mean']:.1f} ± {of_method[key, 'std']:.1f} %" for key in ("dice", "others"))
        print(f"| {method} | {protocol} | {of_method['cases', '']:.0f} | {dice} | {others} |")


def measured(folder: PredictionFolder, data: EvaluationData, results: Results) -> Iterator[dict[str, object]]:
    """For each prediction in a folder: Dice of what its clicks lie on, and the marked share of all other objects."""
    name = results.methods[folder.method].get("name") or folder.method
    for file in sorted(folder.path.glob(f"*{data.file_ending}")):
        case = file.name.removesuffix(data.file_ending)
        truth, geometry = data.read_truth(case)
        label_map = read_label_map(file, data.reader)
        marked = label_map.own_grid().geometry.in_file_order(label_map.array)[0] > 0
        prompt = read_prompt(results.prompt_file(folder.protocol, folder.trial, case), image_name=case)
        clicks = VoxelPrompts(geometry.to_voxels(prompt.points), prompt.labels)
        selected, others = select(truth, list(data.labels.foreground_labels), clicks)
        yield {
            "method": name,
            "protocol": folder.protocol,
            "trial": folder.trial,
            "case": case,
            "dice": 2 * (marked & selected).sum() / (marked.sum() + selected.sum()),
            "others": (marked & others).sum() / others.sum() if others.any() else np.nan,
        }


def select(truth: np.ndarray, classes: list[int], clicks: VoxelPrompts) -> tuple[np.ndarray, np.ndarray]:
    """Masks (D, H, W) of the objects with a click of their class, and of all others."""
    selected = Components(truth, classes).holding(clicks) > 0
    return selected, np.isin(truth, classes) & ~selected


if __name__ == "__main__":
    main()
