"""What tables say about trainings, baselines and what clicks give away."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from results_fixtures import ADAPTER, UNET

from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.content import Content, gather
from sam3d_nnunet.report.layout import Table, lay_out
from sam3d_nnunet.report.pooling import FOLDS, Pooled
from sam3d_nnunet.report.statistics import Baselines, reference_of
from sam3d_nnunet.report.training import TITLE
from sam3d_nnunet.simulation.protocols import Protocol

CONTROL = "prompted U-Net"
KNOWN = {
    "patch_size": [32, 64, 96],
    "batch_size": 2,
    "patches": 100_000,
    "mirroring_axes": [0, 1, 2],
    "test_mirroring_axes": [0, 1, 2],
    "seed": "none",
    "no_click_share": None,
}


CASES = [f"case_{i}" for i in range(8)]
EMPTY = CASES[-1]  # has no Posterior


def measure(root: Path, method: str, protocol: str, dice: float, step: int | None = None) -> None:
    """Metrics of the cases in fold 0; the gain of a case over another method is the difference in `dice`, and a bit."""
    folder = root / method / protocol / "fold_0/trial_0" / ("" if step is None else f"after_{step}")
    folder.mkdir(parents=True)
    rows = [
        {"case": case, "target": target, "dice": dice + 0.01 * dice * number, "truth_voxels": 9}
        for number, case in enumerate(CASES)
        for target in ("Anterior", "Posterior")
    ]
    rows[-1] |= {"dice": np.nan, "truth_voxels": 0}
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)


@pytest.fixture
def results_folder(tmp_path) -> Path:
    """nnU-Net without clicks, and a method that is better and takes clicks."""
    (tmp_path / "data.json").write_text("{}")
    for method, kind, hours in ((UNET, "automatic", 9.25), (ADAPTER, "prompted", 20.5)):
        trainer, plans, configuration = method.split("__")
        measure(tmp_path, method, "automatic", 0.5 if kind == "automatic" else 0.6)
        facts = {"name": method, "trainer": trainer, "plans": plans, "kind": kind, "training_hours": hours}
        (tmp_path / method / "method.json").write_text(json.dumps(facts | {"configuration": configuration}))
    measure(tmp_path, ADAPTER, "volume_1", 0.7)
    measure(tmp_path, ADAPTER, "volume_3", 0.75)
    for step in (1, 2):
        measure(tmp_path, ADAPTER, "iterated_2", 0.7 + 0.05 * step, step)
    return tmp_path


@pytest.fixture(autouse=True)
def no_bootstrap(monkeypatch):
    """Intervals take most of the time and matter nothing here."""
    quick = lambda values: (values.sum() / max(1, len(values)), np.nan, np.nan)  # noqa: E731
    monkeypatch.setattr("sam3d_nnunet.report.statistics.mean_interval", quick)


def know(root: Path, method: str, **facts: Any) -> None:
    """Add to method.json."""
    file = root / method / "method.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def set_mirroring(root: Path, method: str, mirroring: bool, folders: str = "*/fold_*/trial_*") -> None:
    for folder in (root / method).glob(folders):
        (folder / "settings.json").write_text(json.dumps({"mirroring": mirroring}))


def copy_method(root: Path, source: str, name: str, trainer: str, **facts: Any) -> None:
    shutil.copytree(root / source, root / name)
    know(root, name, name=name, trainer=trainer, **facts)


def table_of(root: Path, *protocols: str, **options: Any) -> Table:
    return lay_out(gather(Results(root), protocols or ["automatic"], **options))


def training_cells(table: Table, method: str) -> dict[str, str]:
    """By heading."""
    (row,) = [row for row in table.training.sections[0].rows if row[0].text == method]
    return dict(zip(table.training.columns, [cell.text for cell in row]))


def sentence_with(table: Table, words: str) -> str:
    """The only sentence of the caption with these words; empty without any."""
    found = [sentence for sentence in table.caption if words in sentence]
    assert len(found) <= 1
    return next(iter(found), "")


def test_each_fact_of_a_training_is_shown(results_folder):
    know(results_folder, UNET, **KNOWN, network={"width": 128, "neck": None})
    know(
        results_folder, ADAPTER, **KNOWN | {"patches": 12, "no_click_share": 0.15, "seed": 3, "mirroring_axes": [0, 2]}
    )
    know(results_folder, ADAPTER, training_cases=12)
    set_mirroring(results_folder, UNET, True)
    set_mirroring(results_folder, ADAPTER, False)
    table = table_of(results_folder)
    assert training_cells(table, UNET) == {
        "method": UNET,
        "trainer": "nnUNetTrainer",
        "plans": "SAM3DPlans",
        "clicks in training": "none",
        "mirroring: training / test": "dhw / dhw",
        "seed": "no",
        "cases": "all",
        "patch": "32 x 64 x 96",
        "batch": "2",
        "patches seen": "100,000",
        "training (h)": "9.2",
    }
    cells = training_cells(table, ADAPTER)
    assert (cells["clicks in training"], cells["seed"], cells["patches seen"]) == ("85 % of patches", "3", "12")
    assert cells["mirroring: training / test"] == "dw / no" and cells["cases"] == "12"
    assert sentence_with(table, TITLE)
    assert not any("evaluate again" in sentence for sentence in table.training.caption)
    assert any(f"{UNET} (width 128)" in sentence for sentence in table.training.caption)


@pytest.mark.parametrize(
    "training, test, settings, shown",
    [
        ([0, 1, 2], [], True, "dhw / no"),
        ([], [], True, "no / no"),
        ([0, 1, 2], [0, 1, 2], None, "dhw / –"),
        (None, [], True, "– / no"),
        (None, None, None, "–"),
    ],
)
def test_mirroring_at_test_needs_model_and_settings(results_folder, training, test, settings, shown):
    know(results_folder, UNET, mirroring_axes=training, test_mirroring_axes=test)
    if settings is not None:
        set_mirroring(results_folder, UNET, settings)
    assert training_cells(table_of(results_folder), UNET)["mirroring: training / test"] == shown


def test_mirroring_of_the_shown_protocols_counts(results_folder):
    know(results_folder, ADAPTER, **KNOWN)
    set_mirroring(results_folder, ADAPTER, True)
    set_mirroring(results_folder, ADAPTER, False, "iterated_2/fold_0/trial_*")
    heading = "mirroring: training / test"
    assert training_cells(table_of(results_folder, "volume_1"), ADAPTER)[heading] == "dhw / dhw"
    assert training_cells(table_of(results_folder, "iterated_2"), ADAPTER)[heading] == "dhw / no"
    both = table_of(results_folder, "volume_1", "iterated_2")
    assert training_cells(both, ADAPTER)[heading] == "dhw / dhw in part"


def test_results_of_before_say_what_they_do_not_know(results_folder):
    know(results_folder, UNET, trainer=None, plans=None, training_hours=None)  # made by another program
    table = table_of(results_folder)
    assert set(list(training_cells(table, UNET).values())[1:]) == {"–"}
    cells = training_cells(table, ADAPTER)
    assert {heading for heading, text in cells.items() if text != "–"} == {"method", "trainer", "plans", "training (h)"}
    assert f"Run sam3d evaluate again to note how these were trained: {ADAPTER}." in table.training.caption


def test_automatic_rows_of_methods_that_always_got_clicks_are_marked(results_folder):
    def shown(table: Table) -> list[str]:
        return [row[1].text for section in table.sections for row in section.rows if row[0].text == ADAPTER]

    know(results_folder, ADAPTER, no_click_share=0.15)
    table = table_of(results_folder, "automatic", "volume_1")
    assert shown(table) == ["automatic", "volume_1"]
    assert not sentence_with(table, "†")
    know(results_folder, ADAPTER, no_click_share=0)
    table = table_of(results_folder, "automatic", "volume_1")
    assert shown(table) == ["automatic †", "volume_1"]
    assert sentence_with(table, "†") == f"†: trained with clicks on every patch, never without ({ADAPTER})."
    assert training_cells(table, ADAPTER)["clicks in training"] == "all patches"
    assert not sentence_with(table_of(results_folder, "volume_1"), "†")


def test_what_clicks_give_away_is_said_where_classes_are_absent(results_folder):
    sentence = sentence_with(table_of(results_folder, "automatic", "volume_1"), "With clicks")
    assert "In 1 case, clicks on other classes alone tell" in sentence
    assert "can't err" not in sentence
    assert not sentence_with(table_of(results_folder, "automatic"), "With clicks")  # nothing was clicked
    for file in results_folder.glob("*/*/**/metrics.csv"):
        rows = pd.read_csv(file)
        rows.loc[rows["case"].isin([EMPTY, CASES[0], CASES[1]]), "truth_voxels"] = 0
        rows.to_csv(file, index=False)
    sentence = sentence_with(table_of(results_folder, "automatic", "volume_1"), "With clicks")
    assert "3 cases without any class get none" in sentence
    assert "prompted rows can't err there (no false positives), automatic rows can." in sentence
    assert "other classes" not in sentence
    for file in results_folder.glob("*/*/**/metrics.csv"):
        pd.read_csv(file).assign(truth_voxels=5).to_csv(file, index=False)
    assert not sentence_with(table_of(results_folder, "automatic", "volume_1"), "With clicks")


def test_a_challenge_that_starts_without_prompts(results_folder):
    """Its first prediction is automatic, and it clicks on background where nothing is to be found."""
    for step in range(3):
        measure(results_folder, ADAPTER, "autopet_2", 0.6, step)
    know(results_folder, ADAPTER, no_click_share=0)
    table = table_of(results_folder, "autopet_2")
    labels = [row[1].text for section in table.sections for row in section.rows]
    assert labels == ["autopet_2, after 0 †", "autopet_2, after 1", "autopet_2, after 2"]
    assert sentence_with(table, "†")
    assert not sentence_with(table, "With clicks, a class")


@pytest.fixture
def with_control(results_folder) -> Path:
    """Also the control (automatic and volume_1), and two more methods that could be taken for baselines."""
    copy_method(results_folder, ADAPTER, CONTROL, "PromptedUNetTrainer")
    for protocol in ("volume_3", "iterated_2"):
        shutil.rmtree(results_folder / CONTROL / protocol)
    copy_method(results_folder, ADAPTER, "A residual one", "PromptedResEncUNetTrainer")
    copy_method(results_folder, UNET, "z nnU-Net", "nnUNetTrainer_planned")
    return results_folder


def compared(content: Content) -> dict[tuple[str, str], tuple[str, str] | None]:
    """Method and label of each row -> those of the row that it is compared with."""
    found = {}
    for (place, *_, metric), statistic in content.statistics.items():
        if metric == "dice":
            row, other = content.pools[place], statistic.baseline
            found[row.method, row.label] = other and (other.method, other.label)
    return found


def test_rows_with_clicks_are_tested_against_the_prompted_control(with_control):
    content = gather(Results(with_control), ["automatic", "volume_1", "volume_3"])
    assert content.baselines == Baselines(UNET, CONTROL)
    rows = compared(content)
    for method in (ADAPTER, CONTROL, "A residual one"):
        assert rows[method, "automatic"] == (UNET, "automatic")
    assert rows[UNET, "automatic"] is None
    assert rows[CONTROL, "volume_1"] is None
    for method in (ADAPTER, "A residual one"):
        assert rows[method, "volume_1"] == (CONTROL, "volume_1")
        assert rows[method, "volume_3"] is None
    table = lay_out(content)
    stars = sentence_with(table, "*↑")
    assert "higher (lower) than the baseline" in stars
    assert f"The baseline of automatic rows is {UNET}, that of rows with clicks {CONTROL}." in stars
    assert f"Rows with clicks under volume_3 are not tested, since {CONTROL} was not measured there." in table.caption
    assert not sentence_with(table, "stand in")
    marked = {(row[0].text, row[1].text) for section in table.sections for row in section.rows}
    assert {(f"{UNET} (baseline)", "automatic"), (f"{CONTROL} (baseline)", "volume_1")} <= marked
    assert {(CONTROL, "automatic"), (ADAPTER, "volume_1")} <= marked


def test_without_control_the_automatic_rows_stand_in(results_folder):
    content = gather(Results(results_folder), ["automatic", "volume_1"])
    assert content.baselines == Baselines(UNET, UNET)
    assert compared(content)[ADAPTER, "volume_1"] == (UNET, "automatic")
    table = lay_out(content)
    assert f"Where {UNET} was not measured under a protocol with clicks, its automatic rows stand in." in table.caption
    assert f"higher (lower) than {UNET} on the same cases" in sentence_with(table, "*↑")
    assert not sentence_with(table, "are not tested, since")


def test_a_named_baseline(with_control):
    """One that takes clicks is that of all rows, an automatic one leaves rows with clicks to the control."""
    results, protocols = Results(with_control), ["automatic", "volume_1"]
    named = gather(results, protocols, baseline="A residual one")
    assert named.baselines == Baselines("A residual one", "A residual one")
    assert compared(named)[UNET, "automatic"] == ("A residual one", "automatic")
    assert gather(results, protocols, baseline="z nnU-Net").baselines == Baselines("z nnU-Net", CONTROL)
    without = gather(results, protocols, methods=[ADAPTER], baseline=UNET)
    assert without.baselines == Baselines(UNET, UNET)


def test_a_control_that_was_trained_on_all_cases_comes_first(with_control):
    facts = json.loads((with_control / CONTROL / "method.json").read_text())
    (with_control / CONTROL / "method.json").write_text(json.dumps(facts | {"training_cases": 4}))
    shutil.copytree(with_control / CONTROL, with_control / "z control")
    (with_control / "z control" / "method.json").write_text(json.dumps(facts | {"name": "z control"}))
    shutil.rmtree(with_control / "A residual one")
    assert gather(Results(with_control), ["automatic", "volume_1"]).baselines == Baselines(UNET, "z control")


def test_a_control_without_clicks_is_none(with_control):
    """It must have been measured with clicks, whatever it can do."""
    shutil.rmtree(with_control / CONTROL / "volume_1")
    assert gather(Results(with_control), ["automatic", "volume_1"]).baselines == Baselines(UNET, "A residual one")
    assert gather(Results(with_control), ["automatic"]).baselines == Baselines(UNET, UNET)


def test_only_rows_with_a_baseline_are_tested(with_control):
    for method in (UNET, "z nnU-Net"):
        shutil.rmtree(with_control / method)
    content = gather(Results(with_control), ["automatic", "volume_1"])
    assert content.baselines == Baselines(None, CONTROL)
    table = lay_out(content)
    assert f"higher (lower) than {CONTROL} on the same cases" in sentence_with(table, "*↑")
    assert "Automatic rows are not tested: there is no baseline for them." in table.caption


def pooled(method: str, protocol: str, source: str = FOLDS, clicks: int | None = None, area: bool = False) -> Pooled:
    return Pooled(method, method, Protocol.parse(protocol), source, clicks, area, pd.DataFrame(), None)


def test_references():
    """Made-up rows, so that each rule is seen alone."""
    automatic, one = pooled("U", "automatic"), pooled("C", "volume_1")
    after_2, area = pooled("C", "iterated_2", clicks=2), pooled("C", "iterated_2", clicks=2, area=True)
    on_test = pooled("U", "automatic", "test")
    pools = [on_test, automatic, one, after_2, area]
    both = Baselines("U", "C")
    assert reference_of(pooled("M", "automatic"), pools, both) is automatic
    assert reference_of(pooled("M", "automatic", "test"), pools, both) is on_test
    assert reference_of(pooled("M", "volume_1"), pools, both) is one
    assert reference_of(pooled("M", "volume_1", "test"), pools, both) is None
    assert reference_of(pooled("M", "volume_3"), pools, both) is None
    assert reference_of(replace(after_2, method="M"), pools, both) is after_2
    assert reference_of(pooled("M", "iterated_2", clicks=1), pools, both) is None
    assert reference_of(replace(area, method="M"), pools, both) is area
    assert reference_of(pooled("C", "automatic"), pools, both) is automatic
    assert reference_of(one, pools, both) is None
    stand_in = Baselines("U", "U")
    assert reference_of(one, pools, stand_in) is automatic
    assert reference_of(pooled("M", "volume_1", "test"), pools, stand_in) is on_test
    assert reference_of(area, pools, stand_in) is None
    assert reference_of(one, pools, Baselines("U")) is None


def test_prompted_rows_get_other_stars_with_the_control(with_control):
    """The control equals the method, so the stars against nnU-Net vanish."""
    protocols = ["automatic", "volume_1"]
    with_it = gather(Results(with_control), protocols, methods=[UNET, ADAPTER, CONTROL])
    without = gather(Results(with_control), protocols, methods=[UNET, ADAPTER])

    def marks(content: Content) -> set[int]:
        places = {(p.method, p.label): place for place, p in enumerate(content.pools)}
        return {
            content.statistics[places[ADAPTER, "volume_1"], target, "dice"].direction
            for target in ("Anterior", "Posterior")
        }

    assert marks(with_it) == {0}
    assert marks(without) == {1}
    p_values = [s.p_holm for (place, *_), s in with_it.statistics.items() if with_it.pools[place].label == "volume_1"]
    assert np.nanmin(p_values) == 1
