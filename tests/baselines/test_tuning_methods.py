"""The six ways of tuning SAM that the paper compares: what is tuned, where it starts, what it sees."""

import pytest
import torch
from effect import gradient_sizes, without_effect
from torch import nn

from sam3d_nnunet.baselines.houlsby_adapter import SAM3DHoulsbyAdapterTrainer
from sam3d_nnunet.baselines.med_tuning import SAM3DMedTuningTrainer
from sam3d_nnunet.baselines.pro_tuning import SAM3DProTuningTrainer
from sam3d_nnunet.baselines.st_adapter import SAM3DSTAdapterTrainer
from sam3d_nnunet.baselines.tuned_sam import (
    SAM3DAdapterAutoTrainer,
    SAM3DFullFineTuneTrainer,
    SliceNeckEncoder,
    TunedSAM,
    TunedSAMTrainer,
    tuned_parameters,
)
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.sam3d import SAM3D

ADDED = {  # to SAM's encoder
    SAM3DHoulsbyAdapterTrainer: "tunings.",
    SAM3DProTuningTrainer: "tunings.",
    SAM3DSTAdapterTrainer: "tunings.",
    SAM3DMedTuningTrainer: "adapters.",
}
ALL = (SAM3DFullFineTuneTrainer, *ADDED, SAM3DAdapterAutoTrainer)
PUBLISHED = (64, 160, 160)
SIZE = (12, 24, 20)

each_method = pytest.mark.parametrize("trainer_class", ALL)
each_neck = pytest.mark.parametrize("neck", ["sam", "3d"])


def make(trainer_class: type[TunedSAMTrainer], size=SIZE, channels=1, classes=2, **more) -> TunedSAM:
    return trainer_class.make_network(channels, classes, size, **({"preset": "tiny", "stride": 4} | more))


