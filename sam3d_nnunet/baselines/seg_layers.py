"""Layers that depend on the number of classes, under the name by which nnU-Net knows them."""

from torch import Tensor, nn


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
