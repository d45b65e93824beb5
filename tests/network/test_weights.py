"""SAM's weights lifted to 3-D: on one slice, the frozen parts give segment_anything's own numbers."""

import pytest
import torch
import torch.nn.functional as F
from reference import relative_error
from sam_files import save_sam, small_encoder, small_sam, stirred
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import ImageEncoderViT, get_rel_pos

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import PRESETS
from sam3d_nnunet.network.image_encoder import ImageEncoder
from sam3d_nnunet.network.weights import CHECKPOINT_VARIABLE, lift_sam, sam_checkpoint
from sam3d_nnunet.network.window_attention import WindowLayout, distance_table


def neutralise(encoder: ImageEncoder) -> None:
    """Switch off what SAM doesn't have: adapters add nothing, slices are averaged, depth is nothing."""
    with torch.no_grad():
        for block in encoder.blocks:
            block.adapter.up.weight.zero_()
            block.adapter.up.bias.zero_()
        encoder.patch_embed.slice_embed.weight.fill_(1 / 16)
        encoder.patch_embed.slice_embed.bias.zero_()
        encoder.depth_embed.zero_()


@torch.no_grad()
def error_on_a_slice(sam: ImageEncoderViT, encoder: ImageEncoder) -> float:
    """Largest relative error after the patch embedding and after each block, on one slice of 8 x 8 tokens.

    That is one window, so nothing is shifted, and the slice has no neighbours to attend to: whatever the depth table of
    relative positions holds, it adds the same to all keys. SAM's own blocks run on the slice with windows of 8.
    """
    stride = encoder.patch_embed.stride
    plane = torch.randn(1, 1, 8 * stride, 8 * stride)
    found = []
    modules = [encoder.patch_embed, *encoder.blocks]
    hooks = [m.register_forward_hook(lambda module, args, out: found.append(out[:, 0])) for m in modules]
    encoder(plane[:, :, None].expand(-1, -1, stride, -1, -1))
    for hook in hooks:
        hook.remove()

    picture = F.interpolate(plane, scale_factor=16 / stride, mode="bilinear", align_corners=False)
    tokens = sam.patch_embed(picture.expand(-1, 3, -1, -1))
    expected = [tokens]
    positions = F.interpolate(sam.pos_embed.permute(0, 3, 1, 2), size=(8, 8), mode="bilinear", align_corners=False)
    tokens = tokens + positions.permute(0, 2, 3, 1)
    for block in sam.blocks:
        block.window_size = 8
        tokens = block(tokens)
        expected.append(tokens)
    return max(relative_error(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_slice_through_the_small_model(stride, tmp_path):
    sam, encoder = small_sam(), small_encoder(stride)
    save_sam(sam, tmp_path / "sam.pth")
    lift_sam(encoder, tmp_path / "sam.pth")
    neutralise(encoder)
    assert error_on_a_slice(sam, encoder) < 1e-5


@pytest.mark.parametrize("name", ["attn.rel_pos_h", "attn.rel_pos_w", "attn.qkv.bias", "mlp.lin2.weight"])
def test_the_comparison_sees_every_frozen_part(name, tmp_path):
    sam, encoder = small_sam(), small_encoder()
    save_sam(sam, tmp_path / "sam.pth")
    lift_sam(encoder, tmp_path / "sam.pth")
    neutralise(encoder)
    with torch.no_grad():
        parameter = encoder.blocks[2].get_parameter(name)
        parameter += 0.1 * torch.randn_like(parameter)
    assert error_on_a_slice(sam, encoder) > 1e-4


def test_several_windows_of_a_slice(tmp_path):
    """SAM's windows lie where the unshifted ones of ours do."""
    sam, encoder = small_sam(), small_encoder()
    save_sam(sam, tmp_path / "sam.pth")
    lift_sam(encoder, tmp_path / "sam.pth")
    neutralise(encoder)
    tokens = torch.randn(2, 16, 24, 32)
    layout = WindowLayout((1, 16, 24), False, len(tokens), tokens.device)
    for ours, theirs in zip(encoder.blocks, sam.blocks, strict=True):
        theirs.window_size = 8
        with torch.no_grad():
            assert relative_error(ours(tokens[:, None], layout)[:, 0], theirs(tokens)) < 1e-5


@pytest.mark.parametrize("size", [8, 14, 64])
def test_relative_positions_are_resampled_as_in_sam(size):
    table = torch.randn(2 * size - 1, 6)
    place = torch.arange(8)
    found = distance_table(table)[place[:, None] - place + 7]
    torch.testing.assert_close(found, get_rel_pos(8, 8, table))


def test_position_embedding_is_sams(tmp_path):
    encoder = small_encoder()
    table = save_sam(small_sam(), tmp_path / "sam.pth")["image_encoder.pos_embed"]
    lift_sam(encoder, tmp_path / "sam.pth")
    with torch.no_grad():
        assert torch.equal(encoder.position_embedding((1, 64, 64))[:, 0], table)
        mean = F.avg_pool2d(table.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        found = encoder.position_embedding((3, 32, 32))
        torch.testing.assert_close(found, mean[:, None].expand(-1, 3, -1, -1, -1))


def test_full_size(tmp_path):
    """vit_b as segment_anything builds it: every frozen tensor bit for bit, the rest untouched, the same numbers."""
    sam = stirred(sam_model_registry["vit_b"]())
    path = tmp_path / "sam_vit_b.pth"
    torch.save(sam.state_dict(), path)
    encoder = ImageEncoder(1, 768, 12, 12, PRESETS["vit_b"].global_blocks, out_channels=256, stride=4)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    lift_sam(encoder, path)
    path.unlink()

    theirs = {n: t for n, t in sam.image_encoder.state_dict().items() if not n.startswith("neck.")}
    after = encoder.state_dict()
    for name, tensor in theirs.items():
        assert torch.equal(after[name], tensor), name
    tables = [n for n in theirs if n.endswith("rel_pos_h")]
    assert len(tables) == 12
    for name in tables:
        mean = (theirs[name] + theirs[name.replace("rel_pos_h", "rel_pos_w")]) / 2
        assert torch.equal(after[name.replace("rel_pos_h", "rel_pos_d")], mean)
    untouched = [n for n in before if n not in theirs and not n.endswith("rel_pos_d")]
    assert sum(".adapter." in n for n in untouched) == 12 * 6 and "depth_embed" in untouched
    for name in untouched:
        assert torch.equal(after[name], before[name]), name

    neutralise(encoder)
    error = error_on_a_slice(sam.image_encoder, encoder)
    print(f"vit_b on one slice, after any of 12 blocks: relative error at most {error:.1e}")
    assert error < 1e-5


def test_lifting_keeps_parameters_in_place(tmp_path):
    """An optimiser that exists already goes on tuning the same tensors."""
    encoder = small_encoder()
    before = {n: (id(p), p.data_ptr(), p.requires_grad) for n, p in encoder.named_parameters()}
    save_sam(small_sam(), tmp_path / "sam.pth")
    lift_sam(encoder, tmp_path / "sam.pth")
    assert {n: (id(p), p.data_ptr(), p.requires_grad) for n, p in encoder.named_parameters()} == before


def test_medsam_is_accepted_by_path(tmp_path, monkeypatch):
    """Its file has SAM's layout; what lies beside the image encoder doesn't matter."""
    monkeypatch.setenv(CHECKPOINT_VARIABLE, str(tmp_path / "not looked at"))
    path = tmp_path / "medsam_vit_b.pth"
    tensors = save_sam(small_sam(), path) | {"mask_decoder.extra": torch.ones(3), "pixel_mean": torch.zeros(3)}
    torch.save(tensors, path)
    encoder = small_encoder()
    lift_sam(encoder, sam_checkpoint("vit_b", planned=str(path)))
    assert torch.equal(encoder.pos_embed, tensors["image_encoder.pos_embed"])


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    path = tmp_path / "sam.pth"
    tensors = save_sam(small_sam(), path)
    tensors["image_encoder.blocks.9.norm1.weight"] = torch.ones(32)
    tensors["image_encoder.blocks.0.adapter.down.weight"] = torch.ones(16, 32)  # ours, but no SAM has it
    tensors["image_encoder.blocks.3.attn.rel_pos_h"] = torch.ones(27, 16)
    tensors["image_encoder.blocks.3.attn.qkv.bias"] = 7
    del tensors["image_encoder.blocks.2.mlp.lin1.bias"], tensors["image_encoder.blocks.1.attn.rel_pos_w"]
    torch.save(tensors, path)
    encoder = small_encoder()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    with pytest.raises(SAM3DError) as e:
        lift_sam(encoder, path)
    message = str(e.value)
    assert str(path) in message
    assert "missing: blocks.1.attn.rel_pos_w, blocks.2.mlp.lin1.bias;" in message
    assert "unexpected: blocks.0.adapter.down.weight, blocks.9.norm1.weight;" in message
    assert "blocks.3.attn.rel_pos_h (27, 16) instead of (127, 16)" in message
    assert "blocks.3.attn.qkv.bias int instead of (96,)" in message
    assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())


def test_wrong_sam_model_is_named(tmp_path):
    path = tmp_path / "sam_vit_l.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1024)}, path)
    with pytest.raises(SAM3DError, match=r"vit_l \(tokens 1024 wide\); the preset needs vit_b \(tokens 768 wide\)"):
        lift_sam(small_encoder(width=768), path)


@pytest.mark.parametrize("content", [{}, {"model": {}, "epoch": 3}, {"image_encoder.pos_embed": 3}])
def test_other_checkpoints_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(SAM3DError, match=r"other\.pth .*image_encoder\.pos_embed") as e:
        lift_sam(small_encoder(), tmp_path / "other.pth")
    assert all(name in str(e.value) for name in content)
