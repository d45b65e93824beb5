"""Logits of a preprocessed image from clicks."""

from contextlib import nullcontext
from itertools import chain, combinations

import numpy as np
import torch
import torch.nn.functional as F
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor, nn

from sam3d_nnunet.inference.windows import Window, windows_around

SURE = 20.0  # logit of what was not looked at: probability 2e-9


@torch.inference_mode()
def predict_prompted(
    network: nn.Module,
    image: Tensor,
    points: np.ndarray,
    labels: np.ndarray,
    patch_size: tuple[int, int, int],
    num_classes: int,
    regions: bool = False,
    mirror_axes: tuple[int, ...] | None = None,
) -> Tensor:
    """Logits in the windows around the clicks; background everywhere else.

    Args:
        network: a `SAM3D` in evaluation mode, on any device.
        image: (C, D, H, W) preprocessed image.
        points: (N, 3) clicks in its voxels.
        labels: (N,) their labels.
        patch_size: voxels of a window.
        num_classes: logits per voxel.
        regions: whether the logits are those of overlapping regions, without one for the background.
        mirror_axes: spatial axes (0, 1, 2) of test-time mirroring, as nnU-Net does it; clicks are mirrored too.

    Returns:
        (K, D, H, W) float32 on the CPU.
    """
    shape = tuple(image.shape[1:])
    logits = torch.zeros((num_classes, *shape))
    weights = torch.zeros(shape)
    gaussian = compute_gaussian(tuple(patch_size), 1 / 8, 10, torch.float32, torch.device("cpu"))
    for window in windows_around(points, shape, tuple(patch_size)):
        inside = window.contains(points)
        prediction = _predict_window(network, image, window, points[inside], labels[inside], mirror_axes)
        here, there = window.overlap(shape)
        logits[(slice(None), *here)] += prediction[(slice(None), *there)] * gaussian[there]
        weights[here] += gaussian[there]
    seen = weights > 0
    logits[:, seen] /= weights[seen]
    logits[0 if regions else 1 :, ~seen] = -SURE
    return logits


def _predict_window(
    network: nn.Module,
    image: Tensor,
    window: Window,
    points: np.ndarray,
    labels: np.ndarray,
    mirror_axes: tuple[int, ...] | None,
) -> Tensor:
    """(K, *window.size) float32 logits on the CPU, the mean over all mirrorings."""
    device = next(network.parameters()).device
    patch = _cut(image, window).to(device, torch.float32)[None]
    # at least one click, if only padding: one shape for the compiler
    points = torch.from_numpy(points - np.array(window.start)).float().reshape(-1, 3)
    points, labels = F.pad(points, (0, 0, 0, 1)).to(device)[None], F.pad(torch.from_numpy(labels), (0, 1), value=-1)
    labels = labels.to(device)[None]
    axes = tuple(mirror_axes or ())
    mirrorings = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
    total = 0
    for flipped in mirrorings:
        mirrored = points.clone()
        for axis in flipped:
            mirrored[..., axis] = window.size[axis] - 1 - mirrored[..., axis]
        dims = [axis + 2 for axis in flipped]
        with torch.autocast("cuda") if device.type == "cuda" else nullcontext():
            prediction = network(patch.flip(dims), mirrored, labels)
        total = total + prediction.float().flip(dims)
    return (total[0] / len(mirrorings)).cpu()


def _cut(image: Tensor, window: Window) -> Tensor:
    """(C, *window.size), zero outside the image as in nnU-Net."""
    here, there = window.overlap(tuple(image.shape[1:]))
    patch = image.new_zeros((len(image), *window.size))
    patch[(slice(None), *there)] = image[(slice(None), *here)]
    return patch
