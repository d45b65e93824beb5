"""The cores that a training on a CPU computes on."""

import os

import torch

from sam3d_nnunet.processes import usable_cores


def limit_threads(device: torch.device) -> None:
    """On a CPU, compute with at most as many threads as `usable_threads` says.

    nnUNetv2_train takes one for each core of the machine. Threads that share a core wait for each other: on two cores,
    two trainings with two threads each were ten times as slow as with one each.
    """
    if device.type == "cpu":
        torch.set_num_threads(min(torch.get_num_threads(), usable_threads()))


def usable_threads() -> int:
    """The number in OMP_NUM_THREADS, else the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) > 0 else usable_cores()
