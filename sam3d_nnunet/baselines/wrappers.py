"""Wrappers that networks from libraries need in nnU-Net: for images of any size, and for names of layers."""

from torch import Tensor, nn
from torch.nn.functional import pad

Size = tuple[int, int, int]


def padded_size(size: Size, multiple: Size) -> Size:
    """The smallest size of at least `size` whose sides are multiples of those of `multiple`.

    If every side is a single multiple, the last one is doubled: otherwise the lowest resolution of the network would be
    one voxel, which can't be normalised.
    """
    d, h, w = (side + -side % m for side, m in zip(size, multiple))
    return (d, h, 2 * w) if (d, h, w) == tuple(multiple) else (d, h, w)


class Padded(nn.Module):
    """Pads images at their end with zeros to a size that a network accepts, and crops its output to the image.

    Names in the state dict are those of the network, with the prefix `network.`.
    """

    def __init__(self, network: nn.Module, multiple: Size) -> None:
        """
        Args:
            network: (B, C, D, H, W) -> (B, K, D, H, W), or a list of outputs with falling resolution.
            multiple: the sides along (d, h, w) must be multiples of this; see `padded_size`.
        """
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """The network's output for images of any size."""
        size = tuple(image.shape[2:])
        padded = padded_size(size, self.multiple)
        d, h, w = (after - before for after, before in zip(padded, size))
        output = self.network(pad(image, (0, w, 0, h, 0, d)))
        if isinstance(output, Tensor):
            return _crop(output, size, padded)
        return [_crop(level, size, padded) for level in output]


def _crop(output: Tensor, size: Size, padded: Size) -> Tensor:
    # sides at lower resolutions are rounded as nnU-Net rounds the sides of their targets
    d, h, w = (max(1, round(side * n / whole)) for side, n, whole in zip(size, output.shape[2:], padded))
    return output[:, :, :d, :h, :w]


class SegLayers(nn.Module):
    """Gives last layers the name `seg_layers`, below which alone `-pretrained_weights` lets shapes differ."""

    def __init__(self, layers: nn.Module) -> None:
        """
        Args:
            layers: features -> logits.
        """
        super().__init__()
        self.seg_layers = layers

    def forward(self, features: Tensor) -> Tensor:
        """Features -> logits."""
        return self.seg_layers(features)
