"""The folded patch embedding against enlarging the volume and embedding every slice."""

import pytest
import reference
import torch
from reference import relative_error

from sam3d_nnunet.network.image_encoder import PatchEmbed, enlargement_matrix


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_enlargement_matrix_is_trilinear_interpolation(stride):
    signal = torch.randn(1, 1, 5 * stride)
    expected = torch.nn.functional.interpolate(signal, scale_factor=16 / stride, mode="linear", align_corners=False)
    padded = torch.nn.functional.pad(signal, (1, 1), mode="replicate")[0, 0]
    pieces = padded.unfold(0, stride + 2, stride)
    torch.testing.assert_close((pieces @ enlargement_matrix(stride).T).flatten(), expected.flatten())


@pytest.mark.parametrize(
    ("stride", "channels", "size"),
    [
        (2, 1, (10, 6, 8)),
        (2, 3, (2, 4, 6)),
        (4, 1, (24, 40, 16)),
        (4, 2, (12, 4, 20)),
        (8, 1, (40, 56, 40)),
        (8, 3, (16, 8, 24)),
    ],
)
def test_folded_equals_enlarged_volume(stride, channels, size):
    embed = PatchEmbed(channels, embed_dim=12, stride=stride)
    with torch.no_grad():
        embed.channel_mix += 0.3 * torch.randn_like(embed.channel_mix)
    image = torch.randn(2, channels, *size, requires_grad=True)
    parameters = [image, embed.slice_embed.weight, embed.slice_embed.bias]
    parameters += [embed.channel_mix] if channels > 1 else []

    found, expected = embed(image), reference.patch_embed(embed, image)
    assert relative_error(found, expected) < 1e-5
    weights = torch.randn_like(expected)
    gradients = (torch.autograd.grad((out * weights).sum(), parameters) for out in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_several_channels_start_at_their_mean():
    one, three = PatchEmbed(1, 12, stride=4), PatchEmbed(3, 12, stride=4)
    three.load_state_dict(one.state_dict() | {"channel_mix": three.channel_mix})
    image = torch.randn(1, 3, 8, 8, 8)
    torch.testing.assert_close(three(image), one(image.mean(1, keepdim=True)))


def test_frozen_kernel_is_folded_again_when_weights_are_loaded():
    embed, other = PatchEmbed(1, 12, stride=4), PatchEmbed(1, 12, stride=4)
    image = torch.randn(1, 1, 8, 8, 8)
    assert not torch.allclose(embed(image), other(image))
    torch.nn.ModuleDict({"inside": embed}).load_state_dict(torch.nn.ModuleDict({"inside": other}).state_dict())
    torch.testing.assert_close(embed(image), other(image))
