"""Names, shapes and order of tensors are part of every checkpoint: they are those of the first models.

nnU-Net's checkpoints hold tensors by name, and the state of the optimizer by the position of a parameter.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from sam3d_nnunet.network import SAM3D

# first 16 digits of the SHA-256 of the lines "name shape", and of the lines "name shape requires_grad"
COARSE = {"refine": "none"}  # as all models were at first
CONVOLUTIONS = {"refine": "convolutions"}  # as models were then
POSITION, ONE_LEVEL = COARSE | {"prompt_encoding": "position"}, COARSE | {"aggregate_levels": False}
ALL_LEVELS, TWO_LEVELS = COARSE | {"deep_prompt_levels": [1, 2, 3]}, COARSE | {"deep_prompt_levels": [1]}
DIGESTS = [
    ("vit_b", COARSE, "61d958f8ccb03b76", "8c1d92ddb23d3749"),
    ("vit_b", POSITION, "0363bc5c44d74b4a", "8c1d92ddb23d3749"),
    ("vit_b", ONE_LEVEL, "1abd0ae76d23d94e", "7726b047298b781b"),
    ("vit_b", ALL_LEVELS, "8b83be56a08b0bc8", "0de8a9f748afd4eb"),
    ("vit_b", TWO_LEVELS, "6d78dd1f2f5acf81", "c16bcedf86fc89b6"),
    ("vit_b", CONVOLUTIONS, "22c1492860ff8720", "fcab6de5f545992d"),
    ("vit_b", {}, "b7b7c034f54fb2b1", "29ac4799e47e727c"),
    ("tiny", CONVOLUTIONS, "2f47e491322c4df8", "40bada2aff33e7e0"),
    ("tiny", {}, "617d5770c3654877", "21e9f3679a6eb6f1"),
    ("vit_b", {"labelled_prompts": False}, "f8439bb85f8cd3e2", "47aca1d465b6c318"),
    ("vit_l", COARSE, "0f3e5b73dd2fa04a", "d20a6ccf2cacfb22"),
    ("vit_h", COARSE, "11f46efa788012d0", "478eac5f151a59be"),
    ("paper", {}, "f8439bb85f8cd3e2", "47aca1d465b6c318"),
    ("paper", POSITION, "e4d4ac0a1e520488", "ad04d7ad34f5151b"),
    ("paper", ONE_LEVEL, "3542f89717c2cf68", "5213a075b9bea44a"),
    ("paper", ALL_LEVELS, "bba7c54ae8883258", "b34e8e23093640b7"),
    ("paper", TWO_LEVELS, "608761969cb2e871", "6d5bbf11befeb8dc"),
    ("tiny", COARSE, "743b47053bcbd5f1", "d8b19218ecc067d6"),
    ("tiny", POSITION, "0dd3caa53513a676", "d8b19218ecc067d6"),
    ("tiny", ONE_LEVEL, "3faebecd7394ebf7", "b00180820b17757e"),
    ("tiny", ALL_LEVELS, "eb392657da8eea75", "d8f5303ba4d47560"),
    ("tiny", TWO_LEVELS, "8aaf515f20e616c0", "fa5b39e7156a93ef"),
]


def digest(lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    print(text)  # shown where the comparison fails
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("preset", "options", "tensors", "parameters"), DIGESTS, ids=[f"{d[0]} {json.dumps(d[1])}" for d in DIGESTS]
)
def test_names_shapes_and_order(preset: str, options: dict[str, Any], tensors: str, parameters: str):
    with torch.device("meta"):
        net = SAM3D.from_preset(preset, 1, 2, (128, 128, 128), **options)
    assert digest(f"{name} {tuple(t.shape)}" for name, t in net.state_dict().items()) == tensors
    described = ((name, tuple(p.shape), p.requires_grad) for name, p in net.named_parameters())
    assert digest(f"{name} {shape} {tuned}" for name, shape, tuned in described) == parameters


@pytest.mark.parametrize(
    ("options", "first_weights"),
    [
        ({}, [0.0700769, -0.0309576, -0.0130153]),
        (POSITION, [0.0700769, 0.0661535, -0.0158212]),
        (ONE_LEVEL, [0.0700769, -0.0309576, 0.00210375]),
        (ALL_LEVELS, [0.0700769, -0.0127414, -0.0155577]),
        (TWO_LEVELS, [0.0700769, 0.0551103, -0.0266937]),
    ],
    ids=json.dumps,
)
def test_random_weights_of_a_seed(options: dict[str, Any], first_weights: list[float]):
    """The parts are created in one order: last prompt encoder, those of other levels, dense prompts, decoder."""
    torch.manual_seed(3)
    parameters = dict(SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), **options).named_parameters())
    names = ("prompt_encoder.layers.0.global_query", "dense_prompt.seg_layers.weight", "mask_decoder.seg_layers.weight")
    assert [parameters[name].flatten()[0].item() for name in names] == pytest.approx(first_weights, rel=1e-4)
