"""Several trainings of a method are pooled under its name."""

import json
import shutil
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from results_fixtures import ADAPTER, UNET

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.evaluation.results_folder import ResultsFolder
from sam3d_nnunet.report.caption import caption
from sam3d_nnunet.report.content import gather
from sam3d_nnunet.report.figures import _folders, _title
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.report.pooling import pool
from sam3d_nnunet.report.selection import Selection

RUNS = [f"{ADAPTER}_seed{seed}" for seed in (0, 1, 2)]


@pytest.fixture
def three_runs(results_folder):
    """The adapter as three runs of `ours`; the Dice of the second is lower by 0.1, that of the third by 0.2."""
    for run, name in enumerate(RUNS):
        shutil.copytree(results_folder / ADAPTER, results_folder / name)
        note(results_folder / name, run_of="ours", seed=run, plans=f"SAM3DPlans_seed{run}")
        for file in (results_folder / name).rglob("metrics.csv"):
            table = pd.read_csv(file)
            table.assign(dice=table["dice"] - 0.1 * run).to_csv(file, index=False)
    shutil.rmtree(results_folder / ADAPTER)
    return results_folder


def note(folder, **facts) -> None:
    file = folder / "method.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def pools(root) -> dict:
    return {(p.method, p.label): p for p in pool(Selection(Results(root)))[0]}


def test_value_of_a_case_is_its_mean_over_runs(three_runs, made_results):
    pooled, single = pools(three_runs), pools(made_results)
    assert {method for method, _ in pooled} == {"ours", UNET}
    for label in ("automatic", "volume_1", "iterated_3, after 2", "iterated_3, area"):
        ours, one = pooled["ours", label], single[ADAPTER, label]
        assert (ours.runs, one.runs, ours.trials) == (3, 1, one.trials)
        expected = one.values("Anterior", "dice") - 0.1
        pd.testing.assert_series_equal(ours.values("Anterior", "dice"), expected)


def test_table_of_runs(three_runs, made_results):
    content = gather(Results(three_runs), protocols=["volume_1"], methods=["ours"])
    table = pd.read_csv(StringIO(to_csv(content)))
    (ours,) = table[(table["target"] == "Anterior") & (table["metric"] == "dice")].to_dict("records")
    assert ours["sd_runs"] == pytest.approx(0.1)  # of 0, -0.1 and -0.2
    trials = pools(made_results)[ADAPTER, "volume_1"].means_by("trial", "Anterior", "dice")
    assert ours["sd_trials"] == pytest.approx(np.std(trials, ddof=1))

    # caption and table of trainings
    assert any("ours was trained 3 times on each fold." in sentence for sentence in caption(content))
    (ours,) = [training for training in content.trainings if training.name == "ours"]
    assert {"0, 1, 2", "SAM3DPlans_seed0, SAM3DPlans_seed1, SAM3DPlans_seed2"} <= set(ours.cells)


def test_figures_show_the_first_run(three_runs):
    selection = Selection(Results(three_runs), protocols=["volume_1"])
    folders = _folders(selection, "ours", selection.protocols[0], "case_01")
    assert [(folder.run, folder.trial) for folder in folders] == [(0, 0), (0, 1), (0, 2)]
    assert f"Dice {selection.rows('ours', selection.protocols[0]).iloc[0]['dice']:.2f}" in _title(
        selection, folders[0], "case_00"
    )


def test_a_run_that_lacks_cases_is_named(three_runs):
    shutil.rmtree(three_runs / RUNS[1] / "volume_1" / "fold_0" / "trial_2")
    _, notes = pool(Selection(Results(three_runs)))
    assert any(note.startswith("ours, volume_1: training 2, trial 2 lacks case_00") for note in notes)


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"batch_size": 4}, "their batch_size is 2 and 4"),
        ({"trainer": "nnUNetTrainer"}, "can't be runs of one method: their trainer is SAM3DAdapterTrainer and nnUNet"),
        ({"run_of": UNET}, f"{RUNS[2]}, {UNET} can't be runs of one method: their run_of is"),
    ],
)
def test_different_methods_are_no_runs(three_runs, facts, message):
    note(three_runs / RUNS[0], batch_size=2)  # that of RUNS[1] is not known
    note(three_runs / RUNS[2], **facts)
    with pytest.raises(SAM3DError, match=message):
        Results(three_runs)


