"""How predictions are made for an evaluation."""

from dataclasses import dataclass, replace

from sam3d_nnunet.inference.model_folder import FINAL
from sam3d_nnunet.inference.prompted import MAX_WINDOWS


@dataclass(frozen=True)
class PredictionOptions:
    """What `sam3d predict` and nnU-Net's predictor would be told.

    Attributes:
        device: "cpu", "cuda" or "mps".
        checkpoint: file in each fold.
        mirroring: average over mirrored images, where training mirrored too.
        max_windows: of an image, that are looked at for one prompted prediction.
        per_lesion: predict each foreground click on its own.
        step: of nnU-Net's sliding window, as a share of the window; 1 - overlap.
        gaussian: weights of nnU-Net's sliding window, instead of constant ones.
    """

    device: str = "cuda"
    checkpoint: str = FINAL
    mirroring: bool = True
    max_windows: int = MAX_WINDOWS
    per_lesion: bool = False
    step: float = 0.5
    gaussian: bool = True

    def as_in_paper(self) -> "PredictionOptions":
        """Automatic methods with a sliding window that overlaps by 0.7, and constant weights (paper, Section 4)."""
        return replace(self, step=0.3, gaussian=False)
