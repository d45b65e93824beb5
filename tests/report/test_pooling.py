import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.pooling import FOLDS, Pooled, pool
from sam3d_nnunet.report.selection import Selection

UNET = "nnUNetTrainer__SAM3DPlans__3d_fullres"
ADAPTER = "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres"
EMPTY = "case_07"  # has no Posterior
STEPS = ("iterated_3, after 1", "iterated_3, after 2", "iterated_3, after 3", "iterated_3, area")


def pools_of(root: Path) -> dict[tuple[str, str], Pooled]:
    return {(p.method, p.label): p for p in pool(Selection(Results(root)))[0]}


def notes_of(root: Path) -> list[str]:
    return pool(Selection(Results(root)))[1]


def measured(folder: Path, pattern: str = "fold_*/trial_*") -> pd.DataFrame:
    """All metrics.csv below, by plain pandas."""
    return pd.concat(pd.read_csv(file) for file in sorted(folder.glob(f"{pattern}/metrics.csv")))


def reference(folder: Path, target: str, metric: str, pattern: str = "fold_*/trial_*") -> float:
    """Mean over cases with a truth of the mean over trials."""
    rows = measured(folder, pattern)
    rows = rows[(rows["target"] == target) & (rows["truth_voxels"] > 0)]
    return rows.groupby("case")[metric].mean().mean()


def edit(file: Path, change) -> None:
    """Rewrite a metrics.csv."""
    change(pd.read_csv(file)).to_csv(file, index=False)


def test_rows_are_apart_for_methods_protocols_and_steps(made_results):
    pools, notes = pool(Selection(Results(made_results)))
    expected = [(ADAPTER, "automatic"), (UNET, "automatic")]
    expected += [(ADAPTER, label) for label in ("volume_1", "volume_3", "volume_10", *STEPS)]
    assert [(p.method, p.label) for p in pools] == expected
    assert notes == []
    for pooled in pools:
        assert (len(pooled.cases), pooled.folds, pooled.source) == (12, ["0", "1"], FOLDS)
        assert pooled.trials == (3 if pooled.prompted else 1)


def test_copies_beside_the_results_count_for_nothing(results_folder):
    before = Results(results_folder).folders
    trial = results_folder / ADAPTER / "volume_1/fold_0/trial_0"
    shutil.copytree(trial, trial.with_name("trial_0_old"))
    shutil.copytree(trial, trial / "backup")
    assert Results(results_folder).folders == before


@pytest.mark.parametrize("target", ["Anterior", "Posterior"])
@pytest.mark.parametrize("metric", ["dice", "nsd_5mm", "hd95_mm", "lesion_f1"])
def test_means_are_those_of_plain_pandas(made_results, target, metric):
    pools = pools_of(made_results)
    for method, protocol in ((UNET, "automatic"), (ADAPTER, "automatic"), (ADAPTER, "volume_3")):
        values = pools[method, protocol].values(target, metric)
        assert len(values) == (12 if target == "Anterior" else 11)
        assert values.mean() == pytest.approx(reference(made_results / method / protocol, target, metric))
    step = pools[ADAPTER, "iterated_3, after 2"].values(target, metric).mean()
    folder = made_results / ADAPTER / "iterated_3"
    assert step == pytest.approx(reference(folder, target, metric, "fold_*/trial_*/after_2"))


def test_trials_are_averaged_on_their_own(made_results):
    means = pools_of(made_results)[ADAPTER, "volume_1"].means_by("trial", "Anterior", "dice")
    folder = made_results / ADAPTER / "volume_1"
    expected = [reference(folder, "Anterior", "dice", f"fold_*/trial_{t}") for t in range(3)]
    assert means == pytest.approx(expected)


def test_seconds_are_the_median_of_all_folds_and_trials(made_results):
    pools = pools_of(made_results)
    files = (made_results / ADAPTER / "volume_1").glob("fold_*/trial_*/prediction.csv")
    expected = pd.concat(pd.read_csv(file) for file in files)["seconds"].median()
    assert pools[ADAPTER, "volume_1"].seconds == pytest.approx(expected)
    assert pools[ADAPTER, "iterated_3, area"].seconds is None


def test_empty_truth_counts_only_as_false_positives(results_folder):
    """Even where a metric was written for it."""
    for file in results_folder.glob(f"{UNET}/automatic/fold_1/trial_0/metrics.csv"):
        edit(file, lambda rows: rows.assign(dice=rows["dice"].fillna(1.0), lesion_f1=rows["lesion_f1"].fillna(1.0)))
    pooled = pools_of(results_folder)[UNET, "automatic"]
    for metric in ("dice", "lesion_f1"):
        assert EMPTY not in pooled.values("Posterior", metric).index.get_level_values("case")
    false = pooled.values("Posterior", "false_positive_ml")
    assert false.index.tolist() == [("1", EMPTY)]
    rows = measured(results_folder / UNET / "automatic").set_index(["case", "target"])
    assert false.iloc[0] == pytest.approx(rows.loc[(EMPTY, "Posterior"), "prediction_ml"])
    assert pooled.values("Anterior", "false_positive_ml").empty


def test_area_is_the_mean_height_of_the_trapezoids(made_results):
    values = pools_of(made_results)[ADAPTER, "iterated_3, area"].values("Anterior", "dice")
    steps = [
        measured(made_results / ADAPTER / "iterated_3", f"fold_*/trial_*/after_{step}")
        .query("target == 'Anterior'")
        .groupby("case")["dice"]
        .mean()
        for step in (1, 2, 3)
    ]
    expected = (steps[0] / 2 + steps[1] + steps[2] / 2) / 2
    assert values.droplevel("fold").to_dict() == pytest.approx(expected.to_dict())
    assert pools_of(made_results)[ADAPTER, STEPS[-1]].values("Anterior", "hd95_mm").empty


