"""What a session tells clients of nnInteractive about its model: capabilities, licence, and the classes it serves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.model_folder import TrainedModel

INTERACTIONS = ("scribble", "lasso", "points", "bbox2d", "bbox3d")
VERSION = "2.6.0"
"""Version of nnInteractive whose session ours stands in for."""
CHANNELS = {"prev_seg": 0, "bbox2d": (1, 2), "bbox3d": (1, 2), "lasso": (1, 2), "points": (3, 4), "scribble": (5, 6)}
"""Numbers of nnInteractive's interaction channels (foreground, background). Clients show them; ours has none."""
UNKNOWN_LICENSE = "!!MISSING!!"
"""What clients show as a warning."""


def read_license(folder: str | Path) -> str:
    """The first line of the file LICENSE in a model folder that is not empty; `UNKNOWN_LICENSE` without one."""
    try:
        lines = (Path(folder) / "LICENSE").read_text("utf-8-sig", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.strip() for line in lines if line.strip()), UNKNOWN_LICENSE)


@dataclass(frozen=True)
class ServedClasses:
    """The classes of a model that a session offers, and their numbers in clicks and in the target buffer.

    Attributes:
        known: labels of the model that are offered.
        only: the label that is offered as class 1. None: all are offered with their own numbers.
    """

    known: tuple[int, ...]
    only: int | None = None

    @classmethod
    def of(cls, model: TrainedModel, only: int | None = None) -> "ServedClasses":
        """The classes of a model, or one of them.

        Raises:
            SAM3DError: the model has no such class.
        """
        known = tuple(int(label) for label in model.labels.foreground_labels)
        if only is None:
            return cls(known)
        if only not in known:
            raise SAM3DError(f"The model has no class {only}. It knows {', '.join(map(str, known))}.")
        return cls((int(only),), int(only))

    @property
    def numbers(self) -> list[int]:
        """Of the classes, for users."""
        return list(self.known) if self.only is None else [1]

    def to_model(self, label: int) -> int:
        """The model's label for a class.

        Raises:
            SAM3DError: there is no such class.
        """
        if label not in self.numbers:
            raise SAM3DError(f"The model has no class {label}. It knows {', '.join(map(str, self.numbers))}.")
        return int(label) if self.only is None else self.only

    def mask_to_model(self, mask: np.ndarray) -> np.ndarray:
        """A mask of users' numbers with labels of the model. 255 is the class if there is but one.

        Raises:
            SAM3DError: the mask holds other numbers.
        """
        numbers = self.numbers
        if len(numbers) == 1 and mask.dtype != bool:
            mask = np.where(mask == 255, numbers[0], mask)
        unknown = mask[~np.isin(mask, [0, *numbers])]
        if len(unknown):
            known = ", ".join(map(str, numbers))
            raise SAM3DError(f"The mask has the label {unknown[0]}, but the model knows {known}, and 0 for background.")
        mask = mask.astype(np.min_scalar_type(max(self.known)))
        return mask if self.only is None else np.where(mask > 0, mask.dtype.type(self.only), mask.dtype.type(0))

    def buffer_to_model(self, mask: np.ndarray) -> np.ndarray:
        """A part of the target buffer, to which users may have written, with labels of the model."""
        return mask if self.only is None else (mask > 0) * np.min_scalar_type(self.only).type(self.only)

    def mask_to_user(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the model's labels with users' numbers."""
        return mask if self.only is None else (mask == self.only).astype(np.uint8)
