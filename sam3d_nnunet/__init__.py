"""A promptable 3-D network lifted from SAM, trained inside nnU-Net v2."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3d_nnunet.prediction.predictor import SAM3DPredictor as SAM3DPredictor
    from sam3d_nnunet.prediction.session import SAM3DSession as SAM3DSession
    from sam3d_nnunet.prompts.prompt import Prompt as Prompt

__version__ = "0.1.0"  # setup.py reads this line

# nnU-Net imports this package at each look-up of a trainer, so classes are imported only when they are asked for.
_MODULES = {
    "Prompt": "prompts.prompt",
    "SAM3DPredictor": "prediction.predictor",
    "SAM3DSession": "prediction.session",
}
__all__ = ["Prompt", "SAM3DPredictor", "SAM3DSession"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
