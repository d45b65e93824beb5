import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.content import Content, gather
from sam3d_nnunet.report.html import to_html
from sam3d_nnunet.report.latex import to_latex
from sam3d_nnunet.report.layout import Cell, Section, Table, lay_out
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.report.markdown import to_markdown
from sam3d_nnunet.report.published import PRISM_SOURCE, SOURCE
from sam3d_nnunet.report.tables import FORMATS, write_tables
from sam3d_nnunet.simulation.protocols import FAMILIES, Family

UNET = "nnUNetTrainer__SAM3DPlans__3d_fullres"
ADAPTER = "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres"
NASTY = r"a<b>|_x_ $y$ *z* [q](r) & 50% #1 {~^\ `c`"
WRITTEN = ["--method", UNET, "--method", ADAPTER, "--protocol", "automatic", "--with-paper", "lits17", "--lesions"]


@pytest.fixture(scope="module")
def content(made_results) -> Content:
    """All of it, with the paper's figures and lesions."""
    return gather(Results(made_results), paper="kits21", lesions=True)


@pytest.fixture(scope="module")
def table(content) -> Table:
    return lay_out(content)


@pytest.fixture(scope="module")
def written_folder(made_results, tmp_path_factory) -> Path:
    """What the command writes with the options WRITTEN."""
    folder = tmp_path_factory.mktemp("written")
    done = CliRunner().invoke(app, ["table", str(made_results), "-o", str(folder), *WRITTEN])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def nasty_table() -> Table:
    """Signs that mean something in one of the formats, wherever names stand."""
    unknown, number = Cell(), Cell("1.00", 0.01, "[0.50, 1.50]", "*↑", f'"{NASTY}"', True)
    rows = [[Cell(NASTY), Cell("volume_1"), number], [Cell("[x]"), Cell("*y"), unknown]]
    return Table(NASTY, ["method", "protocol", f"{NASTY} Dice"], [Section(NASTY, rows)], [f'"{NASTY}" – p < 0.05 *↓'])


