"""Every tensor that a trainer tunes has an effect on the output, but for those that tests/fixtures/effect.py lists."""

from collections.abc import Callable
from typing import Any

import numpy as np
import overfit
import pytest
import torch
from effect import gradient_sizes, stir, without_effect
from small_networks import SMALL_NETWORKS
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sam3d_nnunet.nnunet.names import class_lookup

ABLATIONS = [f"SAM3DAdapterTrainer_{name}" for name in ("posenc", "samposenc", "nomla", "deepprompt_1234")]


@pytest.mark.parametrize("name", [*overfit.DEFAULT, *ABLATIONS])
def test_each_tuned_tensor_has_an_effect(make_trainer, monkeypatch, name):
    """In float64, so that rounding can't be taken for an effect: it is below 1e-9 there, and each effect above 1e-6."""
    torch.manual_seed(2)  # with one draw in four, the last stage of UX-Net has effects of 4e-7
    np.random.seed(2)
    small = SMALL_NETWORKS.get(name, {}) | ({"drop_path": 0.0} if name == "NNFormerTrainer" else {})
    settings = {"stride": 4, "sam_checkpoint": "none", "precision": "fp32", "networks": {name: small}}
    settings["clicks"] = {"no_click_share": 0.0, "iterated_share": 0.0}
    trainer = make_trainer(trainer_class=class_lookup(__name__)(name), settings=settings)
    trainer.initialize()
    network = trainer.network.train()
    given = given_to(network, lambda: trainer.train_step(overfit.case_batch(trainer, "case_3")))
    network.zero_grad(set_to_none=True)
    stir(network.double())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    arguments, more = tree_map(as_double, given)

    outputs = run(network, arguments, more)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    sizes = gradient_sizes(network)
    tuned = {n for n, p in network.named_parameters() if p.requires_grad}
    idle = without_effect(type(trainer), tuned)
    assert sizes.keys() == tuned
    assert {n for n, size in sizes.items() if size < 1e-8} == idle
    assert min(sizes[n] for n in tuned - idle) > 1e-6

    with torch.no_grad():
        for parameter_name in idle:
            parameter = network.get_parameter(parameter_name)
            parameter += 0.1 * torch.randn_like(parameter)
        for output, moved in zip(outputs, run(network, arguments, more)):
            assert (moved - output).norm() < 1e-8 * output.norm()


def given_to(network: nn.Module, step: Callable[[], Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments with which a step calls a network."""
    given: list[tuple[tuple, dict[str, Any]]] = []
    hook = network.register_forward_pre_hook(lambda _, *arguments: given.append(arguments), with_kwargs=True)
    step()
    hook.remove()
    return given[0]


def run(network: nn.Module, arguments: tuple, more: dict[str, Any]) -> list[Tensor]:
    """The outputs at all resolutions; what is left to chance is the same each time."""
    torch.manual_seed(0)
    outputs = network(*arguments, **more)
    return outputs if isinstance(outputs, list) else [outputs]


def as_double(x: Any) -> Any:
    """Numbers that aren't whole ones become float64."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