def stirred(network: nn.Module) -> nn.Module:
    """With nothing left at zero, as after training."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return network


def levels(network: TunedSAM, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(network.eval().image_encoder(image))


@pytest.mark.parametrize(
    "trainer_class, expected, arguments",
    [
        (SAM3DFullFineTuneTrainer, 89_670_912, {}),  # the paper's 89.67 M
        (SAM3DHoulsbyAdapterTrainer, 2_416_128, {}),
        (SAM3DHoulsbyAdapterTrainer, 7_617_336, {"width": 205}),
        (SAM3DHoulsbyAdapterTrainer, 7_580_448, {"width": 204}),  # so that no width gives the paper's 7.61 M
        (SAM3DProTuningTrainer, 7_248_384, {}),
        (SAM3DProTuningTrainer, 7_174_656, {"kernel_size": 3}),  # the paper's 7.17 M
        (SAM3DSTAdapterTrainer, 7_147_008, {}),  # the paper's 7.15 M
        (SAM3DMedTuningTrainer, 2_830_272, {}),
        (SAM3DMedTuningTrainer, 2_830_848, {"patch_size": (128, 128, 128)}),
        (SAM3DMedTuningTrainer, 10_462_656, {"ratio": 2}),
        (SAM3DAdapterAutoTrainer, 15_209_984, {}),  # the paper's 15.21 M
    ],
)
def test_parameters_tuned_in_the_encoder_of_vit_b(trainer_class, expected, arguments):
    with torch.device("meta"):
        network = trainer_class.make_network(1, 2, **({"patch_size": PUBLISHED} | arguments))
        decoder = SAM3D.from_preset("paper", 1, 2, PUBLISHED).mask_decoder
    assert tuned_parameters(network.image_encoder) == expected
    assert tuned_parameters(network.mask_decoder) == tuned_parameters(decoder) == 7_088_256
    if trainer_class is SAM3DAdapterAutoTrainer:
        assert tuned_parameters(network.image_encoder.necks) == 7_868_416
    elif trainer_class is not SAM3DFullFineTuneTrainer:
        assert tuned_parameters(network.image_encoder.sam) == 36_864


NECKS = 7_868_416  # four of ours, in 3-D
SAMS_NECK = 787_456


@pytest.mark.parametrize(
    "trainer_class, sam, own",
    [
        (SAM3DFullFineTuneTrainer, 89_670_912, 89_670_912 - SAMS_NECK + NECKS),  # which tunes SAM's neck, too
        (SAM3DHoulsbyAdapterTrainer, 2_416_128, 2_416_128 + NECKS),
        (SAM3DProTuningTrainer, 7_248_384, 7_248_384 + NECKS),
        (SAM3DSTAdapterTrainer, 7_147_008, 7_147_008 + NECKS),
        (SAM3DMedTuningTrainer, 2_830_272, 2_830_272 + NECKS),
        (SAM3DAdapterAutoTrainer, 15_209_984 - NECKS, 15_209_984),
    ],
)
def test_parameters_with_each_neck(trainer_class, sam, own):
    with torch.device("meta"):
        encoders = [trainer_class.make_network(1, 2, PUBLISHED, neck=n).image_encoder for n in ("sam", "3d")]
    assert [tuned_parameters(encoder) for encoder in encoders] == [sam, own]
    # nothing is kept that has no effect
    held = [sum(p.numel() for p in encoder.parameters()) for encoder in encoders]
    assert held[1] - held[0] == NECKS - SAMS_NECK


@each_method
def test_the_default_neck_is_the_one_before(trainer_class):
    own = "3d" if trainer_class is SAM3DAdapterAutoTrainer else "sam"
    state = make(trainer_class).state_dict()
    assert make(trainer_class, neck=own).state_dict().keys() == state.keys()
    with pytest.raises(SAM3DError, match="neck '2d' is not possible; choose one of sam, 3d"):
        make(trainer_class, neck="2d")


@each_method
@each_neck
def test_levels_pass_through_the_neck(tmp_path, trainer_class, neck):
    """With SAM's weights in both, 3-D necks start as SAM's, so that all levels are the same. Later they differ."""
    torch.manual_seed(0)
    sams = stirred(make(SAM3DFullFineTuneTrainer)).image_encoder.sam
    torch.save({f"image_encoder.{name}": t for name, t in sams.state_dict().items()}, tmp_path / "sam.pth")
    network = make(trainer_class, neck=neck)
    trainer_class.load_sam(None, network.image_encoder, tmp_path / "sam.pth")
    image = torch.randn(1, 1, *SIZE)
    tokens = []
    hooks = [m.register_forward_hook(lambda m, given, _: tokens.append(given[0])) for m in necks_of(network)]
    found = levels(network, image)
    for hook in hooks:
        hook.remove()
    assert len(tokens) == len(found) == 4
    for level, given in zip(found, tokens):
        given = given if given.ndim == 5 else given.permute(0, 2, 3, 1).unflatten(0, (1, -1))
        if trainer_class is SAM3DAdapterAutoTrainer and neck == "3d":
            continue  # the preset's start is the published one: random necks
        expected = sams.neck(given.flatten(0, 1).permute(0, 3, 1, 2)).transpose(0, 1)
        torch.testing.assert_close(level[0], expected, rtol=1e-4, atol=1e-4)

    # a change of the neck of one level changes one level, or all where there is one neck
    with torch.no_grad():
        for parameter in necks_of(network)[0].parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    changed = [not torch.equal(a, b) for a, b in zip(found, levels(network, image))]
    assert changed == [True, *[neck == "sam"] * 3]


def necks_of(network: TunedSAM) -> list[nn.Module]:
    encoder = network.image_encoder
    if isinstance(encoder, SliceNeckEncoder):
        return [encoder.neck]
    return list(encoder.necks) if encoder.necks else [encoder.sam.neck]


@each_method
@each_neck
def test_what_is_tuned_with_each_neck(trainer_class, neck):
    """SAM's neck is frozen where the method freezes SAM, 3-D necks never; gradients reach all that is tuned."""
    network = stirred(make(trainer_class, neck=neck)).train()
    of_necks = {p for module in necks_of(network) for p in module.parameters()}
    frozen = neck == "sam" and trainer_class is not SAM3DFullFineTuneTrainer
    assert of_necks and all(p.requires_grad != frozen for p in of_necks)
    network(torch.randn(1, 1, *SIZE)).square().mean().backward()
    tuned = {name for name, p in network.named_parameters() if p.requires_grad}
    sizes = gradient_sizes(network)
    assert sizes.keys() == tuned
    assert [n for n in tuned - without_effect(trainer_class, tuned) if sizes[n] < 1e-7] == []


def test_a_slice_sees_its_neighbours_through_a_3d_neck_only():
    image = torch.randn(1, 1, 44, 8, 8)
    for neck, reach in (("sam", 0), ("3d", 1)):
        network = stirred(make(SAM3DHoulsbyAdapterTrainer, (44, 8, 8), neck=neck))
        before, other = levels(network, image)[-1], image.clone()
        other[:, :, 20:24] += 1
        changed = (levels(network, other)[-1] != before).any(1).any(-1).any(-1)[0]
        assert changed.nonzero().flatten().tolist() == list(range(5 - reach, 6 + reach))


@each_method
def test_only_what_is_tuned_is_tuned(trainer_class):
    encoder = make(trainer_class).image_encoder
    tuned = {name for name, p in encoder.named_parameters() if p.requires_grad}
    names = dict(encoder.named_parameters()).keys()
    if trainer_class is SAM3DFullFineTuneTrainer:
        assert tuned == {f"sam.{name}" for name, _ in encoder.sam.named_parameters()}
    elif trainer_class is SAM3DAdapterAutoTrainer:
        ours = SAM3D.from_preset("tiny", 1, 2, SIZE, 4).image_encoder
        assert tuned == {name for name, p in ours.named_parameters() if p.requires_grad}
    else:
        norms = {name for name in names if name.startswith("sam.blocks.") and (".norm1." in name or ".norm2." in name)}
        added = {name for name in names if name.startswith(ADDED[trainer_class])}
        assert len(norms) == 4 * len(encoder.sam.blocks)
        assert tuned == norms | added