class Page(HTMLParser):
    """Headings, rows and what else a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.addresses, self.tags, self.text, self.in_cell = [], [], [], "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.addresses += [v for k, v in attributes.items() if k in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append([attributes, ""])
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("th", "td")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1][1] += data


def cells_of(table: Table, protocol: str, method: str) -> dict[str, Cell]:
    """By heading."""
    rows = [row for section in table.sections for row in section.rows]
    (found,) = [row for row in rows if row[1].text == protocol and row[0].text.startswith(method)]
    return dict(zip(table.columns, found))


def case_means(root: Path, method: str, protocol: str, target: str, metric: str) -> pd.Series:
    """By case, by plain pandas."""
    files = (root / method / protocol).glob("fold_*/trial_*/metrics.csv")
    rows = pd.concat(pd.read_csv(file) for file in files)
    rows = rows[(rows["target"] == target) & (rows["truth_voxels"] > 0)]
    return rows.groupby("case")[metric].mean()


def rename(root: Path, method: str, name: str) -> None:
    file = root / method / "method.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"name": name}))


def unescape_markdown(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def markdown_cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_numbers_are_those_of_plain_pandas_and_scipy(made_results):
    """Only two protocols, so that all comparisons of Dice can be listed here."""
    content = gather(Results(made_results), ["automatic", "volume_1"])
    keys = [(protocol, target) for protocol in ("automatic", "volume_1") for target in ("Anterior", "Posterior")]
    p_values = []
    for protocol, target in keys:
        ours = case_means(made_results, ADAPTER, protocol, target, "dice")
        theirs = case_means(made_results, UNET, "automatic", target, "dice")[ours.index]
        p_values.append(wilcoxon(ours, theirs).pvalue)
    corrected = multipletests(p_values, method="holm")[1]
    places = {(p.method, p.label): place for place, p in enumerate(content.pools)}
    for (protocol, target), p, p_holm in zip(keys, p_values, corrected):
        statistic = content.statistics[places[ADAPTER, protocol], target, "dice"]
        assert statistic.mean == pytest.approx(case_means(made_results, ADAPTER, protocol, target, "dice").mean())
        assert statistic.comparison.p == pytest.approx(p)
        assert statistic.p_holm == pytest.approx(p_holm)
        assert statistic.direction == (1 if p_holm < 0.05 else 0)
    assert {1, 0} == {content.statistics[places[ADAPTER, p], t, "dice"].direction for p, t in keys}
    folds = case_means(made_results, UNET, "automatic", "Anterior", "dice").to_numpy().reshape(2, 6).mean(axis=1)
    assert content.statistics[places[UNET, "automatic"], "Anterior", "dice"].sd_folds == pytest.approx(
        np.std(folds, ddof=1)
    )
    assert "(4 at most)" in " ".join(lay_out(content).caption)


def test_cells_show_means_in_per_cent_marks_and_costs(content, table, made_results):
    cells = cells_of(table, "volume_1", ADAPTER)
    mean = case_means(made_results, ADAPTER, "volume_1", "Posterior", "dice").mean()
    assert cells["Posterior Dice"].text == f"{100 * mean:.2f}"
    assert cells["Posterior Dice"].mark == "*↑"
    assert "11 cases" in cells["Posterior Dice"].detail and "after Holm" in cells["Posterior Dice"].detail
    assert (cells["cases"].text, cells["tuned parameters (M)"].text, cells["training (h)"].text) == (
        "12",
        "25.20",
        "20.5",
    )
    assert cells_of(table, "automatic", UNET)["peak memory (GiB)"].text == "–"
    assert cells["Posterior false positives (ml)"].detail.startswith("1 case;")
    assert "Anterior false positives (ml)" not in table.columns
    assert [section.title.split(" (")[0] for section in table.sections] == [
        *("Automatic", "Prompted", SOURCE, SOURCE, PRISM_SOURCE)
    ]
    assert "Posterior lesion F1" in table.columns
    assert not any("lesion F1" in c for c in lay_out(gather_quickly(made_results)).columns)
    assert "The truth of Posterior is empty in 1 of 12 cases." in table.caption


def test_costs_are_said_to_be_those_of_all_devices(results_folder):
    file = results_folder / ADAPTER / "method.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": "NVIDIA H100 and cpu"}))
    sentence = f"peak memory (of GPUs) are those of prediction, on NVIDIA H100 and cpu ({ADAPTER}); cpu ({UNET})."
    assert f"Seconds (median) and {sentence}" in lay_out(gather_quickly(results_folder)).caption


def gather_quickly(root: Path, **options) -> Content:
    return gather(Results(root), ["automatic"], **options)


def test_baseline_is_marked_down_against(made_results):
    """The other way round: what was higher is lower."""
    table = lay_out(gather_quickly(made_results, baseline=ADAPTER))
    assert cells_of(table, "automatic", UNET)["Posterior Dice"].mark == "*↓"
    assert cells_of(table, "automatic", ADAPTER)["method"].text == f"{ADAPTER} (baseline)"
    assert cells_of(table, "automatic", ADAPTER)["Posterior Dice"].mark == ""


def test_usual_baseline_is_known_by_its_trainer(results_folder):
    """Whatever its folder is called: `sam3d evaluate --name` chooses that."""
    (results_folder / UNET).rename(results_folder / "nnU-Net")
    assert gather_quickly(results_folder).baselines.automatic == "nnU-Net"


def test_captions_describe_protocols_of_new_families_and_of_other_programs(results_folder, monkeypatch):
    monkeypatch.setitem(FAMILIES, "edge", Family("edge", "{clicks} on the edge of each lesion"))
    for protocol, name in (("volume_1", "edge_2"), ("volume_3", "bbox_3")):
        (results_folder / ADAPTER / protocol).rename(results_folder / ADAPTER / name)
    caption = " ".join(lay_out(gather(Results(results_folder), ["bbox_3", "edge_2"])).caption)
    assert "edge_2: 2 clicks on the edge of each lesion (3 trials); bbox_3: drawn clicks (3 trials)." in caption


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@SUM(A1)"])
def test_no_cell_of_the_csv_starts_a_formula(results_folder, name):
    (results_folder / UNET).rename(results_folder / name)
    table = pd.read_csv(io.StringIO(to_csv(gather_quickly(results_folder))), dtype=str)
    assert f"'{name}" in set(table["method"]) and name not in set(table["method"])
    texts = table[["method", "name", "protocol", "source", "target", "metric", "baseline"]].stack()
    assert not texts.str.match(r"[=+\-@\t\r]").any()


FULL = """
import resource, sys
from sam3d_nnunet.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files is limited as Unix does it")
def test_a_full_disk_leaves_earlier_tables(results_folder, tmp_path):
    folder = tmp_path / "tables"
    files = write_tables(Results(results_folder), folder, protocols=["automatic"], figures=False)
    before = [(file.stat().st_ino, file.read_bytes()) for file in files]
    chosen = ("--protocol", "automatic", "--without-figures")
    command = [sys.executable, "-c", FULL, "table", results_folder, "-o", folder, *chosen]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "File too large" in done.stderr and str(folder / "table.md") in done.stderr
    assert [(file.stat().st_ino, file.read_bytes()) for file in files] == before
    assert sorted(folder.iterdir()) == sorted(files)


