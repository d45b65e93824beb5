import numpy as np
import pytest
import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.growth import BoxLogits, merge, predict_per_lesion
from sam3d_nnunet.prompts.prompt import VoxelPrompts

GRID = (8, 9, 10)


def lesion(start: tuple[int, ...], probabilities: torch.Tensor, regions: bool = False) -> BoxLogits:
    logits = probabilities.logit() if regions else probabilities.log() + 3  # a constant changes nothing
    return BoxLogits(logits.float(), start, GRID, regions)


def random_probabilities(classes: int, size: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(classes, *size, generator=torch.Generator().manual_seed(seed)).softmax(0)


@pytest.mark.parametrize("classes", [2, 4])
def test_union(classes):
    parts = [
        ((1, 2, 3), random_probabilities(classes, (4, 4, 4), 0)),
        ((3, 1, 2), random_probabilities(classes, (4, 5, 6), 1)),
    ]
    union, owners = merge([lesion(*part) for part in parts])
    assert union.start == (1, 1, 2)
    assert union.logits.shape[1:] == owners.shape == (6, 5, 6)
    whole = torch.full((2, classes, *GRID), 1e-9)
    whole[:, 0] = 1
    for full, (start, probabilities) in zip(whole, parts):
        full[(slice(None), *(slice(s, s + n) for s, n in zip(start, probabilities.shape[1:])))] = probabilities
    found = union.on_grid().softmax(0)
    if classes == 2:
        torch.testing.assert_close(found[1], whole[:, 1].amax(0), atol=1e-5, rtol=1e-5)
    odds = whole[:, 1:] / whole[:, :1]
    assert ((found.argmax(0) > 0) == (whole.argmax(1) > 0).any(0)).all()
    label = odds.amax(0).argmax(0) + 1
    assert (found.argmax(0) == torch.where(odds.amax((0, 1)) > 1, label, 0)).all()

    whose = np.zeros(GRID, int)
    whose[union.box.slices] = owners
    looked_at = (whole[:, 0] < 1).any(0).numpy()
    assert (whose == np.where(looked_at, odds.amax(1).argmax(0).numpy() + 1, 0)).all()


def test_regions():
    first, second = (torch.rand(3, 4, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    union, owners = merge([lesion((0, 0, 0), first, True), lesion((0, 0, 0), second, True)])
    torch.testing.assert_close(union.logits.sigmoid(), torch.maximum(first, second))
    assert (owners == np.where(second.amax(0) > first.amax(0), 2, 1)).all()


def test_each_click_is_predicted_with_all_background_clicks():
    calls = []

    def predict(prompts):
        calls.append((prompts.points[:, 0].tolist(), prompts.labels.tolist()))
        return lesion((0, 0, 0), random_probabilities(3, (2, 2, 2), len(calls)))

    points = np.arange(12.0).reshape(4, 3)
    predict_per_lesion(predict, VoxelPrompts(points, np.array([2, 0, 1, 0])))
    assert calls == [([0, 3, 9], [2, 0, 0]), ([3, 6, 9], [0, 1, 0])]


def test_too_many_clicks_for_an_instance_map():
    with pytest.raises(SAM3DError, match="256 foreground clicks; at most 255 .* without --per-lesion"):
        predict_per_lesion(None, VoxelPrompts(np.zeros((257, 3)), np.array([1] * 256 + [0])))
