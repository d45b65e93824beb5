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
    with pytest.raises(SAM3DError, match=f"{file} holds no JSON object"):
        Results(results_folder)


def test_a_table_without_a_needed_column(results_folder):
    file = results_folder / UNET / "automatic/fold_0/trial_0/metrics.csv"
    rows = pd.read_csv(file)
    rows.drop(columns=["truth_voxels", "target"]).to_csv(file, index=False)
    with pytest.raises(SAM3DError, match=f"{file} has no column target, truth_voxels"):
        _ = Results(results_folder).metrics
    rows.assign(dice="x0.5").to_csv(file, index=False)
    with pytest.raises(SAM3DError, match=f"{file} holds something else than numbers in the column dice"):
        _ = Results(results_folder).metrics
    file.write_text("")
    with pytest.raises(SAM3DError, match=f"{file} can't be read"):
        _ = Results(results_folder).metrics


def test_only_numbered_folds_and_test_sets_are_results(results_folder):
    fold = results_folder / UNET / "automatic/fold_0"
    before = len(Results(results_folder).folders)
    for name in ("fold_all", "fold_0_old", "fold_test"):
        fold.with_name(name).symlink_to(fold, target_is_directory=True)
    folders = Results(results_folder).folders
    assert len(folders) == before + 1 and "test" in {folder.fold for folder in folders}
