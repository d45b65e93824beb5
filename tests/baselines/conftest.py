"""Trainers of baselines on small data sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as upstream
import numpy as np
import pytest
import torch
from effect import gradient_sizes, stir, without_effect
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from sam3d_nnunet.baselines.automatic_trainer import AutomaticTrainer


@pytest.fixture
def make_automatic(make_trainer) -> Callable[..., AutomaticTrainer]:
    """A trainer of 3 epochs of 2 steps, and the arguments of its network as a plan gives them."""

    def make(
        trainer_class: type[AutomaticTrainer],
        arguments: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        **more,
    ) -> AutomaticTrainer:
        block = {"num_epochs": 3, "steps_per_epoch": 2, "validation_steps": 1}
        block["networks"] = {trainer_class.__name__: arguments or {}}
        return make_trainer(trainer_class=trainer_class, settings=block | (settings or {}), **more)

    return make


@pytest.fixture
def check_steps(make_automatic) -> Callable[..., AutomaticTrainer]:
    """Trains and validates a step through nnU-Net's machinery, and rebuilds the network as nnUNetv2_predict does."""

    def check(trainer_class: type[AutomaticTrainer], arguments: dict[str, Any], **more) -> AutomaticTrainer:
        trainer = make_automatic(trainer_class, arguments, **more)
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
        losses = [trainer.train_step(next(trainer.dataloader_train))["loss"] for _ in range(2)]
        assert np.isfinite(losses).all()
        changed = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
        effective = before.keys() - without_effect(trainer_class, before)
        # what only the lowest resolution uses may rest, which nnU-Net weighs with 0
        assert len(changed & effective) > 0.6 * len(before)

        trainer.on_validation_epoch_start()
        with torch.no_grad():
            validation = trainer.validation_step(next(trainer.dataloader_val))
        assert np.isfinite(validation["loss"])
        classes = trainer.label_manager.num_segmentation_heads
        assert len(validation["tp_hard"]) == classes - (not trainer.label_manager.has_regions)

        image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
        rebuilt = trainer_class.build_network_architecture(
            trainer.plans_manager, trainer.configuration_manager, 1, classes, enable_deep_supervision=False
        )
        rebuilt.load_state_dict(trainer.network.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(rebuilt.eval()(image), trainer.network.eval()(image))
        return trainer

    return check


@pytest.fixture
def run_whole(make_automatic, monkeypatch) -> Callable[..., Path]:
    """Trains, validates and predicts by nnU-Net's own code, which finds the model in its folder; returns the fold's."""
    monkeypatch.setattr(upstream, "default_num_processes", 1)

    def run(trainer_class: type[AutomaticTrainer], arguments: dict[str, Any] | None = None) -> Path:
        trainer = make_automatic(trainer_class, arguments, settings={"num_epochs": 2})
        trainer.run_training()
        trainer.perform_actual_validation()
        folder = Path(trainer.output_folder)
        summary = json.loads((folder / "validation" / "summary.json").read_text())
        assert len(summary["metric_per_case"]) == 2

        known = {trainer_class.__name__: trainer_class}
        monkeypatch.setattr(predict_from_raw_data, "recursive_find_trainer_class_by_name", known.get)
        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
        image = torch.randn(1, 20, 18, 22)
        logits = predictor.predict_sliding_window_return_logits(image)
        assert logits.shape == (3, 20, 18, 22)
        predictor.network = trainer.network.eval()
        torch.testing.assert_close(predictor.predict_sliding_window_return_logits(image), logits)
        return folder

    return run


@pytest.fixture
def check_network(tmp_path) -> Callable[..., None]:
    """Sends gradients through a network of a trainer, from random images of 2 channels and 3 classes.

    Afterwards it predicts the same whenever it is asked, and serves as a start for other numbers of classes.
    """

    def check(trainer_class: type[AutomaticTrainer], size: tuple[int, int, int], arguments: dict[str, Any]) -> None:
        network = trainer_class.make_network(2, 3, size, **arguments)
        stir(network)
        image = torch.randn(2, 2, *size)
        outputs = network(image)
        scales = trainer_class.deep_supervision_scales
        if scales is None:
            outputs = [outputs]
        assert [tuple(output.shape) for output in outputs] == [
            (2, 3, *(max(1, round(side * s)) for side, s in zip(size, scale))) for scale in scales or [[1, 1, 1]]
        ]
        sum(output.square().mean() for output in outputs).backward()
        sizes = gradient_sizes(network)
        names = dict(network.named_parameters()).keys()
        assert sizes.keys() == names
        assert [name for name in names - without_effect(trainer_class, names) if sizes[name] < 1e-8] == []
        with torch.no_grad():
            logits = network.eval()(image)
            again = network(image)
        assert logits.shape == (2, 3, *size)
        assert logits.isfinite().all()
        assert torch.equal(again, logits)

        torch.save({"network_weights": network.state_dict()}, tmp_path / "pretrained.pth")
        other = trainer_class.make_network(2, 4, size, **arguments)
        load_pretrained_weights(other, str(tmp_path / "pretrained.pth"))
        shared = [name for name in network.state_dict() if ".seg_layers." not in name]
        assert all(torch.equal(other.state_dict()[name], network.state_dict()[name]) for name in shared)

    return check
