"""The benchmark of int8 layers, on small networks."""

import re

import encoder_cpu
import pytest
import torch
from torch.ao.nn.quantized.dynamic import Linear

from sam3d_nnunet.network.sam3d import SAM3D

pytestmark = pytest.mark.filterwarnings("ignore")  # torch announces the end of these functions at each call


def test_only_the_named_layers_of_blocks_are_quantised():
    network = SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), 4)
    quantised = encoder_cpu.in_int8(network, encoder_cpu.FROZEN)
    found = {name for name, layer in quantised.named_modules() if isinstance(layer, Linear)}
    blocks = range(len(network.image_encoder.blocks))
    layers = ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")
    assert found == {f"image_encoder.blocks.{i}.{layer}" for i in blocks for layer in layers}
    assert not any(isinstance(layer, Linear) for layer in network.modules())  # the original stays as it is


def test_int8_is_near_float32_but_not_equal(capsys):
    network = SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), 4).eval()
    quantised, image = encoder_cpu.in_int8(network, encoder_cpu.FROZEN), torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        exact, found = (net.image_encoder(image)[-1] for net in (network, quantised))
    assert 1e-4 < encoder_cpu.error(found, exact) < 0.1


def test_speed_is_printed_for_each_way(capsys):
    encoder_cpu.measure_click("tiny", (32, 32, 32))
    rows = re.findall(r"^(\w.*?) +[\d.]+ s +([\d.]+) x +[\d.]+ s +([\d.]+) x$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, *_ in rows] == ["float32", *encoder_cpu.WAYS]
    assert rows[0][1:] == ("1.00", "1.00")