def test_targets_without_pairs_are_not_few_pairs(results_folder):
    """The truth of Posterior is empty everywhere."""
    for file in results_folder.glob("*/automatic/**/metrics.csv"):
        rows = pd.read_csv(file)
        rows.loc[rows["target"] == "Posterior", ["truth_voxels", "truth_ml"]] = 0
        rows.to_csv(file, index=False)
    caption = " ".join(lay_out(gather_quickly(results_folder)).caption)
    assert "Holm's" in caption
    assert "cases in common are not tested" not in caption


def test_a_test_set_is_apart(results_folder):
    fold = results_folder / UNET / "automatic/fold_0"
    for cases in (2, 1):
        test = shutil.copytree(fold, fold.with_name("fold_test"), dirs_exist_ok=True)
        file = test / "trial_0/metrics.csv"
        rows = pd.read_csv(file)
        rows[rows["case"] < f"case_{cases:02}"].to_csv(file, index=False)
        table = lay_out(gather_quickly(results_folder))
        assert f"Separate test set: {'1 case' if cases == 1 else '2 cases'}." in table.caption
    assert [section.title for section in table.sections] == ["Automatic", "Automatic, test set"]


def test_best_is_bold_only_among_methods_with_the_same_cases(results_folder, table):
    def bold(table: Table) -> dict[str, bool]:
        return {m: cells_of(table, "automatic", m)["Posterior Dice"].bold for m in (UNET, ADAPTER)}

    assert bold(table) == {UNET: False, ADAPTER: True}
    assert not any(cell.bold for section in table.sections[1:] for row in section.rows for cell in row)
    file = results_folder / UNET / "automatic/fold_0/trial_0/metrics.csv"
    rows = pd.read_csv(file)
    rows[rows["case"] != "case_00"].to_csv(file, index=False)
    assert bold(lay_out(gather_quickly(results_folder))) == {UNET: False, ADAPTER: False}


def test_equal_methods_are_both_bold_and_without_mark(results_folder):
    shutil.rmtree(results_folder / UNET / "automatic")
    shutil.copytree(results_folder / ADAPTER / "automatic", results_folder / UNET / "automatic")
    table = lay_out(gather_quickly(results_folder))
    cells = [cells_of(table, "automatic", m)["Anterior Dice"] for m in (UNET, ADAPTER)]
    assert [(c.bold, c.mark) for c in cells] == [(True, "")] * 2


def test_without_baseline_and_with_few_cases_nothing_is_tested(results_folder):
    caption = " ".join(lay_out(gather(Results(results_folder), ["volume_1"])).caption)
    assert "No test of significance" in caption
    for method in (UNET, ADAPTER):
        shutil.rmtree(results_folder / method / "automatic/fold_1")
    file = results_folder / UNET / "automatic/fold_0/trial_0/metrics.csv"
    pd.read_csv(file).query("case < 'case_03'").to_csv(file, index=False)
    table = lay_out(gather_quickly(results_folder))
    caption = " ".join(table.caption)
    assert "Fewer than 6 cases in common are not tested" in caption
    assert "Holm's" not in caption
    assert "fold 0 alone" in caption
    assert "All methods: without fold 1 of 2." in table.caption


