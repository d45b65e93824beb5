"""Embeddings of windows, within a budget of bytes that several images share; and how to stop while one is computed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

BUDGET = 4 * 2**30  # bytes: about 20 windows of ViT-B on 128^3


class EmbeddingCache:
    """Embeddings of windows of one or several images. Those that were used longest ago go first.

    Several threads may use it at once.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        """
        Args:
            budget: bytes of all embeddings that are kept. An embedding that is larger than this is not kept.
        """
        self.budget = budget
        self._kept: OrderedDict[tuple[EmbeddingShare, Hashable], tuple[Any, int]] = OrderedDict()
        self._used = 0
        self._lock = threading.RLock()

    @property
    def used(self) -> int:
        """Bytes of the embeddings that are kept."""
        return self._used

    def share(self) -> "EmbeddingShare":
        """A part of the cache for one image."""
        return EmbeddingShare(self)

    def _get(self, share: "EmbeddingShare", key: Hashable) -> Any | None:
        with self._lock:
            if (share, key) not in self._kept:
                return None
            self._kept.move_to_end((share, key))
            return self._kept[share, key][0]

    def _keep(self, share: "EmbeddingShare", key: Hashable, embedding: Any) -> bool:
        size = tensor_bytes(embedding)
        with self._lock:
            self._drop((share, key))
            if share.closed or size > self.budget:
                return False
            while self._used + size > self.budget:
                self._drop(next(iter(self._kept)))
            self._kept[share, key] = embedding, size
            self._used += size
            return True

    def _close(self, share: "EmbeddingShare") -> None:
        with self._lock:
            share.closed = True
            for place in [place for place in self._kept if place[0] is share]:
                self._drop(place)

    def _drop(self, place: tuple["EmbeddingShare", Hashable]) -> None:
        _, size = self._kept.pop(place, (None, 0))
        self._used -= size


class EmbeddingShare:
    """The embeddings of one image in a cache.

    Attributes:
        closed: whether the image is gone; nothing is kept for it any more.
    """

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache
        self.closed = False

    def get(self, key: Hashable) -> Any | None:
        """The embedding that was kept under a key; None if there is none (any more)."""
        return self._cache._get(self, key)

    def keep(self, key: Hashable, embedding: Any) -> bool:
        """Keep an embedding, and drop others if the budget asks for it. Returns whether it is kept."""
        return self._cache._keep(self, key, embedding)

    def close(self) -> None:
        """Drop all embeddings of the image."""
        self._cache._close(self)


def tensor_bytes(value: Any) -> int:
    """Bytes that the tensors of an embedding take: one tensor, or lists, dictionaries and data classes of them."""
    storages = {}
    for tensor in _tensors(value):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


class Cancelled(Exception):
    """A computation was stopped, because nobody waits for it any more."""


@contextmanager
def stoppable(network: nn.Module, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Ask before each layer of a network whether to go on, in the thread of this context.

    Args:
        network: other threads may use it at the same time, and are not stopped.
        cancelled: returns true to stop.

    Raises:
        Cancelled: it returned true.
    """
    thread = threading.get_ident()

    def check(*_: Any) -> None:
        if threading.get_ident() == thread and cancelled():
            raise Cancelled

    hooks = [module.register_forward_pre_hook(check) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
