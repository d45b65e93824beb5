"""The click that a user would set next: in the middle of the largest error."""

import cc3d
import numpy as np

from sam3d_nnunet.prompts.interior import interior_point


def correction_click(
    prediction: np.ndarray, target: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, int] | None:
    """A click on the largest connected error (26 neighbours), with the label that is true there.

    Args:
        prediction: (D, H, W) label map.
        target: (D, H, W) label map; negative voxels count neither as right nor as wrong.
        rng: None: the innermost voxel, always the same one; else a random one at least half as far from the rim.

    Returns:
        Voxel (3,) float32 and label (0 on a false positive), or None where nothing is wrong.
    """
    errors = np.where(prediction != target, target + 1, 0)  # by what is true there, so that one click can mend it
    numbers = cc3d.connected_components(errors, connectivity=26)
    sizes = np.bincount(numbers.ravel())
    if len(sizes) == 1:
        return None
    largest = numbers == sizes[1:].argmax() + 1
    voxel = interior_point(largest, rng)
    return voxel.astype(np.float32), int(target[tuple(voxel)])
