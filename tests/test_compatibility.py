"""Models, prompt files and results written before the rooms were renamed load, predict and tabulate as they did then.

tests/data/before/README.md says what the files are and how they were made.
"""

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from typer.testing import CliRunner

import sam3d_nnunet
from sam3d_nnunet.cli.main import app
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.report.tables import write_tables

BEFORE = Path(__file__).parent / "data" / "before"
PROMPT_FILES = ("ball_json.json", "ball_slicer.mrk.json", "ball_csv.csv")
PROTOCOLS = {
    "automatic",
    "volume_1",
    "volume_3",
    "iterated_3",
    "lesion_1",
    "slice_1",
    "center_1",
    "surrounding_1",
    "margin_1",
    "volume_1_off20_5mm",
}


def read(file: Path) -> np.ndarray:
    """Voxels of a label map, as its file lies."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def predict(model: str, case: str, prompts: Path, output: Path, *more: str) -> None:
    folder = output / "images"  # the other images have no clicks here
    folder.mkdir()
    shutil.copy(BEFORE / "images" / f"{case}_0000.nii.gz", folder)
    arguments = ["predict", "-i", folder, "-o", output, "-m", BEFORE / model, "--prompts", prompts]
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--dtype", "fp32", *more])
    assert done.exit_code == 0, done.output


def check_same(found: Path, expected: Path, case: str) -> None:
    """The same voxels on the same grid, and the same bytes of the clicks beside them."""
    for name in (f"{case}.nii.gz", f"instances/{case}.nii.gz"):
        assert (found / name).is_file() == (expected / name).is_file()
        if (expected / name).is_file():
            np.testing.assert_array_equal(read(found / name), read(expected / name))
            grids = [sitk.ReadImage(str(folder / name)) for folder in (found, expected)]
            for fact in ("GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
                assert getattr(grids[0], fact)() == getattr(grids[1], fact)()
    assert (found / f"{case}.json").read_bytes() == (expected / f"{case}.json").read_bytes()


@pytest.mark.parametrize("model, expected", [("model", "predicted"), ("model_unet", "predicted_unet")])
@pytest.mark.parametrize("file", PROMPT_FILES)
def test_predictions_from_each_kind_of_prompt_file(model, expected, file, tmp_path):
    case = file.split(".")[0]
    predict(model, case, BEFORE / "prompts" / file, tmp_path)
    check_same(tmp_path, BEFORE / expected, case)


def test_probabilities(tmp_path):
    predict("model", "ball_json", BEFORE / "prompts", tmp_path, "--save_probabilities")
    found, expected = (
        np.load(folder / "ball_json.npz")["probabilities"] for folder in (tmp_path, BEFORE / "predicted")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == expected.dtype


def test_predictions_per_lesion(tmp_path):
    predict("model", "ball_json", BEFORE / "prompts", tmp_path, "--per-lesion", "--instances")
    check_same(tmp_path, BEFORE / "predicted_per_lesion", "ball_json")


@pytest.mark.parametrize("model", ["model", "model_unet"])
def test_nnunets_own_predictor_loads_the_models(model, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(sam3d_nnunet.__file__).parent / "nnunet_ext"))
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(BEFORE / model), (0,), "checkpoint_final.pth")
    logits = predictor.predict_sliding_window_return_logits(torch.zeros(1, 20, 18, 22))
    assert logits.shape == (3, 20, 18, 22)


@pytest.fixture
def results(tmp_path) -> Path:
    """A copy of the folder of results, with the images and truth of this copy in data.json."""
    root = Path(shutil.copytree(BEFORE / "results_root", tmp_path / "copy"))
    data = root / "results" / "data.json"
    data.write_text(data.read_text().replace("@RESULTS_ROOT@", str(root)))
    return root / "results"


def test_results_are_read(results):
    read_results = Results(results)
    assert set(read_results.methods) == {
        "nnUNetTrainer__SAM3DPlans__3d_fullres",
        "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres",
    }
    assert set(read_results.metrics["protocol"]) == PROTOCOLS
    assert {folder.fold for folder in read_results.folders} == {"0", "1", "test"}
    assert {folder.clicks for folder in read_results.folders} == {None, 1, 2, 3}
    # 8 cases, 2 targets: automatic twice, 8 protocols and 3 steps of 2 trials; 3 test cases: automatic twice, 2 trials
    assert len(read_results.metrics) == 8 * 2 * (2 + 8 * 2 + 3 * 2) + 3 * 2 * (2 + 2)
    assert len(read_results.costs) == len(read_results.metrics) // 2
    assert read_results.prompt_file("volume_1", 1, "case_03").is_file()


BOUNDS = {"table.html": ("<thead>", "</table>"), "table.tex": (r"\toprule", r"\bottomrule")}
"""The first and the last line of the table itself, in formats that have more around it than a caption."""


def check_tables(found: Path, expected: Path) -> None:
    """Each line is still there, in the same order and with the same bytes. Today's tables say more."""
    names = ["table.csv", "table.html", "table.md", "table.tex"]
    assert sorted(file.name for file in found.iterdir()) == names
    columns = (expected / "table.csv").read_text(encoding="utf-8").split("\n")[0].split(",")
    for name in names:
        new, old = (table_lines(folder / name, columns) for folder in (found, expected))
        assert len(old) > 20
        rest = iter(new)
        gone = [line for line in old if line not in rest]  # looks behind the line that was found last
        assert not gone, name


def table_lines(file: Path, columns: list[str]) -> list[str]:
    """Those of the first table; of Markdown all, with the caption, of CSV all, with these columns."""
    text = file.read_bytes().decode()
    if file.suffix == ".csv":
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        text = table[columns].to_csv(index=False, lineterminator="\n")
    lines = text.split("\n")
    first, last = BOUNDS.get(file.name, (lines[0], ""))
    start = lines.index(first)
    return lines[start : lines.index(last, start + 1) if last else None]


def test_tables_have_the_same_bytes(results, tmp_path):
    write_tables(Results(results), tmp_path / "tables", paper="kits21", lesions=True, figures=False)
    check_tables(tmp_path / "tables", BEFORE / "tables" / "with_paper")


def test_the_command_writes_the_same_bytes(results, tmp_path):
    done = CliRunner().invoke(app, ["table", str(results), "-o", str(tmp_path / "tables"), "--without-figures"])
    assert done.exit_code == 0, done.output
    check_tables(tmp_path / "tables", BEFORE / "tables" / "plain")
