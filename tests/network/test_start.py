"""The start "sam": on equal slices, the lifted encoder's features are SAM's own for the slice; gradients reach all."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from reference import relative_error
from sam_files import save_sam, stirred
from segment_anything.modeling import image_encoder as sams
from torch import Tensor, nn

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.image_encoder import EPS, STARTS, ImageEncoder
from sam3d_nnunet.network.sam3d import PRESETS, SAM3D
from sam3d_nnunet.network.weights import lift_sam

STRIDE, WINDOW, HEADS = 4, 8, 2
GRID = (10, 16, 24)  # tokens: several windows along each axis, shifted in every other block; two slices are padding
GLOBAL_BLOCKS = (2, 5, 8, 11)  # as in ViT-B
CHANNELS = 8


@pytest.fixture(scope="module")
def sam() -> sams.ImageEncoderViT:
    """segment_anything's encoder: 12 blocks of width 32, and its neck."""
    torch.manual_seed(0)
    norm = partial(nn.LayerNorm, eps=EPS)
    blocks = {"depth": 12, "num_heads": HEADS, "window_size": 14, "global_attn_indexes": GLOBAL_BLOCKS}
    return stirred(sams.ImageEncoderViT(embed_dim=32, out_chans=CHANNELS, use_rel_pos=True, norm_layer=norm, **blocks))


@pytest.fixture(scope="module")
def sam_file(sam, tmp_path_factory):
    file = tmp_path_factory.mktemp("sam") / "sam.pth"
    save_sam(sam, file)
    return file


def lifted(sam_file, start: str) -> ImageEncoder:
    torch.manual_seed(1)
    encoder = ImageEncoder(1, 32, 12, HEADS, GLOBAL_BLOCKS, CHANNELS, STRIDE, start=start)
    lift_sam(encoder, sam_file)
    return encoder.eval()


