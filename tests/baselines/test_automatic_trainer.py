import json

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer
from sam3d_nnunet.errors import SAM3DError


class ConvolutionTrainer(AutomaticTrainer):
    """Its network is two convolutions."""

    @staticmethod
    def make_network(input_channels, num_classes, patch_size, width=4, groups=1):
        return nn.Sequential(
            nn.Conv3d(input_channels, width, 3, padding=1, groups=groups), nn.ReLU(), nn.Conv3d(width, num_classes, 1)
        )


class Pyramid(nn.Module):
    def __init__(self, input_channels, num_classes):
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv3d(input_channels, num_classes, stride, stride) for stride in (1, 2, 4))

    def forward(self, x):
        return [head(x) for head in self.heads] if self.training else self.heads[0](x)


class PyramidTrainer(AutomaticTrainer):
    """Its network has three outputs in training."""

    deep_supervision_scales = [[1, 1, 1], [1 / 2] * 3, [1 / 4] * 3]

    @staticmethod
    def make_network(input_channels, num_classes, patch_size):
        return Pyramid(input_channels, num_classes)


def test_two_dimensions_are_refused_before_anything_is_written(make_automatic, results):
    message = "ConvolutionTrainer needs volumes, but SAM3DPlans, configuration 2d is 2-D"
    with pytest.raises(SAM3DError, match=message):
        make_automatic(ConvolutionTrainer, configuration="2d")
    assert not results.exists()


def test_unknown_argument_of_a_network(make_automatic):
    trainer = make_automatic(ConvolutionTrainer, {"widht": 8})
    message = "gives 'widht' under networks.ConvolutionTrainer, .* no such argument; it has width, groups"
    with pytest.raises(SAM3DError, match=message):
        trainer.initialize()


@pytest.mark.parametrize("arguments", [{"width": "8"}, {"width": 5, "groups": 2}, {"width": None}, {"width": [1]}])
def test_unusable_argument_of_a_network(make_automatic, arguments):
    trainer = make_automatic(ConvolutionTrainer, arguments)
    with pytest.raises(SAM3DError, match=r"under networks.ConvolutionTrainer, which make no network for patches of"):
        trainer.initialize()


def test_errors_without_arguments_stay_what_they_are(make_automatic):
    class BrokenTrainer(AutomaticTrainer):
        @staticmethod
        def make_network(input_channels, num_classes, patch_size):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_automatic(BrokenTrainer).initialize()


def test_lengths_and_batches_are_those_of_the_plan(make_automatic):
    trainer = make_automatic(ConvolutionTrainer, settings={"batch_size": 3, "foreground_share": 0.25})
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (3, 2, 1)
    assert trainer.oversample_foreground_percent == 0.25 and trainer.probabilistic_oversampling
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape == (3, 1, 16, 16, 16)
    assert torch.is_tensor(batch["target"])


def test_rate_falls_as_in_nnunet(make_automatic):
    trainer = make_automatic(ConvolutionTrainer)
    trainer.initialize()
    rates = []
    for epoch in range(3):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([4e-4, 4e-4 * (2 / 3) ** 0.9, 4e-4 * (1 / 3) ** 0.9])
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 1e-5


@pytest.mark.parametrize("kind", ["classes", "one class", "ignore", "regions"])
@pytest.mark.parametrize("trainer_class, arguments", [(ConvolutionTrainer, {"width": 6}), (PyramidTrainer, {})])
def test_steps(check_steps, kind, trainer_class, arguments):
    check_steps(trainer_class, arguments, kind=kind)


def test_training_learns(make_automatic):
    torch.manual_seed(0)
    trainer = make_automatic(ConvolutionTrainer, {"width": 8}, kind="one class")
    trainer.initial_lr = 1e-2
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    losses = [trainer.train_step(batch)["loss"].item() for _ in range(40)]
    assert losses[-1] < losses[0] - 0.2


def test_lower_resolutions_of_thin_patches_keep_a_voxel(make_automatic):
    trainer = make_automatic(PyramidTrainer, plan={"patch_size": [8, 16, 16]})
    trainer.deep_supervision_scales = [[1, 1, 1], [1 / 16, 1 / 16, 1 / 4]]
    assert trainer._get_deep_supervision_scales() == [[1, 1, 1], [1 / 8, 1 / 16, 1 / 4]]


def test_arguments_reach_the_network_of_an_inheriting_configuration(prepared, make_automatic):
    make_automatic(ConvolutionTrainer)  # sets nnU-Net's folders
    plans = json.loads((prepared("classes").base / "SAM3DPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["sam3d"]["networks"] = {"ConvolutionTrainer": {"width": 7}}
    plans["configurations"]["3d_half"] = {"inherits_from": "3d_fullres", "sam3d": {"batch_size": 5}}
    plans["continue_training"] = False
    trainer = ConvolutionTrainer(plans, "3d_half", 0, prepared("classes").dataset_json, torch.device("cpu"))
    trainer.initialize()
    assert trainer.network[0].out_channels == 7
    assert trainer.batch_size == 5


def test_nnunets_predictor_takes_the_network(make_automatic):
    """Also one that was left in training mode, in which it has several outputs."""
    trainer = make_automatic(PyramidTrainer)
    trainer.initialize()
    trainer.network.train()
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json, "", None
    )
    logits = predictor.predict_sliding_window_return_logits(torch.randn(1, 20, 18, 16))
    assert logits.shape == (3, 20, 18, 16)


def test_checkpoints_continue_and_start_others(make_automatic, tmp_path):
    trainer = make_automatic(ConvolutionTrainer)
    trainer.on_train_start()
    trainer.train_step(next(trainer.dataloader_train))
    path = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(path))
    assert [file.name for file in tmp_path.glob("*checkpoint*")] == ["checkpoint.pth"]

    again, other = make_automatic(ConvolutionTrainer), make_automatic(ConvolutionTrainer)
    again.initialize()
    again.load_checkpoint(str(path))
    other.initialize()
    load_pretrained_weights(other.network, str(path))
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)
        assert torch.equal(other.network.state_dict()[name], tensor)
