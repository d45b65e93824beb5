"""The device on which the network runs, and the arithmetic it uses there."""

import torch

from sam3d_nnunet.errors import SAM3DError

AUTO = "auto"
PRECISIONS = ("auto", "bf16", "fp32")
WIDEST_KERNEL = 5  # of the convolutions over tokens


def computes_in_bf16(precision: str, device: torch.device, depth: int) -> bool:
    """Whether matrix products and convolutions run in bfloat16.

    They never do on a CPU if a convolution may be wider than its input: PyTorch (2.14.1, oneDNN) then returns
    uninitialised memory as the gradient of the kernel in bfloat16.

    Args:
        precision: "bf16", "fp32", or "auto" for bfloat16 where the device has arithmetic for it.
        device: on which the network runs.
        depth: voxels or tokens along d in its widest convolutions. Where others have half of them, kernels of 3 fit.
    """
    if device.type == "cpu" and depth < WIDEST_KERNEL:
        return False
    if precision == "auto":
        return has_bf16_arithmetic(device)
    return precision == "bf16"


def has_bf16_arithmetic(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the device itself; emulated, it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # younger than the oldest torch of nnU-Net
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


# It asks the driver, which can't be compiled. This mark is all that torch.compiler.assume_constant_result sets, but
# that decorator imports torch._dynamo: 2.5 s, even where nothing is compiled.
has_bf16_arithmetic._dynamo_marked_constant = True


def usable_device(device: str | torch.device) -> torch.device:
    """The device with a name such as "cpu", "cuda:1" or "mps", or "auto": the GPU if there is one, else the CPU.

    "auto" never takes "mps", where our networks are not tested.

    Raises:
        SAM3DError: it is not available.
    """
    if device == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(str(device).partition(":")[0]):
        usable = ", ".join(name for name, is_there in available.items() if is_there)
        raise SAM3DError(f"The device {device} can't be used here; choose one of {usable}.")
    return torch.device(device)