@each_method
@pytest.mark.parametrize("size, stride", [((40, 56, 40), 4), ((9, 30, 17), 2)])
def test_any_patch_channels_and_classes(trainer_class, size, stride):
    """Gradients reach everything that is tuned, and nothing else."""
    network = stirred(make(trainer_class, size, channels=2, classes=3, stride=stride)).train()
    image = torch.randn(2, 2, *size)
    logits = network(image)
    assert (logits.shape, logits.dtype) == ((2, 3, *size), torch.float32)
    logits.square().mean().backward()
    sizes = gradient_sizes(network)
    tuned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert sizes.keys() == tuned
    assert [name for name in tuned - without_effect(trainer_class, tuned) if sizes[name] < 1e-7] == []
    with torch.no_grad():
        logits = network.eval()(image)
    assert logits.shape == (2, 3, *size) and logits.isfinite().all()

    again = make(trainer_class, size, channels=2, classes=3, stride=stride).eval()
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(image), logits)


@pytest.mark.parametrize("trainer_class", ADDED)
def test_starts_from_sams_own_features(trainer_class):
    sams, tuned, image = stirred(make(SAM3DFullFineTuneTrainer)), make(trainer_class), torch.randn(2, 1, *SIZE)
    tuned.image_encoder.sam.load_state_dict(sams.image_encoder.sam.state_dict())
    expected, found = levels(sams, image), levels(tuned, image)
    if trainer_class is SAM3DHoulsbyAdapterTrainer:  # small random weights
        assert 0 < (found - expected).norm() < 0.01 * expected.norm()
    else:  # zeros
        assert torch.equal(found, expected)
        assert not torch.allclose(levels(stirred(tuned), image), expected)


@pytest.mark.parametrize(
    "trainer_class, reach",
    [
        (SAM3DFullFineTuneTrainer, 0),
        (SAM3DHoulsbyAdapterTrainer, 0),
        (SAM3DProTuningTrainer, 0),
        (SAM3DSTAdapterTrainer, 4),  # a slice further in each of the four blocks
    ],
)
def test_what_a_slice_sees_of_its_neighbours(trainer_class, reach):
    network, image = stirred(make(trainer_class, (44, 8, 8))), torch.randn(1, 1, 44, 8, 8)
    before = levels(network, image)[-1]
    image[:, :, 20:24] += 1
    changed = (levels(network, image)[-1] != before).any(1).any(-1).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(5 - reach, 6 + reach))


def test_med_tuning_sees_the_whole_volume():
    """By its Fourier transform."""
    network, image = stirred(make(SAM3DMedTuningTrainer, (44, 8, 8))), torch.randn(1, 1, 44, 8, 8)
    before = levels(network, image)[0]
    image[:, :, :4] += 1
    assert (levels(network, image)[0] != before).any(1).any(-1).any(-1).all()


def test_med_tuning_hands_on_what_a_stage_has_mixed():
    """To the adapters that end the stages behind it."""
    with torch.device("meta"):
        encoder = SAM3DMedTuningTrainer.make_network(1, 2, (32, 32, 32)).image_encoder
    assert [i for i, adapter in enumerate(encoder.adapters) if adapter.fuse is not None] == [5, 8, 11]


@each_method
def test_activation_checkpointing_changes_nothing(trainer_class):
    plain, saving = (stirred(make(trainer_class, activation_checkpointing=on)) for on in (False, True))
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(2, 1, *SIZE)
    for network in (plain, saving):
        network.train()(image).square().mean().backward()
    grads = [torch.cat([p.grad.flatten() for p in n.parameters() if p.requires_grad]) for n in (plain, saving)]
    assert (grads[0] - grads[1]).norm() < 1e-5 * grads[0].norm()
    for name, buffer in plain.named_buffers():  # norms count a batch once
        torch.testing.assert_close(saving.get_buffer(name), buffer)


@pytest.mark.parametrize("preset, expected", [("vit_b", True), ("tiny", False)])
@each_method
def test_activation_checkpointing_is_on_for_encoders_of_sams_size(trainer_class, preset, expected):
    with torch.device("meta"):
        assert make(trainer_class, preset=preset).image_encoder.activation_checkpointing is expected


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    """Med-Tuning is the one that computes with complex numbers."""
    network = stirred(make(SAM3DMedTuningTrainer, activation_checkpointing=True)).eval()
    image = torch.randn(1, 1, *SIZE)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)  # a graph break is an error
    torch.testing.assert_close(compiled(image), network(image))
