"""The scores of a challenge in tables."""

import shutil
from io import StringIO

import pandas as pd
import pytest
from results_fixtures import ADAPTER, SPLITS

from sam3d_nnunet.evaluation.results import Results, add_scores
from sam3d_nnunet.report.content import gather
from sam3d_nnunet.report.layout import lay_out
from sam3d_nnunet.report.long_csv import to_csv

DSC = [0.1, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.fixture
def table(results_folder) -> tuple[list[str], dict[str, list[str]], pd.DataFrame]:
    """Columns and rows (by protocol and step) of the table, and its long form."""
    method = results_folder / ADAPTER
    for fold, split in enumerate(SPLITS):
        for step in range(6):
            folder = method / f"cvpr25/fold_{fold}/trial_0/after_{step}"
            folder.mkdir(parents=True)
            shutil.copy(method / f"automatic/fold_{fold}/trial_0/metrics.csv", folder)
        for case in split["val"]:
            auc = 2.8 + 0.4 * fold
            scores = {"dsc": DSC, "nsd": DSC, "dsc_auc": auc, "nsd_auc": 3.0, "dsc_final": 0.9, "nsd_final": 0.75}
            add_scores(folder, case, 10, scores)
    content = gather(Results(results_folder), ["automatic", "cvpr25"])
    laid_out = lay_out(content)
    rows = {row[1].text: [cell.text for cell in row] for part in laid_out.sections for row in part.rows}
    assert sum("CVPR 2025" in sentence and "AUC" in sentence for sentence in laid_out.caption) == 1
    return laid_out.columns, rows, pd.read_csv(StringIO(to_csv(content)))


def test_scores_stand_in_the_row_of_the_last_round(table):
    columns, rows, long = table
    assert list(rows) == ["automatic", *(f"cvpr25, after {step}" for step in range(6))]  # and no area of ours
    names = [f"all classes {name}" for name in ("DSC_AUC", "NSD_AUC", "DSC_Final", "NSD_Final")]
    assert [columns.index(name) - columns.index(names[0]) for name in names] == [0, 1, 2, 3]
    of_round = {protocol: [row[columns.index(name)] for name in names] for protocol, row in rows.items()}
    assert of_round.pop("cvpr25, after 5") == ["3.00", "3.00", "90.00", "75.00"]
    assert set(map(tuple, of_round.values())) == {("–",) * 4}
    scores = long[long["target"] == "all classes"].set_index("metric")
    assert scores["mean"].to_dict() == pytest.approx(
        {"dsc_auc": 3.0, "nsd_auc": 3.0, "dsc_final": 0.9, "nsd_final": 0.75}
    )
    assert (scores["cases"] == 12).all() and (scores["clicks"] == 5).all()
