"""What training and prediction expect of a network that takes prompts."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

Prompts = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Points, labels and maps, as `PromptableNetwork.forward` takes them."""


class PromptableNetwork(Protocol):
    """A torch module that segments an image from prompts, or without any; `SAM3D` says what the tensors are.

    Attributes:
        num_classes: logits per voxel.
        takes_maps: whether previous masks, scribbles and boxes mean something to it.
        precision: "auto", "bf16" or "fp32".
    """

    num_classes: int
    takes_maps: bool
    precision: str

    def forward(
        self,
        image: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        maps: Tensor | None = None,
        correct: Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None], Prompts] | None = None,
    ) -> Tensor:
        """Logits; with `correct` those of a second decoding, from prompts that it makes of the first."""

    def encode(self, image: Tensor) -> Any:
        """What is needed of an image for any number of decodings."""

    def decode(
        self, embedding: Any, points: Tensor | None = None, labels: Tensor | None = None, maps: Tensor | None = None
    ) -> Tensor:
        """Logits from what `encode` has returned."""
