import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from sam3d_nnunet.training.trainer import LevelsLoss

CLASSES, SIZE = 5, (12, 10, 8)
WEIGHTS = [1, 0.5, 0.25, 0.25]


@pytest.fixture
def loss():
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)


@pytest.fixture
def levels():
    torch.manual_seed(0)
    return [torch.randn(2, CLASSES, *SIZE, requires_grad=True) for _ in WEIGHTS]


@pytest.fixture
def target():
    return torch.randint(0, CLASSES, (2, 1, *SIZE)).float()


def test_weighted_mean_and_its_gradient(loss, levels, target):
    value = LevelsLoss(loss, WEIGHTS)(levels, target)
    gradients = torch.autograd.grad(value, levels)
    losses = [loss(logits, target) for logits in levels]
    expected = torch.stack(losses) @ torch.tensor(WEIGHTS) / 2
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, levels))


def test_logits_alone(loss, levels, target):
    assert LevelsLoss(loss, WEIGHTS)(levels[0], target) == loss(levels[0], target)


def test_hardly_more_is_kept_for_the_gradient_than_the_logits(loss, levels, target):
    """With many classes in large patches, softmax and one-hot targets of all levels took tens of gigabytes."""
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = LevelsLoss(loss, WEIGHTS)(levels, target)
    assert value.requires_grad
    assert sum(kept.values()) < 1.1 * sum(logits.nbytes for logits in levels) + target.nbytes
