"""Numbers of pages are found in their sources, and a changed digit is not."""

import io
import re

import find_numbers
import pandas as pd
import pytest
from page_numbers import numbers, sections
from results_fixtures import ADAPTER, UNET
from results_pages import kept_content

from sam3d_nnunet.report.content import Content
from sam3d_nnunet.report.layout import lay_out
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.report.markdown import to_markdown

SOURCE = "<!-- numbers: results/tiny -->\n\n"


@pytest.fixture(scope="module")
def content(repository) -> Content:
    """What tables of the kept results show."""
    return kept_content(repository / "results/tiny")


@pytest.fixture(scope="module")
def table(content) -> str:
    """The rows of table.md, all sections, without that of the trainings."""
    text = to_markdown(lay_out(content))
    parts = text.split("## How the methods were trained")[0].split("\n\n")
    return "\n\n".join(part for part in parts if part.startswith("|"))


@pytest.fixture(scope="module")
def rows(content) -> pd.DataFrame:
    """table.csv, by method, protocol, target and metric."""
    found = pd.read_csv(io.StringIO(to_csv(content)))
    return found[found["clicks"].isna()].set_index(["method", "protocol", "target", "metric"]).sort_index()


@pytest.fixture
def check(repository, tmp_path, capsys):
    """Checks a page of the repository; returns the exit code and what was printed."""

    def run(text: str, *more: str, page: str = "docs/results/tiny.md") -> tuple[int, str]:
        file = tmp_path / page
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if not (tmp_path / "results").exists():
            (tmp_path / "results").symlink_to(repository / "results")
        try:
            find_numbers.main([str(file), "--root", str(tmp_path), *more])
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        return code, capsys.readouterr().out

    return run


def sourced(table: str) -> str:
    """Each part of a table with its comment."""
    return "\n\n".join(SOURCE + part for part in table.split("\n\n"))


def test_every_number_of_a_whole_table_is_found(check, table):
    code, printed = check(sourced(table))
    assert code == 0, printed
    assert re.search(r"^(\d+) found again; 0 .* 0 no source; 0 NOT FOUND", printed, re.MULTILINE)
    assert int(re.match(r"\d+", printed.splitlines()[-1])[0]) == sum(len(numbers(line)) for line in data_of(table))


def data_of(table: str) -> list[str]:
    """Cells with numbers, of the rows below headings."""
    found = []
    for part in table.split("\n\n"):
        found += ["|".join(line.split("|")[3:]) for line in part.split("\n")[2:]]
    return found


def test_each_changed_digit_of_a_table_is_found(check, table):
    """The last digit of each number in turn."""
    page = sourced(table)
    places = [
        (block.line_of(start), block, start + len(number.text) - 1)
        for section in sections(page)
        for block in section.blocks
        for number in numbers(block.text)
        if block.text.count("\n", 0, start := number.start) > 1
    ]
    assert len(places) > 50
    lines = page.split("\n")
    for line, block, end in places[:: max(1, len(places) // 40)]:
        column = end - block.text.rfind("\n", 0, end) - 1
        old = lines[line - 1]
        digit = str((int(old[column]) + 5) % 10)
        wrong = [*lines[: line - 1], old[:column] + digit + old[column + 1 :], *lines[line:]]
        code, printed = check("\n".join(wrong))
        assert code == 1, old
        assert re.search(rf"^NOT FOUND: docs/results/tiny.md:{line}: ", printed, re.MULTILINE), old


def test_a_page_can_choose_rows_and_columns_and_round(check, rows):
    dice = {
        (m, p): 100 * rows.loc[(m, p, "Anterior", "dice"), "mean"]
        for m, p in ((UNET, "automatic"), (ADAPTER, "volume_1"))
    }
    page = f"""
<!-- numbers: results/tiny; target=Anterior; metric=dice -->
| network | `automatic` | `volume_1` |
| --- | ---: | ---: |
| `{UNET}` | {dice[UNET, "automatic"]:.1f} | |
| **{ADAPTER}** | | {dice[ADAPTER, "volume_1"] / 100:.3f} |
"""
    assert check(page)[1].splitlines()[-1].startswith("2 found again")
    assert check(page.replace("; metric=dice", ""))[0] == 1  # Dice or NSD?
    code, printed = check(page.replace(ADAPTER, "Nobody 2.0"))
    assert code == 1 and "no row of results/tiny is called so" in printed


def test_sentences_are_about_few_rows(check, rows):
    row = rows.loc[(ADAPTER, "volume_1", "Anterior", "dice")]
    comment = f"<!-- numbers: results/tiny; method={ADAPTER}; protocol=volume_1; target=Anterior; metric=Dice -->\n"
    text = (
        f"With `volume_1` the NSD at 5 mm aside, {ADAPTER} reached {100 * row['mean']:.2f}\n"
        f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}], {100 * row['difference']:.2f} more in {row['cases']:.0f} "
        f"cases (p = {row['p_holm']:.4f}; 95 % intervals). It has {row['tuned_parameters'] / 1e6:.2f} millions.\n"
    )
    code, printed = check(comment + text)
    assert (code, printed.splitlines()[-1].split(";")[0]) == (0, "7 found again"), printed
    code, printed = check(comment + text.replace("reached", "reached 1.23, not"))
    assert code == 1 and "NOT FOUND: docs/results/tiny.md:2: 1.23: results/tiny has" in printed
    code, printed = check(SOURCE + text)
    assert code == 1 and "choose 6 or fewer" in printed


