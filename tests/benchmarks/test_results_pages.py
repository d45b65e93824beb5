"""Pages of kept results: the same bytes each time, and a check that finds what differs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import results_pages
from results_fixtures import ADAPTER, UNET

from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.tables import write_tables

PLOTS = {
    *("bars_automatic.svg", "bars_volume_1.svg", "bars_iterated_3.svg", f"scatter_{ADAPTER}.svg"),
    *("dice_against_clicks.svg", "dice_against_volume.svg"),
}
CHANGED = "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres/automatic/fold_0/trial_0/metrics.csv"


def options(root: Path) -> list[str]:
    return ["--results", str(root / "results"), "--pages", str(root / "docs/results")]


def check(root: Path, *more: str) -> str | None:
    """What `--check` ends with; None if all is well."""
    try:
        results_pages.main(["--check", *options(root), *more])
    except SystemExit as stopped:
        return str(stopped.code)


@pytest.fixture(scope="module")
def made(repository, tmp_path_factory) -> Path:
    """A copy of the repository with the pages. Not to be changed."""
    root = Path(shutil.copytree(repository / "results", tmp_path_factory.mktemp("made") / "results")).parent
    results_pages.main(options(root))
    return root


@pytest.fixture
def changed(made, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "repository"))


def test_pages_hold_the_table_and_plots_of_the_original_folder(made, repository, tmp_path):
    pages = made / "docs/results/tiny"
    assert {file.name for file in pages.iterdir()} == {"table.md", "table.csv", *PLOTS}
    write_tables(Results(repository / "measured"), tmp_path, baseline=UNET, formats=("md", "csv"))
    for name in ("table.md", "table.csv"):
        assert (pages / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_another_process_makes_the_same_bytes(repository, tmp_path):
    command = [
        sys.executable,
        results_pages.__file__,
        "--results",
        str(repository / "results"),
        "--pages",
        str(tmp_path),
    ]
    for more, seed in (([], "7"), (["--check"], "8")):
        done = subprocess.run(
            [*command, *more], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "NOT" not in done.stdout


def test_check_finds_a_changed_digit_and_files_that_are_missing_or_left_over(changed, capsys):
    pages = changed / "docs/results/tiny"
    assert check(changed, "--without-figures") is None
    text = (pages / "table.md").read_text()
    place = text.index(" 12 ") + 1
    (pages / "table.md").write_text(text[:place] + "13" + text[place + 2 :])
    (pages / "table.csv").unlink()
    (pages / "old.md").write_text("")
    capsys.readouterr()
    assert "Make the pages again" in check(changed, "--without-figures")
    printed = capsys.readouterr().out
    line = text.count("\n", 0, place) + 1
    assert f"table.md, line {line}, differs from what" in printed
    assert "table.csv is missing" in printed and "old.md is not made from" in printed


def test_check_finds_changed_measurements_and_make_mends_the_pages(changed):
    file = changed / "results/tiny" / CHANGED
    head, first, *rest = file.read_text().split("\n")
    cells = dict(zip(head.split(","), first.split(",")))
    cells["dice"] = str(float(cells["dice"]) - 0.1)
    file.write_text("\n".join([head, ",".join(cells.values()), *rest]))
    assert check(changed, "--without-figures") is not None
    (changed / "docs/results/tiny/overlay.png").touch()  # drawn elsewhere, where the images are
    results_pages.main([*options(changed), "tiny", "--without-figures"])
    assert check(changed, "--without-figures") is None
    assert (changed / "docs/results/tiny/overlay.png").is_file()


def test_pages_without_results_are_found(changed, capsys):
    (changed / "results/tiny").rename(changed / "results/renamed")
    assert check(changed, "--without-figures") is not None
    printed = capsys.readouterr().out
    assert f"no folder {changed / 'results/tiny'}" in printed
    with pytest.raises(SystemExit, match="no file .*ORIGIN.json"):
        results_pages.main([*options(changed), "tiny"])


@pytest.mark.slow
def test_pages_of_this_repository_are_up_to_date():
    """Tables only: figures differ between versions of matplotlib."""
    results_pages.main(["--check", "--without-figures"])