@pytest.mark.parametrize("cases, is_possible", [(12, True), (6, False)])
def test_captions_say_if_no_difference_could_be_significant(results_folder, cases, is_possible):
    """With 6 pairs, two comparisons leave no p below 0.05."""
    for file in results_folder.glob("*/automatic/**/metrics.csv"):
        rows = pd.read_csv(file)
        rows[rows["case"] < f"case_{cases:02}"].to_csv(file, index=False)
    table = lay_out(gather_quickly(results_folder))
    sentence = f"With {cases} cases and so many comparisons, none can be significant"
    assert any(sentence in line for line in table.caption) != is_possible
    if not is_possible:
        assert not any(cell.mark for section in table.sections for row in section.rows for cell in row)


@pytest.mark.parametrize(
    "targets, expected",
    [
        (["kidney", "Tumour"], "Tumour"),
        (["kidney", "tumor", "tumor_and_kidney"], "tumor"),
        (["mass"], "mass"),
        (["a", "b"], "liver tumour"),
        (["tumour 1", "tumour 2"], "liver tumour"),
    ],
)
def test_papers_target_is_the_only_tumour(content, targets, expected):
    assert replace(content, targets=targets, paper="lits17").paper_target == expected


def test_papers_figures_stand_in_a_column_of_their_own_if_nothing_here_is_a_tumour(table):
    cells = cells_of(table, "volume_10", "3DSAM-adapter")
    assert (cells["kidney tumour Dice"].text, cells["kidney tumour NSD at 5 mm"].text) == ("75.95", "84.92")
    assert (cells["Anterior Dice"].text, cells["tuned parameters (M)"].text) == ("–", "25.46")
    assert cells_of(table, "volume_10", ADAPTER)["kidney tumour Dice"].text == "–"


def test_csv_holds_every_statistic(content):
    rows = pd.read_csv(io.StringIO(to_csv(content)))
    assert not rows.duplicated(["method", "protocol", "clicks", "source", "target", "metric"]).any()
    known = {key: s for key, s in content.statistics.items() if s.cases}
    assert len(rows) == len(known) + 2 * 18 + 1
    rows["clicks"] = rows["clicks"].fillna(0)
    rows = rows.set_index(["method", "protocol", "clicks", "source", "target", "metric"]).sort_index()
    for (place, target, metric), statistic in known.items():
        pooled = content.pools[place]
        metric = f"{metric}_area" if pooled.area else metric
        row = rows.loc[pooled.method, pooled.protocol.name, pooled.clicks or 0, pooled.source, target, metric]
        for name in ("mean", "low", "high", "sd_folds", "sd_trials", "p_holm"):
            assert row[name] == pytest.approx(getattr(statistic, name), nan_ok=True), name
        assert row["cases"] == len(statistic.cases)
        if statistic.comparison is None:
            assert row[["baseline", "difference", "p"]].isna().all()
        else:
            assert row["baseline"] == f"{statistic.baseline.name}, {statistic.baseline.label}"
            assert row["difference"] == pytest.approx(statistic.comparison.difference)
            assert row["p"] == pytest.approx(statistic.comparison.p, nan_ok=True)
        assert row["seconds"] == pytest.approx(pooled.seconds or np.nan, nan_ok=True)
        assert row["tuned_parameters"] == content.facts[pooled.method]["tuned_parameters"]
    paper = rows.xs("paper", level="source")
    assert paper.loc[("3DSAM-adapter", "volume_1", 0, "kidney tumour", "nsd_5mm"), "mean"] == 0.8386
    assert paper["cases"].isna().all()
    assert ",25198976," in to_csv(content)  # not 25198976.0


def test_markdown_has_a_table_for_each_section(table):
    text = to_markdown(table)
    parts = re.split("^## ", text, flags=re.MULTILINE)[1:]
    shown = [(table.columns, section) for section in table.sections]
    shown += [(table.training.columns, section) for section in table.training.sections]
    for (columns, section), part in zip(shown, parts, strict=True):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert [unescape_markdown(cell) for cell in markdown_cells(lines[0])] == columns
        assert len(lines) == len(section.rows) + 2
        for row, line in zip(section.rows, lines[2:]):
            for cell, shown in zip(row, markdown_cells(line), strict=True):
                expected = f"**{cell.text}**" if cell.bold else cell.text
                assert unescape_markdown(shown) == " ".join(filter(None, [expected, cell.interval, cell.mark]))
    listed = [unescape_markdown(line[2:]) for line in text.splitlines() if line.startswith("- ")]
    assert listed == [*table.caption, *table.training.caption]


