"""Our network against recorded outputs of the authors' released code; `tests/data/golden/README.md` has their axes."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from data_fixtures import GOLDEN
from reference import relative_error

from sam3d_nnunet.network.device import has_bf16_arithmetic
from sam3d_nnunet.network.image_encoder import Block, ImageEncoder, SpatialAdapter
from sam3d_nnunet.network.mask_decoder import MaskDecoder, enlarge
from sam3d_nnunet.network.prompt_encoder import LevelPromptEncoder
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.network.sam3d import SAM3D
from sam3d_nnunet.network.weights import load_released_checkpoint, translate_released
from sam3d_nnunet.network.window_attention import WindowLayout

TOLERANCE = 1e-5
BF16_TOLERANCE = 2e-2
# sizes in the released layout -> sizes of the recorded components
SMALL_BLOCK = {768: 32, 2304: 96, 3072: 128, 384: 16, 64: 16}
SMALL_PATCH = {768: 32}
SMALL_PROMPT = {256: 32, 128: 16, 2048: 64}
SMALL_DECODER = {256: 32, 128: 16, 513: 65}


@pytest.fixture(scope="module")
def layout() -> dict:
    return json.loads((GOLDEN / "released_layout.json").read_text())


@pytest.fixture(scope="module")
def components():
    return np.load(GOLDEN / "components_seed0.npz")


def check(found: torch.Tensor, golden, name: str, tolerance: float = TOLERANCE) -> None:
    """Compare at the recorded places and print the error."""
    assert list(found.shape) == golden[f"{name}/shape"].tolist()
    values = found.detach().float().contiguous().flatten()[torch.from_numpy(golden[f"{name}/index"]).long()]
    error = relative_error(values, torch.from_numpy(golden[f"{name}/value"]))
    print(f"{name}: relative error {error:.1e}")
    assert error <= tolerance, f"{name}: {error:.1e}"


def recorded_weights(recipe, layout, part, key, inside, prefix, sizes, ours) -> dict[str, torch.Tensor]:
    """State dict of one of our modules with a component's weights.

    Args:
        part: of the released layout; `key` is its name in a checkpoint.
        inside: start of the released names that belong to the component.
        prefix: under which the recipe knows the component's weights, which there lack `inside`.
        sizes: released -> recorded sizes.
        ours: start of our names, taken off.
    """
    released = {}
    for name, shape in layout[part].items():
        if name.startswith(inside):
            shape = [sizes.get(n, n) for n in shape]
            released[name] = torch.from_numpy(recipe.tensor(f"{prefix}/{name.removeprefix(inside)}", shape, 0))
    return {name.removeprefix(ours): tensor for name, tensor in translate_released(key, released).items()}


def from_hwd(array: np.ndarray) -> torch.Tensor:
    """(b, h, w, d, c) as recorded -> (b, d, h, w, c)."""
    return torch.from_numpy(array).permute(0, 3, 1, 2, 4)


def to_hwd(tokens: torch.Tensor) -> torch.Tensor:
    """The other way."""
    return tokens.permute(0, 2, 3, 1, 4)


def test_adapter(recipe, layout, components):
    adapter = SpatialAdapter(32)
    inside = "blocks.0.adapter."
    adapter.load_state_dict(
        recorded_weights(
            recipe, layout, "encoder", "encoder_dict", inside, "adapter", SMALL_BLOCK, f"image_encoder.{inside}"
        )
    )
    tokens = from_hwd(np.random.default_rng([0, 1]).standard_normal((1, 12, 10, 8, 32), np.float32))
    check(to_hwd(adapter(tokens)), components, "adapter/out")


@pytest.mark.parametrize(("prefix", "table_size", "shifted"), [("block_plain", 14, False), ("block_shift", 64, True)])
def test_block(prefix, table_size, shifted, recipe, layout, components):
    block = Block(32, num_heads=2, mlp_dim=128, table_size=table_size)
    inside = "blocks.0."
    sizes = SMALL_BLOCK | {27: 2 * table_size - 1}
    block.load_state_dict(
        recorded_weights(recipe, layout, "encoder", "encoder_dict", inside, prefix, sizes, f"image_encoder.{inside}")
    )
    tokens = from_hwd(np.random.default_rng([0, 2]).standard_normal((1, 32, 32, 32, 32), np.float32))
    windows = WindowLayout((32, 32, 32), shifted, 1, tokens.device)
    with torch.no_grad():
        check(to_hwd(block(tokens, windows)), components, f"{prefix}/out")


def test_patch_tokens(recipe, layout, components):
    encoder = ImageEncoder(1, 32, depth=0, num_heads=2, global_blocks=(), out_channels=8, stride=4)
    layout = {"encoder": {n: s for n, s in layout["encoder"].items() if not n.startswith(("blocks.", "neck_3d."))}}
    weights = recorded_weights(
        recipe, layout, "encoder", "encoder_dict", "", "patch", SMALL_PATCH, ours="image_encoder."
    )
    problems = encoder.load_state_dict(weights, strict=False)
    assert problems.missing_keys == ["patch_embed.channel_mix"] and not problems.unexpected_keys
    image = torch.from_numpy(recipe.image(128, 0))[None, None]
    with torch.no_grad():
        tokens = encoder.patch_embed(image) + encoder.position_embedding((32, 32, 32))
    check(tokens[0], components, "patch/tokens")


def test_prompt_encoder(recipe, layout, components):
    encoder = LevelPromptEncoder(32, num_heads=4, mlp_dim=64)
    encoder.load_state_dict(
        recorded_weights(recipe, layout, "prompt3", "feature_dict", "", "prompt", SMALL_PROMPT, ours="prompt_encoder.")
    )
    features = torch.from_numpy(np.random.default_rng([0, 3]).standard_normal((1, 32, 8, 8, 8), np.float32))
    clicks = torch.from_numpy(recipe.clicks(5, 32, 0))[None].float()
    out = encoder(features.permute(0, 1, 4, 2, 3), 2 * (clicks + 0.5) / 32 - 1, torch.ones(1, 5, dtype=torch.long))
    check(out, components, "prompt/out")


def test_mask_decoder(recipe, layout, components):
    decoder = MaskDecoder(32, 16, num_levels=4, image_channels=1, num_classes=2)
    decoder.load_state_dict(
        recorded_weights(recipe, layout, "decoder", "decoder_dict", "", "dec", SMALL_DECODER, ours="mask_decoder.")
    )
    normal = [np.random.default_rng([0, 4, i]).standard_normal((1, 32, 8, 8, 8), np.float32) for i in range(4)]
    *levels, last = (torch.from_numpy(a).permute(0, 1, 4, 2, 3) for a in normal)
    image = np.random.default_rng([0, 5]).standard_normal((1, 1, 16, 16, 16), np.float32)
    share = decoder.encode(levels, torch.from_numpy(image).permute(0, 1, 4, 2, 3))
    check(enlarge(decoder(share, last), (32, 32, 32)), components, "dec/logits")


@pytest.fixture(scope="module")
def released(recipe, layout, tmp_path_factory) -> SAM3D:
    """The network of a file that is laid out as the authors' are."""

    def part(name: str) -> dict[str, torch.Tensor]:
        arrays = recipe.state_dict(name, {n: s for n, s in layout[name].items() if not n.endswith("attn_mask")}, 0)
        return {n: torch.from_numpy(a) for n, a in arrays.items()}

    encoder = part("encoder")
    encoder["blocks.0.attn_mask"] = torch.zeros(1)  # real files hold this derived buffer in every other block
    checkpoint = {
        "epoch": 3,
        "best_val_loss": np.float32(0.25),
        "encoder_dict": encoder,
        "feature_dict": [{"unused": torch.zeros(1)}] * 3 + [part("prompt3")],
        "decoder_dict": part("decoder"),
        "encoder_opt": {"state": {}, "param_groups": []},
        "feature_opt": {"state": {}, "param_groups": []},
        "decoder_opt": {"state": {}, "param_groups": []},
    }
    file = tmp_path_factory.mktemp("released") / "released.pth"
    torch.save(checkpoint, file)
    net = load_released_checkpoint(file).eval()
    file.unlink()
    return net


