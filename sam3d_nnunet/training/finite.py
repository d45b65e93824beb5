"""NaN and infinite numbers in a training: the cases they come from, and the steps that they would spoil."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from sam3d_nnunet.io import listing
from sam3d_nnunet.training.preprocessed_cases import for_each_preprocessed

SLAB = 32
"""Slices that are read at once, so that several threads need not hold whole images."""
LONGEST_RUN = 20
"""Skipped steps in a row that end a training.

A broken case does not cause such a run by chance: with one in ten cases broken and batches of 2, a run of 20 comes up
once in 10^14 steps. nnU-Net's scaler, which starts at 2^16 and halves, finds its scale in fewer. A training that has
diverged loses 20 steps, less than a tenth of an epoch.
"""


def cases_with_broken_voxels(dataset: nnUNetBaseDataset, cases: Collection[str]) -> list[str]:
    """Names of the preprocessed cases whose image holds NaN or infinite voxels.

    Args:
        dataset: nnU-Net's, of a configuration.
        cases: to look at.

    Raises:
        SAM3DError: a case can't be read.
    """
    found = for_each_preprocessed(partial(_is_broken, dataset), dataset, cases, "Looking for NaN and infinite voxels")
    return sorted(case for case, is_broken in found.items() if is_broken)


def _is_broken(dataset: nnUNetBaseDataset, case: str) -> bool:
    image = dataset.load_case(case)[0]  # (C, D, H, W), on the disk
    slabs = range(0, image.shape[1], SLAB)
    return not all(np.isfinite(image[c, z : z + SLAB]).all() for c in range(image.shape[0]) for z in slabs)


@dataclass
class SkippedSteps:
    """Steps that were skipped because their loss or gradient was not finite.

    Attributes:
        in_a_row: number of the last steps that were all skipped.
        cases: names of the cases with NaN or infinite voxels in patches of skipped steps.
    """

    in_a_row: int = 0
    cases: set[str] = field(default_factory=set)

    def add(self, batch: dict[str, Any]) -> None:
        """Another step was skipped; `batch` is nnU-Net's, with the names of its cases under `keys`."""
        self.in_a_row += 1
        patches = zip(batch.get("keys", ()), batch["data"])
        self.cases |= {str(case) for case, patch in patches if not patch.isfinite().all()}

    def gather(self) -> None:
        """Know the cases of all ranks; each must call this."""
        self.cases = set().union(*from_all_ranks(self.cases))

    @property
    def cause(self) -> str:
        """A sentence about the images of the skipped steps."""
        if self.cases:
            return f"Patches of these cases hold NaN or infinite voxels: {listing(self.cases)}."
        return "All voxels of their patches are finite."

    @property
    def remedy(self) -> str:
        """A sentence that says what to do."""
        if self.cases:
            return "Correct the images of these cases and preprocess them again."
        return "Lower the learning rate (optimizer.lr in the plan's block 'sam3d'), or set precision to fp32 there."


class RunningStatistics:
    """The running means and variances of a network's normalisations, as they are now.

    A forward pass in training mode changes them, even where the step is skipped afterwards.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [layer for layer in network.modules() if getattr(layer, "running_mean", None) is not None]
        self._buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
        self._before = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Make the network forget what came since."""
        for buffer, before in zip(self._buffers, self._before):
            buffer.copy_(before)


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        stepped: whether the optimizer has changed the weights.
        seeks_scale: not, because the gradient overflowed in float16 and nnU-Net's scaler took a smaller scale. A
            float16 training begins with such steps, and has one now and then.
    """

    stepped: bool
    seeks_scale: bool = False


def step_if_finite(
    loss: Tensor,
    parts: Collection[nn.Module],
    optimizer: Optimizer,
    largest_norm: float,
    scaler: GradScaler | None = None,
) -> Outcome:
    """Backward pass and step of the optimizer; the step only if loss and gradient are finite.

    In a distributed training all ranks decide alike: none of them steps if one must not.

    Args:
        loss: of the training batch, on this rank.
        parts: of the network, together the whole; their gradients are zero. They are again if the step is skipped.
        optimizer: of the network's parameters.
        largest_norm: to which the gradient of each part is clipped where it is longer.
        scaler: for float16. None: the network computes in another type.
    """
    (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None:
        scaler.unscale_(optimizer)
    norms = torch.stack([nn.utils.clip_grad_norm_(part.parameters(), largest_norm) for part in parts])
    finite = torch.stack([loss.detach().isfinite(), norms.isfinite().all()])
    loss_is_finite, gradient_is_finite = _on_all_ranks(finite)
    is_finite = loss_is_finite and gradient_is_finite
    if is_finite:
        optimizer.step() if scaler is None else scaler.step(optimizer)
    else:
        optimizer.zero_grad(set_to_none=True)
    if scaler is None:
        return Outcome(is_finite)
    # a smaller scale does not help where the loss itself is not finite: it would become zero step by step
    scale = scaler.get_scale()
    scaler.update(None if loss_is_finite else scale)
    # the scaler looks at each element, so the scale stays where only the norm overflows; below 1 it does not help
    return Outcome(is_finite, seeks_scale=1 < scale > scaler.get_scale())


def is_distributed() -> bool:
    """Whether this process is one of the ranks of a training on several GPUs."""
    return dist.is_available() and dist.is_initialized()


def _on_all_ranks(flags: Tensor) -> list[bool]:
    """Whether each flag (N,) is set on all ranks."""
    if is_distributed():
        flags = flags.to(torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MIN)
    return flags.bool().tolist()


def from_all_ranks(value: Any) -> list[Any]:
    """The value of each rank; each must call this."""
    if not is_distributed():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def with_finite_losses(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs of nnU-Net's steps in which the mean of the finite losses of all ranks replaces the others.

    The number of outputs stays, since nnU-Net expects the same from all ranks. Each rank must call this.
    """
    losses = np.array([output["loss"] for output in outputs], float)
    finite = np.isfinite(losses)
    counted = np.concatenate(from_all_ranks(losses[finite]))
    if finite.all() or not len(counted):
        return outputs
    mean = counted.mean()
    return [output | {"loss": output["loss"] if is_finite else mean} for output, is_finite in zip(outputs, finite)]