def test_markdown_names_survive(nasty_table):
    text = to_markdown(nasty_table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(markdown_cells(line)) for line in lines] == [3] * 4
    name, _, number = markdown_cells(lines[2])
    assert unescape_markdown(name) == NASTY
    assert number == r"**1.00** [0.50, 1.50] \*↑"
    for sign in "<>|$*`[]&#~":
        assert sign not in re.sub(r"\\.", "", name)
    assert r"\_x\_" in name
    assert "| volume_1 " in lines[2]  # an underscore inside a word means nothing


def test_latex_is_escaped(nasty_table):
    text = to_latex(nasty_table)
    name = (
        r"a\textless{}b\textgreater{}\textbar{}\_x\_ \$y\$ {*}z{*} {[}q{]}(r) \& 50\% \#1 "
        r"\{\textasciitilde{}\textasciicircum{}\textbackslash{} \textasciigrave{}c\textasciigrave{}"
    )
    assert (
        f"\n{name} & volume\\_1 & \\textbf{{1.00}}{{*}}$\\uparrow$ \\\\\n &  & {{\\tiny {{[}}0.50, 1.50{{]}}}} \\\\"
        in text
    )
    assert f"``{name}'' -- p \\textless{{}} 0.05 {{*}}$\\downarrow$" in text
    assert "\\\\\n{[}x{]} & {*}y & -- \\\\\n" in text  # a bare bracket or star would be an argument of the line break
    assert text.isascii()


