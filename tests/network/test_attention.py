"""Window attention without a bias matrix against one dense, masked attention over the whole grid."""

import pytest
import reference
import torch
from reference import relative_error

from sam3d_nnunet.network.attention import WindowAttention, relative_positions
from sam3d_nnunet.network.windows import WindowLayout

# whole windows; padded axes; one window along an axis (never shifted), shorter and longer than it
GRIDS = [(8, 8, 8), (16, 8, 16), (10, 14, 10), (6, 10, 4), (3, 3, 17), (1, 9, 8)]


def make(table_size: int, dtype: torch.dtype) -> WindowAttention:
    attention = WindowAttention(24, num_heads=3, table_size=table_size)
    with torch.no_grad():
        for table in (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w):
            table.normal_(std=0.5)
        attention.rel_pos_gain.fill_(0.8)
    return attention.to(dtype)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_equals_dense_attention(grid, shifted):
    attention = make(table_size=14, dtype=torch.float32)
    tokens = 2 * torch.randn(2, *grid, 24)
    with torch.no_grad():
        found = attention(tokens, WindowLayout(grid, shifted, tokens.device, tokens.dtype))
        expected = reference.attention(attention, tokens, shifted)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "table_size"), [((10, 14, 10), 64), ((6, 10, 4), 8), ((16, 8, 9), 14)])
def test_equals_dense_attention_with_gradients(grid, table_size, shifted):
    attention = make(table_size, torch.float64)
    tokens = torch.randn(2, *grid, 24, dtype=torch.float64, requires_grad=True)
    attention.requires_grad_(True)  # the frozen ones too
    found = attention(tokens, WindowLayout(grid, shifted, tokens.device, tokens.dtype))
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
    rows = reference.resampled(table, 15)
    found = relative_positions(table)
    for query, key in [(0, 0), (7, 0), (0, 7), (2, 5)]:
        torch.testing.assert_close(found[query, key], rows[query - key + 7])


@pytest.mark.parametrize("shifted", [False, True])
def test_partition_and_merge_are_inverse(shifted):
    tokens = torch.randn(2, 9, 8, 17, 5)
    layout = WindowLayout((9, 8, 17), shifted, tokens.device, tokens.dtype)
    assert layout.shift == ((4, 0, 4) if shifted else (0, 0, 0))
    assert torch.equal(layout.merge(layout.partition(tokens)), tokens)


def test_masks_hold_in_bfloat16():
    """A token of another window, however large, leaves the output bit for bit as it was."""
    attention = make(14, torch.bfloat16)
    tokens = torch.randn(1, 12, 8, 8, 24).bfloat16()
    layout = WindowLayout((12, 8, 8), True, tokens.device, tokens.dtype)
    with torch.no_grad():
        before = attention(tokens, layout)
        tokens[:, 4:] *= 3  # the windows are tokens 0 to 3 and 4 to 11
        after = attention(tokens, layout)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])
