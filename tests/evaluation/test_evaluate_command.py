"""`sam3d evaluate` from its arguments to its files."""

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["evaluate", "--device", "cpu", "--disable_tta", *map(str, arguments)])


def test_a_model_by_its_names(make_evaluated, tmp_path):
    make_evaluated(folds=(0, 1))
    root = tmp_path / "evaluated"
    done = evaluate(
        *("-d", 711, "-c", "3d_fullres", "-tr", "SAM3DAdapterTrainer_smoke", "-p", "SAM3DPlans", "-f", 0, "-f", 1),
        *("--protocol", "automatic", "--protocol", "volume_1_off50_2mm", "--trials", 2, "-o", root),
        *("--tolerance", 5, "--tolerance", 1, "--max-windows", 1, "--name", "ours"),
    )
    assert done.exit_code == 0, done.output
    assert f"results: {root}" in done.output
    found = [(f.method, f.protocol, f.fold, f.trial) for f in Results(root).folders]
    assert found == [
        *(("ours", "automatic", fold, 0) for fold in "01"),
        *(("ours", "volume_1_off50_2mm", fold, trial) for fold in "01" for trial in (0, 1)),
    ]
    assert {"nsd_1mm", "nsd_5mm"} <= set(Results(root).metrics)


def test_paper(make_evaluated, read, tmp_path):
    """Two clicks far apart: one window between them with --paper, and one around each of them without."""
    model, root, case = make_evaluated(), tmp_path / "evaluated", "Fall_Müller_病例"  # 20 x 24 x 18, patches of 16
    clicks = root / "prompts" / "volume_1" / "trial_0"
    clicks.mkdir(parents=True)
    for name, points in ((case, [[8, 1, 10], [9, 22, 11]]), ("case_2", [[5, 8, 6], [6, 8, 6]])):
        write_prompt(Prompt(points, [1, 2], name), clicks / f"{name}.json")
    asked = ("-m", model.folder, "-o", root, "--max-windows", 2)
    done = evaluate(*asked, "--paper", "--name", "paper")
    assert done.exit_code == 0, done.output
    assert "paper/volume_1/fold_0/trial_0: 2 of 4 click(s) outside the window were not used" in done.output
    assert "--max-windows" not in done.output  # windows do not follow the mask
    done = evaluate(*asked, "-f", 0, "--protocol", "volume_1", "--name", "ours")
    assert done.exit_code == 0
    limit = "the largest number of windows (--max-windows) was reached, and masks may be too small"
    assert f"ours/volume_1/fold_0/trial_0: in 1 of 2 case(s), {limit}" in done.output
    results = Results(root)
    protocols = {folder.protocol for folder in results.folders if folder.method == "paper"}
    assert protocols == {"automatic", "volume_1", "volume_3", "volume_10"}
    costs = results.costs.query("protocol == 'volume_1' and case == @case").set_index("method")
    assert costs.loc["paper", ["windows", "clicks_outside"]].tolist() == [1, 2]
    assert costs.loc["ours", ["windows", "clicks_outside"]].tolist() == [2, 0]
    paper, ours = (read(root / name / "volume_1/fold_0/trial_0" / f"{case}.nii.gz") for name in ("paper", "ours"))
    window = np.zeros(paper.shape, bool)  # centred at voxel (8, 11, 10)
    window[2:18, 3:19, :16] = True
    assert paper.any() and not paper[~window].any() and ours[~window].any()

    done = evaluate(*asked, "-f", 0, "--protocol", "volume_1", "--name", "paper")
    assert "windows single, not follow" in str(done.exception)


def test_predictions_and_a_failure(make_evaluated, tmp_path):
    model, some = make_evaluated(), tmp_path / "some"
    some.mkdir()
    (some / "case_2.nii.gz").write_bytes((model.labels / "case_2.nii.gz").read_bytes())
    done = evaluate("--predictions", some, "-d", 711, "--name", "Others", "-f", 0, "-o", tmp_path / "evaluated")
    assert done.exit_code == 1
    assert "Error: 1 case(s) failed: Others/automatic/fold_0/trial_0: Fall_Müller_病例" in done.output
    assert set(Results(tmp_path / "evaluated").metrics["case"]) == {"case_2"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "needs one fold (-f)"),
        (["-f", 0, "-f", 1], "needs one fold (-f)"),
        (["-f", 0, "--test", "images", "labels"], "needs one fold (-f)"),
        (["-f", 0, "--trials", 2], "--trials and --per-lesion"),
        (["-f", 0, "--per-lesion"], "--trials and --per-lesion"),
        (["-f", 0, "--windows", "single"], "--windows"),
        (["-f", 0, "--trial", -1], "--trial"),
    ],
)
def test_predictions_refuse_what_they_would_ignore(tmp_path, arguments, message):
    done = evaluate("-o", tmp_path / "evaluated", "--predictions", "x", "-d", 711, "--name", "y", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_a_trial_of_predictions(make_evaluated, tmp_path):
    root = tmp_path / "evaluated"
    given = ["--predictions", make_evaluated().labels, "-d", 711, "--name", "Others", "-f", 0, "-o", root]
    done = evaluate(*given, "--protocol", "slice_1", "--trial", 3)
    assert done.exit_code == 0, done.output
    assert [(f.protocol, f.fold, f.trial) for f in Results(root).folders] == [("slice_1", "0", 3)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-d", 711, "--paper", "--windows", "follow"],
        [],
        ["--predictions", "x", "-d", "4"],
        ["--predictions", "x", "--name", "y"],
        ["-d", 711, "--trials", 0],
    ]
    + [["-d", 711, "--trial", 1]]
    + [["-d", "711", "--paper", "--protocol", "automatic"], ["-d", "711", "--protocol", "nothing"]],
)
def test_mistakes_are_sentences(tmp_path, arguments):
    done = evaluate("-o", tmp_path / "evaluated", *arguments)
    assert done.exit_code in (1, 2) and (done.exit_code == 2 or isinstance(done.exception, SAM3DError))
    assert not (tmp_path / "evaluated").exists()


def test_negative_tolerances_are_refused(tmp_path):
    done = evaluate("-o", tmp_path / "evaluated", "-d", 711, "--tolerance", 5, "--tolerance", -1)
    assert done.exit_code == 2
    assert "--tolerance" in done.output
