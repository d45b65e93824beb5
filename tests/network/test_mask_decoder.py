"""The fusing convolution in shares against one convolution of all maps."""

import pytest
import reference
import torch
from reference import relative_error

from sam3d_nnunet.network.mask_decoder import Fusion


@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("num_levels", [1, 4])
def test_shares_add_up_to_the_convolution(num_levels, image_channels):
    fusion = Fusion(6, num_levels, image_channels)
    *levels, last = (torch.randn(2, 6, 10, 7, 6, requires_grad=True) for _ in range(num_levels))
    image = torch.randn(2, image_channels, 10, 7, 6)
    found = sum(fusion.share(i, part) for i, part in enumerate([*levels, last, image]))
    expected = reference.fusion(fusion, [*levels, last], image)
    assert relative_error(found, expected) < 1e-5
    inputs = [fusion.conv.weight, *levels, last]
    weights = torch.randn_like(expected)
    gradients = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-5
