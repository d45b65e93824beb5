"""The good files of the campaign of mutated results and models, as `good_files` has those of data sets."""

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import torch
from good_files import BEFORE, CASES, NAME, dataset, write
from mutators import mutated_tree
from torch import nn

METHODS = ("nnU-Net", "ours")
SEEN = CASES[:2]
"""The validation cases of fold 0."""
PATCH = 16


def results(folder: Path) -> Path:
    """Two methods, two cases, two protocols, and a data set; returns the folder of results."""
    raw = dataset(folder)
    labels = {"background": 0, "core": 1, "rim": 2}
    description = json.loads((raw / "dataset.json").read_text()) | {"labels": labels}
    write(raw / "dataset.json", description)
    root = folder / "results"
    for number, method in enumerate(METHODS):
        place = root / method
        place.mkdir(parents=True)
        shutil.copy(folder / "preprocessed" / NAME / "splits_final.json", place)
        write(place / "method.json", facts(method, bool(number)))
        for protocol in ("automatic", "volume_1") if number else ("automatic",):
            _predictions(place / protocol / "fold_0" / "trial_0", raw / "labelsTr", number)
    data = {"format": "sam3d_results", "version": 1, "dataset": NAME, "images": str(raw / "imagesTr")}
    write(root / "data.json", data | {"truth": str(raw / "labelsTr"), "dataset_json": description})
    clicks = root / "prompts" / "volume_1" / "trial_0"
    clicks.mkdir(parents=True)
    for case in SEEN:
        point = {"position": [6.0, 6.0, 9.0], "label": 1}
        write(clicks / f"{case}.json", {"format": "sam3d_prompt", "version": 1, "image": case, "points": [point]})
    shutil.copytree(raw / "labelsTr", folder / "predictions")
    return root


def facts(method: str, prompted: bool) -> dict[str, object]:
    return {
        "name": method,
        "trainer": None,  # as of another program
        "plans": None,
        "configuration": None,
        "kind": "prompted" if prompted else "automatic",
        "parameters": 1000,
        "tuned_parameters": 900,
        "training_hours": 1.5,
        "patch_size": [PATCH] * 3,
        "batch_size": 2,
        "epochs": 3,
        "steps": 30,
        "patches": 60,
        "mirroring_axes": [0, 1, 2],
        "test_mirroring_axes": [],
        "seed": 1,
        "training_cases": None,
        "no_click_share": 0.15,
        "network": {"neck": "sam"},
        "peak_memory_gib": 1.5,
        "device": "cpu",
    }


def _predictions(place: Path, truth: Path, number: int) -> None:
    place.mkdir(parents=True)
    for case in SEEN:
        shutil.copy(truth / f"{case}.nii.gz", place)
    settings = {"folds": ["0"], "checkpoint": "checkpoint_final.pth", "weights": [f"{number}"], "mirroring": True}
    write(place / "settings.json", settings | {"max_windows": 32, "per_lesion": False, "windows": "follow"})
    rows = [
        {"case": case, "target": target, "truth_voxels": 250, "prediction_voxels": 260, "truth_ml": 0.4}
        | {"prediction_ml": 0.4, "dice": 0.8 + 0.05 * number, "nsd_5mm": 0.9, "hd95_mm": 2.5, "volume_error": 0.1}
        for case in SEEN
        for target in ("core",)
    ]
    pd.DataFrame(rows).to_csv(place / "metrics.csv", index=False)
    costs = [{"case": case, "clicks": 1, "windows": 1, "seconds": 0.5, "clicks_outside": 0} for case in SEEN]
    pd.DataFrame(costs).to_csv(place / "prediction.csv", index=False)
    scores = [{"case": case, "target": "all", "truth_voxels": 250, "dice_auc": 2.5, "final_dice": 0.9} for case in SEEN]
    pd.DataFrame(scores).to_csv(place / "scores.csv", index=False)
    metrics = {"format": "sam3d_metrics", "version": 2, "labels": {}, "tolerances_mm": [5.0], "failed": {}, "cases": {}}
    write(place / "metrics.json", metrics)


def result(name: str, folder: Path) -> Path:
    """A file of the results: "*" stands for the predictions of the second method without clicks."""
    return results(folder) / name.replace("*", f"{METHODS[1]}/automatic/fold_0/trial_0")


