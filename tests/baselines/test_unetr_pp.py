import pytest
import torch
from torch.nn.functional import normalize

from sam3d_nnunet.baselines.unetr_pp import UNETRPP, PairedAttention, UNETRPPTrainer
from sam3d_nnunet.errors import SAM3DError

SMALL = {"depths": [1, 1, 2, 1], "features": [8, 16, 32, 64], "projections": [6, 5, 4, 3]}


@pytest.mark.parametrize("size", [(32, 32, 32), pytest.param((40, 56, 40), marks=pytest.mark.slow), (8, 30, 20)])
def test_network(check_network, size):
    check_network(UNETRPPTrainer, size, SMALL)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels):
    network = UNETRPP(channels, 2, (16, 32, 64), [1] * 4, [8, 16, 32, 64]).eval()
    assert network(torch.randn(1, channels, 16, 32, 64)).shape == (1, 2, 16, 32, 64)


def test_training_validation_and_prediction(run_whole):
    run_whole(UNETRPPTrainer, SMALL)


def test_linear_layers_start_as_the_authors_do():
    project = UNETRPP(1, 2, (64, 64, 64)).encoder[0][0].attention.project  # 8192 tokens
    assert project.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not project.bias.any()


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
def test_steps(check_steps, kind):
    trainer = check_steps(UNETRPPTrainer, SMALL, kind=kind)
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer) is torch.optim.SGD
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (1e-2, 3e-5, 0.99, True)


def test_all_three_resolutions_are_trained(make_automatic):
    trainer = make_automatic(UNETRPPTrainer, SMALL)
    trainer.on_train_start()
    trainer.network.train()
    trainer.train_step(next(trainer.dataloader_train))
    assert all(p.grad.any() for p in trainer.network.network.seg_layers.parameters())
    factors = torch.tensor(trainer.loss.weight_factors)
    torch.testing.assert_close(factors / factors[0], torch.tensor([1, 1 / 2, 1 / 4]))
    assert factors.sum() == pytest.approx(1)


def test_paired_attention_by_the_formulas():
    """Head by head and token by token, from the paper's equations 2 and 3."""
    width, tokens, heads, few = 8, 10, 2, 3
    attention = PairedAttention(width, tokens, few, heads).eval()
    torch.nn.init.uniform_(attention.channel_gain, 0.5, 2)
    torch.nn.init.uniform_(attention.spatial_gain, 0.5, 2)
    x = torch.randn(tokens, width)
    query, key, channel_value, spatial_value = (x @ attention.inputs.weight.T).split(width, 1)
    by_channels, by_tokens = torch.zeros(tokens, width), torch.zeros(tokens, width)
    each = width // heads
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        q, k = normalize(query[:, own], dim=0), normalize(key[:, own], dim=0)
        weights = (attention.channel_gain[head] * (q.T @ k)).softmax(-1)
        by_channels[:, own] = channel_value[:, own] @ weights.T
        project = attention.project
        few_keys = project.weight @ key[:, own] + project.bias[:, None]
        few_values = project.weight @ spatial_value[:, own] + project.bias[:, None]
        for token in range(tokens):
            weights = (attention.spatial_gain[head] * (few_keys @ q[token])).flatten().softmax(0)
            by_tokens[token, own] = weights @ few_values
    expected = torch.cat((attention.spatial_output(by_tokens), attention.channel_output(by_channels)), 1)
    torch.testing.assert_close(attention(x[None])[0], expected)


def test_unusable_number_of_heads(make_automatic):
    trainer = make_automatic(UNETRPPTrainer, {"heads": 5})
    with pytest.raises(SAM3DError, match="32 channels can't be split into 5 heads"):
        trainer.initialize()
