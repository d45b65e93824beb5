"""SAM's codes of positions, and its layers, against segment_anything's own."""

import pytest
import torch
from segment_anything.modeling import PromptEncoder as SAMsPromptEncoder
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from sam3d_nnunet.network.position_prompt import PositionCode, PositionPromptEncoder, SAMPromptEncoder


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


def test_codes_of_a_grid_are_sams():
    """In the middle slice of three, whose coordinate is 0."""
    sams, ours = PositionEmbeddingRandom(16), PositionCode(32)
    ours.frequencies[1:] = sams.positional_encoding_gaussian_matrix.flip(0)
    codes = ours.of_grid((3, 5, 7)).unflatten(0, (3, 5, 7))
    torch.testing.assert_close(codes[1].permute(2, 0, 1), sams((5, 7)), rtol=1e-4, atol=1e-4)
    centre = torch.tensor([-2 / 3, 2 * 4.5 / 5 - 1, 2 * 0.5 / 7 - 1])
    torch.testing.assert_close(codes[0, 4, 0], ours(centre))


# SAM's names of tensors in a layer -> ours
NAMES = {
    "cross_attn_token_to_image": "tokens_to_image",
    "cross_attn_image_to_token": "image_to_tokens",
    "mlp.lin1": "mlp.0",
    "mlp.lin2": "mlp.2",
}


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_on_a_slice_it_is_sams_prompt_encoder_and_transformer(depth):
    """A grid of one slice: clicks in its middle have the depth coordinate 0, as all tokens."""
    dim, (height, width) = 32, (6, 9)
    sams = TwoWayTransformer(depth=depth, embedding_dim=dim, num_heads=4, mlp_dim=24)
    points_of = SAMsPromptEncoder(dim, (height, width), (16 * height, 16 * width), mask_in_chans=4)
    ours = SAMPromptEncoder(dim, 4, 24, num_queries=3, num_layers=depth)
    weights = {}
    for name, tensor in sams.state_dict().items():
        for theirs, mine in NAMES.items():
            name = name.replace(theirs, mine)
        weights[name] = tensor
    unused = [name for name in weights if name.startswith(("final_attn_token_to_image.", "norm_final_attn."))]
    weights = {name: tensor for name, tensor in weights.items() if name not in unused}
    labels = torch.stack([embedding.weight[0] for embedding in points_of.point_embeddings[:2]])
    weights["label_embedding.seg_layers.weight"] = labels
    codes = ours.position.frequencies.clone()
    codes[1:] = points_of.pe_layer.positional_encoding_gaussian_matrix.flip(0)
    weights |= {"position.frequencies": codes, "global_query": ours.global_query.data}
    ours.load_state_dict(weights)

    features, pixels = torch.randn(1, dim, height, width), 16 * torch.rand(1, 4, 2) * torch.tensor([width, height])
    given = torch.tensor([[1, 0, 1, 0]])
    sparse = points_of._embed_points(pixels, given, pad=False)
    tokens = torch.cat([ours.global_query, sparse], dim=1)
    _, expected = sams(features, points_of.get_dense_pe(), tokens)

    faces = 2 * (pixels + 0.5) / (16 * torch.tensor([width, height])) - 1
    faces = torch.cat([torch.zeros(1, 4, 1), faces.flip(-1)], dim=-1)
    found = ours(features[:, :, None], faces, given)
    torch.testing.assert_close(found[:, :, 0].flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)
    # padding changes nothing
    padded = torch.cat([faces, torch.full((1, 3, 3), 0.3)], dim=1), torch.tensor([[1, 0, 1, 0, -1, -1, -1]])
    torch.testing.assert_close(ours(features[:, :, None], *padded), found, rtol=1e-5, atol=1e-5)


def test_tokens_of_the_image_know_where_they_are():
    """Unlike with `PositionPromptEncoder`, for which tokens in another order are the same tokens."""
    torch.manual_seed(0)
    ours, plain = (cls(16, num_heads=2, mlp_dim=8) for cls in (SAMPromptEncoder, PositionPromptEncoder))
    features, point, label = torch.randn(1, 16, 2, 3, 4), torch.tensor([[[0.4, -0.2, 0.1]]]), torch.tensor([[1]])

    def tokens(encoder, level):  # in another order, put back after
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
        shuffled = level.flatten(2)[..., order].unflatten(2, (2, 3, 4))
        return encoder(shuffled, point, label).flatten(2)[..., order.argsort()].unflatten(2, (2, 3, 4))

    torch.testing.assert_close(tokens(plain, features), plain(features, point, label))
    assert not torch.allclose(tokens(ours, features), ours(features, point, label))
