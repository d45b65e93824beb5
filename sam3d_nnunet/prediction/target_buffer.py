"""The user's array or tensor that holds the mask of a session, and copies of its parts for undo."""

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box, hull


class TargetBuffer:
    """Reads and writes parts of the user's mask in place, as NumPy arrays."""

    def __init__(self, buffer: np.ndarray | Tensor, shape: tuple[int, ...] | None, largest: int = 1) -> None:
        """
        Args:
            buffer: (D, H, W).
            shape: of the image, if there is one.
            largest: label that it must be able to hold.

        Raises:
            SAM3DError: the buffer is neither an array nor a tensor, has another shape, or can't be written to or hold
                the labels.
        """
        if not isinstance(buffer, (np.ndarray, Tensor)):
            raise SAM3DError(
                f"The target buffer must be a NumPy array or a torch tensor, but it is a {type(buffer).__name__}."
            )
        if buffer.ndim != 3 or (shape is not None and tuple(buffer.shape) != tuple(shape)):
            expected = f"the image's shape {tuple(shape)}" if shape is not None else "three axes"
            raise SAM3DError(f"The target buffer has the shape {tuple(buffer.shape)}. It needs {expected}.")
        _check_memory(buffer)
        _check_type(buffer, largest)
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
        """Set every voxel to background."""
        if isinstance(self.buffer, Tensor):
            with torch.no_grad():
                self.buffer.zero_()
        else:
            self.buffer.fill(0)


def _check_memory(buffer: np.ndarray | Tensor) -> None:
    """Refuse memory in which single voxels can't be written."""
    if isinstance(buffer, Tensor):
        if buffer.layout != torch.strided or buffer.is_meta or buffer.is_quantized:
            raise SAM3DError("The target buffer is no plain tensor in memory. Make one with torch.zeros.")
        if buffer.is_inference() and not torch.is_inference_mode_enabled():
            raise SAM3DError(
                "The target buffer was made in torch.inference_mode(), so nothing can be written to it here. Make it "
                "outside of that mode, or give a clone."
            )
        strides = buffer.stride()
    else:
        if not buffer.flags.writeable:
            raise SAM3DError("The target buffer is read-only. Give a copy of it.")
        strides = buffer.strides
    if any(step == 0 and count > 1 for step, count in zip(strides, buffer.shape)):
        raise SAM3DError(
            "The target buffer was expanded: several of its voxels share one place in memory. Give a copy."
        )


def _check_type(buffer: np.ndarray | Tensor, largest: int) -> None:
    """Refuse types that can't hold all labels, or that NumPy doesn't know."""
    try:
        kind = buffer.dtype if isinstance(buffer, np.ndarray) else torch.empty(0, dtype=buffer.dtype).numpy().dtype
    except TypeError:  # such as bfloat16
        kind = None
    if kind is None or kind.kind not in "biuf":
        raise SAM3DError(
            f"The target buffer has the type {buffer.dtype}. Give integers, such as uint8, bool or float32."
        )
    if int(np.array(largest).astype(kind)) != largest:
        raise SAM3DError(f"The target buffer has the type {buffer.dtype}, which can't hold the label {largest}.")


class SavedPart:
    """A compressed copy of a part of an array, to restore it later."""

    def __init__(self, array: np.ndarray | TargetBuffer, place: tuple) -> None:
        """
        Args:
            array: that is about to change.
            place: index of the part.
        """
        values = np.ascontiguousarray(array[place])
        self.array, self.place, self.shape, self.dtype = array, place, values.shape, values.dtype
        self.constant = values.flat[0] if values.size and (values == values.flat[0]).all() else None
        self.data = None if self.constant is not None else zlib.compress(values.tobytes(), 1)

    def put_back(self) -> None:
        """Restore the part, bit for bit."""
        if self.constant is not None:
            self.array[self.place] = np.full(self.shape, self.constant, self.dtype)
        else:
            self.array[self.place] = np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.shape)


def box_of_parts(parts: list[SavedPart], target: TargetBuffer | None) -> Box | None:
    """The box around all saved parts of a buffer; None if there are none."""
    boxes = [Box([s.start for s in part.place], [s.stop for s in part.place]) for part in parts if part.array is target]
    return hull(*boxes)