@pytest.mark.parametrize(
    "source, message",
    [
        ("results/nothing", "results/nothing is neither a folder of kept results nor a JSON or CSV file"),
        ("results/tiny; protocol=volume_2", "no row of results/tiny has the protocol 'volume_2'"),
        ("results/tiny; fold=1", "there is no 'fold' to choose by"),
    ],
)
def test_a_source_that_says_nothing_is_named(check, source, message):
    code, printed = check(f"# Page\n\n<!-- numbers: {source} -->\nDice 0.5\n")
    assert code == 1 and f"tiny.md:4: numbers: {source}: {message}" in printed


def test_any_file_can_be_a_source(check, tmp_path):
    (tmp_path / "speed.json").write_text('{"name": "H100 80GB", "first": [1.2345, -7e-3], "count": "12 runs"}')
    page = "<!-- numbers: speed.json -->\n\n| | first 5 |\n| --- | --- |\n| run 3 | 1.23 s |\n| other | 12, −0.007 |\n"
    assert check(page)[1].startswith("3 found again")
    code, printed = check(page.replace("1.23", "1.24"))
    assert code == 1 and "tiny.md:5: 1.24: it is not in speed.json" in printed


def test_numbers_of_scripts_are_listed_if_the_script_is_there(check, tmp_path):
    page = "# Page\n\nDice 0.1.\n\n## Speed\n\n`python benchmarks/fast.py --all` took 2.5 s.\n\n### More\n\nAnd 3.\n"
    code, printed = check(page)
    assert code == 1 and "NOT FOUND: docs/results/tiny.md:7: benchmarks/fast.py: is not there" in printed
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/fast.py").touch()
    code, printed = check(page)
    assert code == 0
    assert "from a script: docs/results/tiny.md: Speed (benchmarks/fast.py): 1 numbers" in printed
    assert "from a script: docs/results/tiny.md: More (benchmarks/fast.py): 1 numbers" in printed
    assert "no source: docs/results/tiny.md:3: 0.1" in printed
    assert check(page, "--strict")[0] == 1
    recipe = "## Speed\n\n```\nsam3d benchmark hippo -d 4\n```\n\nDice 0.2\n"
    assert "sam3d benchmark hippo: is not there" in check(recipe)[1]
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/hippo.json").write_text("{}")
    assert check(recipe)[0] == 0


def test_numbers_with_a_link_must_stand_in_the_linked_section(check, tmp_path):
    check(
        "# Other\n\n9.9\n\n## Two clicks\n\nIt was 23.16 times as fast.\n\n## Next\n\n7.7\n",
        page="docs/results/other.md",
    )
    link = "([there](docs/results/other.md#two-clicks))"
    page = f"| a | b |\n| --- | --- |\n| x | 23.2 times {link} |\n\nFast. Even 23 times as fast {link}. Then 5 of 7.\n"
    code, printed = check(page, page="README.md")
    assert code == 0 and "2 in the linked section; 0 from a script; 2 no source" in printed
    for wrong in ("9.9", "7.7", "23.3"):
        code, printed = check(page.replace("23.2", wrong), page="README.md")
        assert code == 1 and f"README.md:3: {wrong}: the linked section does not hold it" in printed


def test_what_is_no_measurement_is_left_out(check):
    page = """# 3 titles

On 2026-11-24 `0.5` of volume_1, a 3-D U-Net2 in float32 ([12](https://a.org/13)), Gong et al. 2023, arXiv 2306.13465.

```
python x.py --dice 0.7
```

<!-- numbers: none -->
Epochs: 100.

1. one
2. two ![4](5.svg){ width=50 } <img src="a.svg" width="60">
"""
    code, printed = check(page)
    assert (code, printed.splitlines()[-1]) == (
        0,
        "0 found again; 0 in the linked section; 0 from a script; 1 no source; 0 NOT FOUND",
    )  # the text of the link


@pytest.mark.parametrize(
    "text, expected",
    [
        ("3.7e-6 and 5,603,177, −1.5 to +2", ["3.7e-6", "5,603,177", "−1.5", "+2"]),
        ("12-15 cases, 1.2.3, v2, ViT-16, 16-bit, x_3, 50%", ["12", "15", "50"]),
        ("(0.25) **83.9** 1/2 ~23x, 16 x 32, a/3, 2D", ["0.25", "83.9", "1", "2", "23", "16", "32"]),
    ],
)
def test_numbers_are_told_from_names(text, expected):
    assert [number.text for number in numbers(text)] == expected


@pytest.mark.slow
def test_numbers_of_this_repository(capsys):
    """All are found, and all scripts are there."""
    find_numbers.main([])
    assert " 0 NOT FOUND" in capsys.readouterr().out