@pytest.fixture(scope="module")
def plane() -> Tensor:
    return torch.randn(1, 1, GRID[1] * STRIDE, GRID[2] * STRIDE, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def features(encoder: ImageEncoder, plane: Tensor, depth: int = 1) -> list[Tensor]:
    """Levels of a volume whose slices are all this plane: (1, C, depth, h, w) each, h and w as in GRID."""
    return encoder(plane[:, :, None].expand(-1, -1, depth * STRIDE, -1, -1))


def embedded(sam: sams.ImageEncoderViT, plane: Tensor) -> Tensor:
    """SAM's tokens (1, h, w, dim) of a plane that is enlarged to 16 pixels a token, with their positions."""
    picture = F.interpolate(plane, scale_factor=16 / STRIDE, mode="bilinear", align_corners=False)
    positions = F.interpolate(sam.pos_embed.permute(0, 3, 1, 2), GRID[1:], mode="bilinear", align_corners=False)
    return sam.patch_embed(picture.expand(-1, 3, -1, -1)) + positions.permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def expected(sam, plane) -> list[Tensor]:
    """Levels (1, C, h, w) from SAM's own blocks and neck, with windows of 8 x 8, shifted in every other block."""
    place = [(torch.arange(n) + WINDOW // 2) // WINDOW for n in GRID[1:]]
    region = 100 * place[0][:, None] + place[1]  # windows that begin half a window before the border
    region = region.roll((-4, -4), (0, 1))[None, ..., None]
    region = sams.window_partition(region, WINDOW)[0].flatten(1)
    hidden = (region[:, :, None] != region[:, None]).repeat_interleave(HEADS, 0)
    add_positions = sams.add_decomposed_rel_pos

    def add_positions_and_mask(attention: Tensor, *others: object) -> Tensor:
        return add_positions(attention, *others).masked_fill(hidden, -torch.inf)

    levels = []
    windows = [block.window_size for block in sam.blocks]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        tokens = embedded(sam, plane)
        for i, block in enumerate(sam.blocks):
            block.window_size = WINDOW
            shift = WINDOW // 2 if i % 2 == 0 else 0
            patch.setattr(sams, "add_decomposed_rel_pos", add_positions_and_mask if shift else add_positions)
            tokens = block(tokens.roll((-shift, -shift), (1, 2))).roll((shift, shift), (1, 2))
            if i in GLOBAL_BLOCKS:
                levels.append(sam.neck(tokens.permute(0, 3, 1, 2)))
    for block, size in zip(sam.blocks, windows):
        block.window_size = size
    return levels


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Largest relative error over the slices of tokens, by level."""
    pairs = zip(found, expected, strict=True)
    return [max(relative_error(ours, theirs) for ours in volume.unbind(2)) for volume, theirs in pairs]


def test_equal_slices_give_sams_features(sam_file, plane, expected):
    found = errors(features(lifted(sam_file, "sam"), plane, GRID[0]), expected)
    print("relative errors of the four levels:", *(f"{error:.1e}" for error in found))
    assert max(found) < 1e-5


def test_the_published_start_gives_others(sam_file, plane, expected):
    assert min(errors(features(lifted(sam_file, "published"), plane), expected)) > 0.1


@pytest.mark.parametrize(
    "name",
    [
        "patch_embed.slice_embed.weight",
        "patch_embed.slice_embed.bias",
        "blocks.0.adapter.up.weight",
        "blocks.11.adapter.up.bias",
        "blocks.4.attn.rel_pos_h",
        "necks.2.reduce.weight",
        "necks.2.norm1.bias",
        "necks.2.conv.weight",
        "necks.3.norm2.weight",
    ],
)
def test_the_comparison_sees_every_part(name, sam_file, plane, expected):
    encoder = lifted(sam_file, "sam")
    with torch.no_grad():
        parameter = encoder.get_parameter(name)
        parameter += 0.1 * torch.randn_like(parameter)
    assert max(errors(features(encoder, plane), expected)) > 1e-3


def test_depth_relations_cancel_on_equal_slices(sam_file, plane, expected):
    """A depth bias is the same for all keys of a slice, whatever its table holds."""
    encoder = lifted(sam_file, "sam")
    with torch.no_grad():
        for block in encoder.blocks:
            block.attn.rel_pos_d.normal_()
    assert max(errors(features(encoder, plane, GRID[0]), expected)) < 1e-5


def test_sams_own_windows_give_others(sam, sam_file, plane):
    """What the start does not promise: SAM attends in windows of 14 x 14, and in four blocks globally."""
    levels, tokens = [], embedded(sam, plane)
    with torch.no_grad():
        for i, block in enumerate(sam.blocks):
            tokens = block(tokens)
            if i in GLOBAL_BLOCKS:
                levels.append(sam.neck(tokens.permute(0, 3, 1, 2)))
    assert min(errors(features(lifted(sam_file, "sam"), plane), levels)) > 1e-2


def tuned_gradients(encoder: ImageEncoder, image: Tensor) -> dict[str, float]:
    """Largest gradient of each tuned parameter, for a loss that wants other features."""
    encoder.zero_grad()
    torch.manual_seed(3)
    sum((level * torch.randn_like(level)).sum() for level in encoder(image)).backward()
    return {name: float(p.grad.abs().max()) for name, p in encoder.named_parameters() if p.requires_grad}


def test_gradients_reach_adapters_that_start_at_zero(sam_file):
    encoder = lifted(sam_file, "sam").train()
    image = torch.randn(1, 1, 32, 36, 32)
    first = tuned_gradients(encoder, image)
    waiting = {name for name, size in first.items() if size == 0}
    behind = {f"adapter.{layer}.{kind}" for layer in ("down", "conv") for kind in ("weight", "bias")}
    assert waiting == {f"blocks.{i}.{name}" for i in range(12) for name in behind}

    torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], 1e-3).step()
    assert min(tuned_gradients(encoder, image).values()) > 0
    assert any(block.adapter.up.weight.any() for block in encoder.blocks)


def test_an_adapter_started_at_zero_can_subtract():
    image = torch.randn(1, 1, 16, 16, 16)
    for start, subtracts in (("sam", True), ("published", False)):
        encoder = ImageEncoder(1, 32, 1, HEADS, (0,), CHANNELS, STRIDE, start=start)
        adapter = encoder.blocks[0].adapter
        nn.init.constant_(adapter.up.bias, -1)
        tokens = encoder.patch_embed(image)
        assert bool((adapter(tokens) < tokens).any()) == subtracts


def test_both_starts_share_tensors_and_their_random_numbers():
    encoders = []
    for start in STARTS:
        torch.manual_seed(0)
        encoders.append(ImageEncoder(1, 32, 2, HEADS, (0, 1), CHANNELS, STRIDE, start=start).state_dict())
    ours, published = encoders
    assert ours.keys() == published.keys()
    differs = {name for name in ours if not torch.equal(ours[name], published[name])}
    last = {f"blocks.{i}.adapter.up.{kind}" for i in range(2) for kind in ("weight", "bias")}
    assert differs == last | {"patch_embed.slice_embed.weight", "patch_embed.slice_embed.bias"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_start_where_they_should(preset):
    with torch.device("meta"):
        encoder = SAM3D.from_preset(preset, 1, 2, (128, 128, 128)).image_encoder
    assert encoder.start == ("published" if preset in ("paper", "tiny") else "sam")
    assert all(block.adapter.only_adds == (encoder.start == "published") for block in encoder.blocks)


def test_levels_that_are_not_decoded_need_no_neck(tmp_path):
    """A SAM file also fits a network that decodes the last level alone."""
    norm = partial(nn.LayerNorm, eps=EPS)
    blocks = {"depth": 4, "num_heads": 3, "window_size": 14, "global_attn_indexes": (0, 1, 2, 3)}
    sam = sams.ImageEncoderViT(embed_dim=48, out_chans=32, use_rel_pos=True, norm_layer=norm, **blocks)
    tensors = save_sam(sam, tmp_path / "sam.pth")
    network = SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), start="sam", aggregate_levels=False)
    lift_sam(network.image_encoder, tmp_path / "sam.pth")
    taps = network.image_encoder.necks[3].conv.weight
    assert torch.equal(taps[:, :, 1], tensors["image_encoder.neck.2.weight"])
    assert not taps[:, :, 0].any() and not taps[:, :, 2].any()


def test_a_file_without_sams_neck_is_refused(sam, sam_file, tmp_path):
    tensors = {name: t for name, t in torch.load(sam_file).items() if "neck.2" not in name}
    torch.save(tensors, tmp_path / "no_neck.pth")
    encoder = ImageEncoder(1, 32, 12, HEADS, GLOBAL_BLOCKS, CHANNELS, STRIDE, start="sam")
    with pytest.raises(SAM3DError, match=r"no_neck\.pth don't fit\. missing: neck\.2\.weight"):
        lift_sam(encoder, tmp_path / "no_neck.pth")
    lift_sam(lifted(sam_file, "published"), tmp_path / "no_neck.pth")  # which has no use for it


def test_other_starts_are_refused():
    with pytest.raises(SAM3DError, match="start 'random' is not possible; choose one of sam, published"):
        SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), start="random")
