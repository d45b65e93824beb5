import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt
from sam3d_nnunet.report.case_images import CaseReader
from sam3d_nnunet.report.figures import draw_clicks, draw_overlay, write_figures
from sam3d_nnunet.report.html import embedded_figures
from sam3d_nnunet.report.selection import Selection

SHAPE = (8, 40, 50)
SPACING = (3.0, 1.0, 0.8)
CLICKS = {"volume_1": ((4, 20, 22), (3, 18, 24)), "volume_3": ((4, 21, 21),)}  # voxels of each trial
GAIN = {"c0": -0.1, "c1": 0.0, "c2": 0.1, "c3": 0.2, "$c4$": 0.3}


@pytest.fixture
def results_root(tmp_path) -> Path:
    """Five cases, the lesion largest on slice 4, in files of two orientations; one automatic, one prompted method."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[3:6, 16:22, 20:26] = 1
    truth[4, 14:24, 18:28] = 1
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    root = tmp_path / "results"
    data = {
        "images": str(tmp_path / "images"),
        "truth": str(tmp_path / "labels"),
        "dataset_json": {
            "labels": {"background": 0, "tumour": 1},
            "file_ending": ".nii.gz",
            "channel_names": {"0": "T1"},
        },
    }
    root.mkdir()
    (root / "data.json").write_text(json.dumps(data))
    for number, case in enumerate(GAIN):
        orientation = ("LPS", "RAI")[number % 2]
        _write(image, tmp_path / "images" / f"{case}_0000.nii.gz", orientation)
        _write(truth, tmp_path / "labels" / f"{case}.nii.gz", orientation)
        for protocol, trials in CLICKS.items():
            for trial, voxel in enumerate(trials):
                point = np.array(voxel[::-1]) * SPACING[::-1]
                file = root / "prompts" / protocol / f"trial_{trial}" / f"{case}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_prompt(Prompt(point[None], np.array([1]), case), file)
    _write_method(root, "nnunet", "nnU-Net", "automatic", truth, {"automatic": 1})
    _write_method(root, "ours", "Ours", "prompted", truth, {"automatic": 1, "volume_1": 2, "volume_3": 1})
    return root


def _write(array: np.ndarray, file: Path, orientation: str) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(file))


def _write_method(root: Path, method: str, name: str, kind: str, truth: np.ndarray, protocols: dict[str, int]) -> None:
    for protocol, trials in protocols.items():
        for trial in range(trials):
            folder = root / method / protocol / "fold_0" / f"trial_{trial}"
            rows = []
            for number, case in enumerate(GAIN):
                _write(np.roll(truth, trial + 1, axis=2), folder / f"{case}.nii.gz", ("LPS", "RAI")[number % 2])
                rows.append((case, "tumour", 172, 1.0, 0.5 + (kind == "prompted") * GAIN[case], 0.6))
            table = pd.DataFrame(rows, columns=["case", "target", "truth_voxels", "truth_ml", "dice", "nsd_5mm"])
            table.to_csv(folder / "metrics.csv", index=False)
    (root / method / "method.json").write_text(json.dumps({"name": name, "kind": kind}))


@pytest.mark.parametrize("case", ["c0", "c1"])  # of each orientation
def test_overlay_shows_the_largest_slice_with_the_click_at_its_pixel(results_root, case):
    results = Results(results_root)
    figure = draw_overlay(Selection(results), CaseReader(results), case)
    truth, automatic, prompted = figure.axes
    assert all("slice 5 of 8" in axis.get_xlabel() for axis in figure.axes)
    assert prompted.lines[0].get_xydata() == pytest.approx(np.array([[22.0, 20.0]]))
    assert not automatic.lines and not truth.lines
    columns = np.flatnonzero((~np.ma.getmaskarray(prompted.images[1].get_array())).any(axis=0))
    assert (columns.min(), columns.max()) == (19, 28)
    assert prompted.get_title() == f"Ours\nvolume_1, trial 1\nDice {0.5 + GAIN[case]:.2f}"


def test_different_clicks_are_shown_each_on_its_slice(results_root):
    results = Results(results_root)
    axes = draw_clicks(Selection(results), CaseReader(results), "c1").axes
    assert [axis.get_xlabel() for axis in axes] == ["slice 5 of 8", "slice 4 of 8"]
    assert axes[1].lines[0].get_xydata() == pytest.approx(np.array([[24.0, 18.0]]))


def test_clicks_beside_the_prediction_win_over_those_drawn_beforehand(results_root):
    points = np.array([[22, 20, 4], [10, 30, 4]]) * SPACING[::-1]
    write_prompt(Prompt(points, np.array([1, 0]), "c1"), results_root / "ours/volume_1/fold_0/trial_0/c1.json")
    results = Results(results_root)
    axis = draw_overlay(Selection(results), CaseReader(results), "c1").axes[2]
    assert [line.get_xydata()[0].tolist() for line in axis.lines] == [pytest.approx([22, 20]), pytest.approx([10, 30])]


def test_cases_of_a_test_set_are_found(results_root):
    data = json.loads((results_root / "data.json").read_text())
    data |= {"test_images": data["images"], "test_truth": data["truth"], "images": "/nowhere", "truth": "/nowhere"}
    (results_root / "data.json").write_text(json.dumps(data))
    assert CaseReader(Results(results_root)).image("c0").truth.sum() == 172


def test_images_that_the_data_set_lists_are_found(results_root, tmp_path):
    data = json.loads((results_root / "data.json").read_text())
    listed = tmp_path / "elsewhere.nii.gz"
    (tmp_path / "images/c0_0000.nii.gz").rename(listed)
    data["dataset_json"]["dataset"] = {"c0": {"images": [str(listed)], "label": "/nowhere"}}
    (results_root / "data.json").write_text(json.dumps(data))
    image = CaseReader(Results(results_root)).image("c0")
    assert image.truth.sum() == 172 and image.image.std() > 0.5


def test_all_figures_are_written_with_the_same_bytes_again(results_root, tmp_path):
    files = write_figures(Results(results_root), tmp_path / "one", baseline="nnU-Net")
    cases = ("c0", "c2", "$c4$")  # the worst, the median and the best gain
    names = [f"{kind}_{case}" for case in cases for kind in ("overlay", "clicks")]
    names += ["dice_against_clicks", "bars_automatic", "bars_volume_1", "bars_volume_3"]
    names += ["scatter_ours", "dice_against_volume"]
    assert [f.name for f in files] == [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    assert sorted(files) == sorted((tmp_path / "one").iterdir())
    again = write_figures(Results(results_root), tmp_path / "two", cases=["c0"], baseline="nnU-Net")
    assert len(again) == len(files) - 8
    assert all(f.read_bytes() == (tmp_path / "one" / f.name).read_bytes() for f in again)


def test_a_test_set_has_plots_of_its_own(results_root, tmp_path):
    for method in ("nnunet", "ours"):
        shutil.copytree(results_root / method / "automatic/fold_0", results_root / method / "automatic/fold_test")
    results = Results(results_root)
    files = write_figures(results, tmp_path / "out", cases=["c1"], baseline="nnU-Net")
    names = {f.stem for f in files if f.suffix == ".png"}
    assert {"bars_automatic", "bars_automatic_test", "scatter_ours", "scatter_ours_test"} <= names
    assert "bars_volume_1_test" not in names
    headings = {figure.heading for figure in embedded_figures(results, baseline="nnU-Net")}
    assert {"Dice against that of the baseline: Ours", "Dice against that of the baseline: Ours, test set"} <= headings
    assert {"Dice against the volume of the truth", "Dice against the volume of the truth: test set"} <= headings


def test_a_baseline_without_test_set_costs_the_others_nothing(results_root, tmp_path, capsys):
    shutil.copytree(results_root / "ours/automatic/fold_0", results_root / "ours/automatic/fold_test")
    files = write_figures(Results(results_root), tmp_path / "out", cases=["c1"], baseline="nnU-Net")
    assert {"scatter_ours", "bars_automatic_test"} <= {f.stem for f in files}
    said = capsys.readouterr().err
    assert "left out scatter_METHOD_test:" in said
    assert "left out scatter_METHOD:" not in said


def test_what_is_left_out_is_said(results_root, tmp_path, capsys):
    (results_root / "nnunet/automatic/fold_0/trial_0/c1.nii.gz").write_bytes(b"no image")
    (results_root / "prompts/volume_1/trial_1/c1.json").write_text("{")
    Path(Results(results_root).data["truth"], "c2.nii.gz").unlink()
    files = write_figures(Results(results_root), tmp_path / "out", cases=["c1", "c2"])
    said = capsys.readouterr().err
    assert "left out of the figures of c1: nnunet, automatic" in said
    assert "trial_1/c1.json" in said
    assert "left out overlay_c2: " in said and "c2.nii.gz" in said
    assert "left out click_position: " in said and "center_N, surrounding_N, margin_N" in said
    assert "no baseline" in said
    names = {f.stem for f in files}
    assert {"overlay_c1", "clicks_c1", "bars_volume_1"} <= names
    assert not {"overlay_c2", "clicks_c2"} & names


def test_unknown_names_are_refused(results_root, tmp_path):
    results = Results(results_root)
    with pytest.raises(SAM3DError, match="'c9'"):
        write_figures(results, tmp_path, cases=["c9"])
    with pytest.raises(SAM3DError, match="'x'"):
        write_figures(results, tmp_path, baseline="x")


def test_command_writes_into_the_results(results_root):
    arguments = ["figures", str(results_root), "--case", "c1", "--protocol", "volume_3", "--method", "Ours"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    names = {f.stem for f in (results_root / "figures").iterdir()}
    assert names == {"overlay_c1", "bars_volume_3", "dice_against_volume"}


def test_a_style_that_was_set_before_changes_nothing(results_root, tmp_path):
    """nnU-Net sets seaborn's for all that follows."""
    results = Results(results_root)
    plain = write_figures(results, tmp_path / "plain", cases=["c0"])
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 7}):
        styled = write_figures(results, tmp_path / "styled", cases=["c0"])
        assert matplotlib.rcParams["font.size"] == 30
    assert [file.read_bytes() for file in styled] == [file.read_bytes() for file in plain]
