"""Where to compute."""

import torch

from sam3d_nnunet.errors import SAM3DError


def usable_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        SAM3DError: it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(str(device).partition(":")[0]):
        usable = ", ".join(name for name, usable in there.items() if usable)
        raise SAM3DError(f"The device {device} can't be used here; choose one of {usable}.")
    return torch.device(device)