def beside_predictions(folder: Path) -> Path:
    """prediction.csv of another program."""
    root = results(folder)
    shutil.copy(root / METHODS[0] / "automatic/fold_0/trial_0/prediction.csv", folder / "predictions")
    return folder / "predictions" / "prediction.csv"


def begun(name: str, folder: Path) -> Path:
    """A file of results of the model, which `sam3d evaluate` adds to."""
    root = results(folder)
    shutil.rmtree(root)
    model("plans.json", folder)
    place = root / "model" / "volume_1" / "fold_0" / "trial_0"
    place.mkdir(parents=True)
    pd.DataFrame([{"case": "other", "clicks": 1, "windows": 1, "seconds": 0.5}]).to_csv(
        place / "prediction.csv", index=False
    )
    write(place / "settings.json", {"folds": ["0"], "checkpoint": "checkpoint_final.pth", "mirroring": False})
    trained = {"trainer": "SAM3DAdapterTrainer_smoke", "plans": "SAM3DPlans", "configuration": "3d_fullres"}
    write(root / "model" / "method.json", facts("model", True) | trained)
    return place / name


def model(name: str, folder: Path, kind: str = "model", with_data: bool = False) -> Path:
    """A file of a model folder, beside an image and its clicks."""
    if with_data:
        results(folder)
        shutil.rmtree(folder / "results")
    shutil.copytree(BEFORE / kind, folder / "model")
    for place, file in (("images", "images/ball_json_0000.nii.gz"), ("clicks", "prompts/ball_json.json")):
        (folder / place).mkdir()
        shutil.copy(BEFORE / file, folder / place)
    fold = folder / "model" / "fold_0"
    write(fold / "debug.json", {"batch_size": "2", "is_ddp": "False", "num_iterations_per_epoch": "250"})
    return next((folder / "model").rglob(name))


def automatic(name: str, folder: Path) -> Path:
    """A file of a model of nnU-Net's own trainer, with an optimiser's state and logs."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    model(name if name != "checkpoint_final.pth" else "plans.json", folder, "model_unet", with_data=True)
    plans = json.loads((folder / "model" / "plans.json").read_text())
    for configuration in plans["configurations"].values():
        configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [4] * 3
    write(folder / "model" / "plans.json", plans)
    manager = PlansManager(plans)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, 3, enable_deep_supervision=False
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"train_losses": [np.float64(1)], "epoch_start_timestamps": [1.0], "epoch_end_timestamps": [2.0]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": {}},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, folder / "model" / "fold_0" / "checkpoint_final.pth")
    return next((folder / "model").rglob(name))


def weights(tensors: dict[str, object], folder: Path) -> Path:
    file = folder / "weights.pth"
    torch.save(tensors, file)
    return file


def released(folder: Path) -> Path:
    """A file laid out as the authors' checkpoints, with a few tensors."""
    parts = {"encoder_dict": {"slice_embed.weight": torch.ones(2)}, "decoder_dict": {"cls.3.weight": torch.ones(2)}}
    return weights(parts | {"feature_dict": [{"a": torch.ones(2)}] * 4, "best_val_loss": np.float64(1)}, folder)


def mutated_checkpoint(content: bytes, rng: Random) -> bytes:
    """A checkpoint whose tree has up to three changes: other values, keys, tensors or objects."""
    import io

    tree = torch.load(io.BytesIO(content), weights_only=False)
    more = (torch.ones(3), torch.tensor(float("nan")), torch.ones(2, dtype=torch.int8), np.ones(3), np.float32(2))
    values = (None, 1, -1, 10**30, "", "x", b"a", 1.5, float("inf"), [], {}, (1, 2), {3: 4}, {1}, *more, Path("a"))
    changed = mutated_tree(_plain(tree), rng, (*values, nn.Linear(2, 2)))
    file = io.BytesIO()
    torch.save(changed, file, _use_new_zipfile_serialization=rng.random() < 0.9)
    return file.getvalue()


def _plain(tree: object) -> object:
    """With plain dictionaries, which can be changed in any way."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, list) else tree


def mutated_zip(content: bytes, rng: Random) -> bytes:
    """A checkpoint whose zip directory, at the end, is damaged."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = len(data) - 1 - rng.randrange(min(len(data), 3000))
        data[place] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(data)
