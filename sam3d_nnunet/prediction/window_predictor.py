"""Logits of one window of an image from the prompts inside it."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam3d_nnunet.network.prompt_encoder import NOTHING
from sam3d_nnunet.network.prompts import PromptableNetwork
from sam3d_nnunet.prediction.windows import Window


class WindowPredictor:
    """One or several networks (folds) on one preprocessed image.

    Logits are averaged over mirrorings, as nnU-Net does it (clicks are mirrored too), probabilities over networks.
    """

    def __init__(
        self,
        networks: Sequence[PromptableNetwork],
        image: Tensor,
        patch_size: tuple[int, int, int],
        region_order: Sequence[int] | None = None,
        mirror_axes: tuple[int, ...] | None = None,
        cached_windows: int = 0,
        clicks_carry_labels: bool = True,
    ) -> None:
        """
        Args:
            networks: in evaluation mode, all on one device.
            image: (C, D, H, W) preprocessed image.
            patch_size: voxels of a window.
            region_order: the label that each logit sets, where logits are those of overlapping regions (nnU-Net's
                `regions_class_order`).
            mirror_axes: spatial axes (0, 1, 2) of test-time mirroring.
            cached_windows: of how many windows the embeddings are kept, so that more clicks there need no encoding.
            clicks_carry_labels: whether the networks know labels other than 1, which otherwise stands for them all.
        """
        self.networks = networks
        self.image = image
        self.shape = tuple(image.shape[1:])
        self.patch_size = tuple(patch_size)
        self.region_order = region_order
        axes = tuple(mirror_axes or ())
        self.mirrorings = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
        self.cached_windows = cached_windows
        self.clicks_carry_labels = clicks_carry_labels
        self._cache: OrderedDict[Window, dict[tuple, Any]] = OrderedDict()

    @property
    def num_logits(self) -> int:
        """Logits per voxel."""
        return self.networks[0].num_classes

    @torch.inference_mode()
    def predict(self, window: Window, points: np.ndarray, labels: np.ndarray, maps: np.ndarray | None = None) -> Tensor:
        """Logits of a window.

        Args:
            window: where.
            points: (N, 3) clicks in voxels of the image; those outside the window are left out.
            labels: (N,) their labels.
            maps: (3, D, H, W) int16 dense prompts of the image, see `sam3d_nnunet.network.prompt_encoder`.

        Returns:
            (K, *window.size) float32 on the CPU.
        """
        inside = window.contains(points)
        points, labels = points[inside] - np.array(window.start), labels[inside]
        if not self.clicks_carry_labels:
            labels = np.ones_like(labels)
        # at least one click, if only padding: one shape for the compiler
        points = F.pad(torch.from_numpy(points).float(), (0, 0, 0, 1))[None]
        labels = F.pad(torch.from_numpy(labels), (0, 1), value=-1)[None]
        if maps is not None:
            maps = window.cut(torch.from_numpy(maps), NOTHING)[None]
        embeddings = self._embeddings_of(window)
        logits = [self._mean_over_mirrorings(n, window, points, labels, maps, embeddings) for n in self.networks]
        return logits[0] if len(logits) == 1 else self._mean_probability(logits)

    def as_labels(self, logits: Tensor) -> np.ndarray:
        """(K, ...) logits -> (...) label map."""
        if self.region_order is None:
            return logits.max(0).indices.numpy()  # ten times as fast as argmax on a CPU
        segmentation = np.zeros(logits.shape[1:], np.int64)
        for label, region in zip(self.region_order, logits.numpy() > 0):
            segmentation[region] = label
        return segmentation

    def _embeddings_of(self, window: Window) -> dict[tuple, Any] | None:
        """What has been encoded for a window, to be completed; None if nothing is to be kept."""
        if not self.cached_windows:
            return None
        embeddings = self._cache.setdefault(window, {})
        self._cache.move_to_end(window)
        if len(self._cache) > self.cached_windows:
            self._cache.popitem(last=False)
        return embeddings

    def _mean_over_mirrorings(
        self,
        network: PromptableNetwork,
        window: Window,
        points: Tensor,
        labels: Tensor,
        maps: Tensor | None,
        embeddings: dict[tuple, Any] | None,
    ) -> Tensor:
        device = next(network.parameters()).device
        patch = window.cut(self.image, 0).to(device, torch.float32)[None]
        points, labels = points.to(device), labels.to(device)
        maps = None if maps is None else maps.to(device)
        total = 0
        for flipped in self.mirrorings:
            dims = [axis + 2 for axis in flipped]
            mirrored = points.clone()
            for axis in flipped:
                mirrored[..., axis] = window.size[axis] - 1 - mirrored[..., axis]
            prompts = (mirrored, labels, None if maps is None else maps.flip(dims))
            if embeddings is None:
                prediction = network(patch.flip(dims), *prompts)
            else:
                key = (id(network), flipped)
                if key not in embeddings:
                    embeddings[key] = network.encode(patch.flip(dims))
                prediction = network.decode(embeddings[key], *prompts)
            total = total + prediction.flip(dims)
        return (total[0] / len(self.mirrorings)).cpu()

    def _mean_probability(self, logits: list[Tensor]) -> Tensor:
        """Logits of the mean probability."""
        if self.region_order is None:
            return torch.stack([x.log_softmax(0) for x in logits]).logsumexp(0) - np.log(len(logits))
        return torch.stack([x.sigmoid() for x in logits]).mean(0).logit(eps=1e-7)
