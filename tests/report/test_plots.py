import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.plots import (
    case_means,
    plot_against_cases,
    plot_against_clicks,
    plot_against_volume,
    plot_bars,
    plot_click_position,
    plot_paired,
    plot_robustness,
)
from sam3d_nnunet.report.selection import Selection
from sam3d_nnunet.report.style import method_style
from sam3d_nnunet.simulation.protocols import Protocol

AUTOMATIC = Protocol.parse("automatic")
CASES = [f"c{i}" for i in range(6)]
NAMES = ("volume_1", "iterated_2")
"""Protocols of which a version is added."""
PROMPTED = ("volume_1", "volume_3", "center_1", "margin_1", "iterated_2")


@pytest.fixture
def results(tmp_path) -> Results:
    """One automatic and one prompted method, two targets; the case c5 has no tumour. No images."""
    rng = np.random.default_rng(0)
    description = {"file_ending": ".nii.gz", "labels": {"background": 0, "lesion": 1}}
    (tmp_path / "data.json").write_text(json.dumps({"dataset_json": description}))
    methods = {"a": ("nnU-Net", "automatic", ("automatic",)), "b": ("ours", "prompted", ("automatic", *PROMPTED))}
    for method, (name, kind, protocols) in methods.items():
        for protocol in protocols:
            for trial in range(2 if protocol == "volume_1" else 1):
                for part in ("after_1", "after_2") if protocol.startswith("iterated") else (".",):
                    folder = tmp_path / method / protocol / "fold_0" / f"trial_{trial}" / part
                    folder.mkdir(parents=True)
                    _write_metrics(folder / "metrics.csv", rng)
        (tmp_path / method / "method.json").write_text(json.dumps({"name": name, "kind": kind}))
    return Results(tmp_path)


def _write_metrics(file, rng) -> None:
    rows = []
    for i, case in enumerate(CASES):
        for target in ("kidney", "tumour"):
            empty = case == "c5" and target == "tumour"
            dice, nsd = (np.nan, np.nan) if empty else rng.uniform(0, 1, 2)
            volume = 0.0 if empty else 2.0**i
            rows.append((case, target, 1000 * volume, volume, dice, nsd))
    pd.DataFrame(rows, columns=["case", "target", "truth_voxels", "truth_ml", "dice", "nsd_2mm"]).to_csv(
        file, index=False
    )


def _mean(results, target, metric="dice", **where) -> float:
    """Mean over cases of the mean over trials, by numpy."""
    rows = results.metrics[results.metrics["target"] == target]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return np.mean([v for c in CASES if not np.isnan(v := rows.loc[rows["case"] == c, metric].mean())])


def test_case_counts_once_whatever_its_trials_and_empty_truth_not_at_all():
    rows = pd.DataFrame(
        [("a", "t", 0.2), ("a", "t", 0.4), ("a", "u", 0.7), ("b", "t", 1.0), ("b", "u", np.nan), ("c", "t", np.nan)],
        columns=["case", "target", "dice"],
    )
    assert case_means(rows, "dice").to_dict() == pytest.approx({"a": 0.5, "b": 1.0})


def test_curves_pass_through_the_means(results):
    figure = plot_against_clicks(Selection(results))
    assert [axis.get_ylabel() for axis in figure.axes] == ["Dice", "NSD at 2 mm"] * 2
    dice_of_tumour = figure.axes[2]
    assert dice_of_tumour.get_title() == "tumour\n5 cases"
    curves = {c.get_label(): c.lines[0].get_xydata() for c in dice_of_tumour.containers}
    means = [_mean(results, "tumour", method="b", protocol=p) for p in ("automatic", "volume_1", "volume_3")]
    assert curves["ours"][:, 1] == pytest.approx(means)
    assert curves["ours"][:, 0].round().tolist() == [0, 1, 3]
    corrective = [_mean(results, "tumour", method="b", clicks=k) for k in (1, 2)]
    assert curves["ours, corrective clicks"][:, 1] == pytest.approx(corrective)
    assert curves["nnU-Net"][:, 1] == pytest.approx([_mean(results, "tumour", method="a")])
    nsd = {c.get_label(): c.lines[0].get_ydata() for c in figure.axes[1].containers}
    assert nsd["nnU-Net"] == pytest.approx([_mean(results, "kidney", "nsd_2mm", method="a")])


