"""The clicks of the autoPET IV challenge, against another implementation of what its script does."""

from functools import lru_cache

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from sam3d_nnunet.simulation import autopet_clicks as module
from sam3d_nnunet.simulation.autopet_clicks import autopet_clicks, look_alikes

EVERYWHERE = np.ones((3, 3, 3))


def make(seed: int, lesions: int, others: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and PET (d, h, w): blocks that may overlap, touch at corners or reach the border, and hot ones."""
    rng = np.random.default_rng(seed)
    truth, pet = np.zeros((28, 32, 36), np.uint8), rng.normal(size=(28, 32, 36))
    for count, array, value in ((others, pet, 50.0), (lesions, truth, 1)):
        for _ in range(count):
            start, size = rng.integers(0, truth.shape), rng.integers(2, 5, 3)
            array[tuple(slice(a, a + n) for a, n in zip(start, size))] = value
            array[tuple(slice(a, a + 2) for a in start + size)] = value  # touches it at a corner
    for k in range(4):  # the first voxel by (z, y, x) is the last one by (x, y, z)
        truth[20 + k, 25, 30 - k] = bool(lesions)
    pet[3:7, 3:7, 3:7] += 100 * bool(others)  # most of the brightest voxels
    return truth, pet


@lru_cache
def of_the_script(scene: tuple[int, int, int], budget: int) -> dict[str, list[tuple[int, ...]]]:
    """Voxels (x, y, z), from arrays with these axes. Distances are measured in the whole image."""
    truth, pet = (array.transpose() for array in make(*scene))
    np.random.seed(42)
    clicks = {}
    bright = (pet > np.percentile(pet[truth == 0], 99.75)) & (truth == 0)
    for kind, mask in (("tumor", truth == 1), ("background", bright)):
        numbers, count = label(mask.transpose(), EVERYWHERE)  # as the file: x changes fastest
        numbers, clicks[kind] = numbers.transpose(), []
        chosen = np.random.choice(np.arange(1, count + 1), min(budget, count), replace=False) if count else []
        depths = {n: distance_transform_edt(numbers == n) for n in chosen}
        for n in chosen:
            clicks[kind].append(np.unravel_index(depths[n].argmax(), truth.shape))
        while count and len(clicks[kind]) < budget:
            for n in chosen:
                inside = depths[n] > 0
                border = inside & (depths[n] == depths[n][inside].min()) if kind == "tumor" else inside
                places = np.argwhere(border)
                clicks[kind].append(tuple(places[np.random.choice(len(places))]))
                if len(clicks[kind]) == budget:
                    break
    return clicks


SCENES = [(0, 3, 2), (1, 1, 1), (2, 25, 30), (3, 12, 4), (4, 0, 3), (5, 2, 0), (6, 60, 12)]


def differs(scene: tuple[int, int, int], rounds: int) -> bool:
    expected = of_the_script(scene, max(rounds, 10))
    points, labels, _ = autopet_clicks(*make(*scene), 1, rounds)
    for kind, value in (("tumor", 1), ("background", 0)):
        found = points[labels == value][:, ::-1].astype(int).tolist()
        if found != [list(map(int, voxel)) for voxel in expected[kind][:rounds]]:
            return True
    return False


@pytest.mark.parametrize("scene", SCENES)
def test_clicks_are_those_of_the_script(scene):
    for rounds in (1, 3, 10, 14):
        assert not differs(scene, rounds)


MUTATIONS = {
    "6 neighbours": ("NEIGHBOURS", 6),
    "18 neighbours": ("NEIGHBOURS", 18),
    "another seed": ("SEED", 0),
    "another percentile": ("PERCENTILE", 99.0),
    "no spare clicks": ("BUDGET", 1),
    "lesions clicked again anywhere": ("_Components.outermost", module._Components.inside),
    "look-alikes clicked again on the border": ("_Components.inside", module._Components.outermost),
    "the first voxel by (z, y, x)": (
        "_Components.deepest",
        lambda self, n: np.argwhere(self.numbers == n)[
            distance_transform_edt(self.numbers == n)[self.numbers == n].argmax()
        ],
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_rule_counts(name, monkeypatch):
    where, what = MUTATIONS[name]
    monkeypatch.setattr(f"{module.__name__}.{where}", what)
    assert any(differs(scene, rounds) for rounds in (3, 10) for scene in SCENES)


def test_rounds_have_a_lesion_first_and_background_second():
    truth, pet = make(0, 3, 2)
    points, labels, _ = autopet_clicks(truth, pet, 1, 4)
    assert labels.tolist() == [1, 0] * 4 and points.dtype == np.float32 and labels.dtype == np.int64
    assert np.array_equal(autopet_clicks(truth, pet, 1, 2).points, points[:4])


def test_where_nothing_can_be_clicked():
    truth, pet = make(0, 3, 2)
    assert autopet_clicks(truth * 0, pet, 1, 3).labels.tolist() == [0] * 3
    assert autopet_clicks(truth, pet * 0, 1, 3).labels.tolist() == [1] * 3
    assert len(autopet_clicks(truth * 0 + 1, pet, 1, 3).labels) == 3
    assert len(autopet_clicks(truth * 0, pet * 0, 1, 3).labels) == 0


def test_ignored_voxels_are_neither():
    truth, pet = make(0, 3, 2)
    truth[:9][truth[:9] == 0] = 2
    pet[:9] += 100  # would be the brightest
    assert not look_alikes(truth, pet)[:9].any()
    points, labels, _ = autopet_clicks(truth, pet, 1, 10)
    assert set(truth[tuple(points[labels == 1].astype(int).T)]) == {1}
    assert set(truth[tuple(points[labels == 0].astype(int).T)]) == {0}
