import json
import shutil

import numpy as np
import pandas as pd
import pytest
import seed_means
from results_fixtures import ADAPTER, UNET


def run(folder, capsys, *options: str) -> dict[str, list[str]]:
    """The other cells of the rows, by method."""
    seed_means.main([str(folder), "--target", "Anterior", "--protocol", "automatic", *options])
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {method: cells for method, *cells in rows}


def with_two_trainings(folder) -> tuple[float, float]:
    """The method "mine" becomes two trainings. Returns their mean Dice: the second one has another 0.05."""
    means = []
    for number in (0, 1):
        copy = folder / f"mine, seed {number}"
        shutil.copytree(folder / ADAPTER / "automatic", copy / "automatic")
        facts = json.loads((folder / ADAPTER / "method.json").read_text())
        (copy / "method.json").write_text(json.dumps(facts | {"run_of": "mine", "seed": number, "name": copy.name}))
        tables = []
        for file in copy.glob("automatic/fold_*/trial_*/metrics.csv"):
            table = pd.read_csv(file)
            table["dice"] -= 0.05 * (1 - number)
            table.to_csv(file, index=False)
            tables.append(table[table["target"] == "Anterior"])
        means.append(pd.concat(tables).groupby("case")["dice"].mean().mean())
    return means[0], means[1]


def test_the_mean_of_each_training(results_folder, capsys):
    first, second = with_two_trainings(results_folder)
    rows = run(results_folder, capsys, "--baseline", UNET)
    deviation = np.std([first, second], ddof=1)
    unet = float(rows[UNET][0])
    assert rows["mine"] == [
        f"{first:.4f}, {second:.4f}",
        f"{(first + second) / 2:.4f}",
        f"{deviation:.4f}",
        f"{int(first > unet)} of 1",
    ]
    assert rows[UNET][1:] == [rows[UNET][0], "–", "–"]


def test_trainings_are_paired_by_seed_over_the_cases_of_both(results_folder, capsys):
    """One training lacks a case, and the baseline has another one of its seeds alone."""
    first, second = with_two_trainings(results_folder)
    shutil.copytree(results_folder / "mine, seed 1", results_folder / "theirs")
    facts = json.loads((results_folder / "theirs" / "method.json").read_text())
    facts = {key: value for key, value in facts.items() if key != "run_of"} | {"name": "theirs", "seed": 1}
    (results_folder / "theirs" / "method.json").write_text(json.dumps(facts))
    file = results_folder / "mine, seed 0" / "automatic" / "fold_0" / "trial_0" / "metrics.csv"
    table = pd.read_csv(file)
    lost = table["case"].iloc[0]
    table[table["case"] != lost].to_csv(file, index=False)
    rows = run(results_folder, capsys, "--baseline", "theirs")
    assert rows["mine"][3] == "0 of 1"  # the same training, seed 1
    assert float(rows["mine"][0].split(", ")[1]) != pytest.approx(second, abs=1e-4)  # without the lost case


@pytest.mark.parametrize(
    "options, fault",
    [(["--baseline", "mine"], "no method 'mine'"), (["--baseline", UNET, "--metric", "size"], "no size of Anterior")],
)
def test_mistakes(results_folder, options, fault, capsys):
    with pytest.raises(SystemExit, match=fault):
        run(results_folder, capsys, *options)
