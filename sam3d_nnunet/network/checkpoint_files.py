"""Read checkpoints as data: tensors, numbers, text and plain containers.

A checkpoint is a pickle, which can name any function for Python to call. Here only harmless ones are called, and
`read_as_data` has nnU-Net read its checkpoints in the same way.
"""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sam3d_nnunet.errors import SAM3DError

TRUST = "SAM3D_TRUST_MODELS"
"""Variable by which users say that the models that they load may run code."""
_SWITCHES = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
"""Torch's own variables: the first one overrules what the caller of torch.load asks for, unless both are set."""
# types in a pickled NumPy number, under their names in NumPy 1 and 2
_SCALAR = type(np.float32(0)).__reduce__(np.float32(0))[0]
NUMPY_SCALARS = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(t)) for t in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)),
]


def trusted() -> bool:
    """Whether the user has said that models may run code."""
    return os.environ.get(TRUST, "") not in ("", "0")


def read_checkpoint(path: str | Path, may_be_trusted: bool = False) -> dict[Any, Any]:
    """A checkpoint on the CPU: a dictionary.

    Args:
        path: of the file.
        may_be_trusted: whether it may hold more than data, and run code, where the user has set `TRUST`.

    Raises:
        SAM3DError: there is no such file, it is damaged, or it holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise SAM3DError(f"{path} is a folder, not a checkpoint." if path.is_dir() else f"There is no file {path}.")
    everything = may_be_trusted and trusted()
    try:
        with nullcontext() if everything else _as_data():
            checkpoint = torch.load(path, map_location="cpu", weights_only=not everything)
    except Exception as e:  # other bytes than a pickle raise any exception: IndexError, struct.error, ...
        hint = f" Set the variable {TRUST} to 1 if you trust it." if may_be_trusted and _foreign(e) else ""
        raise SAM3DError(f"{path} can't be read as a checkpoint: {_why_unreadable(path, e)}.{hint}") from e
    if not isinstance(checkpoint, dict):
        raise SAM3DError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dictionary.")
    return checkpoint


@contextmanager
def read_as_data(*paths: str | Path) -> Iterator[None]:
    """Have nnU-Net's code in the block read checkpoints as `read_checkpoint` does, unless the user has set `TRUST`.

    Args:
        paths: the checkpoints that it reads.

    Raises:
        SAM3DError: the block failed, and `read_checkpoint` refuses one of the files.
    """
    try:
        with nullcontext() if trusted() else _as_data():
            yield
    except Exception:
        for path in paths:
            read_checkpoint(path, may_be_trusted=True)  # says what is wrong with it, if that was the reason
        raise


@contextmanager
def _as_data() -> Iterator[None]:
    """Have torch.load call nothing but what makes tensors and numbers, whatever its caller asks for."""
    before = {name: os.environ.pop(name) for name in _SWITCHES if name in os.environ}
    os.environ[_SWITCHES[0]] = "1"
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            yield
    finally:
        del os.environ[_SWITCHES[0]]
        os.environ.update(before)


def _foreign(error: Exception) -> str | None:
    """What torch refused to call, such as os.system."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found and found[1]


def _why_unreadable(path: Path, error: Exception) -> str:
    """The reason in our own words, because torch's message advises to load the file without any safety."""
    try:
        with open(path, "rb") as f:
            start = f.read(60)
    except OSError as e:
        return str(e.strerror)
    if not start:
        return "it is empty"
    if start.startswith(b"PK") and not _is_zip(path):
        return "it is cut short; get a complete copy"
    if start.isascii() and all(c.isprintable() or c.isspace() for c in start.decode("ascii")):
        return f"it is a text file beginning with {start.decode('ascii').split(chr(10))[0]!r} (a web page, perhaps)"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive; a state dict saved with torch.save is needed"
    if foreign := _foreign(error):
        return f"in addition to tensors it holds {foreign}, which is not loaded because it could run code"
    return "it is damaged, cut short, or not a file of torch.save"


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # its directory is damaged, which raises errors of many kinds
        return False
