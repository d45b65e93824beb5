import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_demo, nnUNetTrainer_demo


def test_the_demos_unet_is_that_of_the_plan_with_a_quarter_of_the_features(make_trainer):
    trainer = make_trainer(trainer_class=nnUNetTrainer_demo)
    trainer.initialize()
    planned = trainer.configuration_manager
    arguments = planned.network_arch_init_kwargs
    own = get_network_from_plans(
        planned.network_arch_class_name,
        arguments | {"features_per_stage": [n // 4 for n in arguments["features_per_stage"]]},
        planned.network_arch_init_kwargs_req_import,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
        deep_supervision=True,
    )
    assert str(trainer.network) == str(own)
    stock = make_trainer(trainer_class=nnUNetTrainer)
    stock.initialize()
    assert trainer.network.state_dict().keys() == stock.network.state_dict().keys()
    assert str(trainer.loss) == str(stock.loss) and type(trainer.optimizer) is type(stock.optimizer)


@pytest.mark.parametrize("trainer_class", [nnUNetTrainer_demo, SAM3DAdapterTrainer_demo])
@pytest.mark.parametrize("given, expected", [("1", 1), (None, 2)])
def test_the_demos_trainings_share_the_cores(make_trainer, monkeypatch, trainer_class, given, expected):
    """nnU-Net takes a thread for each core."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    trainer = make_trainer(trainer_class=trainer_class, settings={"preset": "tiny"})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer.on_train_start()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_both_halves_of_the_demo_see_as_many_patches(make_trainer):
    settings = {"preset": "tiny", "num_epochs": 3, "steps_per_epoch": 7, "validation_steps": 2}
    lengths = set()
    for trainer_class in (nnUNetTrainer_demo, SAM3DAdapterTrainer_demo):
        trainer = make_trainer(trainer_class=trainer_class, settings=settings)
        trainer.initialize()
        lengths.add((trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.batch_size))
    assert lengths == {(3, 7, 2)}
