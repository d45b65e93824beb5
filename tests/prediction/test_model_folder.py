import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sam3d_nnunet.baselines.prompted_unet import PromptedUNetTrainer
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.model import PredictionOptions, load_automatic
from sam3d_nnunet.prediction.model_folder import (
    choose_folds,
    load_checkpoint,
    load_model_folder,
    trained_model_folder,
)
from sam3d_nnunet.prediction.napari_folder import copy_for_napari
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer


def test_folds(make_model):
    folder = make_model(folds=(0, 3, "all")).folder
    both = load_model_folder(folder)
    assert len(both.networks) == 2
    assert not any(network.training for network in both.networks)
    alone = load_model_folder(folder, 3)
    for name, value in alone.networks[0].state_dict().items():
        torch.testing.assert_close(value, both.networks[1].state_dict()[name])
    assert len(load_model_folder(folder, ["all", "0", "0"]).networks) == 2
    with pytest.raises(SAM3DError, match="in fold_1, fold_7.*holds fold_0/checkpoint_final"):
        load_model_folder(folder, [0, 1, 7])
    with pytest.raises(SAM3DError, match="holds fold_0/checkpoint_final"):
        load_model_folder(folder, [])
    with pytest.raises(SAM3DError, match="checkpoint_best.pth.*holds fold_0/checkpoint_final"):
        load_model_folder(folder, checkpoint_name="checkpoint_best.pth")
    shutil.rmtree(folder / "fold_0")
    shutil.rmtree(folder / "fold_3")
    assert len(load_model_folder(folder).networks) == 1


def test_what_it_knows(make_model):
    model = load_model_folder(make_model("ignore").folder)
    assert model.class_names == {"background": 0, "core": 1, "rim": 2}
    assert model.click_labels == [0, 1, 2]
    assert model.channels == 1
    assert model.file_ending == ".nii.gz"
    assert model.clicks_carry_labels and model.takes_maps and not model.clicks_select


def test_unlabelled_clicks(make_model):
    settings = {"labelled_prompts": False, "clicks": {"policy": "paper"}}
    model = load_model_folder(make_model(trainer_class=SAM3DAdapterTrainer, settings=settings).folder)
    assert model.click_labels == [1, 2]
    assert not model.clicks_carry_labels and not model.takes_maps


def test_clicks_that_select_an_object(make_model):
    settings = {"target_policy": "clicked"}
    assert load_model_folder(make_model(trainer_class=SAM3DAdapterTrainer, settings=settings).folder).clicks_select


def test_missing_and_broken_files(make_model, tmp_path):
    folder = make_model().folder
    with pytest.raises(SAM3DError, match="no model folder"):
        load_model_folder(tmp_path / "nowhere")
    with pytest.raises(SAM3DError, match="no model folder.*nowhere"):
        choose_folds(tmp_path / "nowhere", None, "checkpoint_final.pth")
    with pytest.raises(SAM3DError, match=f"{folder.parent} has {folder.name}. Choose one with -tr"):
        load_model_folder(folder.with_name("Typo__SAM3DPlans__3d_fullres"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SAM3DError, match="empty/plans.json.*nothing"):
        load_model_folder(tmp_path / "empty")
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"network_weights": {}}, checkpoint)
    with pytest.raises(SAM3DError, match="doesn't fit the network"):
        load_model_folder(folder)
    torch.save({"model": 1}, checkpoint)
    with pytest.raises(SAM3DError, match="no checkpoint of nnU-Net's"):
        load_model_folder(folder)
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    with pytest.raises(SAM3DError, match="can't be read"):
        load_model_folder(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(SAM3DError, match=r"dataset\.json, line 1"):
        load_model_folder(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(SAM3DError, match=r"dataset\.json.*holds fold_0/checkpoint_final"):
        load_model_folder(folder)


def test_weights_that_are_not_finite(make_model):
    """A model that predicts NaN everywhere would silently find nothing."""
    folder = make_model().folder
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    name = next(name for name, tensor in content["network_weights"].items() if tensor.is_floating_point())
    content["network_weights"][name].view(-1)[0] = torch.inf
    torch.save(content, checkpoint)
    with pytest.raises(SAM3DError, match=f"{checkpoint} has weights that are NaN or infinite: {name}. Choose another"):
        load_model_folder(folder)


def test_channels_under_their_earlier_name(make_model):
    """nnU-Net also takes data sets that name their channels "modality", as nnU-Net v1 did."""
    folder = make_model().folder
    content = json.loads((folder / "dataset.json").read_text())
    content["modality"] = content.pop("channel_names")
    (folder / "dataset.json").write_text(json.dumps(content))
    assert load_model_folder(folder).channels == 1


def test_foreign_trainers(make_model):
    folder = make_model().folder
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"trainer_name": nnUNetTrainer.__name__}, checkpoint)
    with pytest.raises(SAM3DError, match="nnUNetTrainer, "):
        load_model_folder(folder)
    torch.save(content | {"trainer_name": "UXNet3DTrainer"}, checkpoint)
    with pytest.raises(SAM3DError, match="UXNet3DTrainer, which takes no clicks"):
        load_model_folder(folder)
    torch.save(content | {"trainer_name": "TrainerOfSomebody"}, checkpoint)
    with pytest.raises(SAM3DError, match="TrainerOfSomebody"):
        load_model_folder(folder)


