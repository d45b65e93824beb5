"""SAM's codes of positions, against segment_anything's own."""

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from sam3d_nnunet.network.prompt_encoder import PositionCode, PositionPromptEncoder


@pytest.mark.parametrize("size", [(40, 56), (128, 128)])
def test_within_a_slice_codes_are_sams(size):
    """In the middle of the depth axis, whose coordinate is 0 there."""
    sams, ours = PositionEmbeddingRandom(16), PositionCode(32)
    height, width = size
    clicks = torch.rand(2, 5, 2) * (torch.tensor(size) - 1)  # (y, x), voxel centres at integers
    # SAM has its pixel centres at halves, and its axes in the order (x, y)
    expected = sams.forward_with_coords(clicks.flip(-1) + 0.5, (height, width))
    ours.frequencies[1:] = sams.positional_encoding_gaussian_matrix.flip(0)
    faces = torch.cat([torch.zeros(2, 5, 1), 2 * (clicks + 0.5) / torch.tensor(size) - 1], dim=-1)
    torch.testing.assert_close(ours(faces), expected, rtol=1e-4, atol=1e-4)


def test_every_axis_counts_and_every_code_has_the_same_length():
    code = PositionCode(32)
    points = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]]])
    codes = code(points)
    assert torch.pdist(codes[0]).min() > 0.1
    torch.testing.assert_close(codes.norm(dim=-1), torch.full((1, 4), 4.0))  # sin^2 + cos^2 of 16 frequencies


def test_autocast_does_not_round_the_phases():
    code, points = PositionCode(256), 2 * torch.rand(1, 9, 3) - 1
    expected = code(points)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(code(points), expected)


@pytest.mark.parametrize(("num_labels", "rows"), [(None, 2), (4, 4)])
def test_a_click_is_its_code_and_its_label(num_labels, rows):
    encoder = PositionPromptEncoder(16, num_heads=2, mlp_dim=8, num_labels=num_labels)
    assert encoder.label_embedding.seg_layers.weight.shape == (rows, 16)
    features, points = torch.randn(1, 16, 4, 3, 5), 2 * torch.rand(1, 2, 3) - 1
    other = torch.randn_like(features)
    tokens = encoder.click_tokens(features, points)
    assert torch.equal(tokens, encoder.click_tokens(other, points))  # whatever lies there
    labels = torch.tensor([[1, 0]])
    before = encoder(features, points, labels)
    torch.nn.init.normal_(encoder.label_embedding.seg_layers.weight)
    assert not torch.allclose(encoder(features, points, labels), before)
    assert not torch.allclose(encoder(features, -points, labels), encoder(features, points, labels))


def test_frequencies_travel_with_the_weights():
    first, second = (PositionPromptEncoder(16, num_heads=2, mlp_dim=8) for _ in range(2))
    points = 2 * torch.rand(1, 2, 3) - 1
    assert not torch.equal(first.position(points), second.position(points))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.position(points), second.position(points))
    assert "position.frequencies" not in dict(first.named_parameters())
