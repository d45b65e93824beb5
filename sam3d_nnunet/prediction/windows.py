"""Windows of the training patch size: where they lie, what they cut out, and the logits of networks in a window."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.network.prompts import PromptableNetwork, Prompts
from sam3d_nnunet.prediction.embeddings import Cancelled, EmbeddingShare, stoppable
from sam3d_nnunet.prediction.grid_image import GridImage
from sam3d_nnunet.prompts.prompt import VoxelPrompts

MARGIN = 1 / 8  # share of a window's side: nearer to a face behind which the image continues, context is missing


@dataclass(frozen=True)
class Window:
    """A box of the image grid; it reaches over the border of an image that is smaller than itself.

    Attributes:
        start: first voxel along (d, h, w).
        size: voxels along (d, h, w).
    """

    start: tuple[int, int, int]
    size: tuple[int, int, int]

    @property
    def box(self) -> Box:
        """The whole window, beyond the border of a small image too."""
        return Box.of_shape(self.size, self.start)

    def in_image(self, shape: tuple[int, ...]) -> Box:
        """The part that lies inside an image."""
        return self.box.intersection(Box.of_shape(shape))

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) coordinates -> (N,) bool."""
        return self.box.contains(points)

    def open_faces(self, shape: tuple[int, ...]) -> Iterator[Box]:
        """The outermost plane on each side behind which the image continues."""
        here = self.in_image(shape)
        for axis, (start, stop) in enumerate(here.as_lists()):
            for plane, continues in ((start, start > 0), (stop - 1, stop < shape[axis])):
                if continues:
                    ends = here.as_lists()
                    ends[axis] = [plane, plane + 1]
                    yield Box.from_lists(ends)

    def sees(self, points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Like `contains`, but without points near a face behind which the image continues: those lack context."""
        low = np.array([s + n * MARGIN if s > 0 else -np.inf for s, n in zip(self.start, self.size)])
        ends = [s + n for s, n in zip(self.start, self.size)]
        high = np.array([e - n * MARGIN if e < m else np.inf for e, n, m in zip(ends, self.size, shape)])
        return ((points >= low) & (points < high)).all(axis=1)


def in_any(windows: Iterable[Window], points: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates -> (N,) whether any window contains them."""
    return np.any([np.zeros(len(points), bool), *(window.contains(points) for window in windows)], axis=0)


def windows_around(points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int]) -> list[Window]:
    """One window around the centre of all clicks, moved into the image, or more if they don't fit into one.

    Args:
        points: (N, 3) coordinates of the grid.
        shape: voxels of the image.
        size: voxels of a window.
    """
    windows, rest = [], points
    while len(rest):
        window, member = _around_first(rest, shape, size, np.array(size))
        windows.append(window)
        rest = rest[~(window.contains(rest) | member)]  # the window of a click outside the image does not contain it
    return windows


def window_at_centre(points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int]) -> list[Window]:
    """One window around the middle of all clicks, wherever they are; clicks far apart lie outside of it.

    The middle is halfway between the outermost clicks along each axis. The window stays there even if it reaches over
    the border of the image, as in the released code of the paper.

    Args:
        points, shape, size: as in `windows_around`.
    """
    if not len(points):
        return []
    voxels = np.rint(points).astype(int)
    start = (voxels.min(axis=0) + voxels.max(axis=0)) // 2 - np.array(size) // 2
    return [Window(tuple(start.tolist()), size)]


@dataclass(frozen=True)
class WindowRule:
    """Which windows of an image are predicted from clicks.

    Attributes:
        name: in commands and results.
        around: the windows around (N, 3) clicks, with the arguments of `windows_around`.
        follows: whether windows are added where the mask touches a face of those so far.
    """

    name: str
    around: Callable[[np.ndarray, tuple[int, ...], tuple[int, int, int]], list[Window]]
    follows: bool

    @staticmethod
    def named(name: str) -> "WindowRule":
        """The rule with a name.

        Raises:
            SAM3DError: there is none.
        """
        if name not in RULES:
            raise SAM3DError(f"There is no rule {name!r} for windows. Give one of {', '.join(RULES)}.")
        return RULES[name]


FOLLOW = WindowRule("follow", windows_around, follows=True)
SINGLE = WindowRule("single", window_at_centre, follows=False)
"""The rule of the paper."""
RULES = {rule.name: rule for rule in (FOLLOW, SINGLE)}


def window_seeing(points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int]) -> Window:
    """A window that sees the first of (N, 3) voxels of the image, and as many others as it can."""
    seen = np.array(size) - 2 * np.ceil(np.array(size) * MARGIN)
    return _around_first(points, shape, size, seen)[0]


def _around_first(
    points: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int], within: np.ndarray
) -> tuple[Window, np.ndarray]:
    """A window around the first of (N, 3) points and those that fit into a box with it; and (N,) which these are."""
    low, high, member = points[0], points[0], np.zeros(len(points), bool)
    for i, point in enumerate(points):
        lower, higher = np.minimum(low, point), np.maximum(high, point)
        if i == 0 or (higher - lower < within - 1).all():
            low, high, member[i] = lower, higher, True
    return Window(_start((low + high) / 2, shape, size), size), member