def test_curve_needs_several_numbers_of_clicks(results):
    with pytest.raises(SAM3DError, match="volume_1 and volume_3"):
        plot_against_clicks(Selection(results, methods=["nnU-Net"]))


def test_curves_against_training_cases_pass_through_the_means(results):
    """Two trainings of one trainer, with 4 cases and with all 6; another trainer has one training and is left out."""
    for method, cases in (("a", None), ("b", 4), ("c", None)):
        folder = results.root / method
        if method == "c":
            shutil.copytree(results.root / "b" / "automatic", folder / "automatic")
            _write_metrics(folder / "automatic" / "fold_0" / "trial_0" / "metrics.csv", np.random.default_rng(1))
        trainer = "nnUNetTrainer" if method == "a" else "SAM3DAdapterTrainer"
        facts = {"name": f"method {method}", "trainer": trainer, "training_cases": cases, "kind": "prompted"}
        (folder / "method.json").write_text(json.dumps(facts))
        (folder / "splits_final.json").write_text(json.dumps([{"train": list("abcdef"), "val": ["g"]}]))
    found = Results(results.root)
    figure = plot_against_cases(Selection(found, protocols=["automatic"]))
    for target, axis in zip(("kidney", "tumour"), figure.axes):
        (curve,) = axis.containers
        x, y = curve.lines[0].get_data()
        means = [_mean(found, target, method=method, protocol="automatic") for method in "bc"]
        assert list(x) == [4, 6] and list(y) == pytest.approx(means)
        assert curve.get_label() == "method c"
    with pytest.raises(SAM3DError, match="no trainer was measured after trainings with different numbers of cases"):
        plot_against_cases(Selection(found, methods=["a", "b"]))
    facts = json.loads((results.root / "a" / "method.json").read_text())
    (results.root / "a" / "method.json").write_text(json.dumps(facts | {"trainer": "SAM3DAdapterTrainer"}))
    with pytest.raises(SAM3DError, match="no trainer"):  # with two trainings on all cases, nothing says which is meant
        plot_against_cases(Selection(Results(results.root), protocols=["automatic"]))


def test_bars_are_as_long_as_the_means_and_keep_the_colour_of_their_method(results):
    figure = plot_bars(Selection(results), AUTOMATIC)
    bars = figure.axes[0].patches
    means = [_mean(results, "kidney", method=m, protocol="automatic") for m in "ab"]
    assert [bar.get_width() for bar in bars] == pytest.approx(means)
    alone = plot_bars(Selection(results, methods=["ours"]), AUTOMATIC).axes[0].patches
    assert to_hex(alone[0].get_facecolor()) == to_hex(bars[1].get_facecolor()) == method_style(1)["color"].lower()


def test_folds_and_test_set_are_never_pooled(results):
    assert list(Selection(results).by_source()) == [""]
    for method in "ab":
        folder = results.root / method / "automatic" / "fold_test" / "trial_0"
        folder.mkdir(parents=True)
        _write_metrics(folder / "metrics.csv", np.random.default_rng(7))
    found = Selection(Results(results.root), baseline="a").by_source()
    assert list(found) == ["", "_test"]
    assert found["_test"].protocols == [AUTOMATIC] and found["_test"].methods == ["a", "b"]
    for suffix, rows in (("", {"fold": "0"}), ("_test", {"fold": "test"})):
        bars = plot_bars(found[suffix], AUTOMATIC).axes[0].patches
        expected = [_mean(Results(results.root), "kidney", method=m, protocol="automatic", **rows) for m in "ab"]
        assert [bar.get_width() for bar in bars] == pytest.approx(expected)


def test_bar_of_an_iterated_protocol_is_that_after_the_last_click(results):
    bars = plot_bars(Selection(results), Protocol.parse("iterated_2")).axes[0].patches
    assert bars[0].get_width() == pytest.approx(_mean(results, "kidney", method="b", protocol="iterated_2", clicks=2))