OWN_TRAINER = """
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

class OwnTrainer(SAM3DAdapterTrainer):
    @staticmethod
    def build_network_architecture(*arguments, **options):
        network = SAM3DAdapterTrainer.build_network_architecture(*arguments, **options)
        network.by = "OwnTrainer"
        return network
"""


def test_a_trainer_of_the_users_own_builds_its_network(make_model, tmp_path, monkeypatch):
    folder = make_model().folder
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(checkpoint, weights_only=False) | {"trainer_name": "OwnTrainer"}, checkpoint)
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "own_trainer.py").write_text(OWN_TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    assert load_model_folder(folder).networks[0].by == "OwnTrainer"


def test_folder_by_names(nnunet_folders, monkeypatch):
    (nnunet_folders.raw / "Dataset007_Any").mkdir()
    found = trained_model_folder("7", "3d_fullres", "SAM3DAdapterTrainer", "SAM3DPlans")
    assert found == nnunet_folders.results / "Dataset007_Any" / "SAM3DAdapterTrainer__SAM3DPlans__3d_fullres"
    with pytest.raises(SAM3DError, match="data set 8 can't be found") as error:
        trained_model_folder("8", "3d_fullres", "SAM3DAdapterTrainer", "SAM3DPlans")
    assert "\n" not in str(error.value)
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(SAM3DError, match="nnUNet_results is not defined"):
        trained_model_folder("7", "3d_fullres", "SAM3DAdapterTrainer", "SAM3DPlans")


class Evil:
    """Makes a file when unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_no_code_of_a_checkpoint_runs(make_model, tmp_path, monkeypatch):
    folder, marker = make_model().folder, tmp_path / "ran"
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"logging": Evil(marker)}, checkpoint)
    said = f"{checkpoint} can't be read.*holds {os.mkdir.__module__}.mkdir.*variable SAM3D_TRUST_MODELS to 1"
    for load in (load_model_folder, lambda folder: copy_for_napari(folder, tmp_path / "copy")):
        with pytest.raises(SAM3DError, match=said):
            load(folder)
    assert not marker.exists()
    monkeypatch.setenv("SAM3D_TRUST_MODELS", "1")
    load_model_folder(folder)
    assert marker.exists()  # so it would


def test_no_code_of_plans_runs(make_model, tmp_path, monkeypatch):
    """nnU-Net calls what plans name, with arguments that they hold."""
    folder, marker = make_model(trainer_class=PromptedUNetTrainer).folder, tmp_path / "ran"
    plans = json.loads((folder / "plans.json").read_text())
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments |= {"nonlin": "subprocess.Popen", "nonlin_kwargs": {"args": ["mkdir", str(marker)]}}
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SAM3DError, match=r"plans.json, configuration '3d_fullres', names 'subprocess.Popen'"):
        load_model_folder(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("strides", [[1, 1, [1]], [2, 2, 2], [2, 2, 2]], "arch_kwargs.strides should hold whole numbers"),
        ("strides", [[1, 1], [2, 2], [2, 2]], r"strides .* a number for each axis of the patch, not \[1, 1\]"),
        ("kernel_sizes", [[3, 3, 0]] * 3, "arch_kwargs.kernel_sizes should hold whole numbers from 1 to 4096"),
        ("features_per_stage", [4, 4.5, 4], "arch_kwargs.features_per_stage should hold whole numbers"),
        ("n_stages", 0, "arch_kwargs.n_stages should be greater than or equal to 1"),
    ],
)
def test_forms_of_networks(key, value, said, make_model):
    """The network can be built with some of them, but computes nothing."""
    folder = make_model(trainer_class=PromptedUNetTrainer).folder
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"][key] = value
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SAM3DError, match=f"plans.json, configuration '3d_fullres': .*{said}"):
        load_model_folder(folder)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.int64, np.bool_])
def test_numbers_of_logs(kind, make_model):
    """nnU-Net's logs hold NumPy's numbers, which older versions pickle under another name of the module."""
    folder = make_model().folder
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"logging": {"train_losses": [kind(1)]}, "_best_ema": kind(0)}, checkpoint)
    assert load_checkpoint(checkpoint)["logging"] == {"train_losses": [1]}


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("network_weights", {1: torch.zeros(1)}, "network_weights.1"),
        ("network_weights", [], "network_weights"),
        ("init_args", {"configuration": 3, "plans": {}}, "init_args.configuration .*not 3"),
        ("init_args", None, "init_args"),
        ("trainer_name", 5, "trainer_name .*not 5"),
        ("inference_allowed_mirroring_axes", (0, 7), "inference_allowed_mirroring_axes.1 .*not 7"),
    ],
)
def test_what_checkpoints_hold(key, value, said, make_model):
    checkpoint = make_model().folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(checkpoint, weights_only=False) | {key: value}, checkpoint)
    with pytest.raises(SAM3DError, match=f"{checkpoint}: {said}"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "path, value, said",
    [
        (["transpose_forward"], [0, 0, 1], "transpose_forward should hold the axes"),
        (["configurations", "3d_fullres", "patch_size"], [16, 16, 2**40], r"'3d_fullres': patch_size.2 .*4096"),
        (["configurations", "3d_fullres", "spacing"], [1, 1, 0], "spacing.2 should be greater than 0, not 0"),
        (["configurations", "3d_fullres", "inherits_from"], "3d_fullres", "inherits '3d_fullres' from itself"),
        (["configurations", "3d_fullres", "inherits_from"], "none", "lacks the configuration 'none'"),
        (["configurations"], [], "configurations should be a valid dictionary, not"),
    ],
)
def test_what_plans_hold(path, value, said, make_model):
    folder = make_model().folder
    plans = json.loads((folder / "plans.json").read_text())
    part = plans
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SAM3DError, match=f"plans.json.*{said}"):
        load_model_folder(folder)


def test_what_dataset_json_holds(make_model):
    folder = make_model().folder
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0, "core": "1"}}))
    with pytest.raises(SAM3DError, match='dataset.json can.t be used: "labels" must be whole numbers'):
        load_model_folder(folder)


def test_nnunet_reads_checkpoints_as_data(make_model, tmp_path, monkeypatch):
    """Continued trainings of our trainers, and predictions without clicks, are loaded by nnU-Net."""
    model, marker = make_model(), tmp_path / "ran"
    checkpoint = model.folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    model.trainer.load_checkpoint(str(checkpoint))
    torch.save(content | {"more": Evil(marker)}, checkpoint)
    for load in (
        lambda: model.trainer.load_checkpoint(str(checkpoint)),
        lambda: load_automatic(model.folder, ["0"], PredictionOptions("cpu")),
    ):
        with pytest.raises(SAM3DError, match=f"holds {os.mkdir.__module__}.mkdir, which is not loaded"):
            load()
        assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    monkeypatch.setenv("SAM3D_TRUST_MODELS", "1")
    model.trainer.load_checkpoint(str(checkpoint))
    assert marker.exists()
