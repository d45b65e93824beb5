import json

import pandas as pd
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results

UNET = "nnUNetTrainer__SAM3DPlans__3d_fullres"


@pytest.mark.parametrize("name", ["data.json", f"{UNET}/method.json"])
@pytest.mark.parametrize("content", [[], "text", None])
def test_descriptions_that_are_no_objects(results_folder, name, content):
    file = results_folder / name
    file.write_text(json.dumps(content))
    with pytest.raises(SAM3DError, match=f"{file} .* object"):
        Results(results_folder)


def test_a_table_without_a_needed_column(results_folder):
    file = results_folder / UNET / "automatic/fold_0/trial_0/metrics.csv"
    rows = pd.read_csv(file)
    rows.drop(columns=["truth_voxels", "target"]).to_csv(file, index=False)
    with pytest.raises(SAM3DError, match=f"{file} has no column target, truth_voxels"):
        _ = Results(results_folder).metrics
    file.write_text("")
    with pytest.raises(SAM3DError, match=f"{file} can't be read"):
        _ = Results(results_folder).metrics


@pytest.mark.parametrize("name, column", [("metrics.csv", "hd95_mm"), ("prediction.csv", "seconds")])
def test_a_table_with_words_for_numbers(results_folder, name, column):
    file = results_folder / UNET / "automatic/fold_0/trial_0" / name
    rows = pd.read_csv(file).astype({column: object})
    rows.loc[3, column] = "1,5"
    rows.to_csv(file, index=False)
    results = Results(results_folder)
    with pytest.raises(SAM3DError, match=f"{file} has '1,5' in the column {column}, which is not a number"):
        _ = results.metrics if name == "metrics.csv" else results.costs


def test_costs_without_seconds(results_folder):
    file = results_folder / UNET / "automatic/fold_0/trial_0/prediction.csv"
    pd.read_csv(file).drop(columns="seconds").to_csv(file, index=False)
    with pytest.raises(SAM3DError, match=f"{file} has no column seconds"):
        _ = Results(results_folder).costs


def test_only_numbered_folds_and_test_sets_are_results(results_folder):
    fold = results_folder / UNET / "automatic/fold_0"
    before = len(Results(results_folder).folders)
    for name in ("fold_all", "fold_0_old", "fold_test"):
        fold.with_name(name).symlink_to(fold, target_is_directory=True)
    folders = Results(results_folder).folders
    assert len(folders) == before + 1 and "test" in {folder.fold for folder in folders}
