"""The paper's ablations and ours: what they set, and that they train."""

import inspect

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sam3d_nnunet.nnunet.names import ABLATION, PUBLISHED, PUBLISHED_ABLATION, TRAINERS, class_lookup
from sam3d_nnunet.training.ablations import SAM3DAdapterTrainer_deepprompt_14, SAM3DAdapterTrainer_posenc
from sam3d_nnunet.training.published import SAM3DAdapterTrainer_paper

NAMES = {
    "posenc": {"prompt_encoding": "position"},
    "samposenc": {"prompt_encoding": "sam_position"},
    "nomla": {"aggregate_levels": False},
    "deepprompt_1234": {"deep_prompt_levels": [1, 2, 3]},
    "deepprompt_14": {"deep_prompt_levels": [1]},
    "deepprompt_24": {"deep_prompt_levels": [2]},
    "deepprompt_34": {"deep_prompt_levels": [3]},
}

ALL = NAMES | {"unetalone": {"refine": "unet_alone"}}  # ours has none for the paper's training

GROUPS = (ABLATION, PUBLISHED, PUBLISHED_ABLATION)


def test_nnunet_finds_all_by_name():
    names = [n for n, trainer in TRAINERS.items() if trainer.group in GROUPS]
    assert sorted(n.removeprefix("SAM3DAdapterTrainer_") for n in names) == sorted(
        [*ALL, "vitl", "vith", "paper", "released", "released_inplane", *(f"paper_{name}" for name in NAMES)]
    )
    signature = inspect.signature(nnUNetTrainer.__init__)
    for name in names:
        trainer = class_lookup("here")(name)
        assert trainer.__name__ == name and list(inspect.signature(trainer.__init__).parameters) == list(
            signature.parameters
        )


@pytest.mark.parametrize("name", ALL)
def test_ablations_change_one_thing_and_train(make_trainer, name):
    """Everything else is the plan's, here the preset tiny; a step reaches all that is tuned."""
    trainer = make_trainer(trainer_class=class_lookup("here")(f"SAM3DAdapterTrainer_{name}"))
    block = trainer.settings.model_dump()
    assert block == make_trainer(trainer_class=trainer.__class__.__base__).settings.model_dump() | ALL[name]
    assert block["preset"] == "tiny"
    trainer.on_train_start()
    trainer.network.train()
    for _ in range(2):
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None] == []
    rebuilt = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3, False)
    rebuilt.load_state_dict(trainer.network.state_dict())


@pytest.mark.parametrize("block", [{"click_map": "none"}, {"prompt_encoding": "none"}, {"clicks": {"most_clicks": 1}}])
def test_ablations_by_the_plan_train(make_trainer, block):
    """A step reaches all that is tuned, as training on several GPUs needs it."""
    trainer = make_trainer(settings=block)
    trainer.on_train_start()
    trainer.network.train()
    for _ in range(2):
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_ablations_of_the_papers_training_change_one_thing(make_trainer, name):
    """Whatever the plan says: the same network but for one key, unlabelled clicks and no dense prompts."""
    other = {"preset": "tiny", "prompt_encoding": "sampler", "deep_prompt_levels": [2], "labelled_prompts": True}
    other["refine"] = "convolutions"
    trainer = make_trainer(trainer_class=class_lookup("here")(f"SAM3DAdapterTrainer_paper_{name}"), settings=other)
    papers = make_trainer(trainer_class=SAM3DAdapterTrainer_paper, settings=other)
    assert trainer.settings.model_dump() == papers.settings.model_dump() | NAMES[name] != papers.settings.model_dump()
    assert isinstance(trainer, SAM3DAdapterTrainer_paper)
    with torch.device("meta"):
        net = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3)
    assert net.dense_prompt is None


@pytest.mark.parametrize("trainer_class", [SAM3DAdapterTrainer_posenc, SAM3DAdapterTrainer_deepprompt_14])
def test_ablations_correct_first_masks(make_trainer, trainer_class):
    trainer = make_trainer(trainer_class=trainer_class, settings={"clicks": {"iterated_share": 1.0}})
    trainer.on_train_start()
    trainer.network.train()
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


@pytest.mark.parametrize("letter", ["l", "h"])
def test_larger_encoders(make_trainer, letter):
    trainer = make_trainer(trainer_class=class_lookup("here")(f"SAM3DAdapterTrainer_vit{letter}"))
    assert trainer.settings.preset == f"vit_{letter}"
    with torch.device("meta"):
        net = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    blocks, width = {"l": (24, 1024), "h": (32, 1280)}[letter]
    assert len(net.image_encoder.blocks) == blocks and net.image_encoder.pos_embed.shape[-1] == width
