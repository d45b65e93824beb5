"""The commands that users type, on real data."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

import sam3d_nnunet
from sam3d_nnunet.prompts.files import read_prompt

NAME = "Dataset004_Hippocampus"
TRAINER = "SAM3DAdapterTrainer_smoke"


def labels_of(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def narrow_unet(plans_file: Path) -> None:
    """Gives the planned U-Net a quarter of its features: most of this test's arithmetic would be its own."""
    plans = json.loads(plans_file.read_text())
    unet = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    unet["features_per_stage"] = [features // 4 for features in unet["features_per_stage"]]
    plans_file.write_text(json.dumps(plans))


def kill_after_first_checkpoint(command: list[str], checkpoint: Path, log: Path) -> None:
    """Start a training and end it without warning, as a power cut would."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 900
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, log.read_text()
    assert checkpoint.exists(), log.read_text()


@pytest.mark.slow
def test_commands_on_the_hippocampus(hippocampus, nnunet_folders, run_command, tmp_path, monkeypatch):
    # without registration: the installed nnunetv2 need not be written to
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(sam3d_nnunet.__file__).parent / "nnunet_ext"))
    shutil.copytree(hippocampus, nnunet_folders.raw / NAME)
    monkeypatch.setenv("nnUNet_def_n_proc", "1")

    def run(*command: str, **variables: str) -> str:
        done = run_command(*map(str, command), **variables)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def train(trainer: str, *options: str) -> list[str]:
        given = ("-p", "SAM3DPlans", "-tr", trainer, "-device", "cpu", *options)
        return ["nnUNetv2_train", "4", "3d_fullres", "0", *given]

    # plan and preprocess, by the commands that a benchmark of two trainers would run
    recipe = tmp_path / "two_methods.json"
    methods = [{"name": "ours", "trainer": TRAINER}, {"name": "nnU-Net", "trainer": "nnUNetTrainer_smoke"}]
    block = {"methods": methods, "folds": [0], "protocols": ["automatic", "volume_1"], "trials": 1}
    recipe.write_text(json.dumps({"sam3d": {"preset": "tiny"}, "benchmark": block | {"baseline": "nnU-Net"}}))
    benchmark = ("sam3d", "benchmark", recipe, "-d", "4", "-o", tmp_path / "measured", "--device", "cpu")
    listed = run(*benchmark, "--dry-run")
    assert listed.endswith("7 step(s) left to run\n")
    fingerprint, plan, preprocess = [shlex.split(line) for line in listed.splitlines() if line.startswith("  ")][:3]
    run(*fingerprint)
    assert "next: nnUNetv2_preprocess -d 4 -plans_name SAM3DPlans -c 3d_fullres" in run(*plan)
    base = nnunet_folders.preprocessed / NAME
    narrow_unet(base / "SAM3DPlans.json")
    run(*preprocess)
    assert json.loads((base / "SAM3DPlans.json").read_text())["configurations"]["3d_fullres"]["sam3d"]["stride"] == 2

    # train, killed and continued
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    model = nnunet_folders.results / NAME / f"{TRAINER}__SAM3DPlans__3d_fullres"
    fold = model / "fold_0"
    program, *arguments = train(TRAINER, "--npz")
    command = [str(Path(sys.executable).parent / program), *arguments]
    kill_after_first_checkpoint(command, fold / "checkpoint_latest.pth", tmp_path / "killed.txt")
    assert not (fold / "checkpoint_final.pth").exists()
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    printed = run(*train(TRAINER, "--npz", "--c"))
    assert "Epoch 1\n" in printed.replace(" \n", "\n") and "Epoch 0 " not in printed
    assert (fold / "checkpoint_final.pth").exists() and not (fold / "checkpoint_latest.pth").exists()

    # both final validations
    cases = json.loads((base / "splits_final.json").read_text())[0]["val"]
    assert len(cases) == 2
    predicted = {f"{case}{ending}" for case in cases for ending in (".nii.gz", ".npz", ".pkl")} | {"summary.json"}
    automatic, clicked = fold / "validation", fold / "validation_1click"
    assert set(os.listdir(automatic)) == predicted
    assert set(os.listdir(clicked)) == predicted | {f"{case}.json" for case in cases}
    for case in cases:
        truth = sitk.ReadImage(str(base / "gt_segmentations" / f"{case}.nii.gz"))
        prompt = read_prompt(clicked / f"{case}.json")
        assert prompt.image == case and prompt.labels.tolist() == [1, 2]
        assert [truth[truth.TransformPhysicalPointToIndex(p.tolist())] for p in prompt.points] == [1, 2]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (automatic, clicked)]
    for summary in summaries:
        assert len(summary["metric_per_case"]) == 2 and set(summary["mean"]) == {"1", "2"}

    # validation again, of one case that has gone
    labels, clicks = labels_of(automatic / f"{cases[0]}.nii.gz"), (clicked / f"{cases[0]}.json").read_bytes()
    for folder in (automatic, clicked):
        (folder / f"{cases[0]}.nii.gz").unlink()
    (clicked / f"{cases[0]}.json").unlink()
    run(*train(TRAINER, "--val"))
    assert (labels_of(automatic / f"{cases[0]}.nii.gz") != labels).mean() < 1e-3
    assert (clicked / f"{cases[0]}.json").read_bytes() == clicks

    # prediction equals the automatic validation
    images, predictions = tmp_path / "images", tmp_path / "predictions"
    images.mkdir()
    for case in cases[:2]:
        shutil.copy(nnunet_folders.raw / NAME / "imagesTr" / f"{case}_0000.nii.gz", images)
    chosen = ("-d", "4", "-p", "SAM3DPlans", "-c", "3d_fullres", "-tr", TRAINER, "-f", "0")
    options = ("-device", "cpu", "-npp", "1", "-nps", "1")
    run("nnUNetv2_predict", "-i", images, "-o", predictions, *chosen, *options)
    for case in cases[:2]:
        # the image is resampled anew and sums may be in another order: a voxel on the fence may fall either way
        differ = labels_of(predictions / f"{case}.nii.gz") != labels_of(automatic / f"{case}.nii.gz")
        assert differ.mean() < 1e-4

    # nnU-Net's own trainer from the same plan, and both in one table
    run(*benchmark)
    listed = json.loads((tmp_path / "measured" / "workflow" / "steps.json").read_text())
    assert len(listed) == 3  # one training, and two evaluations
    assert run(*benchmark, "--dry-run") == "0 step(s) left to run\n"
    table = re.sub(" +", " ", (tmp_path / "measured" / "table" / "table.md").read_text())
    rows = ("ours | automatic", "ours | volume_1", "nnU-Net (baseline) | automatic")
    assert all(f"| {row} |" in table for row in rows)
    ours = pd.read_csv(tmp_path / "measured" / "ours" / "automatic" / "fold_0" / "trial_0" / "metrics.csv")
    dice = ours[ours["target"] == "Anterior"].set_index("case")["dice"]
    for case in summaries[0]["metric_per_case"]:
        name = Path(case["prediction_file"]).name.removesuffix(".nii.gz")
        assert dice[name] == pytest.approx(case["metrics"]["1"]["Dice"], abs=1e-2)

    # the choice between them
    run(*train("nnUNetTrainer_smoke", "--val", "--npz"))
    reference = nnunet_folders.results / NAME / "nnUNetTrainer_smoke__SAM3DPlans__3d_fullres" / "fold_0"
    assert set(os.listdir(reference / "validation")) == predicted
    assert not (reference / "validation_1click").exists()
    trainers = (TRAINER, "nnUNetTrainer_smoke")
    run("nnUNetv2_find_best_configuration", "4", "-p", "SAM3DPlans", "-c", "3d_fullres", "-f", "0", "-tr", *trainers)
    best = json.loads((nnunet_folders.results / NAME / "inference_information.json").read_text())
    assert {model["trainer"] for model in best["considered_models"]} == set(trainers)
    assert len(best["all_results"]) == 3  # each alone, and both together
    assert summaries[0]["foreground_mean"]["Dice"] in best["all_results"].values()

    # a file to give away
    run("nnUNetv2_export_model_to_zip", "-d", "4", "-o", tmp_path / "model.zip", "-p", "SAM3DPlans", *chosen[4:])
    with zipfile.ZipFile(tmp_path / "model.zip") as exported:
        names = exported.namelist()
    inside = f"{NAME}/{model.name}"
    assert {f"{inside}/plans.json", f"{inside}/fold_0/checkpoint_final.pth"} <= set(names)
    assert not [name for name in names if name.endswith(".part")]
