"""What networks from libraries need inside nnU-Net: images of any size, and names of layers that it knows."""

from torch import Tensor, nn
from torch.nn.functional import pad

Size = tuple[int, int, int]


def padded_size(size: Size, multiple: Size) -> Size:
    """The smallest size not below `size` whose sides are multiples of those of `multiple`.

    Where each is just one multiple, the last is doubled: a network's lowest resolution would be a single voxel, over
    which nothing can be normalised.
    """
    d, h, w = (side + -side % m for side, m in zip(size, multiple))
    return (d, h, 2 * w) if (d, h, w) == tuple(multiple) else (d, h, w)


class Padded(nn.Module):
    """Pads images at their end with zeros to what a network needs, and crops what it returns back to the image.

    The state dict is that of the network below `network.`.
    """

    def __init__(self, network: nn.Module, multiple: Size) -> None:
        """
        Args:
            network: (B, C, D, H, W) -> (B, K, D, H, W), or several of these, the later ones at lower resolutions.
            multiple: of which the sides along (d, h, w) must be multiples; see `padded_size`.
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
    # sides at lower resolutions are rounded as nnU-Net rounds those of their targets
    d, h, w = (max(1, round(side * n / whole)) for side, n, whole in zip(size, output.shape[2:], padded))
    return output[:, :, :d, :h, :w]


class SegLayers(nn.Module):
    """Wraps such layers of a library's network: `-pretrained_weights` lets shapes differ below `seg_layers` alone."""

    def __init__(self, layers: nn.Module) -> None:
        """
        Args:
            layers: features -> logits.
        """
        super().__init__()
        self.seg_layers = layers

    def forward(self, features: Tensor) -> Tensor:
        """What the layers make of them."""
        return self.seg_layers(features)
