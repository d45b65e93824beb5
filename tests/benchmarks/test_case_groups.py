import case_groups
import pandas as pd
import pytest
from results_fixtures import ADAPTER, CASES, UNET


def run(folder, capsys, *options: str) -> list[list[str]]:
    """The cells of the rows."""
    case_groups.main([str(folder), "--target", "Anterior", "--metric", "dice", *options])
    lines = capsys.readouterr().out.splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def dice(folder, method: str, protocol: str) -> pd.Series:
    """Of each case, the mean over trials."""
    tables = map(pd.read_csv, (folder / method / protocol).glob("fold_*/**/metrics.csv"))
    table = pd.concat(tables)
    return table[table["target"] == "Anterior"].groupby("case")["dice"].mean()


def test_means_and_differences_of_groups(results_folder, capsys):
    rows = run(results_folder, capsys, "--protocol", "automatic", "--baseline", UNET, "--groups", "case_0*", "case_1*")
    unet, ours = (dice(results_folder, method, "automatic") for method in (UNET, ADAPTER))
    expected = {}
    for pattern, part in {"case_0*": CASES[:10], "case_1*": CASES[10:]}.items():
        difference = (ours - unet)[part]
        expected[pattern, UNET] = [str(len(part)), f"{unet[part].mean():.4f}", "–", "–"]
        higher = f"{(difference > 0).sum()} of {len(part)}"
        expected[pattern, ADAPTER] = [str(len(part)), f"{ours[part].mean():.4f}", f"{difference.mean():+.4f}", higher]
    assert {(row[0], row[1]): row[2:] for row in rows} == expected


def test_other_protocols_of_the_baseline_do_not_count(results_folder, capsys):
    """A table shows the baseline under all of its protocols."""
    options = ("--protocol", "volume_1", "--baseline", ADAPTER, "--groups", "*")
    ((_, method, _, mean, _, _),) = run(results_folder, capsys, *options)
    assert method == ADAPTER and mean == f"{dice(results_folder, ADAPTER, 'volume_1').mean():.4f}"


@pytest.mark.parametrize(
    "options, fault",
    [
        (["--protocol", "volume_1", "--baseline", "mine"], "no method 'mine'"),
        (["--protocol", "each_1", "--baseline", ADAPTER], "no protocol 'each_1'"),
        (
            ["--protocol", "volume_1", "--baseline", ADAPTER, "--metric", "size"],
            "no size of Anterior under volume",
        ),
        (["--protocol", "volume_1", "--baseline", UNET], f"no dice of Anterior under volume_1 by {UNET}"),
        (["--protocol", "volume_1", "--baseline", ADAPTER, "--groups", "site*"], r"no case is named like site\*"),
    ],
)
def test_what_is_not_there(results_folder, capsys, options, fault):
    with pytest.raises(SystemExit, match=fault):
        run(results_folder, capsys, "--groups", "*", *options)
