import pytest
import torch

from sam3d_nnunet.training import cores
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer
from sam3d_nnunet.training.variants import nnUNetTrainer_demo, nnUNetTrainer_planned


@pytest.fixture
def threads():
    """As nnUNetv2_train leaves them on a machine with four cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "given, usable, expected",
    [("1", 4, 1), ("3,2", 4, 3), (None, 2, 2), ("many", 2, 2), ("0", 2, 2), ("", 2, 2), ("16", 4, 4), (None, 16, 4)],
)
def test_a_training_takes_the_threads_it_was_given_or_its_cores(monkeypatch, threads, given, usable, expected):
    """None more than before: nnU-Net computes with one beside a GPU."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    cores.limit_threads(torch.device("cpu"))
    assert torch.get_num_threads() == expected


def test_a_training_on_a_gpu_keeps_its_threads(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cores.limit_threads(torch.device("cuda"))
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("trainer_class", [nnUNetTrainer_demo, nnUNetTrainer_planned, SAM3DAdapterTrainer])
def test_trainers_of_all_kinds_share_the_cores(make_trainer, monkeypatch, threads, trainer_class):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_trainer(trainer_class=trainer_class, settings={"preset": "tiny"}).initialize()
    assert torch.get_num_threads() == 1
