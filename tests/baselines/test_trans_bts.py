import pytest
import torch
from torch import nn

from sam3d_nnunet.baselines.trans_bts import Residual, TransBTS, TransBTSTrainer

SMALL = {"features": [8, 8, 16, 16], "blocks": [1, 1, 2, 1], "width": 16, "layers": 2, "heads": 2, "hidden": 32}


@pytest.mark.parametrize("size", [(16, 16, 16), pytest.param((40, 56, 40), marks=pytest.mark.slow), (8, 30, 20)])
def test_network(check_network, size):
    check_network(TransBTSTrainer, size, SMALL)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels):
    network = TransBTS(channels, 2, (16, 8, 24), **SMALL).eval()
    assert network(torch.randn(1, channels, 16, 8, 24)).shape == (1, 2, 16, 8, 24)


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
def test_steps(check_steps, kind):
    trainer = check_steps(TransBTSTrainer, SMALL, kind=kind)
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"], group["amsgrad"]) == (4e-4, 1e-5, True)


def test_logits_are_no_probabilities():
    network = TransBTS(1, 3, (16, 16, 16), **SMALL).eval()
    with torch.no_grad():
        network.seg_layers.bias += 5
        logits = network(torch.randn(1, 1, 16, 16, 16))
    assert logits.sum(1).min() > 3


def test_tokens_know_their_place():
    """Without position embeddings, the transformer would treat equal tokens equally."""
    network = TransBTS(1, 2, (8, 8, 32), **SMALL).eval()
    nn.init.normal_(network.positions)
    tokens = torch.zeros(1, 4, 16)
    with torch.no_grad():
        without, placed = network.transformer(tokens), network.transformer(tokens + network.positions)
    torch.testing.assert_close(without, without[:, :1].expand_as(without))
    assert (placed - placed[:, :1])[:, 1:].abs().min() > 0


def test_residual():
    x = torch.randn(2, 3)
    layers = [nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)]
    torch.testing.assert_close(Residual(*layers)(x), x + nn.Sequential(*layers)(x))
