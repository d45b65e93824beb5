"""Connected components of a label map, from which prompts select some."""

import cc3d
import numpy as np

from sam3d_nnunet.prompts.prompt import VoxelPrompts


class Components:
    """The connected components (26 neighbours) of each class of a label map, numbered from 1."""

    def __init__(self, segmentation: np.ndarray, classes: list[int], together: bool = False) -> None:
        """
        Args:
            segmentation: (D, H, W) label map. Other labels than classes (background, ignored, outside the image) are
                never changed.
            classes: label values.
            together: for nested regions: touching voxels of different classes form one component, so that the core and
                the rim of a lesion are one lesion.
        """
        self.segmentation = segmentation
        wanted = np.isin(segmentation, classes)
        self.numbers = cc3d.connected_components(wanted if together else segmentation * wanted, connectivity=26)
        self._voxels = np.flatnonzero(self.numbers)
        self._number_at = self.numbers.ravel()[self._voxels]
        self.sizes = np.bincount(self._number_at, minlength=1)
        group = np.zeros(len(self.sizes), np.int64)
        group[self._number_at] = 1 if together else segmentation.ravel()[self._voxels]
        self._groups = [np.flatnonzero(group == value) for value in np.unique(group[1:])]

    def __len__(self) -> int:
        return len(self.sizes) - 1

    def voxels_of(self, number: int) -> np.ndarray:
        """(N, 3) int voxels of a component."""
        return np.stack(np.unravel_index(self._voxels[self._number_at == number], self.numbers.shape), axis=-1)

    def choose(self, count: int, rng: np.random.Generator, among: np.ndarray | None = None) -> np.ndarray:
        """Numbers of up to `count` components, with probabilities proportional to their diameters.

        Small components are then chosen often enough, and specks rarely.

        Args:
            count: how many.
            rng: source of randomness.
            among: numbers to choose from; default: all.
        """
        numbers = np.arange(1, len(self.sizes)) if among is None else among
        diameters = np.cbrt(self.sizes[numbers])
        return rng.choice(numbers, min(count, len(numbers)), replace=False, p=diameters / diameters.sum())

    def random_subset(self, rng: np.random.Generator) -> np.ndarray:
        """The label map with a random subset of each class's components, mostly one; the others become background."""
        kept = [
            self.choose(1 if rng.random() < 0.7 else int(rng.integers(1, len(numbers) + 1)), rng, numbers)
            for numbers in self._groups
        ]
        return self.only(np.concatenate([np.zeros(0, np.int64), *kept]))

    def holding(self, clicks: VoxelPrompts) -> np.ndarray:
        """The label map with the components that hold a click of their class; the others become background."""
        foreground = clicks.with_clicks(clicks.labels > 0)
        under = tuple(np.rint(foreground.points).astype(int).T)
        return self.only(self.numbers[under][self.segmentation[under] == foreground.labels])

    def only(self, kept: np.ndarray) -> np.ndarray:
        """The label map with the components of these numbers; the others become background."""
        keeps = np.zeros(len(self.sizes), bool)
        keeps[kept] = True
        left = self.segmentation.copy()
        left.ravel()[self._voxels[~keeps[self._number_at]]] = 0
        return left