def test_runs_on_different_splits_are_refused(three_runs):
    file = three_runs / RUNS[1] / "splits_final.json"
    file.write_text(json.dumps(json.loads(file.read_text())[::-1]))
    with pytest.raises(SAM3DError, match="the runs of ours were trained on different splits"):
        pool(Selection(Results(three_runs)))


def test_a_run_that_lacks_a_fold_or_a_protocol(three_runs):
    means = pools(three_runs)["ours", "volume_1"].means_by("run", "Anterior", "dice")
    shutil.rmtree(three_runs / RUNS[1] / "volume_1" / "fold_0")
    shutil.rmtree(three_runs / RUNS[2] / "automatic")
    pooled, notes = pool(Selection(Results(three_runs)))
    (ours,) = [p for p in pooled if (p.method, p.label) == ("ours", "volume_1")]
    # on fold 1, which all have; the fixture lowers each run by 0.1 everywhere
    first = ours.means_by("run", "Anterior", "dice")
    np.testing.assert_allclose(first - first[0], means - means[0])
    assert "ours, automatic: 2 of 3 trainings." in notes
    sentences = caption(gather(Results(three_runs), protocols=["volume_1"], methods=["ours"]))
    assert any("ours was trained 2 or 3 times on each fold." in sentence for sentence in sentences)


def test_a_case_in_other_folds_of_another_run_is_refused(three_runs):
    for name in (*RUNS, UNET):
        (three_runs / name / "splits_final.json").unlink()  # nothing else would tell
    place = three_runs / RUNS[1] / "volume_1"
    (place / "fold_0").rename(place / "other")
    (place / "fold_1").rename(place / "fold_0")
    (place / "other").rename(place / "fold_1")
    with pytest.raises(SAM3DError, match="ours, volume_1: the case .* was measured twice, in fold 0 and 1"):
        pool(Selection(Results(three_runs)))


def test_one_training_is_not_two_runs(three_runs):
    for name, weights in zip(RUNS, (["a"], ["b"], ["a"])):
        for folder in (three_runs / name / "volume_1").glob("fold_0/trial_*"):
            (folder / "settings.json").write_text(json.dumps({"weights": weights}))
    with pytest.raises(SAM3DError, match=f"{RUNS[0]} and {RUNS[2]} count as two trainings of ours, .* same weights"):
        pool(Selection(Results(three_runs)))
    assert pool(Selection(Results(three_runs), methods=[UNET]))


def test_devices_of_all_runs_are_named(three_runs):
    note(three_runs / RUNS[0], device="A100", peak_memory_gib=3.0)
    note(three_runs / RUNS[1], device="H100 and A100", peak_memory_gib=5.0)
    note(three_runs / RUNS[2], device=None, peak_memory_gib=None)
    facts = Results(three_runs).methods["ours"]
    assert (facts["device"], facts["peak_memory_gib"]) == ("A100 and H100", 5.0)


def test_runs_and_a_method_of_their_name_are_not_mixed(three_runs):
    root = ResultsFolder(three_runs)
    facts = {"trainer": "SAM3DAdapterTrainer", "plans": None, "configuration": "3d_fullres", "kind": "prompted"}
    with pytest.raises(SAM3DError, match=f"holds the method {RUNS[0]}, a run of ours. .* it and ours under one name"):
        root.write_method("ours", facts)
    with pytest.raises(SAM3DError, match=f"holds the method {UNET}. .* it and new under one name"):
        root.write_method("new", facts | {"run_of": UNET})
    with pytest.raises(SAM3DError, match="'a/b' can't be the name"):
        root.write_method("new", facts | {"run_of": "a/b"})
    root.write_method("new", facts | {"run_of": "ours"})
    root.write_method("new", facts)  # the next evaluation need not say so again
    assert set(Results(three_runs).runs["ours"]) == {"new", *RUNS}
