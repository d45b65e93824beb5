"""Connected components of a label map, some of which prompts select."""

import cc3d
import numpy as np

from sam3d_nnunet.simulation.draw import Clicks


class Components:
    """The connected components (26 neighbours) of each class of a label map, numbered from 1."""

    def __init__(self, segmentation: np.ndarray, classes: list[int], together: bool = False) -> None:
        """
        Args:
            segmentation: (D, H, W) label map; what is no class (background, ignored, outside the image) stays as it is.
            classes: label values.
            together: components of all classes as one, for nested regions: a lesion's core and rim are one lesion.
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
        """Numbers of up to `count` components, by chances that go with the diameter: small ones often, specks rarely.

        Args:
            count: how many.
            rng: source of randomness.
            among: numbers to choose from, all by default.
        """
        numbers = np.arange(1, len(self.sizes)) if among is None else among
        diameters = np.cbrt(self.sizes[numbers])
        return rng.choice(numbers, min(count, len(numbers)), replace=False, p=diameters / diameters.sum())

    def some(self, rng: np.random.Generator) -> np.ndarray:
        """The label map with a random part of each class's components, mostly one; the others become background."""
        kept = [
            self.choose(1 if rng.random() < 0.7 else int(rng.integers(1, len(numbers) + 1)), rng, numbers)
            for numbers in self._groups
        ]
        return self.only(np.concatenate([np.zeros(0, np.int64), *kept]))

    def holding(self, clicks: Clicks) -> np.ndarray:
        """The label map with the components that hold a click of the class under it; the others become background."""
        points, labels = clicks
        under = tuple(np.rint(points[labels > 0]).astype(int).T)
        return self.only(self.numbers[under][self.segmentation[under] == labels[labels > 0]])

    def only(self, kept: np.ndarray) -> np.ndarray:
        """The label map with the components of these numbers; the others become background."""
        keeps = np.zeros(len(self.sizes), bool)
        keeps[kept] = True
        left = self.segmentation.copy()
        left.ravel()[self._voxels[~keeps[self._number_at]]] = 0
        return left
