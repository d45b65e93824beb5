"""Reading the authors' checkpoints: what is dropped, what is refused (that the outputs agree is in `test_golden`)."""

import json

import numpy as np
import pytest
import torch
from data_fixtures import GOLDEN
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.weights import load_released_checkpoint

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def encoder_layout() -> Shapes:
    shapes = {"pos_embed": (1, 64, 64, 768), "depth_embed": (1, 32, 768)}
    shapes |= {"patch_embed.proj.weight": (768, 3, 16, 16), "patch_embed.proj.bias": (768,)}
    shapes |= {"slice_embed.weight": (768, 1, 1, 1, 16), "slice_embed.bias": (768,)}
    for i in range(12):
        block = f"blocks.{i}"
        if i % 2 == 0:
            shapes[f"{block}.attn_mask"] = (64, 512, 512)
        shapes |= norm(f"{block}.norm1", 768) | norm(f"{block}.norm2", 768)
        rows = 127 if i in (2, 5, 8, 11) else 27
        shapes |= {f"{block}.attn.rel_pos_{axis}": (rows, 64) for axis in "hwd"} | {f"{block}.attn.lr": ()}
        shapes |= linear(f"{block}.attn.qkv", 768, 2304) | linear(f"{block}.attn.proj", 768, 768)
        shapes |= linear(f"{block}.mlp.lin1", 768, 3072) | linear(f"{block}.mlp.lin2", 3072, 768)
        shapes |= linear(f"{block}.adapter.linear1", 768, 384) | linear(f"{block}.adapter.linear2", 384, 768)
        shapes |= {f"{block}.adapter.conv.weight": (384, 1, 3, 3, 3), f"{block}.adapter.conv.bias": (384,)}
    for i in range(4):
        neck = f"neck_3d.{i}"
        shapes |= {f"{neck}.0.weight": (256, 768, 1, 1, 1), f"{neck}.2.weight": (256, 256, 3, 3, 3)}
        shapes |= norm(f"{neck}.1", 256) | norm(f"{neck}.3", 256)
    return shapes


def prompt_layout() -> Shapes:
    shapes = {"positional_encoding_gaussian_matrix": (3, 128)}
    for i in range(2):
        layer = f"transformer.layers.{i}"
        shapes[f"{layer}.global_query"] = (1, 10, 256)
        inner = {"self_attn": 256, "cross_attn_token_to_image": 128, "cross_attn_image_to_token": 128}
        for attention, width in inner.items():
            for projection in "qkv":
                shapes |= linear(f"{layer}.{attention}.{projection}_proj", 256, width)
            shapes |= linear(f"{layer}.{attention}.out_proj", width, 256)
        for n in range(1, 5):
            shapes |= norm(f"{layer}.norm{n}", 256)
        shapes |= linear(f"{layer}.mlp.lin1", 256, 2048) | linear(f"{layer}.mlp.lin2", 2048, 256)
    return shapes


def decoder_layout(classes: int = 2) -> Shapes:
    heads = {f"mlahead.head{n}.0.weight": (128, 256, 3, 3, 3) for n in range(2, 6)}
    heads |= {f"mlahead.head{n}.3.weight": (128, 128, 3, 3, 3) for n in range(2, 6)}
    return heads | {"cls.0.weight": (128, 513, 3, 3, 3), "cls.3.weight": (classes, 128, 3, 3, 3)}


def one_number(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors that take no space in a file: each one number, expanded to its shape."""
    return {name: torch.tensor(i / len(shapes)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture
def checkpoint() -> dict:
    """As the authors save it."""
    return {
        "epoch": 7,
        "best_val_loss": np.float32(0.5),
        "encoder_dict": one_number(encoder_layout()),
        "feature_dict": [{}, {}, {}, one_number(prompt_layout())],
        "decoder_dict": one_number(decoder_layout()),
        "encoder_opt": {"state": {}, "param_groups": [{"lr": np.float64(4e-4)}]},
    }


def test_layouts_here_are_the_released_ones():
    released = json.loads((GOLDEN / "released_layout.json").read_text())
    for part, shapes in {"encoder": encoder_layout(), "prompt3": prompt_layout(), "decoder": decoder_layout()}.items():
        assert {n: list(s) for n, s in shapes.items()} == released[part]


def test_checkpoint_is_read(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "released.pth")
    net = load_released_checkpoint(tmp_path / "released.pth").state_dict()
    encoder = checkpoint["encoder_dict"]
    assert torch.equal(net["image_encoder.necks.3.reduce.weight"], encoder["neck_3d.3.0.weight"].flatten(1))
    assert net["image_encoder.blocks.4.attn.rel_pos_gain"] == encoder["blocks.4.attn.lr"]
    assert torch.equal(net["mask_decoder.heads.2.3.weight"], checkpoint["decoder_dict"]["mlahead.head4.3.weight"])


def test_number_of_classes_is_read_off(checkpoint, tmp_path):
    checkpoint["decoder_dict"] = one_number(decoder_layout(classes=4))
    torch.save(checkpoint, tmp_path / "released.pth")
    assert load_released_checkpoint(tmp_path / "released.pth").mask_decoder.seg_layers.out_channels == 4


def test_surplus_and_gap_are_named(checkpoint, tmp_path):
    checkpoint["encoder_dict"]["blocks.0.gate"] = torch.ones(3)
    checkpoint["feature_dict"][3]["transformer.layers.2.norm1.weight"] = torch.ones(256)
    del checkpoint["encoder_dict"]["blocks.11.adapter.conv.bias"], checkpoint["decoder_dict"]["mlahead.head3.0.weight"]
    checkpoint["decoder_dict"]["cls.0.weight"] = torch.ones(128, 514, 3, 3, 3)  # one image channel too many
    torch.save(checkpoint, tmp_path / "released.pth")
    with pytest.raises(SAM3DError) as e:
        load_released_checkpoint(tmp_path / "released.pth")
    message = str(e.value)
    assert "missing: image_encoder.blocks.11.adapter.conv.bias, mask_decoder.heads.1.0.weight;" in message
    assert "unexpected: image_encoder.blocks.0.gate, prompt_encoder.layers.2.norm1.weight." in message


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("encoder_dict", None, ["'encoder_dict'"]),
        ("decoder_dict", [1], ["'decoder_dict'", "(list)"]),
        ("feature_dict", {}, ["'feature_dict'", "(dict)"]),
        ("feature_dict", [], ["'feature_dict'", "(list)"]),
        ("decoder_dict", {}, ["lacks mask_decoder.seg_layers.weight"]),
        ("decoder_dict", {"cls.3.weight": torch.zeros(2)}, ["lacks mask_decoder.seg_layers.weight"]),
    ],
)
def test_other_layouts_are_refused(part, content, said, checkpoint, tmp_path):
    if content is None:
        del checkpoint[part]
    else:
        checkpoint[part] = content
    torch.save(checkpoint, tmp_path / "released.pth")
    with pytest.raises(SAM3DError) as e:
        load_released_checkpoint(tmp_path / "released.pth")
    assert "released 3DSAM-adapter checkpoint" in str(e.value) and str(tmp_path / "released.pth") in str(e.value)
    assert all(words in str(e.value) for words in said)
