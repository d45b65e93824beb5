"""The mask that belongs to the user, as an array or a tensor, and parts of it as they were before a change."""

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError


class TargetBuffer:
    """Reads and writes parts of a mask in place, wherever it lies."""

    def __init__(self, buffer: np.ndarray | Tensor, shape: tuple[int, ...] | None) -> None:
        """
        Args:
            buffer: (D, H, W).
            shape: of the image, if there is one.

        Raises:
            SAM3DError: it is neither array nor tensor, has another shape or can't be written to.
        """
        if not isinstance(buffer, (np.ndarray, Tensor)):
            raise SAM3DError(
                f"The target buffer must be a NumPy array or a torch tensor, but it is a {type(buffer).__name__}."
            )
        if buffer.ndim != 3 or (shape is not None and tuple(buffer.shape) != tuple(shape)):
            expected = f"the image's shape {tuple(shape)}" if shape is not None else "three axes"
            raise SAM3DError(f"The target buffer has the shape {tuple(buffer.shape)}; give it {expected}.")
        if isinstance(buffer, np.ndarray) and not buffer.flags.writeable:
            raise SAM3DError("The target buffer is read-only; give a copy of it.")
        self.buffer = buffer

    def __getitem__(self, place: tuple) -> np.ndarray:
        part: Any = self.buffer[place]
        return part.detach().cpu().numpy() if isinstance(part, Tensor) else part

    def __setitem__(self, place: tuple, values: np.ndarray) -> None:
        if isinstance(self.buffer, Tensor):
            with torch.no_grad():
                self.buffer[place] = torch.from_numpy(np.array(values)).to(self.buffer)
        else:
            self.buffer[place] = values

    def clear(self) -> None:
        """All background."""
        if isinstance(self.buffer, Tensor):
            with torch.no_grad():
                self.buffer.zero_()
        else:
            self.buffer.fill(0)


class SavedPart:
    """A compressed copy of a part of an array."""

    def __init__(self, array: np.ndarray | TargetBuffer, place: tuple) -> None:
        """
        Args:
            array: to be changed soon.
            place: index of the part.
        """
        values = np.ascontiguousarray(array[place])
        self.array, self.place, self.shape, self.dtype = array, place, values.shape, values.dtype
        self.constant = values.flat[0] if values.size and (values == values.flat[0]).all() else None
        self.data = None if self.constant is not None else zlib.compress(values.tobytes(), 1)

    def put_back(self) -> None:
        """Make the part what it was, bit for bit."""
        if self.constant is not None:
            self.array[self.place] = np.full(self.shape, self.constant, self.dtype)
        else:
            self.array[self.place] = np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.shape)
