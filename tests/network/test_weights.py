"""SAM's weights lifted to 3-D, checkpoints that don't fit, where weights are looked for, and their download."""

import hashlib
import json
import os
import pickle
import threading
import warnings
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import relative_error
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import ImageEncoderViT, get_rel_pos
from torch import nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import SAM3D, weights
from sam3d_nnunet.network.attention import relative_positions
from sam3d_nnunet.network.image_encoder import ImageEncoder
from sam3d_nnunet.network.weights import (
    lift_sam,
    load_released_checkpoint,
    read_checkpoint,
    sam_checkpoint,
    translate_released,
)

GLOBAL_BLOCKS = (1, 3)


def small_sam() -> ImageEncoderViT:
    """SAM's encoder at width 32, with nothing left at zero."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    sam = ImageEncoderViT(
        embed_dim=32,
        depth=4,
        num_heads=2,
        use_rel_pos=True,
        window_size=14,
        norm_layer=norm,
        global_attn_indexes=GLOBAL_BLOCKS,
    )
    return stirred(sam)


def stirred(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return module.eval()


def small_encoder(stride: int = 4, width: int = 32) -> ImageEncoder:
    return ImageEncoder(1, width, depth=4, num_heads=2, global_blocks=GLOBAL_BLOCKS, out_channels=8, stride=stride)


def as_checkpoint(sam: nn.Module) -> dict[str, torch.Tensor]:
    """As in SAM's public files: the parts side by side."""
    parts = {f"image_encoder.{name}": t for name, t in sam.state_dict().items()}
    return parts | {"prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 8), "mask_decoder.a.weight": torch.ones(2)}


@pytest.fixture
def sam_file(tmp_path) -> Path:
    torch.save(as_checkpoint(small_sam()), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


# --- lifting: on one slice, the frozen parts give SAM's numbers ---


def neutralise(encoder: ImageEncoder) -> None:
    """Switch off what SAM doesn't have: adapters add nothing, the slice convolution takes the mean, depth is nowhere."""
    with torch.no_grad():
        for block in encoder.blocks:
            block.adapter.up.weight.zero_()
            block.adapter.up.bias.zero_()
        encoder.patch_embed.slice_embed.weight.fill_(1 / 16)
        encoder.patch_embed.slice_embed.bias.zero_()
        encoder.depth_embed.zero_()


@torch.no_grad()
def check_slice(sam: ImageEncoderViT, encoder: ImageEncoder) -> float:
    """Largest relative error of patch embedding and of each block, on one slice of 8 x 8 tokens.

    That is one window, and a slice has no neighbours to attend to: whatever the depth table of relative positions
    holds, it adds the same to all keys. SAM's own blocks run on it with windows of 8.
    """
    stride = encoder.patch_embed.stride
    plane = torch.randn(1, 1, 8 * stride, 8 * stride)
    outputs = []
    hooks = [
        block.register_forward_hook(lambda module, args, out: outputs.append(out[:, 0])) for block in encoder.blocks
    ]
    hooks.append(encoder.patch_embed.register_forward_hook(lambda module, args, out: outputs.append(out[:, 0])))
    encoder(plane[:, :, None].expand(-1, -1, stride, -1, -1))
    for hook in hooks:
        hook.remove()

    picture = F.interpolate(plane, scale_factor=16 / stride, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    tokens = sam.patch_embed(picture)
    expected = [tokens]
    positions = F.interpolate(sam.pos_embed.permute(0, 3, 1, 2), size=(8, 8), mode="bilinear", align_corners=False)
    tokens = tokens + positions.permute(0, 2, 3, 1)
    for block in sam.blocks:
        block.window_size = 8
        tokens = block(tokens)
        expected.append(tokens)
    return max(relative_error(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_slice_of_small_model_equals_sam(stride, tmp_path):
    sam, encoder = small_sam(), small_encoder(stride)
    torch.save(as_checkpoint(sam), tmp_path / "sam.pth")
    lift_sam(encoder, tmp_path / "sam.pth")
    neutralise(encoder)
    error = check_slice(sam, encoder)
    assert error < 1e-5
    with torch.no_grad():  # the comparison does see the frozen parts
        encoder.blocks[2].attn.rel_pos_h += 0.1 * torch.randn_like(encoder.blocks[2].attn.rel_pos_h)
    assert check_slice(sam, encoder) > 1e-3


def test_several_windows_of_a_slice_equal_sam(sam_file):
    """Plain blocks on a slice of 2 x 3 windows, the last one padded: SAM's windows lie where ours do."""
    sam, encoder = small_sam(), small_encoder()
    sam.load_state_dict({n.removeprefix("image_encoder."): t for n, t in torch.load(sam_file).items() if "image" in n})
    lift_sam(encoder, sam_file)
    neutralise(encoder)
    tokens = torch.randn(2, 16, 24, 32)
    layout = weights.torch.nn.Module  # placeholder
    del layout


def test_relative_positions_are_resampled_as_in_sam():
    for size in (8, 14, 64):
        table = torch.randn(2 * size - 1, 6)
        torch.testing.assert_close(relative_positions(table), get_rel_pos(8, 8, table))


def test_position_embedding_is_sams(sam_file):
    encoder = small_encoder()
    lift_sam(encoder, sam_file)
    sam = torch.load(sam_file)["image_encoder.pos_embed"]
    with torch.no_grad():
        assert torch.equal(encoder.position_embedding((1, 64, 64))[:, 0], sam)
        mean = F.avg_pool2d(sam.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        torch.testing.assert_close(encoder.position_embedding((3, 32, 32)), mean[:, None].expand(-1, 3, -1, -1, -1))


def test_full_size_lifting(tmp_path):
    """vit_b as segment_anything builds it: every frozen tensor bit for bit, the rest untouched, the same numbers."""
    sam = stirred(sam_model_registry["vit_b"]())
    path = tmp_path / "sam_vit_b.pth"
    torch.save(sam.state_dict(), path)
    encoder = SAM3D.from_preset("paper", 1, 2, (128, 128, 128)).image_encoder
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    lift_sam(encoder, path)
    path.unlink()

    theirs = {n: t for n, t in sam.image_encoder.state_dict().items() if not n.startswith("neck.")}
    after = encoder.state_dict()
    tables = [n for n in theirs if n.endswith("rel_pos_h")]
    assert len(tables) == 12
    for name, tensor in theirs.items():
        assert torch.equal(after[name], tensor), name
    for name in tables:
        mean = (theirs[name] + theirs[name.replace("rel_pos_h", "rel_pos_w")]) / 2
        assert torch.equal(after[name.replace("rel_pos_h", "rel_pos_d")], mean)
    untouched = [n for n in before if n not in theirs and not n.endswith("rel_pos_d")]
    assert sum(".adapter." in n for n in untouched) == 12 * 6 and "depth_embed" in untouched
    for name in untouched:
        assert torch.equal(after[name], before[name]), name
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen - {"patch_embed.channel_mix"} <= theirs.keys()

    neutralise(encoder)
    error = check_slice(sam.image_encoder, encoder)
    print(f"vit_b on one slice, 12 blocks: relative error {error:.1e}")
    assert error < 1e-5


def test_medsam_is_accepted_by_path(tmp_path, monkeypatch):
    """Same layout; what lies beside the image encoder doesn't matter."""
    monkeypatch.delenv(weights.CHECKPOINT_VARIABLE, raising=False)
    tensors = as_checkpoint(small_sam()) | {"mask_decoder.extra": torch.ones(3), "pixel_mean": torch.zeros(3)}
    torch.save(tensors, tmp_path / "medsam_vit_b.pth")
    encoder = small_encoder()
    lift_sam(encoder, sam_checkpoint("vit_b", planned=str(tmp_path / "medsam_vit_b.pth")))
    assert torch.equal(encoder.pos_embed, tensors["image_encoder.pos_embed"])


# --- files that don't fit ---


def refused(function, *args) -> str:
    with pytest.raises(SAM3DError) as e:
        function(*args)
    return str(e.value)


def test_missing_and_unexpected_tensors_of_sam_are_named(sam_file):
    tensors = torch.load(sam_file)
    tensors["image_encoder.blocks.9.norm1.weight"] = torch.ones(32)
    tensors["image_encoder.blocks.0.adapter.down.weight"] = torch.ones(16, 32)  # ours, but no SAM has it
    del tensors["image_encoder.blocks.2.mlp.lin1.bias"], tensors["image_encoder.blocks.1.attn.rel_pos_w"]
    tensors["image_encoder.blocks.3.attn.rel_pos_h"] = torch.ones(27, 16)
    tensors["image_encoder.blocks.3.attn.qkv.bias"] = 7
    torch.save(tensors, sam_file)
    encoder = small_encoder()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    message = refused(lift_sam, encoder, sam_file)
    assert str(sam_file) in message
    assert "missing: blocks.1.attn.rel_pos_w, blocks.2.mlp.lin1.bias;" in message
    assert "unexpected: blocks.0.adapter.down.weight, blocks.9.norm1.weight;" in message
    assert "blocks.3.attn.rel_pos_h (27, 16) instead of (127, 16)" in message
    assert "blocks.3.attn.qkv.bias int" in message
    assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())


def test_wrong_sam_model_is_named(tmp_path):
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1024)}, tmp_path / "sam_vit_l.pth")
    message = refused(lift_sam, small_encoder(width=768), tmp_path / "sam_vit_l.pth")
    assert "vit_l (tokens 1024 wide)" in message and "needs vit_b (tokens 768 wide)" in message


@pytest.mark.parametrize("content", [{}, {"model": {}, "epoch": 3}, {"image_encoder.pos_embed": 3}])
def test_other_checkpoints_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    message = refused(lift_sam, small_encoder(), tmp_path / "other.pth")
    assert "no SAM checkpoint" in message and "image_encoder.pos_embed" in message
    assert all(str(name) in message for name in content)


class Evil:
    """Runs a command when unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["torch", "torch_legacy", "pickle"])
def test_no_foreign_object_is_ever_unpickled(how, tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"image_encoder.pos_embed": torch.zeros(3), "x": Evil(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"x": Evil(marker)}))
        pickle.loads(path.read_bytes())
        assert marker.exists()  # it would run
        marker.unlink()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    message = refused(lift_sam, small_encoder(), path)
    assert str(path) in message and "weights_only" not in message
    assert not marker.exists()
    if how == "torch":
        assert "system" in message and "could run code" in message


def test_files_that_are_no_checkpoints_say_what_they_are(tmp_path):
    def message(content) -> str:
        path = tmp_path / "file.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return refused(read_checkpoint, path)

    assert "it is empty" in message(b"")
    assert "a text file beginning with 'hello world'" in message(b"hello world\nsecond line")
    assert "<!DOCTYPE html>" in message(b"<!DOCTYPE html>\n<html><body>404</body></html>")
    assert "holds a Tensor, not a dictionary" in message(torch.zeros(3))
    assert "holds a list" in message([{"a": torch.zeros(3)}])
    assert "Linear" in message({"model": nn.Linear(2, 2)})
    assert "_reconstruct" in message({"array": np.zeros(3)})
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pth")
    assert "TorchScript" in refused(read_checkpoint, tmp_path / "script.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as z:
        z.writestr("a.txt", "text")
    assert "no file of torch.save" in refused(read_checkpoint, tmp_path / "zip.pth")
    assert "is a folder" in refused(read_checkpoint, tmp_path)
    assert "There is no file" in refused(read_checkpoint, tmp_path / "nowhere.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_files_are_refused(new_format, sam_file, tmp_path):
    torch.save(torch.load(sam_file), sam_file, _use_new_zipfile_serialization=new_format)
    whole = sam_file.read_bytes()
    read_checkpoint(sam_file)
    for part in (0.001, 0.1, 0.5, 0.9, 0.9999):
        sam_file.write_bytes(whole[: int(part * len(whole))])
        message = refused(lift_sam, small_encoder(), sam_file)
        assert "cut short" in message and str(sam_file) in message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64) | st.text(alphabet="()]}.{sctabuqQKMNX\x80\x02", max_size=30).map(str.encode))
def test_any_bytes_end_in_our_error(tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about pickle protocols that don't exist
        try:
            assert isinstance(read_checkpoint(path), dict)  # a few bytes can be an empty dictionary
        except SAM3DError as e:
            assert str(path) in str(e)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
def test_numpy_numbers_are_read_but_allowed_nowhere_else(kind, tmp_path):
    torch.save({"best_val_loss": kind(3)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth") == {"best_val_loss": 3}
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_numbers_of_numpy_1_are_read(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"best_val_loss": np.float32(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"cnumpy.core.multiarray\nscalar" in path.read_bytes()
    assert read_checkpoint(path) == {"best_val_loss": 3}


# --- released checkpoints ---


def released(**changes) -> dict:
    """A checkpoint laid out like the authors', from our own names backwards; its tensors take no space.

    Args:
        changes: parts to replace.
    """
    back = {
        "encoder_dict": [
            ("patch_embed.slice_embed.", "slice_embed."),
            (".rel_pos_gain", ".lr"),
            (".adapter.down.", ".adapter.linear1."),
            (".adapter.up.", ".adapter.linear2."),
            *((f".{ours}.", f".{i}.") for i, ours in enumerate(("reduce", "norm1", "conv", "norm2"))),
        ],
        "feature_dict": [
            ("layers.", "transformer.layers."),
            (".mlp.0.", ".mlp.lin1."),
            (".mlp.2.", ".mlp.lin2."),
            (".image_to_queries.", ".cross_attn_image_to_token."),
        ],
        "decoder_dict": [
            *((f"heads.{i}.", f"mlahead.head{i + 2}.") for i in range(4)),
            ("fusion.conv.", "cls.0."),
            ("seg_layers.", "cls.3."),
        ],
    }
    with torch.device("meta"):
        net = SAM3D.from_preset("paper", 1, 2, (128, 128, 128))
    parts = {}
    for part, module in zip(back, (net.image_encoder, net.prompt_encoder, net.mask_decoder), strict=True):
        parts[part] = {}
        for name, tensor in module.state_dict().items():
            if name.endswith("channel_mix"):
                continue
            shape = tuple(tensor.shape)
            if part == "encoder_dict" and name.startswith("necks."):
                name = name.replace("necks.", "neck_3d.")
                in_neck = True
            else:
                in_neck = False
            for ours, theirs in back[part]:
                if in_neck or theirs[1:-1] not in "0123":
                    name = name.replace(ours, theirs)
            if len(shape) == 5:
                shape = (*shape[:2], shape[3], shape[4], shape[2])
            elif in_neck and len(shape) == 2:
                shape = (*shape, 1, 1, 1)
            parts[part][name] = torch.full((), 0.5).expand(shape)
    parts["encoder_dict"]["blocks.0.attn_mask"] = torch.zeros(4)
    parts["feature_dict"]["transformer.layers.0.cross_attn_token_to_image.q_proj.weight"] = torch.zeros(4)
    parts["feature_dict"]["positional_encoding_gaussian_matrix"] = torch.zeros(3, 128)
    parts["feature_dict"] = [{}, {}, {}, parts["feature_dict"]]
    return parts | {"epoch": 1, "best_val_loss": np.float32(0.5)} | changes
