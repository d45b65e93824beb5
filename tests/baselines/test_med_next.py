import pytest
import torch

from sam3d_nnunet.baselines.med_next import MedNeXtTrainer

SMALL = {"variant": "S"}


@pytest.mark.parametrize("size", [(8, 20, 30), (32, 32, 32)])
def test_network(check_network, size):
    check_network(MedNeXtTrainer, size, SMALL)


@pytest.mark.slow
def test_network_on_patches_of_the_hippocampus(check_network):
    check_network(MedNeXtTrainer, (40, 56, 40), SMALL)


def test_steps(check_steps):
    trainer = check_steps(MedNeXtTrainer, SMALL)
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert (group["lr"], group["weight_decay"], group["eps"]) == (1e-3, 3e-5, 1e-4)


def test_it_is_the_large_one_unless_the_plan_says_otherwise():
    with torch.device("meta"):
        network = MedNeXtTrainer.make_network(1, 2, (64, 64, 64)).network
    assert [len(stage) for stage in network.enc_stages] == [3, 4, 8, 8]
    assert network.enc_stages[0][0].conv1.kernel_size == (3, 3, 3)
