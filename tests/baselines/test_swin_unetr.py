import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam3d_nnunet.baselines.swin_unetr import SwinUNETRTrainer, load_self_supervised
from sam3d_nnunet.errors import SAM3DError

SMALL = {"feature_size": 12, "depths": [1, 1, 1, 1]}


def authors_name(name: str) -> str:
    return "module." + re.sub(r"mlp\.linear(\d)", r"mlp.fc\1", name)


def small_encoder(channels: int = 1) -> torch.nn.Module:
    return SwinUNETRTrainer.make_network(channels, 3, (32, 32, 32), **SMALL).network.swinViT


@pytest.fixture
def self_supervised(tmp_path) -> tuple[Path, dict[str, Tensor]]:
    """A file as the authors released it, and the tensors in it under MONAI's names."""
    torch.manual_seed(1)
    tensors = small_encoder().state_dict()
    content = {authors_name(name): tensor for name, tensor in tensors.items()}
    content["module.rotation_head.weight"] = torch.zeros(4, 96)
    torch.save({"state_dict": content}, tmp_path / "model_swinvit.pt")
    return tmp_path / "model_swinvit.pt", tensors


@pytest.mark.parametrize("size", [(8, 30, 20), (32, 32, 32)])
def test_network(check_network, size):
    check_network(SwinUNETRTrainer, size, SMALL)


@pytest.mark.slow
def test_network_on_patches_of_the_hippocampus(check_network):
    check_network(SwinUNETRTrainer, (40, 56, 40), SMALL)


def test_steps(check_steps):
    trainer = check_steps(SwinUNETRTrainer, SMALL)
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-5)


def test_fresh_training_starts_from_self_supervised_weights(make_automatic, self_supervised):
    path, tensors = self_supervised
    trainer = make_automatic(SwinUNETRTrainer, SMALL | {"self_supervised_weights": str(path)})
    trainer.on_train_start()
    loaded = trainer.network.network.swinViT.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    # the optimiser holds these very tensors
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in trainer.network.parameters()} == held


def test_other_starts_keep_their_weights(make_automatic, self_supervised):
    path, _ = self_supervised
    first = make_automatic(SwinUNETRTrainer, SMALL)
    first.on_train_start()
    trainer = make_automatic(SwinUNETRTrainer, SMALL | {"self_supervised_weights": str(path)})
    trainer.initialize()
    trainer.network.load_state_dict(first.network.state_dict())
    trainer.on_train_start()
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], tensor), name


def test_monai_would_load_the_same(self_supervised):
    path, tensors = self_supervised
    torch.manual_seed(2)
    ours, theirs = (SwinUNETRTrainer.make_network(1, 3, (32, 32, 32), **SMALL).network for _ in range(2))
    load_self_supervised(ours.swinViT, path)
    theirs.load_from(torch.load(path, weights_only=True))
    for name, tensor in theirs.swinViT.state_dict().items():
        assert torch.equal(ours.swinViT.state_dict()[name], tensor), name


def test_weights_for_another_number_of_channels(self_supervised):
    encoder = small_encoder(channels=2)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    message = r"other shape: patch_embed.proj.weight \(12, 1, 2, 2, 2\) instead of \(12, 2, 2, 2, 2\)"
    with pytest.raises(SAM3DError, match=message):
        load_self_supervised(encoder, self_supervised[0])
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    "content, message",
    [({"weight": torch.zeros(1)}, r"missing: layers1.*65 more"), ([1], "file.pt .*list")]
    + [({"state_dict": [1]}, "hold no tensors by name under 'state_dict'")],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(SAM3DError, match=message):
        load_self_supervised(small_encoder(), tmp_path / "file.pt")


def test_a_path_that_is_none(make_automatic):
    trainer = make_automatic(SwinUNETRTrainer, SMALL | {"self_supervised_weights": 3})
    with pytest.raises(SAM3DError, match="self_supervised_weights must be a path, not 3"):
        trainer.initialize()


def test_no_such_file(make_automatic):
    trainer = make_automatic(SwinUNETRTrainer, SMALL | {"self_supervised_weights": "/nowhere/model.pt"})
    with pytest.raises(SAM3DError, match="There is no file /nowhere/model.pt"):
        trainer.on_train_start()
