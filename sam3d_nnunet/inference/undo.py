"""Parts of arrays as they were before they were changed."""

import zlib

import numpy as np

from sam3d_nnunet.inference.target_buffer import TargetBuffer


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
