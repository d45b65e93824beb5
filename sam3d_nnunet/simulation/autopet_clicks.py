"""The clicks of the autoPET IV challenge: drawn from truth and image before anything is predicted.

Each round of the challenge adds one click on a lesion and one on background. They don't depend on predictions, so they
are the same for all models. The rules are those of `clicks/simulate_clicks.py` in github.com/lab-midas/autoPETCTIV,
derived again from what it does.

Lesions are components of the truth. Look-alikes are components of the background where the image is above the 99.75th
percentile of the background. Ten of each are chosen at random, or all if there are fewer, and clicked one after the
other, again and again. The first click on each is at the voxel furthest from its border. Further ones are at a random
one of the outermost voxels of a lesion, or at a random voxel of a look-alike. (Where no voxel of a look-alike is deeper
than the others, the script draws from the whole image instead.)
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.prompts.prompt import VoxelPrompts
from sam3d_nnunet.simulation.draw import Picker
from sam3d_nnunet.simulation.human import surroundings

BUDGET = 10
"""Clicks of each kind that the challenge draws. Fewer rounds use the first ones; for more rounds, more are drawn."""
SEED = 42
"""Of NumPy's old generator, for each case."""
PERCENTILE = 99.75
"""Of the background, above which it looks like a lesion."""
NEIGHBOURS = 26
"""Voxels around one that belong to the same component."""
Generator = np.random.Generator | np.random.RandomState
Voxel = Sequence[float]


def autopet_clicks(
    truth: np.ndarray,
    uptake: np.ndarray,
    label: int,
    rounds: int,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    rng: np.random.Generator | None = None,
    hand: Picker | None = None,
) -> VoxelPrompts:
    """The clicks of all rounds.

    Args:
        truth: (D, H, W) label map, its axes in the order of the file (z, y, x). 0 is background. Other labels than
            `label` (ignored voxels) are neither lesion nor background.
        uptake: (D, H, W) image in which lesions are bright: the PET.
        label: of lesions.
        rounds: how many clicks of each kind; none of a kind if there is no lesion or no look-alike.
        spacing: mm along (d, h, w); only a hand needs it.
        rng: chooses components and places for a hand.
        hand: chooses all places, as a person does. None: the challenge's places, from its own seed.

    Returns:
        clicks in the order of the rounds, in each the click on a lesion first. Clicks on background have the label 0.
    """
    if hand is None:
        rng, budget = np.random.RandomState(SEED), max(rounds, BUDGET)
        lesions = _robot_clicks(_Components(truth == label), budget, rng, _Components.outermost)
        others = _robot_clicks(_Components(look_alikes(truth, uptake)), budget, rng, _Components.inside)
    else:
        lesions = _hand_clicks(_Components(truth == label), rounds, rng, hand, spacing)
        others = _hand_clicks(_Components(look_alikes(truth, uptake)), rounds, rng, hand, spacing)
    return VoxelPrompts.concatenate(
        VoxelPrompts(np.array(voxels[k : k + 1], np.float32).reshape(-1, 3), np.full(len(voxels[k : k + 1]), of_kind))
        for k in range(rounds)
        for voxels, of_kind in ((lesions, label), (others, 0))
    )


def look_alikes(truth: np.ndarray, uptake: np.ndarray) -> np.ndarray:
    """(D, H, W) bool: the brightest background."""
    background = truth == 0
    if not background.any():
        return background
    return background & (uptake > np.percentile(uptake[background], PERCENTILE))


class _Components:
    """The connected components of a mask, numbered from 1 in the order of their first voxels.

    Masks of a component have the axes (w, h, d), as the challenge's arrays. This decides which of equal voxels is the
    first one, and which one is drawn.
    """

    def __init__(self, mask: np.ndarray) -> None:
        """
        Args:
            mask: (D, H, W) bool.
        """
        self.numbers, self.count = cc3d.connected_components(
            np.ascontiguousarray(mask), connectivity=NEIGHBOURS, return_N=True
        )
        self._slices = cc3d.statistics(self.numbers)["bounding_boxes"] if self.count else []

    def in_turn(self, count: int, rng: Generator) -> Iterator[tuple[int, bool]]:
        """So many numbers, each with whether it comes for the first time; none if there is no component."""
        chosen = rng.choice(np.arange(1, self.count + 1), min(count, self.count), replace=False).tolist()
        for place, number in enumerate(islice(cycle(chosen), count)):
            yield number, place < len(chosen)

    def box(self, number: int) -> Box:
        """The smallest box around a component."""
        return Box([s.start for s in self._slices[number]], [s.stop for s in self._slices[number]])

    def deepest(self, number: int) -> Voxel:
        """The voxel furthest from the border, counted in voxels."""
        depth = self._depth(number)
        return self._in_image(number, np.unravel_index(depth.argmax(), depth.shape))

    def outermost(self, number: int, rng: Generator) -> Voxel:
        """A random one of the voxels closest to the border."""
        depth = self._depth(number)
        places = np.argwhere(depth == depth[depth > 0].min())
        return self._in_image(number, places[rng.choice(len(places))])

    def inside(self, number: int, rng: Generator) -> Voxel:
        """A random voxel."""
        places = np.argwhere(self._depth(number) > 0)
        return self._in_image(number, places[rng.choice(len(places))])

    def _depth(self, number: int) -> np.ndarray:
        """(w, h, d) distance of a component's voxels from the nearest voxel outside; 0 outside.

        The border of the image is no border of the component.
        """
        return distance_transform_edt((self.numbers[self._around(number).slices] == number).transpose())

    def _around(self, number: int) -> Box:
        """The box of a component and, where the image has one, a voxel more on each side."""
        return self.box(number).grown(1).intersection(Box.of_shape(self.numbers.shape))

    def _in_image(self, number: int, place: Sequence[int]) -> Voxel:
        """The voxel (d, h, w) of the image at a place (w, h, d) of `_depth`."""
        return np.add(place[::-1], self._around(number).start)


def _robot_clicks(
    components: _Components, count: int, rng: Generator, again: Callable[[_Components, int, Generator], Voxel]
) -> list[Voxel]:
    """The middle of each component first, then what `again` says."""
    turns = components.in_turn(count, rng)
    return [components.deepest(n) if first else again(components, n, rng) for n, first in turns]


def _hand_clicks(
    components: _Components, count: int, rng: Generator, hand: Picker, spacing: Sequence[float]
) -> list[Voxel]:
    clicks = []
    for number, _ in components.in_turn(count, rng):
        box = surroundings(components.box(number), components.numbers.shape, spacing)
        clicks.append(hand(components.numbers[box.slices] == number, 1, rng)[0] + box.start)
    return clicks
