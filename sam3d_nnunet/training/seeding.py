"""Seeded trainings: the same weights, patches and prompts in each run."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

from sam3d_nnunet.training.exchanged import exchanged

WEIGHTS, BATCHES = 0, 1
"""What is drawn from a seed; each has random numbers of its own."""


def seed_everything(*numbers: int) -> None:
    """Seed all generators that nnU-Net, its augmentation and our prompts draw from: Python's, NumPy's and torch's.

    Args:
        numbers: of 0 or more; any other numbers give an independent state.
    """
    of_python, of_numpy, of_torch = (int(word) for word in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(of_python)
    np.random.seed(of_numpy)
    torch.manual_seed(of_torch)


@contextmanager
def ordered_workers(*numbers: int) -> Iterator[None]:
    """In this context, the loaders that nnU-Net builds have seeded workers, which take turns.

    nnU-Net takes the next batch from whichever worker is ready, so that the order depends on the load of the machine.

    Args:
        numbers: as for `seed_everything`.
    """
    count = 0

    def build(
        data_loader: Any, transform: None, num_processes: int, num_cached: int, pin_memory: bool, **_: Any
    ) -> MultiThreadedAugmenter:
        nonlocal count
        loader, count = _SeededWorker(data_loader, (*numbers, count)), count + 1
        cached = max(1, num_cached // num_processes)
        return MultiThreadedAugmenter(loader, transform, num_processes, cached, pin_memory=pin_memory)

    with exchanged(NonDetMultiThreadedAugmenter=build):
        yield


class _SeededWorker:
    """A loader that seeds the worker process it gets into, which batchgenerators would do for NumPy alone."""

    def __init__(self, loader: Any, numbers: tuple[int, ...]) -> None:
        self.loader, self.numbers = loader, numbers

    def set_thread_id(self, number: int) -> None:
        """Called once in each worker, with its number."""
        torch.set_num_threads(1)  # as in the workers of nnU-Net's own loader
        seed_everything(*self.numbers, number)
        self.loader.set_thread_id(number)

    def __iter__(self) -> "_SeededWorker":
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self.loader)
