"""The whole network: presets, shapes, what is tuned, what clicks do."""

from collections.abc import Callable
from dataclasses import replace

import ddp_step
import pytest
import reference
import torch
from ddp_step import SMALL
from reference import relative_error
from sam_files import stirred
from segment_anything import sam_model_registry

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import PRESETS, SAM3D, Prompts, build_sam3d, default_stride
from sam3d_nnunet.network.device import computes_in_bf16

POINTS = torch.tensor([[[5.0, 10, 7], [8, 21, 9], [10, 5, 12]]])
LABELS = torch.tensor([[1, 2, 0]])
CLICKS = Prompts(POINTS, LABELS)
MOVED = Prompts(POINTS + 2, LABELS)


def small(seed: int = 0, **options) -> SAM3D:
    torch.manual_seed(seed)
    sizes = {"input_channels": 1, "num_classes": 3, "patch_size": (24, 32, 20), "stride": 4}
    return build_sam3d(SMALL, **sizes | options).eval()


def clicks_for(labelled: bool) -> Prompts:
    return CLICKS if labelled else CLICKS._replace(labels=torch.ones_like(LABELS))


def on_meta(name: str) -> SAM3D:
    with torch.device("meta"):
        return SAM3D.from_preset(name, input_channels=1, num_classes=2, patch_size=(128, 128, 128), stride=4)


def tuned(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# --- sizes ---


def test_paper_tunes_the_published_number_of_parameters():
    net = on_meta("paper")
    assert tuned(net.image_encoder) == 15_209_984
    assert tuned(net.prompt_encoder) == 2_900_736
    assert tuned(net.mask_decoder) == 7_088_256
    assert tuned(net) == 25_198_976


@pytest.mark.parametrize("name", ["paper", "vit_b", "vit_l", "vit_h"])
def test_frozen_tensors_are_exactly_those_of_sam(name):
    """The names, shapes and blocks of segment_anything's own model; only its norms are tuned, its neck is replaced."""
    with torch.device("meta"):
        sam = sam_model_registry[PRESETS[name].sam_model]().image_encoder
    sam = {n: p.shape for n, p in sam.named_parameters() if not n.startswith("neck.")}
    encoder = on_meta(name).image_encoder
    ours = dict(encoder.named_parameters())
    for n, shape in sam.items():
        assert ours[n].shape == shape, n
        assert ours[n].requires_grad == (".norm" in n), n
    assert {n for n, p in ours.items() if not p.requires_grad} - sam.keys() == {"patch_embed.channel_mix"}
    assert len(encoder.necks) == len(encoder.global_blocks) == 4


def test_all_outside_the_image_encoder_is_tuned():
    net = small()
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith("image_encoder.") for n in frozen)
    assert small(input_channels=2).image_encoder.patch_embed.channel_mix.requires_grad


def test_tiny_is_tiny():
    net = SAM3D.from_preset("tiny", input_channels=1, num_classes=2, patch_size=(32, 32, 32))
    assert 200_000 < sum(p.numel() for p in net.parameters()) < 2_000_000


def test_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(SAM3DError) as e:
        SAM3D.from_preset("vit_x", 1, 2, (32, 32, 32))
    assert "vit_x" in str(e.value) and all(name in str(e.value) for name in PRESETS)


@pytest.mark.parametrize("stride", [1, 3, 16, -4])
def test_bad_stride_is_refused_with_the_choices(stride):
    with pytest.raises(SAM3DError, match=f"{stride}.*2, 4, 8"):
        SAM3D.from_preset("tiny", 1, 2, (32, 32, 32), stride=stride)


def test_default_stride():
    sizes = {
        (32, 32, 32): 2,
        (64, 40, 56): 2,
        (40, 65, 40): 4,
        (128, 128, 128): 4,
        (256, 64, 64): 8,
        (300, 300, 300): 8,
    }
    assert {size: default_stride(size) for size in sizes} == sizes