def test_latex_uses_nothing_but_booktabs_and_has_as_many_cells_in_each_row(table):
    text = to_latex(table)
    assert text.isascii()
    for shown, part in zip((table, table.training), text.split("\\toprule\n")[1:], strict=True):
        body = part.split("\n\\bottomrule")[0]
        rows = [line for line in body.splitlines() if line != "\\midrule"]
        columns = len(shown.columns)
        for row in rows:
            assert row.endswith(r" \\")
            assert rf"\multicolumn{{{columns}}}" in row or len(re.findall(r"(?<!\\)&", row)) == columns - 1
        assert f"{{tabular}}{{{'l' * shown.text_columns}{'r' * (columns - shown.text_columns)}}}" in text
    commands = set(re.findall(r"\\([a-zA-Z]+)", text.replace(r"\\", "")))
    booktabs = {"toprule", "midrule", "bottomrule"}
    kernel = set("begin end centering caption scriptsize setlength tabcolsep multicolumn shortstack textit".split())
    kernel |= set("textbf tiny uparrow downarrow textless par smallskip medskip parbox textwidth usepackage".split())
    assert booktabs <= commands <= booktabs | kernel
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("which", ["table", "nasty_table"])
def test_latex_compiles(request, tmp_path, which):
    (tmp_path / "table.tex").write_text(to_latex(request.getfixturevalue(which)))
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\listoftables\input{table}\end{document}"
    (tmp_path / "document.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_html_is_whole_and_loads_nothing(table, made_results):
    page = Page(to_html(table))
    training = len(table.training.sections[0].rows) + 1
    headings, *rows = page.rows[:-training]
    assert [text for _, text in headings] == table.columns
    assert [[text for _, text in row] for row in page.rows[-training:]] == [
        table.training.columns,
        *[[cell.text for cell in row] for row in table.training.sections[0].rows],
    ]
    expected = [row for section in table.sections for row in section.rows]
    titles = [row for row in rows if "colspan" in row[0][0]]
    assert [(row[0][1], row[0][0]["colspan"]) for row in titles] == [
        (section.title, str(len(table.columns))) for section in table.sections
    ]
    for cells, shown in zip(expected, [row for row in rows if row not in titles], strict=True):
        for cell, (attributes, text) in zip(cells, shown, strict=True):
            assert " ".join(text.split()) == " ".join(filter(None, [cell.text, cell.mark, cell.interval]))
            assert attributes.get("title", "") == cell.detail
            value = attributes.get("data-value")
            assert (value is None) == (cell.value is None)
            assert value is None or float(value) == pytest.approx(cell.value)
    assert page.addresses == []
    assert not re.search("https?://|url\\(|@import", to_html(table))
    assert sum(tag == "b" for tag, _ in page.tags) == sum(cell.bold for row in expected for cell in row)
    assert sum(tag == "button" for tag, _ in page.tags) == len(table.columns)
    assert all(sentence in page.text for sentence in [*table.caption, *table.training.caption])


def test_html_names_survive(nasty_table):
    page = Page(to_html(nasty_table))
    assert page.rows[0][2][1] == f"{NASTY} Dice"
    assert page.rows[1][0][1] == NASTY
    assert page.rows[2][0][1] == NASTY
    assert page.rows[2][2][0]["title"] == f'"{NASTY}"'
    assert not any("b" == tag and attributes for tag, attributes in page.tags)
    assert page.text.count(NASTY) == 6  # title, heading, column, section, row and caption


def test_figures_are_inside_the_html(written_folder):
    page = Page((written_folder / "table.html").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    headings = [image["alt"] for image in images]
    assert headings[-3:] == [
        "Dice and NSD of all methods: automatic",
        f"Dice against that of the baseline: {ADAPTER}",
        "Dice against the volume of the truth",
    ]
    assert sum(heading.startswith("Truth and methods: case_") for heading in headings) == 3
    assert all(page.text.count(heading) == 1 for heading in headings)
    assert [image["src"] for image in images] == page.addresses
    for image in images:
        assert image["loading"] == "lazy"
        assert image["src"].startswith("data:image/png;base64,iVBORw0KGgo")  # the signature of PNG
        assert int(image["width"]) > 100 < int(image["height"])


def test_same_results_give_the_same_bytes_elsewhere_and_in_another_order(made_results, written_folder, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    for name in ("data.json", "prompts", UNET, ADAPTER):  # evaluated in this order
        source = made_results / name
        shutil.copytree(source, again / name) if source.is_dir() else shutil.copy(source, again)
    command = [sys.executable, "-c", "from sam3d_nnunet.cli.main import main; main()", "table", "again", *WRITTEN]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for ending in FORMATS:
        first, second = [(folder / f"table.{ending}").read_bytes() for folder in (written_folder, again / "table")]
        assert first == second, ending
        assert str(made_results.parent).encode() not in first


def test_command_writes_four_files_and_notes_what_is_missing(results_folder):
    shutil.rmtree(results_folder / UNET / "automatic/fold_1")
    rename(results_folder, UNET, NASTY)
    done = CliRunner().invoke(
        app, ["table", str(results_folder), "--without-figures", "--protocol", "automatic", "--baseline", NASTY]
    )
    assert done.exit_code == 0, done.output
    files = sorted((results_folder / "table").iterdir())
    assert [file.name for file in files] == ["table.csv", "table.html", "table.md", "table.tex"]
    assert all(f"written: {file}" in done.stdout for file in files)
    assert f"note: {NASTY}, automatic: without fold 1 of 2." in done.stderr
    assert set(pd.read_csv(files[0])["name"]) == {NASTY, ADAPTER}
    assert f"{NASTY} (baseline)" in {row[0][1] for row in Page(files[1].read_text(encoding="utf-8")).rows}
    assert "<img" not in files[1].read_text(encoding="utf-8")


def test_one_format_is_written_on_its_own(made_results, tmp_path):
    files = write_tables(Results(made_results), tmp_path, protocols=["automatic"], formats=["csv"])
    assert files == [tmp_path / "table.csv"] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--baseline", "x"], "'x'"),
        (["--method", "x"], "'x'"),
        (["--protocol", "volume_7"], "'volume_7'"),
        (["--method", UNET, "--protocol", "volume_1"], "results has no metrics"),
    ],
)
def test_unknown_names_are_refused(made_results, tmp_path, arguments, sentence):
    done = CliRunner().invoke(app, ["table", str(made_results), "-o", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 1
    assert isinstance(done.exception, SAM3DError)
    assert sentence in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_refused(made_results, tmp_path):
    done = CliRunner().invoke(app, ["table", str(made_results), "--with-paper", "amos"])
    assert done.exit_code == 2
    assert "kits21" in done.output
    assert CliRunner().invoke(app, ["table"]).exit_code == 2
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = CliRunner().invoke(app, ["table", str(folder)])
        assert isinstance(done.exception, SAM3DError)
        assert "data.json" in str(done.exception)


def test_folder_that_cannot_be_written_is_an_error(made_results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SAM3DError, match="file: File exists. Give another path"):
        write_tables(Results(made_results), tmp_path / "file", protocols=["automatic"], figures=False)
