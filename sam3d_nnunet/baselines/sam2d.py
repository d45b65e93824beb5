"""SAM as it was published (Kirillov et al., ICCV 2023, arXiv 2304.02643), slice by slice and without any training."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.weights import read_checkpoint

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

PERCENTILES = (0.5, 99.5)  # of an image's intensities, between which it is shown where no window is given


def load_sam(model: str, checkpoint: str) -> "Sam":
    """One of SAM's models on the CPU, in evaluation mode.

    Args:
        model: vit_b, vit_l or vit_h.
        checkpoint: file with its weights.

    Raises:
        SAM3DError: segment-anything is not installed, or the file can't be read or doesn't fit.
    """
    try:
        from segment_anything import sam_model_registry
    except ImportError as e:
        raise SAM3DError(
            f'SAM needs the package segment-anything ({e}). Install it: pip install "sam3d_nnunet[baselines]"'
        ) from e
    weights = {str(name): tensor for name, tensor in read_checkpoint(checkpoint).items()}
    sam = sam_model_registry[model]()  # without its own torch.load, which unpickles anything
    try:
        sam.load_state_dict(weights)
    except RuntimeError as e:
        lines = str(e).splitlines()
        raise SAM3DError(
            f"{checkpoint} doesn't hold SAM's {model}: {' '.join(line.strip() for line in lines[1:2])[:300]} "
            "Give a file of facebookresearch/segment-anything for this model."
        ) from e
    return sam.eval()


def to_grey(volume: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """An image as grey values, uint8 of the same shape: 0 from the window's lower end down, 255 from the upper one up.

    Args:
        volume: of any shape.
        window: intensities of both ends. None: the image's own percentiles 0.5 and 99.5.
    """
    low, high = np.percentile(volume, PERCENTILES) if window is None else window
    if high <= low:
        return np.zeros(volume.shape, np.uint8)
    return np.rint((np.clip(volume.astype(np.float32), low, high) - low) * (255 / (high - low))).astype(np.uint8)


class SliceSAM:
    """Segments each class on each slice that holds clicks of that class; slices without such clicks stay background.

    SAM sees a slice as grey RGB, with the class's clicks as foreground points and the slice's background clicks as
    background points. From a single point it makes three masks, of which the one is taken whose quality it estimates as
    best; from more points it makes a single one: as its authors advise. Where the masks of several classes overlap, the
    higher logit decides.
    """

    def __init__(self, sam: nn.Module, device: torch.device | str = "cpu") -> None:
        """
        Args:
            sam: a `Sam` of segment-anything.
            device: where to compute.
        """
        from segment_anything import SamPredictor

        self._predictor = SamPredictor(sam.to(device).eval())

    def predict(self, slices: np.ndarray, points: np.ndarray, labels: np.ndarray, name: str = "") -> np.ndarray:
        """Label map (S, H, W) of the slices.

        Args:
            slices: (S, H, W) uint8 grey values.
            points: (N, 3) voxel coordinates along these axes; a click is on the slice that is nearest.
            labels: (N,) int: k >= 1 a click on class k, 0 a click on background.
            name: of the image, for the progress bar.
        """
        result = np.zeros(slices.shape, np.uint8 if labels.max(initial=0) < 256 else np.uint16)
        numbers = slice_numbers(points, len(slices))
        for number in tqdm(np.unique(numbers[labels > 0]), desc=name, unit="slice", leave=False):
            here = numbers == number
            result[number] = self._predict_slice(slices[number], points[here, 1:], labels[here])
        return result

    def _predict_slice(self, image: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
        self._predictor.set_image(np.repeat(image[..., None], 3, axis=-1))
        result = np.zeros(image.shape, int)
        highest = np.full(image.shape, self._predictor.model.mask_threshold, np.float32)
        for label in np.unique(labels[labels > 0]):
            given = np.isin(labels, (0, label))
            masks, qualities, _ = self._predictor.predict(
                np.ascontiguousarray(points[given, ::-1]),  # SAM's x runs along the rows
                (labels[given] > 0).astype(int),
                multimask_output=bool(given.sum() == 1),
                return_logits=True,
            )
            logits = masks[qualities.argmax()]
            result[logits > highest] = label
            highest = np.maximum(highest, logits)
        return result


def slice_numbers(points: np.ndarray, count: int) -> np.ndarray:
    """(N,) the slice, of so many, on which each point (slice, h, w) lies."""
    return np.clip(np.rint(points[:, 0]), 0, count - 1).astype(int)
