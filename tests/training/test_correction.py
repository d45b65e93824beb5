import numpy as np
import pytest
import torch

from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE
from sam3d_nnunet.training.prompted_batches import Correction, _most_likely

SHAPE = (10, 12, 11)
IGNORE = 3


def label_map() -> torch.Tensor:
    """(2, D, H, W): a rim of 2 around a core of 1, and nothing; what is ignored lies beside."""
    labels = torch.zeros(2, *SHAPE, dtype=torch.int16)
    labels[0, 1:8, 1:8, 1:8] = 2
    labels[0, 2:7, 2:7, 2:7] = 1
    labels[:, :, :, 9:] = IGNORE
    return labels


def as_target(labels: torch.Tensor, kind: str) -> torch.Tensor:
    """As nnU-Net's loader shows it."""
    if kind == "labels":
        return labels[:, None]
    return torch.stack([(labels == 1) | (labels == 2), labels == 1, labels == IGNORE], dim=1)


def as_logits(labels: torch.Tensor, kind: str) -> torch.Tensor:
    """Of a network that is sure of these labels."""
    if kind == "labels":
        return 10.0 * torch.stack([labels == k for k in range(3)], dim=1)
    return 20.0 * as_target(labels, "regions")[:, :2] - 10


def correct(predicted: torch.Tensor, kind: str, maps: torch.Tensor | None = None) -> Prompts:
    regions = [2, 1] if kind == "regions" else None
    correction = Correction(as_target(label_map(), kind), regions, IGNORE, np.random.default_rng(0))
    prompts = Prompts(torch.ones(2, 3, 3), torch.tensor([[1, 0, -1], [0, 1, 2]]), maps)
    return correction(as_logits(predicted, kind), prompts.with_free_clicks())


def predicted(without: int) -> torch.Tensor:
    labels = label_map()
    return torch.where((labels == without) | (labels == IGNORE), 0, labels)


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("missed", [1, 2])
def test_a_missed_class_is_clicked(kind, missed):
    points, labels, maps = correct(predicted(without=missed), kind)
    d, h, w = points[0, -1].int().tolist()
    assert label_map()[0, d, h, w] == labels[0, -1] == missed
    assert labels[1].tolist() == [0, 1, 2, -1]  # there was no error
    assert labels[0, :-1].tolist() == [1, 0, -1]
    assert torch.equal(points[:, :-1], torch.ones(2, 3, 3))
    assert torch.equal(maps[:, MASK], predicted(without=missed))
    assert (maps[:, 1:] == NOTHING).all()


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_what_is_ignored_is_no_error(kind):
    everywhere = torch.where(label_map() == IGNORE, 1, label_map())
    _, labels, _ = correct(everywhere, kind)
    assert (labels[:, -1] == -1).all()


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_a_false_positive(kind):
    found = predicted(without=0)
    found[1, 3:8, 3:8, 3:8] = 2
    points, labels, _ = correct(found, kind)
    assert labels[:, -1].tolist() == [-1, 0]
    assert ((points[1, -1] >= 3) & (points[1, -1] < 8)).all()


def test_maps_given_are_kept_beside_the_mask():
    given = torch.randint(-1, 3, (2, 3, *SHAPE), dtype=torch.int16)
    before = given.clone()
    _, _, maps = correct(predicted(without=1), "labels", given)
    assert torch.equal(given, before)
    assert torch.equal(maps[:, 1:], given[:, 1:])
    assert maps.dtype == torch.int16 and torch.equal(maps[:, MASK], predicted(without=1))


@pytest.mark.parametrize("select", [False, True])
def test_where_prompts_select_a_sample_without_any_gets_no_click(select):
    target = label_map()[:1].repeat(4, 1, 1, 1)
    labels = torch.full((4, 2), -1)
    labels[0, 0] = 0
    maps = torch.full((4, 3, *SHAPE), NOTHING, dtype=torch.int16)
    maps[1, SCRIBBLE, 5, 5, 5], maps[2, BOX, 2:4, 2:4, 2:4], maps[3, MASK] = 1, 1, 0
    correction = Correction(target[:, None], None, IGNORE, np.random.default_rng(0), select)
    logits = as_logits(torch.zeros_like(target), "labels")
    _, corrected, new_maps = correction(logits, Prompts(torch.zeros(4, 2, 3), labels, maps))
    assert (corrected[:, -1] > 0).tolist() == [True, True, True, not select]
    assert (new_maps[:, MASK] == 0).all()


def test_the_most_likely_label_is_the_first_of_equal_ones():
    logits = torch.randint(-2, 3, (2, 5, 6, 7, 8)).float()
    assert torch.equal(_most_likely(logits), logits.argmax(dim=1).to(torch.int16))
