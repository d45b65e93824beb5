import warnings

import pytest
import torch

from sam3d_nnunet.training.trainer import LinearDecay


@pytest.fixture
def optimizer() -> torch.optim.Optimizer:
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.AdamW([{"params": [first]}, {"params": [second]}], 1.0)


def rate(optimizer: torch.optim.Optimizer) -> float:
    (rate,) = {group["lr"] for group in optimizer.param_groups}
    return rate


def test_straight_line_to_a_share_of_the_first_rate(optimizer):
    schedule = LinearDecay(optimizer, 2e-4, 0.1, 200)
    for epoch, share in ((0, 1.0), (50, 0.775), (100, 0.55), (199, 0.1045), (200, 0.1)):
        schedule.step(epoch)
        assert rate(optimizer) == pytest.approx(2e-4 * share)
        assert schedule.get_last_lr() == [rate(optimizer)] * 2


def test_starts_at_the_first_rate(optimizer):
    LinearDecay(optimizer, 2e-4, 0.1, 200)
    assert rate(optimizer) == 2e-4


def test_rate_depends_on_the_epoch_alone(optimizer):
    """As a training that is continued needs it, and without a warning of torch's."""
    schedule = LinearDecay(optimizer, 1e-3, 0.0, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step(7)
        schedule.step(3)
        schedule.step(3)
    assert rate(optimizer) == pytest.approx(7e-4)
