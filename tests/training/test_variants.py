import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sam3d_nnunet.planning.planner import unet_topology
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.training.variants import SAM3DAdapterTrainer_demo, nnUNetTrainer_demo


def features(network: torch.nn.Module) -> list[int]:
    return [stage[-1].output_channels for stage in network.encoder.stages]


def test_the_demos_unet_has_the_features_of_the_block_or_those_of_the_plan(make_trainer):
    """Models of before have no such entry in the block."""
    trainer = make_trainer(trainer_class=nnUNetTrainer_demo)
    trainer.initialize()
    stock = make_trainer(trainer_class=nnUNetTrainer)
    stock.initialize()
    assert str(trainer.network) == str(stock.network)
    assert str(trainer.loss) == str(stock.loss) and type(trainer.optimizer) is type(stock.optimizer)
    planned = stock.configuration_manager.network_arch_init_kwargs["features_per_stage"]
    assert features(stock.network) == list(planned)

    quarter = [n // 4 for n in planned]
    narrow = make_trainer(
        trainer_class=nnUNetTrainer_demo,
        settings={"networks": {"nnUNetTrainer_demo": {"features_per_stage": quarter}}},
    )
    narrow.initialize()
    assert features(narrow.network) == quarter
    assert narrow.network.state_dict().keys() == stock.network.state_dict().keys()


def test_the_demos_recipe_gives_a_quarter_of_the_planned_features():
    _, strides, *_ = unet_topology((1.0, 1.0, 1.0), load_recipe("demo")["patch_size"])
    given = load_recipe("demo")["sam3d"]["networks"]["nnUNetTrainer_demo"]["features_per_stage"]
    assert given == [8 * 2**stage for stage in range(len(strides))]


def test_both_halves_of_the_demo_see_as_many_patches(make_trainer):
    settings = {"preset": "tiny", "num_epochs": 3, "steps_per_epoch": 7, "validation_steps": 2}
    lengths = set()
    for trainer_class in (nnUNetTrainer_demo, SAM3DAdapterTrainer_demo):
        trainer = make_trainer(trainer_class=trainer_class, settings=settings)
        trainer.initialize()
        lengths.add((trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.batch_size))
    assert lengths == {(3, 7, 2)}
