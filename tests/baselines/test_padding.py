import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool3d

from sam3d_nnunet.baselines.wrappers import Padded, padded_size

SIDES = st.tuples(*[st.integers(1, 40)] * 3)
MULTIPLES = st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3)


@given(SIDES, MULTIPLES)
def test_padded_size_is_the_smallest_that_fits(size, multiple):
    padded = padded_size(size, multiple)
    assert all(after >= side and after % m == 0 for after, side, m in zip(padded, size, multiple))
    assert padded != multiple
    if any(side > m for side, m in zip(size, multiple)):
        assert all(after - side < m for after, side, m in zip(padded, size, multiple))
    else:
        assert padded == (*multiple[:2], 2 * multiple[2])


class Levels(nn.Module):
    """Returns the image, and its means over blocks of 2 and 4; remembers the size that it was given."""

    def forward(self, image):
        self.size = tuple(image.shape[2:])
        return [image, avg_pool3d(image, 2), avg_pool3d(image, 4)]


def test_levels_stay_in_place():
    image = torch.randn(1, 2, 12, 10, 7)
    network = Padded(Levels(), (4, 4, 4))
    whole, half, quarter = network(image)
    assert network.network.size == (12, 12, 8)
    assert torch.equal(whole, image)
    assert half.shape[2:] == (6, 5, 4) and quarter.shape[2:] == (3, 2, 2)
    torch.testing.assert_close(half[..., :3], avg_pool3d(image, 2))
    torch.testing.assert_close(quarter[..., :1], avg_pool3d(image, 4))


@pytest.mark.parametrize("size", [(8, 8, 8), (8, 8, 16), (16, 8, 9)])
def test_padding_is_zero_and_at_the_end(size):
    class Seen(nn.Module):
        def forward(self, image):
            self.image = image
            return image

    image = torch.rand(1, 1, *size) + 1
    network = Padded(Seen(), (8, 8, 8))
    assert torch.equal(network(image), image)
    d, h, w = size
    assert torch.equal(network.network.image[:, :, :d, :h, :w], image)
    assert network.network.image.sum() == pytest.approx(image.sum().item(), rel=1e-5)