def _start(centre: np.ndarray, shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, int, int]:
    """First voxel of a window around a point, moved into the image; a smaller image is centred in the window."""
    start = np.round(centre - (np.array(size) - 1) / 2).astype(int)
    room = np.array(shape) - np.array(size)
    return tuple(int(np.clip(s, 0, r)) if r >= 0 else r // 2 for s, r in zip(start, room.tolist()))


class WindowPredictor:
    """One or several networks (folds) applied to windows of one preprocessed image.

    Logits are averaged over mirrorings, as in nnU-Net (prompts are mirrored too), probabilities over networks.
    """

    def __init__(
        self,
        networks: Sequence[PromptableNetwork],
        image: GridImage,
        patch_size: tuple[int, int, int],
        region_order: Sequence[int] | None = None,
        mirror_axes: tuple[int, ...] | None = None,
        embeddings: EmbeddingShare | None = None,
        clicks_carry_labels: bool = True,
        clicks_select: bool = False,
        only: int | None = None,
    ) -> None:
        """
        Args:
            networks: in evaluation mode, all on one device.
            image: the preprocessed image.
            patch_size: voxels of a window.
            region_order: for logits of overlapping regions: the label that each region sets, one after the other
                (nnU-Net's `regions_class_order`).
            mirror_axes: spatial axes (0, 1, 2) of test-time mirroring.
            embeddings: keeps those of the windows, so that further clicks there need no encoding. None: keep none.
            clicks_carry_labels: whether the networks know click labels. If not, every click gets label 1.
            clicks_select: whether a click stands for the object under it, not for all objects of its class.
            only: the label that counts as foreground; all others are background. None: every label counts.
        """
        self.networks = networks
        self.image = image
        self.shape = image.shape
        self.patch_size = tuple(patch_size)
        self.region_order = region_order
        axes = tuple(mirror_axes or ())
        self.mirrorings = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
        self.embeddings = embeddings
        self.clicks_carry_labels = clicks_carry_labels
        self.clicks_select = clicks_select
        self.only = only

    @property
    def num_logits(self) -> int:
        """Logits per voxel."""
        return self.networks[0].num_classes

    @torch.inference_mode()
    def predict(self, window: Window, prompts: VoxelPrompts) -> Tensor:
        """Logits of a window.

        Args:
            window: where.
            prompts: of the whole image; clicks outside the window are left out.

        Returns:
            (K, *window.size) float32 on the CPU.
        """
        inside = prompts.cut(window.box)
        if not self.clicks_carry_labels:
            inside = inside._replace(labels=np.ones_like(inside.labels))
        # with a padded click, windows without clicks have the shape of those with one: one compilation less
        batch = Prompts.from_voxels([inside]).with_free_clicks()
        logits = [self._mean_over_mirrorings(network, window, batch) for network in self.networks]
        return logits[0] if len(logits) == 1 else self._mean_probability(logits)

    @torch.inference_mode()
    def encode(self, window: Window, cancelled: Callable[[], bool]) -> bool:
        """Compute the embeddings of a window ahead of clicks there.

        Args:
            window: where.
            cancelled: is asked before each layer of the networks; returns true to stop.

        Returns:
            Whether a prediction of the window only has to decode now.
        """
        if self.embeddings is None:
            return False
        kept = []
        try:
            for network in self.networks:
                patch = self._patch(network, window)
                with stoppable(network, cancelled):
                    for axes in self.mirrorings:
                        if cancelled():
                            return False
                        kept.append(self._encoded(network, window, axes, patch)[1])
        except Cancelled:
            return False
        return all(kept)

    def as_labels(self, logits: Tensor) -> np.ndarray:
        """(K, ...) logits -> (...) label map."""
        if self.region_order is None:
            segmentation = logits.max(0).indices.numpy()  # ten times as fast as argmax on a CPU
        else:
            segmentation = np.zeros(logits.shape[1:], np.int64)
            for label, region in zip(self.region_order, logits.numpy() > 0):
                segmentation[region] = label
        return segmentation if self.only is None else np.where(segmentation == self.only, segmentation, 0)

    def _patch(self, network: PromptableNetwork, window: Window) -> Callable[[], Tensor]:
        """The image in a window, (1, C, *window.size) on the device of a network; cut out when it is asked for."""
        device = next(network.parameters()).device
        return cache(lambda: self.image.cut(window.box).to(device, torch.float32)[None])

    def _encoded(
        self, network: PromptableNetwork, window: Window, axes: tuple[int, ...], patch: Callable[[], Tensor]
    ) -> tuple[Any, bool]:
        """The embedding of a mirrored window, and whether it is kept."""
        key = (window, id(network), axes)
        embedding = self.embeddings.get(key)
        if embedding is not None:
            return embedding, True
        embedding = network.encode(patch().flip([axis + 2 for axis in axes]))
        return embedding, self.embeddings.keep(key, embedding)

    def _mean_over_mirrorings(self, network: PromptableNetwork, window: Window, prompts: Prompts) -> Tensor:
        patch = self._patch(network, window)
        prompts = prompts.to(next(network.parameters()).device)
        total = 0
        for axes in self.mirrorings:
            dims = [axis + 2 for axis in axes]
            mirrored = prompts.flip(axes, window.size)
            if self.embeddings is None:
                logits = network(patch().flip(dims), mirrored)
            else:
                logits = network.decode(self._encoded(network, window, axes, patch)[0], mirrored)
            total = total + logits.flip(dims)
        return (total[0] / len(self.mirrorings)).cpu()

    def _mean_probability(self, logits: list[Tensor]) -> Tensor:
        """Logits of the mean probability."""
        if self.region_order is None:
            return torch.stack([x.log_softmax(0) for x in logits]).logsumexp(0) - np.log(len(logits))
        return torch.stack([x.sigmoid() for x in logits]).mean(0).logit(eps=1e-7)