@pytest.mark.parametrize("step", [1, 2, 3])
def test_no_area_over_fewer_steps_than_another_method_has(results_folder, step):
    """It would be another number under the same name: the curve rises."""
    shutil.copytree(results_folder / ADAPTER, results_folder / "other")
    for folder in (results_folder / "other" / "iterated_3").glob(f"fold_*/trial_*/after_{step}"):
        shutil.rmtree(folder)
    labels = {(p.method, p.label) for p in pool(Selection(Results(results_folder)))[0]}
    assert (ADAPTER, STEPS[-1]) in labels and ("other", STEPS[-1]) not in labels
    said = [note for note in notes_of(results_folder) if "area" in note]
    assert len(said) == 1, said
    assert said[0].endswith(f"not measured after {step}, and so without area.")


def test_different_splits_are_refused(results_folder):
    file = results_folder / UNET / "splits_final.json"
    splits = json.loads(file.read_text())
    file.write_text(json.dumps(splits[::-1]))
    with pytest.raises(SAM3DError, match=f"{ADAPTER} and {UNET} "):
        notes_of(results_folder)
    assert pool(Selection(Results(results_folder), methods=[ADAPTER]))[1] == []
    file.write_text(json.dumps([{"training": []}]))
    with pytest.raises(SAM3DError, match=f"{UNET}/splits_final.json"):
        notes_of(results_folder)


def test_order_of_cases_in_the_splits_does_not_matter(results_folder):
    file = results_folder / UNET / "splits_final.json"
    splits = [{part: cases[::-1] for part, cases in fold.items()} for fold in json.loads(file.read_text())]
    file.write_text(json.dumps(splits))
    assert notes_of(results_folder) == []


def test_case_measured_twice_is_refused(results_folder):
    for method in (UNET, ADAPTER):  # nothing else would tell
        (results_folder / method / "splits_final.json").unlink()
    first, second = [results_folder / UNET / f"automatic/fold_{fold}/trial_0/metrics.csv" for fold in (0, 1)]
    again = pd.read_csv(first).query("case == 'case_03'")
    edit(second, lambda rows: pd.concat([rows, again]))
    with pytest.raises(SAM3DError, match="case_03 was measured twice, in fold 0 and 1"):
        notes_of(results_folder)


def test_case_outside_its_fold_is_refused(results_folder):
    folder = results_folder / ADAPTER / "volume_1"
    shutil.rmtree(folder / "fold_1")
    file = folder / "fold_0/trial_1/metrics.csv"
    edit(file, lambda rows: rows.replace({"case": {"case_02": "case_09"}}))
    with pytest.raises(SAM3DError, match="volume_1: case_09 in fold 0 "):
        notes_of(results_folder)
    shutil.move(results_folder / ADAPTER / "volume_3/fold_1", results_folder / ADAPTER / "volume_3/fold_7")
    shutil.rmtree(folder)
    with pytest.raises(SAM3DError, match="in fold 7 "):
        notes_of(results_folder)


def test_what_is_missing_is_noted(results_folder):
    shutil.rmtree(results_folder / UNET / "automatic/fold_1")
    shutil.rmtree(results_folder / ADAPTER / "volume_3/fold_0/trial_2")
    for file in (results_folder / ADAPTER / "volume_1").glob("fold_0/trial_*/metrics.csv"):
        edit(file, lambda rows: rows[rows["case"] != "case_04"])
    (results_folder / UNET / "splits_final.json").unlink()
    notes = notes_of(results_folder)
    for note in (
        f"{UNET}: it is not known which splits it was trained on.",
        f"{UNET}, automatic: without fold 1 of 2.",
        f"{UNET}, automatic: 6 of 12 cases.",
        f"{ADAPTER}, volume_1: fold 0 lacks case_04.",
        f"{ADAPTER}, volume_1: 11 of 12 cases.",
        f"{ADAPTER}, volume_3: trial 2 lacks case_00, case_01, case_02, case_03, case_04 and 1 more.",
    ):
        assert note in notes
    assert len(notes) == 6


def test_folds_that_all_lack_are_noted_once(results_folder):
    for folder in list(results_folder.glob("*/*/fold_1")):
        shutil.rmtree(folder)
    assert notes_of(results_folder) == ["All methods: without fold 1 of 2."]


def test_results_without_any_splits_are_pooled(results_folder):
    for method in (UNET, ADAPTER):
        (results_folder / method / "splits_final.json").unlink()
    assert len(notes_of(results_folder)) == 2
    assert len(pools_of(results_folder)[UNET, "automatic"].cases) == 12


def test_test_set_is_not_pooled_with_folds(results_folder):
    source = results_folder / UNET / "automatic/fold_0"
    shutil.copytree(source, source.with_name("fold_test"))  # would be cases measured twice
    pools, notes = pool(Selection(Results(results_folder)))
    assert notes == []
    assert [(p.source, len(p.cases)) for p in pools if p.method == UNET] == [(FOLDS, 12), ("test", 6)]


def test_other_tolerance_leaves_a_metric_undefined(results_folder):
    for file in results_folder.glob(f"{UNET}/automatic/*/trial_0/metrics.csv"):
        edit(file, lambda rows: rows.rename(columns={"nsd_5mm": "nsd_2mm"}))
    pools = pools_of(results_folder)
    assert pools[UNET, "automatic"].values("Anterior", "nsd_5mm").empty
    assert np.isfinite(pools[ADAPTER, "automatic"].values("Anterior", "nsd_5mm")).all()