# --- shapes ---


@pytest.mark.parametrize(
    ("size", "stride", "channels", "classes"),
    [
        ((16, 16, 16), 2, 1, 2),
        ((40, 56, 40), 4, 1, 3),
        ((24, 40, 16), 4, 3, 4),
        ((24, 40, 16), 8, 2, 2),
        ((13, 22, 9), 2, 2, 3),
        ((21, 30, 35), 4, 1, 2),
        ((17, 33, 5), 8, 1, 2),
        ((3, 5, 2), 4, 1, 2),
    ],
)
def test_any_patch(size, stride, channels, classes):
    net = small(input_channels=channels, num_classes=classes, stride=stride)
    points = torch.rand(2, 3, 3) * (torch.tensor(size) - 1)
    labels = torch.tensor([[1, 0, classes - 1], [1, -1, -1]])
    with torch.no_grad():
        logits = net(torch.randn(2, channels, *size), Prompts(points, labels))
    assert logits.shape == (2, classes, *size)
    assert logits.isfinite().all()


def test_one_state_dict_for_all_patch_sizes():
    sizes = [(128, 128, 128), (40, 56, 40), (9, 9, 9)]
    nets = [SAM3D.from_preset("tiny", 1, 2, patch_size=size, stride=4) for size in sizes]
    shapes = [{n: t.shape for n, t in net.state_dict().items()} for net in nets]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("labelled", [True, False])
def test_only_seg_layers_depend_on_the_number_of_classes(labelled):
    """nnU-Net's -pretrained_weights lets shapes differ where a name contains `.seg_layers.` and nowhere else."""
    two, five = (small(num_classes=k, labelled_prompts=labelled).state_dict() for k in (2, 5))
    assert two.keys() == five.keys()
    differing = {n for n in two if two[n].shape != five[n].shape}
    assert differing == {n for n in two if ".seg_layers." in n and n != "dense_prompt.seg_layers.bias"}
    assert len(differing) == (10 if labelled else 1)


# --- the function ---


@pytest.mark.parametrize(
    ("size", "stride", "channels"),
    [((40, 56, 40), 4, 1), ((24, 40, 16), 4, 2), ((24, 40, 16), 8, 3), ((18, 8, 6), 2, 1)],
)
def test_equals_the_straightforward_formulation(size, stride, channels):
    net = stirred(small(input_channels=channels, labelled_prompts=False, stride=stride)).double()
    net.load_state_dict(net.state_dict())  # folds the patch embedding again, now in double precision
    image = torch.randn(2, channels, *size, dtype=torch.float64)
    points = torch.rand(2, 3, 3, dtype=torch.float64) * (torch.tensor(size) - 1)
    clicks = Prompts(points, torch.tensor([[1, 1, 1], [1, -1, -1]]))
    found, expected = net(image, clicks), reference.segment(net, image, clicks)
    assert relative_error(found, expected) < 1e-10
    parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
    weights = torch.randn_like(expected)
    gradients = (torch.autograd.grad((out * weights).sum(), parameters.values()) for out in (found, expected))
    largest = 0
    for name, ours, theirs in zip(parameters, *gradients, strict=True):
        # a bias of keys shifts all logits of a query alike: its gradient is zero but for rounding
        if not name.endswith("k_proj.bias"):
            largest = max(largest, relative_error(ours, theirs))
    assert largest < 1e-8


def test_the_straightforward_formulation_computes_on_the_device_of_the_weights():
    """A tensor on another device would stop `benchmarks/network.py` on a GPU. The device "meta" refuses it, too."""
    size = (40, 72, 36)
    net = build_sam3d(SMALL, input_channels=2, num_classes=3, patch_size=size, stride=4).to("meta")
    prompts = Prompts(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.long)).to("meta")
    logits = reference.segment(net, torch.ones(1, 2, *size, device="meta"), prompts)
    assert logits.device.type == "meta" and logits.shape == (1, 3, *size)


