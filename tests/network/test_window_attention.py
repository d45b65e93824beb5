"""Window attention without a bias matrix against matrices of biases and masks."""

import pytest
import reference
import torch
from reference import relative_error
from torch._subclasses import FakeTensorMode

from sam3d_nnunet.network import SAM3D, window_attention
from sam3d_nnunet.network.window_attention import (
    WINDOW,
    WindowAttention,
    WindowLayout,
    distance_index,
    distance_table,
    window_layout,
    window_places,
)

# whole windows; padded axes; one window along an axis (never shifted), shorter and longer than it
GRIDS = [(8, 8, 8), (16, 8, 16), (10, 14, 10), (6, 10, 4), (3, 3, 17), (1, 9, 8)]


def make(table_size: int, dtype: torch.dtype) -> WindowAttention:
    attention = WindowAttention(24, num_heads=3, table_size=table_size)
    with torch.no_grad():
        for table in (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w):
            table.normal_(std=0.5)
        attention.rel_pos_gain.fill_(0.8)
    return attention.to(dtype)


def attend(attention: WindowAttention, tokens: torch.Tensor, shifted: bool) -> torch.Tensor:
    """Cut, attend, put together: what `Block` does in groups."""
    layout = WindowLayout(tuple(tokens.shape[1:4]), shifted, len(tokens), tokens.device)
    windows = tokens.flatten(0, 3)[layout.order].unflatten(0, (-1, WINDOW**3))
    return layout.merge(attention(windows, layout.query_codes, layout.key_codes))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_equals_dense_attention(grid, shifted):
    attention = make(table_size=14, dtype=torch.float32)
    tokens = 2 * torch.randn(2, *grid, 24)
    with torch.no_grad():
        found = attend(attention, tokens, shifted)
        expected = reference.attention(attention, tokens, shifted)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "table_size"), [((10, 14, 10), 64), ((6, 10, 4), 8), ((16, 8, 9), 14)])
def test_equals_dense_attention_with_gradients(grid, table_size, shifted):
    attention = make(table_size, torch.float64)
    tokens = torch.randn(2, *grid, 24, dtype=torch.float64, requires_grad=True)
    attention.requires_grad_(True)  # the frozen ones too
    found = attend(attention, tokens, shifted)
    expected = reference.attention(attention, tokens, shifted)
    assert relative_error(found, expected) < 1e-12
    weights = torch.randn_like(expected)
    parameters = dict(attention.named_parameters()) | {"tokens": tokens}
    gradients = (torch.autograd.grad((out * weights).sum(), parameters.values()) for out in (found, expected))
    for name, ours, theirs in zip(parameters, *gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-10, name


@pytest.mark.parametrize("table_size", [5, 8, 14, 64])
def test_tables_are_resampled_linearly(table_size):
    table = torch.randn(2 * table_size - 1, 6, dtype=torch.float64)
    torch.testing.assert_close(distance_table(table), reference.resampled(table, 15))


def test_distances_are_query_minus_key():
    places, index = window_places(), distance_index()
    for query in (0, 7, 99, 511):
        for axis in range(3):
            rows = index[query, 8 * axis : 8 * axis + 8]
            assert rows.tolist() == [15 * axis + int(places[query, axis]) - key + 7 for key in range(8)]


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_hold_every_token_once(shifted):
    tokens = torch.randn(2, 9, 8, 17, 5)
    layout = WindowLayout((9, 8, 17), shifted, 2, tokens.device)
    assert layout.shift == ((4, 0, 4) if shifted else (0, 0, 0))
    windows = tokens.flatten(0, 3)[layout.order].unflatten(0, (-1, WINDOW**3))
    assert len(windows) == len(layout.query_codes) == len(layout.key_codes) == 2 * 2 * 1 * 3
    assert torch.equal(layout.merge(windows), tokens)


def test_masks_hold_in_bfloat16():
    """A token of another window, however large, leaves the output bit for bit as it was."""
    attention = make(14, torch.bfloat16)
    tokens = torch.randn(1, 12, 8, 8, 24).bfloat16()
    with torch.no_grad():
        before = attend(attention, tokens, shifted=True)
        tokens[:, 4:] *= 3  # the windows are tokens 0 to 3 and 4 to 11
        after = attend(attention, tokens, shifted=True)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_hold_beside_large_logits(dtype):
    """Keys of another window and of the padding that outdo every visible one by hundreds get no weight at all."""
    attention = make(14, torch.float32)
    with torch.no_grad():
        attention.qkv.bias[24:48] = 30  # keys, whose sign the tokens decide
        attention.qkv.weight[24:48] = 0
        attention.qkv.weight[24:48, 0] = 30
    attention = attention.to(dtype)
    tokens = torch.randn(1, 12, 6, 8, 24)
    tokens[..., 0] = -1  # keys of 0
    with torch.no_grad():
        before = attend(attention, tokens.to(dtype), shifted=True)
        tokens[:, 4:, ..., 0] = 10  # keys of 330
        queries = attention.qkv(tokens.to(dtype))[..., :24].unflatten(-1, (3, 8)).sum(-1)
        assert (queries[:, :4].abs() * 330 / 8**0.5).max() > 500, "the masked logits must be large"
        after = attend(attention, tokens.to(dtype), shifted=True)
        expected = reference.attention(attention.float(), tokens, shifted=True)
    assert torch.isfinite(after).all()
    assert torch.equal(before[:, :4], after[:, :4])
    assert relative_error(after, expected) < (1e-4 if dtype == torch.float32 else 5e-2)


def test_layouts_are_built_once_and_serve_training_after_a_prediction():
    window_attention._kept_layout.cache_clear(), window_attention._kept_distance_index.cache_clear()
    net = SAM3D.from_preset("tiny", 1, 2, (16, 16, 16), 4)
    image = torch.randn(2, 1, 16, 16, 36)
    with torch.inference_mode():
        net(image)
    kept = window_attention._kept_layout((4, 4, 9), True, 2, image.device)
    for _ in range(2):
        net(image)[0].sum().backward()
    assert window_attention._kept_layout.cache_info().misses == 2  # shifted or not
    assert window_attention._kept_distance_index.cache_info().misses == 1
    assert window_layout(torch.zeros(2, 4, 4, 9, 1), True) is kept
    assert not any(t.is_inference() for t in (kept.order, kept.inverse, kept.query_codes, kept.key_codes))
    assert window_layout(torch.zeros(1, 4, 4, 9, 1), True) is not kept


def test_tracers_leave_nothing_behind():
    window_attention._kept_layout.cache_clear(), window_attention._kept_distance_index.cache_clear()
    net = SAM3D.from_preset("tiny", 1, 2, (16, 16, 16), 4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert net.image_encoder(mode.from_tensor(torch.randn(1, 1, 16, 16, 16)))[0].shape[2:] == (4, 4, 4)
    assert window_attention._kept_layout.cache_info().currsize == 0
    assert window_attention._kept_distance_index.cache_info().currsize == 0
    assert torch.isfinite(net.eval()(torch.randn(1, 1, 16, 16, 16))).all()
