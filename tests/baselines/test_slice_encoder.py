"""With the same weights, features are those of segment_anything's own encoder, slice by slice."""

import pytest
import sam_files
import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import ImageEncoderViT

from sam3d_nnunet.baselines.slice_encoder import BlockTuning, SliceEncoder
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.sam3d import Preset

SMALL = Preset(None, 32, 4, 2, sam_files.GLOBAL_BLOCKS)  # blocks 0 and 2 attend in windows


def slice_encoder(channels: int = 1, stride: int = 4, tuning: type[BlockTuning] | None = None) -> SliceEncoder:
    make_tuning = None if tuning is None else lambda dim: tuning()
    return SliceEncoder(SMALL, channels, stride, activation_checkpointing=False, tuning=make_tuning)


@torch.no_grad()
def levels_of_sam(sam: ImageEncoderViT, slices: torch.Tensor) -> list[torch.Tensor]:
    """(slices, 3, H, W) -> what the neck makes of the tokens behind both global blocks, the last by SAM's forward."""
    tokens = {}
    for i in sam_files.GLOBAL_BLOCKS:
        sam.blocks[i].register_forward_hook(lambda _, __, output, i=i: tokens.update({i: output}))
    last = sam(slices)
    first = sam.neck(tokens[sam_files.GLOBAL_BLOCKS[0]].permute(0, 3, 1, 2))
    return [first, last]


@pytest.mark.parametrize("tuning", [None, BlockTuning])
@pytest.mark.parametrize(
    "side, batch, depth, stride",
    [
        pytest.param(64, 1, 1, 2, id="as SAM's"),
        pytest.param(32, 2, 3, 4, id="half as many tokens"),
        pytest.param(32, 1, 2, 8, id="less enlarged"),
    ],
)
def test_as_segment_anything(tmp_path, tuning, side, batch, depth, stride):
    sam, encoder = sam_files.small_sam(), slice_encoder(stride=stride, tuning=tuning)
    sam_files.save_sam(sam, tmp_path / "sam.pth")
    encoder.load_sam(tmp_path / "sam.pth")
    image = torch.randn(batch, 1, depth * stride, side * stride, side * stride)
    slices = torch.stack([slab.mean(2) for slab in image.split(stride, dim=2)], 1).flatten(0, 1).expand(-1, 3, -1, -1)
    slices = F.interpolate(slices, size=(16 * side, 16 * side), mode="bilinear", align_corners=False)
    if side == 32:  # as in the published 3-D network: SAM's positions are averaged 2 x 2
        positions = F.avg_pool2d(sam.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        sam.pos_embed = torch.nn.Parameter(positions)
    with torch.no_grad():
        found = encoder(image)
    expected = levels_of_sam(sam, slices)
    assert len(found) == len(expected)
    for level, features in zip(found, expected):
        features = features.unflatten(0, (batch, depth)).transpose(1, 2)
        torch.testing.assert_close(level, features, rtol=1e-5, atol=1e-5)


def test_grids_that_windows_do_not_fit():
    """10 x 23 tokens, in windows of 14."""
    sam, encoder = sam_files.small_sam(), slice_encoder()
    encoder.sam.load_state_dict(sam.state_dict())
    tokens = torch.randn(1, 2, 10, 23, 32)
    with torch.no_grad():
        expected = tokens[0]
        for block in sam.blocks:
            expected = block(expected)
        level = encoder.levels(tokens)[-1]
        torch.testing.assert_close(level[0].transpose(0, 1), sam.neck(expected.permute(0, 3, 1, 2)))


def test_channels_are_mixed_from_their_mean():
    one, three = slice_encoder(), slice_encoder(channels=3)
    three.sam.load_state_dict(one.sam.state_dict())
    image = torch.randn(1, 3, 4, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(three(image), one(image.mean(1, keepdim=True)))
    assert three.channel_mix.requires_grad and not one.channel_mix.requires_grad


def test_sams_file_is_loaded_in_place(tmp_path):
    encoder = slice_encoder()
    parameters = dict(encoder.sam.named_parameters())
    given = sam_files.save_sam(sam_files.small_sam(), tmp_path / "sam.pth")
    encoder.load_sam(tmp_path / "sam.pth")
    assert {name for name in given if name.startswith("image_encoder.")} == {f"image_encoder.{n}" for n in parameters}
    for name, parameter in encoder.sam.named_parameters():
        assert parameter is parameters[name]
        assert torch.equal(parameter, given[f"image_encoder.{name}"])


@pytest.mark.parametrize(
    "content, reason",
    [
        ({}, "image_encoder"),
        ({"model": {}, 3: torch.ones(2)}, "image_encoder"),
        ({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 32)}, "don't fit .* Missing key"),
        ({"image_encoder.pos_embed": 3}, "don't fit"),
    ],
)
def test_other_files_are_refused(tmp_path, content, reason):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(SAM3DError, match=f"other.pth .*{reason}"):
        slice_encoder().load_sam(tmp_path / "other.pth")


def test_another_sam_model_is_refused(tmp_path):
    given = sam_files.save_sam(sam_files.small_sam(), tmp_path / "sam.pth")
    given["image_encoder.pos_embed"] = torch.zeros(1, 64, 64, 48)
    torch.save(given, tmp_path / "sam.pth")
    with pytest.raises(SAM3DError, match="sam.pth don't fit the preset's SAM model. size mismatch for pos_embed"):
        slice_encoder().load_sam(tmp_path / "sam.pth")


def test_damaged_file_is_refused(tmp_path):
    (tmp_path / "sam.pth").write_text("<html>")
    with pytest.raises(SAM3DError, match="can't be read as a checkpoint"):
        slice_encoder().load_sam(tmp_path / "sam.pth")