def test_robustness_shows_a_person_beside_the_robot(results):
    """On constructed results: one column for each protocol of the robot that has a version, in the order of both."""
    with pytest.raises(SAM3DError, match="volume_1 and volume_1_human"):
        plot_robustness(Selection(results))
    rng = np.random.default_rng(1)
    added = ("volume_1_human", "volume_1_off20_5mm", "iterated_2_human/fold_0/trial_0/after_1", "lesion_1_human")
    for protocol in (*added, "iterated_2_human/fold_0/trial_0/after_2"):
        folder = results.root / "b" / (protocol if "/" in protocol else f"{protocol}/fold_0/trial_0")
        folder.mkdir(parents=True)
        _write_metrics(folder / "metrics.csv", rng)
    results = Results(results.root)
    figure = plot_robustness(Selection(results))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"{target}, {name}\n{n} cases" for target, n in (("kidney", 6), ("tumour", 5)) for name in NAMES]
    labels = [[tick.get_text() for tick in axis.get_xticklabels()] for axis in figure.axes]
    assert labels == [["robot", "human", "20 % off\nby 5 mm"], ["robot", "human"]] * 2
    for axis, target in zip(figure.axes[::2], ("kidney", "tumour")):
        (curve,) = axis.containers
        shown = ("volume_1", "volume_1_human", "volume_1_off20_5mm")
        means = [_mean(results, target, method="b", protocol=p) for p in shown]
        assert curve.get_label() == "ours" and curve.lines[0].get_xydata() == pytest.approx(np.c_[range(3), means])
    last = [_mean(results, "kidney", method="b", protocol=p, clicks=2) for p in ("iterated_2", "iterated_2_human")]
    assert figure.axes[1].containers[0].lines[0].get_ydata() == pytest.approx(last)
    curves = plot_against_clicks(Selection(results)).axes[0].containers  # which stay those of the robot
    assert [curve.get_label() for curve in curves] == ["nnU-Net", "ours", "ours, corrective clicks"]
    corrective = [_mean(results, "kidney", method="b", protocol="iterated_2", clicks=k) for k in (1, 2)]
    assert curves[2].lines[0].get_ydata() == pytest.approx(corrective)


def test_click_positions_have_a_dot_for_each_case(results):
    figure = plot_click_position(Selection(results))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["center_1", "margin_1"]
    for axis, target, count in zip(figure.axes, ("kidney", "tumour"), (6, 5)):
        for dots, protocol in zip(axis.collections, ("center_1", "margin_1")):
            assert len(dots.get_offsets()) == count
            mean = _mean(results, target, method="b", protocol=protocol)
            assert dots.get_offsets()[:, 1].mean() == pytest.approx(mean)


def test_scatter_pairs_the_same_case(results):
    selection = Selection(results, baseline="nnU-Net")
    axis = plot_paired(selection, "b").axes[1]
    rows = results.metrics[results.metrics["target"] == "tumour"]
    expected = []
    for case in CASES[:5]:
        pair = [("a", "automatic"), ("b", "volume_1")]
        expected.append(
            [
                rows.loc[(rows["method"] == m) & (rows["protocol"] == p) & (rows["case"] == case), "dice"].mean()
                for m, p in pair
            ]
        )
    assert np.allclose(axis.collections[0].get_offsets(), expected)
    difference = np.mean([y - x for x, y in expected])
    assert f"difference {difference:+.3f}" in axis.get_title()
    assert f"better in {sum(y > x for x, y in expected)} of 5 cases" in axis.get_title()


def test_paired_leaves_out_targets_that_no_case_has(results):
    results.metrics.loc[results.metrics["target"] == "tumour", "dice"] = np.nan
    axes = plot_paired(Selection(results, baseline="a"), "b").axes
    assert [axis.get_title().split("\n")[0] for axis in axes] == ["kidney"]


def test_volume_plot_has_a_dot_for_each_case_with_truth(results):
    figure = plot_against_volume(Selection(results))
    assert len(figure.axes) == 4
    tumour_of_ours = figure.axes[3]
    assert tumour_of_ours.get_xscale() == "log"
    assert sorted(tumour_of_ours.collections[0].get_offsets()[:, 0]) == [1, 2, 4, 8, 16]


def test_selection_names_what_there_is(results):
    with pytest.raises(SAM3DError, match="'x'.*: a, b"):
        Selection(results, methods=["x"])
    with pytest.raises(SAM3DError, match="'volume_7'.* automatic, volume_1"):
        Selection(results, protocols=["volume_7"])
    with pytest.raises(SAM3DError, match=re.escape(str(results.root))):
        Selection(results, methods=["nnU-Net"], protocols=["volume_3"])
    assert Selection(results, protocols=["volume_3"]).methods == ["b"]
    selection = Selection(results, methods=["ours"], protocols=["volume_3"], baseline="a")
    assert selection.main_protocol("b") == Protocol.parse("volume_3")
