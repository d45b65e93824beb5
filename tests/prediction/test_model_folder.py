import json
import shutil

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.model_folder import choose_folds, load_model_folder, trained_model_folder
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
    assert model.clicks_carry_labels and model.takes_maps


def test_unlabelled_clicks(make_model):
    settings = {"labelled_prompts": False, "clicks": {"policy": "paper"}}
    model = load_model_folder(make_model(trainer_class=SAM3DAdapterTrainer, settings=settings).folder)
    assert model.click_labels == [1, 2]
    assert not model.clicks_carry_labels and not model.takes_maps


def test_missing_and_broken_files(make_model, tmp_path):
    folder = make_model().folder
    with pytest.raises(SAM3DError, match="no model folder"):
        load_model_folder(tmp_path / "nowhere")
    with pytest.raises(SAM3DError, match="no model folder.*nowhere"):
        choose_folds(tmp_path / "nowhere", None, "checkpoint_final.pth")
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
