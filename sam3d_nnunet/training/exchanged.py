"""Replace what nnU-Net's trainer takes from other modules, where none of its methods can be overridden instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as upstream


@contextmanager
def exchanged(**values: Any) -> Iterator[None]:
    """In this context, names of the module of nnU-Net's trainer have other values."""
    before = {name: getattr(upstream, name) for name in values}
    vars(upstream).update(values)
    try:
        yield
    finally:
        vars(upstream).update(before)
