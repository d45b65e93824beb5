import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention

from sam3d_nnunet.baselines.nnformer import NNFormer, NNFormerTrainer, SkipAttention, SkipBlock
from sam3d_nnunet.errors import SAM3DError

SMALL = {"embed_dim": 8, "depths": [2, 1, 2, 1], "heads": [1, 2, 2, 4], "windows": [4, 2, 2, 2]}


@pytest.mark.parametrize("size", [(32, 32, 32), pytest.param((40, 56, 40), marks=pytest.mark.slow), (8, 30, 68)])
def test_network(check_network, size):
    check_network(NNFormerTrainer, size, SMALL | {"drop_path": 0.0})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels):
    network = NNFormer(channels, 2, (16, 32, 64), 8, [1] * 4, [1] * 4).eval()
    assert network(torch.randn(1, channels, 16, 32, 64)).shape == (1, 2, 16, 32, 64)


@pytest.mark.parametrize(
    "arguments, message",
    [({"heads": [3, 3, 3, 3]}, "8 channels can't be split into 3 heads"), ({"depths": [1, 1]}, "4 stages, not 2")],
)
def test_unusable_arguments(make_automatic, arguments, message):
    with pytest.raises(SAM3DError, match=f"networks.NNFormerTrainer, .*: .*{message}"):
        make_automatic(NNFormerTrainer, SMALL | arguments).initialize()


@pytest.mark.parametrize("kind", ["classes", "ignore", "regions"])
def test_steps(check_steps, kind):
    trainer = check_steps(NNFormerTrainer, SMALL, kind=kind)
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer) is torch.optim.SGD
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (1e-2, 3e-5, 0.99, True)


def test_all_three_resolutions_are_trained(make_automatic):
    trainer = make_automatic(NNFormerTrainer, SMALL)
    trainer.on_train_start()
    trainer.network.train()
    trainer.train_step(next(trainer.dataloader_train))
    assert all(p.grad.any() for p in trainer.network.network.seg_layers.parameters())
    torch.testing.assert_close(torch.tensor(trainer.loss.weight_factors), torch.tensor([4, 2, 1]) / 7)


def test_every_second_block_is_shifted():
    network = NNFormer(1, 2, (64, 128, 128), 8, [2] * 4, [1] * 4, [4] * 4)
    shifts = [[max(block.shift_size) for block in stage.blocks] for stage in network.encoder]
    assert shifts == [[0, 2]] * 4
    assert [[max(block.shift_size) for block in stage.blocks.blocks] for stage in network.decoder] == [[2]] * 3


def test_windows_fit_into_small_grids():
    network = NNFormer(1, 2, (16, 64, 128), 8, [1] * 4, [1] * 4)
    assert [stage.window_size for stage in network.encoder] == [(8, 8, 8), (4, 8, 8), (2, 4, 6), (1, 2, 4)]
    assert [stage.skip.window for stage in network.decoder] == [(2, 4, 6), (4, 8, 8), (8, 8, 8)]


def test_later_blocks_are_left_out_more_often():
    network = NNFormer(1, 2, (16, 32, 32), 8, [2] * 4, [1] * 4)
    encoder = [getattr(block.drop_path, "drop_prob", 0) for stage in network.encoder for block in stage.blocks]
    assert encoder == pytest.approx([0.2 * i / 7 for i in range(8)])
    decoder = [
        getattr(block.drop_path, "drop_prob", 0)
        for stage in network.decoder
        for block in (stage.skip, *stage.blocks.blocks)
    ]
    assert decoder == pytest.approx([0.2 * i / 5 for i in range(6)])


def test_skip_attention_of_equal_tokens_is_monais():
    """With one set of tokens for queries, keys and values, it is self-attention without a projection of queries."""
    window = (2, 3, 4)
    ours, monais = SkipAttention(8, 2, window), WindowAttention(8, 2, window, qkv_bias=True)
    torch.nn.init.normal_(ours.relative_position_bias_table)
    monais.relative_position_bias_table = ours.relative_position_bias_table
    monais.proj = ours.proj
    with torch.no_grad():
        monais.qkv.weight.copy_(torch.cat([torch.eye(8), ours.key_value.weight]))
        monais.qkv.bias.copy_(torch.cat([torch.zeros(8), ours.key_value.bias]))
    tokens = torch.randn(5, 24, 8)
    torch.testing.assert_close(ours(tokens, tokens), monais(tokens, None))


def test_queries_come_from_the_decoder_and_values_from_the_encoder():
    attention = SkipAttention(8, 2, (2, 2, 2))
    queries, others = torch.randn(1, 8, 8), torch.randn(1, 8, 8)
    with torch.no_grad():
        expected = attention(queries, others)
        shuffled = torch.randperm(8)
        attention.relative_position_bias_table.zero_()
        same = attention(queries, others[:, shuffled])
        torch.testing.assert_close(attention(queries, others), same)
        turned = attention(queries[:, shuffled], others)
    torch.testing.assert_close(turned, same[:, shuffled])
    assert not torch.allclose(expected, attention(others, queries))


def test_skip_block_keeps_windows_apart():
    """What lies in one window, padding of the last ones included, changes nothing in another."""
    block = SkipBlock(8, 2, (2, 2, 2), 0.0).eval()
    tokens, skip = torch.randn(1, 4, 5, 3, 8), torch.randn(1, 4, 5, 3, 8)
    with torch.no_grad():
        before = block(tokens, skip)
        skip[:, :2, 4:, 2:] += 1
        changed = (block(tokens, skip) != before).any(-1)[0]
    expected = torch.zeros(4, 5, 3, dtype=torch.bool)
    expected[:2, 4:, 2:] = True
    assert torch.equal(changed, expected)