def test_encode_then_decode_is_forward():
    net = stirred(small())
    image = torch.randn(1, 1, 24, 32, 20)
    with torch.no_grad():
        embedding = net.encode(image)
        first = net.decode(embedding, CLICKS)
        second = net.decode(embedding, MOVED)
        assert torch.equal(first, net(image, CLICKS))
        assert torch.equal(second, net(image, MOVED))
        assert torch.equal(first, net.decode(embedding, CLICKS))
    assert not torch.allclose(first, second)


# --- arithmetic ---


def test_bfloat16_trains():
    net = stirred(small(precision="bf16")).train()
    image = torch.randn(1, 1, 24, 32, 20)
    levels = net(image, CLICKS)
    assert all(logits.dtype == torch.float32 for logits in levels)
    mean_square(levels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    net.precision = "fp32"
    with torch.no_grad():
        for logits, expected in zip(levels, net(image, CLICKS)):
            assert 1e-5 < relative_error(logits, expected) < 0.05


@pytest.mark.parametrize("refine, tolerance", [("convolutions", 0.1), ("unet", 0.5)])  # more layers round more
@pytest.mark.parametrize("depth", [4, 8, 12, 16, 20])
def test_bfloat16_finds_the_gradients_of_few_slices_too(depth, refine, tolerance):
    """PyTorch alone doesn't on a CPU (network/device.py)."""
    image, net = torch.randn(1, 1, depth, 24, 20), stirred(small(precision="bf16", refine=refine))
    found = gradients(net, net, image)
    net.precision = "fp32"
    expected = gradients(net, net, image)
    difference = relative_error(flat(found), flat(expected))
    assert difference < tolerance and (difference == 0) == (depth < 20)


@pytest.mark.parametrize("outer", [torch.float16, torch.bfloat16])
def test_precision_is_ours_whatever_autocast_is_around(outer):
    net = stirred(small(precision="fp32"))
    image = torch.randn(1, 1, 24, 32, 20)
    with torch.no_grad():
        expected = net(image, CLICKS)
        with torch.autocast("cpu", outer):
            assert torch.equal(net(image, CLICKS), expected)
            assert net(image.half(), CLICKS).dtype == torch.float32


def test_auto_is_bfloat16_where_the_device_computes_in_it(monkeypatch):
    cpu = torch.device("cpu")
    for found, expected in [({"avx512_bf16": True}, True), ({"avx2": True, "avx512_bf16": False}, False), ({}, False)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert computes_in_bf16("auto", cpu, depth=8) == expected
    assert computes_in_bf16("bf16", cpu, depth=8) and not computes_in_bf16("fp32", cpu, depth=8)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not computes_in_bf16("auto", cpu, depth=8)


def test_wrong_precision_is_refused():
    with pytest.raises(SAM3DError, match="'fp16'.*auto, bf16, fp32"):
        small(precision="fp16")


def gradients(
    run: Callable[..., torch.Tensor],
    net: SAM3D,
    image: torch.Tensor,
    maps: torch.Tensor | None = None,
    correct: Callable[[torch.Tensor, Prompts], Prompts] | None = None,
) -> dict[str, torch.Tensor]:
    net.train()
    net.zero_grad()
    mean_square(run(image, CLICKS._replace(maps=maps), correct)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    """Compared all together: single ones may be nothing but rounding, such as that of a key's bias under softmax."""
    assert found.keys() == expected.keys()
    assert relative_error(flat(found), flat(expected)) < tolerance


def mean_square(output: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """A loss of the logits, or of those of all levels in training mode."""
    return sum(logits.square().mean() for logits in (output if isinstance(output, list) else [output]))


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradients.values()])


def test_activation_checkpointing_changes_no_gradient():
    net, image = stirred(small(activation_checkpointing=True)), torch.randn(1, 1, 24, 32, 20)
    calls = []
    net.image_encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients(net, net, image)
    assert len(calls) == 2  # once more in the backward pass
    net.image_encoder.activation_checkpointing = False
    assert_same_gradients(found, gradients(net, net, image))
    assert len(calls) == 3


def test_corrections_follow_one_another():
    """Each sees the logits of the prompts that the one before made."""
    net, image, seen = stirred(small()), torch.randn(1, 1, 24, 32, 20), []

    class Correct:
        rounds = 3

        def __call__(self, logits, prompts):
            seen.append((logits, prompts))
            return prompts._replace(points=prompts.points + 1)

    found = net(image, CLICKS, Correct())
    for number, (logits, prompts) in enumerate(seen):
        assert torch.equal(prompts.points, POINTS + number) and torch.equal(logits, net(image, prompts))
    assert len(seen) == 3 and torch.equal(found, net(image, CLICKS._replace(points=POINTS + 3)))


@pytest.mark.parametrize(("name", "expected"), [("vit_b", True), ("paper", True), ("tiny", False)])
def test_activation_checkpointing_is_on_for_encoders_of_sams_size(name, expected):
    with torch.device("meta"):
        net = SAM3D.from_preset(name, 1, 2, (32, 32, 32))
    assert net.image_encoder.activation_checkpointing == expected


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiles_without_a_graph_break(checkpointing):
    # in float64: compiled norms round differently, and in float32 units whose sign flips make that 1e-3
    net = stirred(small(activation_checkpointing=checkpointing)).double()
    image = torch.randn(1, 1, 24, 32, 20, dtype=torch.float64)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)  # a graph break is an error
    assert_same_gradients(gradients(compiled, net, image), gradients(net, net, image))
    maps = torch.randint(-1, 3, (1, 3, 24, 32, 20)).short()
    assert_same_gradients(gradients(compiled, net, image, maps), gradients(net, net, image, maps))


def test_compiles_with_a_correction_between():
    """One break, at the correction; neither a corrected step nor the next correction costs a further compilation."""

    class Correct:
        def __init__(self, shift: float, rounds: int = 1) -> None:
            self.shift, self.rounds = shift, rounds

        @torch.compiler.disable
        def __call__(self, logits, prompts):
            maps = prompts.maps.clone()
            maps[:, 0] = logits.argmax(dim=1)
            return Prompts(prompts.points + self.shift, prompts.labels, maps)

    net, image = stirred(small()), torch.randn(1, 1, 24, 32, 20)
    maps = torch.randint(-1, 3, (1, 3, 24, 32, 20)).short()
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(net, backend=count)
    for correct in (None, Correct(1.0)):
        assert_same_gradients(gradients(compiled, net, image, maps, correct), gradients(net, net, image, maps, correct))
    assert len(graphs) == 4  # all at once; encoder; first mask; second mask
    for correct in (Correct(2.0), None, Correct(3.0, rounds=2), Correct(4.0, rounds=3)):
        assert_same_gradients(gradients(compiled, net, image, maps, correct), gradients(net, net, image, maps, correct))
    assert len(graphs) == 4


def test_a_correction_decodes_twice_and_encodes_once():
    net, image = stirred(small()), torch.randn(1, 1, 24, 32, 20)
    given, encoded = [], []
    net.image_encoder.register_forward_pre_hook(lambda *_: encoded.append(1))

    def correct(logits, prompts):
        given.append((logits, prompts))
        return MOVED

    found = net(image, CLICKS, correct)
    assert len(encoded) == 1
    logits, prompts = given[0]
    assert not logits.requires_grad and prompts is CLICKS
    assert torch.equal(logits, net(image, CLICKS))
    assert torch.equal(found, net(image, MOVED))
    mean_square(net.train()(image, CLICKS, correct)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("group", [1, 2, 1000])
def test_groups_of_windows_change_nothing(group):
    net, image = stirred(small()), torch.randn(2, 1, 40, 72, 40)
    with torch.no_grad():
        expected = net(image)
        for block in net.image_encoder.blocks:
            block.windows_per_group = group
        assert relative_error(net(image), expected) < 1e-6


@pytest.mark.parametrize("refine, tolerance", [("convolutions", 1e-6), ("unet", 1e-5)])  # more layers round more
def test_clicks_share_one_embedding(refine, tolerance):
    net = stirred(small(refine=refine))
    points, labels = torch.rand(3, 2, 3) * 20, torch.tensor([[1, 0], [1, -1], [-1, -1]])
    with torch.no_grad():
        embedding = net.encode(torch.randn(1, 1, 24, 32, 20))
        together = net.decode(embedding, Prompts(points, labels))
        for i in range(3):
            alone = net.decode(embedding, Prompts(points[i : i + 1], labels[i : i + 1]))
            assert relative_error(together[i : i + 1], alone) < tolerance


# --- clicks ---


@pytest.mark.parametrize("labelled", [True, False])
def test_padding_changes_nothing(labelled):
    net, clicks = stirred(small(labelled_prompts=labelled)), clicks_for(labelled)
    with torch.no_grad():
        embedding = net.encode(torch.randn(1, 1, 24, 32, 20))
        bare = net.decode(embedding, clicks)
        padded_labels = torch.cat([clicks.labels, torch.full((1, 2), -1)], dim=1)
        padded = [
            net.decode(embedding, Prompts(torch.cat([POINTS, torch.tensor([where])], dim=1), padded_labels))
            for where in ([[0.0, 0, 0], [1, 2, 3]], [[-1, -1, -1], [1e6, -1e6, 7]], [[12.5, 3, 19], [23, 31, 19]])
        ]
    torch.testing.assert_close(padded[0], bare)
    assert torch.equal(padded[0], padded[1]) and torch.equal(padded[0], padded[2])


@pytest.mark.parametrize("labelled", [True, False])
def test_no_clicks_is_only_padding(labelled):
    net = stirred(small(labelled_prompts=labelled))
    with torch.no_grad():
        embedding = net.encode(torch.randn(1, 1, 24, 32, 20))
        without = net.decode(embedding)
        for n in (1, 4):
            padded = net.decode(embedding, Prompts(10 * torch.randn(1, n, 3), torch.full((1, n), -1)))
            torch.testing.assert_close(padded, without)
        nothing = Prompts(torch.zeros(1, 0, 3), torch.zeros(1, 0).long())
        torch.testing.assert_close(net.decode(embedding, nothing), without)
        assert not torch.allclose(net.decode(embedding, clicks_for(labelled=False)), without)


@pytest.mark.parametrize("labelled", [True, False])
def test_order_of_clicks_does_not_matter(labelled):
    net, clicks = stirred(small(labelled_prompts=labelled)), clicks_for(labelled)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        embedding = net.encode(torch.randn(1, 1, 24, 32, 20))
        found = net.decode(embedding, Prompts(POINTS[:, order], clicks.labels[:, order]))
        torch.testing.assert_close(found, net.decode(embedding, clicks))


def test_clicks_of_one_image_do_not_reach_another():
    net = stirred(small())
    image = torch.randn(2, 1, 24, 32, 20)
    points, labels = POINTS.repeat(2, 1, 1), torch.tensor([[1, 2, 0], [1, -1, -1]])
    with torch.no_grad():
        both = net(image, Prompts(points, labels))
        alone = net(image[1:], Prompts(points[1:, :1], labels[1:, :1]))
        assert relative_error(both[1:], alone) < 1e-5


@pytest.mark.parametrize("label", [0, 2])
def test_published_network_refuses_labelled_clicks(label):
    net = small(labelled_prompts=False)
    with pytest.raises(SAM3DError, match=f"label {label}.*labelled prompts"):
        net(torch.randn(1, 1, 8, 8, 8), Prompts(torch.zeros(1, 2, 3), torch.tensor([[1, label]])))


@pytest.mark.parametrize("label", [3, 7, -2])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(SAM3DError, match=f"label {label}.*to 2"):
        small()(torch.randn(1, 1, 8, 8, 8), Prompts(torch.zeros(1, 2, 3), torch.tensor([[1, label]])))
    small(num_click_labels=8)(torch.randn(1, 1, 8, 8, 8), Prompts(torch.zeros(1, 1, 3), torch.tensor([[7]])))


def test_labelled_and_dense_prompts_start_as_the_published_function():
    """Away from the border, where zero and border padding sample the same."""
    plain, labelled = small(labelled_prompts=False), small(seed=1, refine="convolutions")
    problems = labelled.load_state_dict(plain.state_dict(), strict=False)
    assert not problems.unexpected_keys
    ours = ("dense_prompt.", "prompt_encoder.label_embedding.", "refinement.")
    assert all(n.startswith(ours) for n in problems.missing_keys)
    image = torch.randn(1, 1, 24, 32, 20)
    with torch.no_grad():
        expected = plain(image, clicks_for(labelled=False))
        assert torch.equal(labelled(image, clicks_for(labelled=False)), expected)
        assert torch.equal(labelled(image, CLICKS), expected)
        stirred(labelled)
        assert not torch.allclose(labelled(image, CLICKS), expected)


def test_corner_clicks_keep_their_feature_outside_paper():
    features = torch.ones(1, 16, 4, 4, 4)
    corner = torch.full((1, 1, 3), -1 + 1 / 16)  # centre of the first of 16 voxels, an eighth of a token from the face
    plain, labelled = small(labelled_prompts=False), small()
    torch.testing.assert_close(labelled.prompt_encoder.click_tokens(features, corner), torch.ones(1, 1, 16))
    torch.testing.assert_close(plain.prompt_encoder.click_tokens(features, corner), torch.full((1, 1, 16), 0.625**3))


# --- training ---


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("no_clicks", ["padding", "none"])
def test_every_tuned_parameter_takes_part_without_clicks(no_clicks, labelled):
    net = small(input_channels=2, labelled_prompts=labelled).train()
    clicks = Prompts(torch.zeros(2, 3, 3), torch.full((2, 3), -1)) if no_clicks == "padding" else None
    mean_square(net(torch.randn(2, 2, 16, 12, 20), clicks)).backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_distributed_step_with_clicks_on_one_rank_only(tmp_path):
    torch.multiprocessing.spawn(ddp_step.run, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    net = ddp_step.small_net()
    for step in range(2):
        alone = [ddp_step.gradients(net, rank, step) for rank in range(2)]
        for name in alone[0]:
            assert torch.equal(ranks[0][step][name], ranks[1][step][name]), name
            mean = (alone[0][name] + alone[1][name]) / 2
            torch.testing.assert_close(ranks[0][step][name], mean, rtol=1e-4, atol=1e-6)


# --- ablations of the paper ---

# SMALL with four levels, as all presets have
FOUR = replace(SMALL, depth=4, global_blocks=(0, 1, 2, 3))
ABLATIONS = {
    "posenc": {"prompt_encoding": "position"},
    "samposenc": {"prompt_encoding": "sam_position"},
    "nomla": {"aggregate_levels": False},
    "deepprompt_1234": {"deep_prompt_levels": [1, 2, 3]},
    "deepprompt_14": {"deep_prompt_levels": [1]},
    "deepprompt_24": {"deep_prompt_levels": [2]},
    "deepprompt_34": {"deep_prompt_levels": [3]},
    "all at once": {"prompt_encoding": "position", "deep_prompt_levels": [3, 1]},
}
each_ablation = pytest.mark.parametrize("ablation", ABLATIONS)


def four(ablation: str | None = None, **options) -> SAM3D:
    torch.manual_seed(0)
    sizes = {"input_channels": 1, "num_classes": 3, "patch_size": (24, 32, 20), "stride": 4}
    return build_sam3d(FOUR, **sizes | ABLATIONS.get(ablation, {}) | options).eval()


def straightforward(net: SAM3D, levels: list[torch.Tensor], image: torch.Tensor, prompted: list[int]) -> torch.Tensor:
    """Unlabelled clicks on some of the levels, then one concatenation of all that are decoded."""
    faces = 2 * (POINTS.double() + 0.5) / torch.tensor(image.shape[2:]) - 1
    encoders = [*net.deep_prompt_encoders, net.prompt_encoder]
    for encoder, i in zip(encoders, prompted, strict=True):
        levels[i] = encoder(levels[i], faces, torch.ones_like(LABELS))
    size = [2 * n for n in levels[0].shape[2:]]
    decoder = net.mask_decoder
    levels = [reference.enlarged(head(level), size) for head, level in zip(decoder.heads, levels, strict=True)]
    small_image = torch.nn.functional.interpolate(image, size=size, mode="trilinear", align_corners=False)
    fused = decoder.norm(reference.fusion(decoder.fusion, levels, small_image)).relu()
    return reference.enlarged(decoder.seg_layers(fused), image.shape[2:])


@pytest.mark.parametrize(
    ("ablation", "prompted"),
    [
        (None, [3]),
        ("posenc", [3]),
        ("samposenc", [3]),
        ("nomla", [0]),  # the only one
        ("deepprompt_1234", [0, 1, 2, 3]),
        ("deepprompt_14", [0, 3]),
        ("deepprompt_24", [1, 3]),
        ("deepprompt_34", [2, 3]),
        ("all at once", [0, 2, 3]),
    ],
)
def test_ablations_equal_their_straightforward_formulation(ablation, prompted):
    net = stirred(four(ablation, labelled_prompts=False)).double()
    image = torch.randn(1, 1, 24, 32, 20, dtype=torch.float64)
    with torch.no_grad():
        levels = net.image_encoder(image)[-len(net.mask_decoder.heads) :]
        expected = straightforward(net, levels, image, prompted)
        found = net(image, Prompts(POINTS.double(), torch.ones_like(LABELS)))
        assert relative_error(found, expected) < 1e-10


def test_default_has_no_deep_prompts():
    net = four()
    assert len(net.deep_prompt_encoders) == 0 and not [n for n in net.state_dict() if n.startswith("deep_")]
    assert four(deep_prompt_levels=()).state_dict().keys() == net.state_dict().keys()
    assert net.encode(torch.randn(1, 1, 8, 8, 8)).features[0].shape == (1, 16, 2, 2, 2)


@each_ablation
@pytest.mark.parametrize("labelled", [True, False])
def test_ablations_encode_once_and_click_many_times(ablation, labelled):
    net, image = stirred(four(ablation, labelled_prompts=labelled)), torch.randn(1, 1, 22, 32, 20)
    clicks = clicks_for(labelled)
    others = clicks._replace(points=POINTS + 3)
    with torch.no_grad():
        embedding = net.encode(image)
        first = net.decode(embedding, clicks)
        moved = net.decode(embedding, others)
        assert torch.equal(first, net(image, clicks))
        assert torch.equal(moved, net(image, others))
        assert torch.equal(net.decode(embedding), net(image))
        assert torch.equal(first, net.decode(embedding, clicks))
        assert relative_error(moved, first) > 1e-4  # where a click is matters
        assert relative_error(net.decode(embedding), first) > 1e-4
        both = net.decode(embedding, Prompts(torch.cat([POINTS, POINTS + 3]), clicks.labels.repeat(2, 1)))
        assert relative_error(both, torch.cat([first, moved])) < 1e-5


@each_ablation
@pytest.mark.parametrize("level", range(4))
def test_clicks_change_the_levels_they_should(ablation, level):
    """A level's head sees other features after another click, or none at all."""
    net, image = stirred(four(ablation)), torch.randn(1, 1, 24, 32, 20)
    heads = net.mask_decoder.heads
    if level >= len(heads):
        assert ablation == "nomla"
        return
    seen = []
    heads[level].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        embedding = net.encode(image)
        net.decode(embedding, CLICKS)
        net.decode(embedding, CLICKS._replace(points=POINTS + 3))
    numbers = {*ABLATIONS[ablation].get("deep_prompt_levels", []), len(heads)}
    assert len(seen) == (2 if level + 1 in numbers else 1)
    assert len(seen) == 1 or relative_error(seen[1], seen[0]) > 1e-4


@each_ablation
@pytest.mark.parametrize("labelled", [True, False])
def test_every_tuned_parameter_of_an_ablation_takes_part(ablation, labelled):
    """With clicks and, as DDP asks, without."""
    net = four(ablation, labelled_prompts=labelled, activation_checkpointing=True).train()
    for clicks in (clicks_for(labelled), None):
        net.zero_grad()
        mean_square(net(torch.randn(1, 1, 16, 24, 20), clicks)).backward()
        for name, parameter in net.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


@each_ablation
def test_ablations_correct_the_first_mask(ablation):
    net, image = stirred(four(ablation)), torch.randn(1, 1, 16, 24, 20)
    torch.testing.assert_close(net(image, CLICKS, lambda logits, prompts: MOVED), net(image, MOVED))
    mean_square(net.train()(image, CLICKS, lambda logits, prompts: MOVED)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.slow
def test_ablations_compile_without_a_graph_break():
    net = stirred(small(prompt_encoding="position", deep_prompt_levels=[1]))
    image = torch.randn(1, 1, 16, 24, 20)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert_same_gradients(gradients(compiled, net, image), gradients(net, net, image), 1e-3)


@each_ablation
def test_only_seg_layers_of_an_ablation_depend_on_the_number_of_classes(ablation):
    two, five = (four(ablation, num_classes=k).state_dict() for k in (2, 5))
    assert two.keys() == five.keys()
    assert all(".seg_layers." in n for n in two if two[n].shape != five[n].shape)


@pytest.mark.parametrize(
    ("options", "encoder", "prompts", "decoder"),
    [
        ({}, 15_209_984, 2_900_736, 7_088_256),
        ({"prompt_encoding": "position"}, 15_209_984, 2_900_736 + 2 * 256, 7_088_256),
        # three necks less; one head, and a fusion of one level and the image
        ({"aggregate_levels": False}, 15_209_984 - 3 * 1_967_104, 2_900_736, 27 * 128 * (256 + 128 + 128 + 1 + 2)),
        ({"deep_prompt_levels": [1]}, 15_209_984, 2 * 2_900_736, 7_088_256),
        ({"deep_prompt_levels": [1, 2, 3]}, 15_209_984, 4 * 2_900_736, 7_088_256),
    ],
)
def test_what_ablations_tune(options, encoder, prompts, decoder):
    with torch.device("meta"):
        net = SAM3D.from_preset("paper", 1, 2, (128, 128, 128), **options)
    assert tuned(net.image_encoder) == encoder
    assert tuned(net.prompt_encoder) + tuned(net.deep_prompt_encoders) == prompts
    assert tuned(net.mask_decoder) == decoder
    assert tuned(net) == encoder + prompts + decoder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_encoding": "fourier"}, "'fourier'.*sampler, position"),
        ({"deep_prompt_levels": [4]}, "level 4 .* 4 decoded levels"),
        ({"deep_prompt_levels": [0]}, "level 0 "),
        ({"deep_prompt_levels": [1], "aggregate_levels": False}, "level 1 .* of 1 "),
    ],
)
def test_impossible_ablations_are_refused(options, message):
    with pytest.raises(SAM3DError, match=message):
        four(**options)
