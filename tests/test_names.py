"""Names as people give them, of cases and of folders, through the commands; benchmarks/names.py takes more of them."""

import json
import os
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from names import names, write_case
from typer.testing import CliRunner

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.nnunet.registration import EXT_FOLDER

CASES = names(54)[::3] + names(120)[-4:]  # some whole names, and some made of words
METHOD = 'our\'s, "best" [a*b?] 病例 $x & 50% #1'


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, f"{arguments}\n{done.output[-3000:]}\n{done.exception!r}"
    return done.output


@pytest.fixture
def places(make_model, tmp_path, monkeypatch) -> SimpleNamespace:
    """A data set and a model for it, each in a folder of such a name."""
    model = make_model("one class")
    root = tmp_path / "it's {a} [b*] 病例 50% #1"
    raw = root / "nnUNet raw" / "Dataset220_Liver (late) [v2] & more"
    for case in [*CASES, "trained on"]:
        write_case(raw, case, np.random.default_rng(0))
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "core": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description | {"numTraining": len(CASES) + 1}))
    base = root / "nnUNet preprocessed" / raw.name
    base.mkdir(parents=True)
    (base / "splits_final.json").write_text(json.dumps([{"train": ["trained on"], "val": CASES}]))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(base.parent))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setenv("nnUNet_extTrainer", str(EXT_FOLDER))  # where sam3d is not registered
    shutil.copytree(model.folder, root / "--model [x]")
    return SimpleNamespace(root=root, raw=raw, model=root / "--model [x]", results=root / 'results "1" {v}.2')


def test_predict_evaluate_and_table(places):
    root, results = places.root, places.results
    on_cpu = ("--device", "cpu", "--disable_tta")
    run("prompts", "-d", 220, "-o", results, "-f", 0, "--protocol", "volume_1")
    prompts = results / "prompts" / "volume_1" / "trial_0"
    assert {file.name for file in prompts.iterdir()} == {f"{case}.json" for case in CASES}

    out = root / "out (1) *"
    (places.raw / "imagesTr" / "trained on_0000.nii.gz").unlink()
    run("predict", "-m", places.model, "-i", places.raw / "imagesTr", "-o", out, "--prompts", prompts, *on_cpu)
    assert {f.name for f in out.glob("*.nii.gz")} == {f"{case}.nii.gz" for case in CASES}

    given = ("evaluate", "-d", 220, "-f", 0, "-o", results)
    run(*given, "-m", places.model, "--name", METHOD, "--protocol", "automatic", "--protocol", "volume_1", *on_cpu)
    run(*given, "--name", "--theirs {x}", "--protocol", "volume_1", "--predictions", out)
    metrics = Results(results).metrics
    for (method, protocol), rows in metrics.groupby(["method", "protocol"]):
        assert sorted(rows["case"]) == sorted(CASES), (method, protocol)
    same = [metrics[(metrics["method"] == m) & (metrics["protocol"] == "volume_1")] for m in (METHOD, "--theirs {x}")]
    assert same[0].set_index("case")["dice"].equals(same[1].set_index("case")["dice"])

    shown = [word for case in ("NA", "[a-z]", CASES[-1]) if case in CASES for word in ("--case", case)]
    run("figures", results, "-o", root / "figures $1", *shown)
    assert {f"overlay_{case}.png" for case in shown[1::2]} <= set(os.listdir(root / "figures $1"))
    run("table", results, "-o", root / "table", "--baseline", "--theirs {x}")
    in_spreadsheets = {METHOD, "'--theirs {x}"}  # no formula
    assert set(pd.read_csv(root / "table" / "table.csv")["method"]) == in_spreadsheets
    written = {file.suffix: file.read_text(encoding="utf-8") for file in (root / "table").iterdir()}
    assert r"our's, " in written[".md"] and r"\[a\*b?\] 病例 \$x \& 50% \#1" in written[".md"]
    assert r"{[}a{*}b?{]} 病例 \$x \& 50\% \#1" in written[".tex"]
    assert "[a*b?] 病例 $x &amp; 50% #1" in written[".html"]


def test_commands_of_a_benchmark(places):
    """A shell takes the commands apart as they were put together."""
    recipe = places.root / "re'cipe {a} $b.json"
    method = {"name": METHOD, "trainer": "SAM3DAdapterTrainer_smoke"}
    recipe.write_text(json.dumps({"benchmark": {"methods": [method], "folds": [0]}}))
    listed = run("benchmark", recipe, "-d", places.raw.name, "-o", places.results, "--device", "cpu", "--dry-run")
    commands = [shlex.split(line) for line in listed.splitlines() if line.startswith("  ")]
    assert next(c for c in commands if c[1] == "plan")[5] == str(recipe)
    evaluate = commands[-1]
    assert evaluate[evaluate.index("-o") + 1] == str(places.results)
    assert evaluate[evaluate.index("--name") + 1] == METHOD
    assert evaluate[evaluate.index("-d") + 1] == "220"
