"""The scores of challenges in tables."""

import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_fixtures import ADAPTER, SPLITS

from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.evaluation.results_folder import add_scores
from sam3d_nnunet.report.content import gather
from sam3d_nnunet.report.layout import lay_out
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.simulation.protocols import FAMILIES, Protocol

DSC = [0.1, 0.5, 0.6, 0.7, 0.8, 0.9]
HEALTHY = "case_07"
Table = tuple[list[str], dict[str, list[str]], pd.DataFrame, list[str]]


@pytest.fixture
def make_table(results_folder, monkeypatch) -> callable:
    """Columns and rows (by protocol and step) of the table, its long form, and its caption."""
    monkeypatch.setattr("sam3d_nnunet.report.statistics.RESAMPLES", 20)  # intervals are no matter here

    def make(*protocols: str) -> Table:
        for protocol in protocols:
            for fold, split in enumerate(SPLITS):
                last = _predict(results_folder / ADAPTER, Protocol.parse(protocol), fold)
                for case in split["val"]:
                    add_scores(last, case, 0 if case == HEALTHY else 10, SCORES[protocol](fold, case))
        content = gather(Results(results_folder), ["automatic", *protocols])
        laid_out = lay_out(content)
        rows = {row[1].text: [cell.text for cell in row] for part in laid_out.sections for row in part.rows}
        return laid_out.columns, rows, pd.read_csv(StringIO(to_csv(content))), laid_out.caption

    return make


def _predict(method: Path, protocol: Protocol, fold: int) -> Path:
    """Metrics after each round; returns the folder of the last one."""
    for step in protocol.steps:
        folder = method / f"{protocol.name}/fold_{fold}/trial_0/after_{step}"
        folder.mkdir(parents=True)
        shutil.copy(method / f"automatic/fold_{fold}/trial_0/metrics.csv", folder)
    return folder


def cvpr25(fold: int, case: str) -> dict:
    auc = 2.8 + 0.4 * fold
    return {"dsc": DSC, "nsd": DSC, "dsc_auc": auc, "nsd_auc": 3.0, "dsc_final": 0.9, "nsd_final": 0.75}


def autopet(fold: int, case: str) -> dict:
    """One case has no lesion, so that its Dice is undefined; its volumes count."""
    dsc, fpv = (np.nan, 12.5) if case == HEALTHY else (0.75, 0.5)
    of_dice = {"dsc": [dsc] * 3, "dsc_auc": 2 * dsc, "dsc_final": dsc}
    return (
        of_dice
        | {"fpv": [fpv] * 3, "fpv_auc": 2 * fpv, "fpv_final": fpv, "fnv": [1.0, 0, 0], "fnv_auc": 0.5}
        | {
            "fnv_final": 0.0,
            "clicks": [[], []],
        }
    )


SCORES = {"cvpr25": cvpr25, "cvpr25_human": cvpr25, "autopet_2": autopet}


def test_scores_stand_in_the_row_of_the_last_round(make_table):
    columns, rows, long, caption = make_table("cvpr25")
    assert list(rows) == ["automatic", *(f"cvpr25, after {step}" for step in range(6))]  # and no area of ours
    names = [f"all classes {name}" for name in ("DSC_AUC", "NSD_AUC", "DSC_Final", "NSD_Final")]
    assert [columns.index(name) - columns.index(names[0]) for name in names] == [0, 1, 2, 3]
    of_round = {protocol: [row[columns.index(name)] for name in names] for protocol, row in rows.items()}
    assert of_round.pop("cvpr25, after 5") == ["2.98", "3.00", "90.00", "75.00"]
    assert set(map(tuple, of_round.values())) == {("–",) * 4}
    scores = long[long["target"] == "all classes"].set_index("metric")
    assert scores["mean"].to_dict() == pytest.approx(
        {"dsc_auc": (6 * 2.8 + 5 * 3.2) / 11, "nsd_auc": 3.0, "dsc_final": 0.9, "nsd_final": 0.75}
    )
    assert (scores["cases"] == 11).all() and (scores["clicks"] == 5).all()
    assert caption.count(FAMILIES["cvpr25"].scores) == 1
    assert not any("autoPET" in sentence for sentence in caption)


def test_each_challenge_brings_its_scores_and_a_sentence(make_table):
    columns, rows, long, caption = make_table("autopet_2", "cvpr25_human")
    assert list(rows)[-3:] == [f"autopet_2, after {step}" for step in range(3)]
    names = ["DSC_AUC", "NSD_AUC", "DSC_Final", "NSD_Final"]
    volumes = ["FPV_AUC", "FNV_AUC", "FPV_Final (ml)", "FNV_Final (ml)"]
    places = {name: columns.index(f"all classes {name}") for name in (*names, *volumes)}
    last = {name: rows["autopet_2, after 2"][place] for name, place in places.items()}
    assert [last[name] for name in names] == ["1.50", "–", "75.00", "–"]
    assert [last[name] for name in volumes] == ["3.00", "0.50", "1.50", "0.00"]
    assert [rows["cvpr25_human, after 5"][places[name]] for name in volumes] == ["–"] * 4
    found = long[long["protocol"] == "autopet_2"].query("target == 'all classes'").set_index("metric")
    assert found["cases"].to_dict() == {**dict.fromkeys(["dsc_auc", "dsc_final"], 11)} | {
        name: 12 for name in ("fpv_auc", "fnv_auc", "fpv_final", "fnv_final")
    }
    assert found.loc["fpv_final", "mean"] == pytest.approx((11 * 0.5 + 12.5) / 12)
    assert not np.isfinite(found["p"]).any()
    sentences = [FAMILIES[name].scores for name in ("cvpr25", "autopet")]
    assert [sentence for sentence in caption if sentence in sentences] == sentences