EMULATED = not has_bf16_arithmetic(torch.device("cpu"))  # one pass would take an hour
GPUS = ["cuda"] if torch.cuda.is_available() else []


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """On GPUs PyTorch rounds the factors of float32 convolutions to 10 bits (TF32) unless told otherwise."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [
        ("cpu", "fp32", TOLERANCE),
        pytest.param(
            "cpu",
            "bf16",
            BF16_TOLERANCE,
            marks=pytest.mark.skipif(EMULATED, reason="this CPU does not compute in bfloat16"),
        ),
        *((gpu, "fp32", TOLERANCE) for gpu in GPUS),
        *((gpu, "bf16", BF16_TOLERANCE) for gpu in GPUS),
    ],
)
def test_released_checkpoint_gives_the_published_outputs(released, recipe, exact_float32, device, precision, tolerance):
    golden = np.load(GOLDEN / "full_seed0.npz")
    image = torch.from_numpy(recipe.image(128, 0))[None, None].to(device)
    levels = []
    released.to(device).precision = precision
    hook = released.image_encoder.register_forward_hook(lambda module, args, out: levels.extend(out))
    with torch.no_grad():
        embedding = released.encode(image)
        for i, level in enumerate(levels):
            check(level.cpu(), golden, f"features/{i}", tolerance)
        for n in (1, 10):
            points = torch.from_numpy(recipe.clicks(n, 128, 0))[None].float()
            prompts = Prompts(points, torch.ones(1, n, dtype=torch.long)).to(device)
            logits = released.decode(embedding, prompts)
            assert logits.dtype == torch.float32
            check(logits.cpu(), golden, f"logits/{n}_clicks", tolerance)
    hook.remove()
    assert len(levels) == 4  # the image was encoded once
