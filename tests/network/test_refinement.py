"""The stage at full resolution, and what it is for: clicks have an effect at the voxel where they are."""

import pytest
import torch
from reference import relative_error, segment

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import SAM3D, Prompts
from sam3d_nnunet.network.prompt_encoder import click_maps, drawn_channels, drawn_prompts, map_channels
from sam3d_nnunet.network.refinement import REFINEMENTS, Refinement

SIZE = (21, 30, 18)  # no whole tokens
CLICK = Prompts(torch.tensor([[[10.0, 12, 7]]]), torch.tensor([[1]]))


ALONE = "unet_alone"
KINDS = pytest.mark.parametrize("kind", [kind for kind in REFINEMENTS if kind != ALONE])


def network(**options) -> SAM3D:
    torch.manual_seed(0)
    return SAM3D.from_preset("tiny", 1, 3, SIZE, 4, **options).eval()


def refining(kind: str) -> SAM3D:
    """A network whose last layer is random, so that the stage changes something."""
    net = network(refine=kind)
    if kind == "convolutions":
        torch.nn.init.normal_(net.refinement.seg_layers.weight)
    return net


def test_convolutions_change_nothing_at_first():
    """Networks with and without them have the same weights from a seed, and compute the same."""
    with_it, without = network(refine="convolutions"), network(refine="none")
    image = torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        assert torch.equal(with_it(image, CLICK), without(image, CLICK))
    assert with_it.refinement is not None and without.refinement is None


def test_the_unet_makes_the_logits_alone():
    """In training mode, those of its coarser levels and the decoder's follow them."""
    net, image = refining("unet"), torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        before = net(image, CLICK)
        torch.nn.init.normal_(net.mask_decoder.seg_layers.weight)
        assert torch.equal(net(image, CLICK), before)
        levels = net.train()(image, CLICK)
    assert net.level_weights == [1, 1 / 2, 1 / 4, 1 / 2]
    assert [level.shape for level in levels] == [before.shape] * 4
    torch.testing.assert_close(levels[0], before)
    assert isinstance(net.decode(net.encode(image), CLICK), torch.Tensor)


def test_each_level_of_the_unet_is_at_its_place():
    """Logits that the coarse levels learn from a mask lie where it is."""
    net = refining("unet").train()
    image = torch.zeros(1, 1, 16, 20, 12)
    image[..., 8:, :, :] = 1
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    for _ in range(15):
        levels = net(image, CLICK)
        loss = sum(torch.nn.functional.cross_entropy(level, image[:, 0].long()) for level in levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for level in net(image, CLICK):
        found = level.argmax(1) == 1
        assert 2 * (found & (image[:, 0] > 0)).sum() / (found.sum() + image.sum()) > 0.9


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("size", [(8, 8, 8), (5, 4, 8), (8, 9, 8), (3, 40, 40)])
def test_small_images(size, stride):
    """Instance norm needs more than one voxel at the bottom of the U-Net, and more than one token."""
    torch.manual_seed(0)
    net = SAM3D.from_preset("tiny", 1, 3, size, stride).train()
    click = Prompts(torch.tensor([[[2.0, 1, 3]]]), torch.tensor([[1]]))
    for maps in (None, torch.randint(-1, 3, (1, 3, *size)).short()):
        for logits in net(torch.randn(1, 1, *size), click._replace(maps=maps)):
            assert logits.shape == (1, 3, *size) and logits.isfinite().all()


@KINDS
def test_clicks_act_on_single_voxels(kind):
    """With a random last layer, moving a click by a voxel changes the logits there, and far less elsewhere."""
    net = refining(kind)
    image = torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        embedding = net.encode(image)
        before, after = (
            net.decode(embedding, CLICK._replace(points=CLICK.points + shift))
            for shift in (0, torch.tensor([0, 0, 1.0]))
        )
    change = (before - after).abs().amax(dim=(0, 1))
    # the U-Net has more norms, whose means carry a little everywhere
    assert change[8:13, 10:15, 5:11].max() > (3 if kind == "convolutions" else 2) * change[:, 24:].max() > 0


@KINDS
def test_gradients_reach_it_and_what_lies_below(kind):
    net = network(refine=kind).train()
    maps = torch.randint(-1, 3, (1, 3, *SIZE)).short()
    for _ in range(2):  # the zeros of the last convolution stop the first gradient
        net.zero_grad()
        levels = net(torch.randn(1, 1, *SIZE), CLICK._replace(maps=maps))
        sum(level.square().mean() for level in levels).backward()
        if kind == "convolutions":
            torch.nn.init.normal_(net.refinement.seg_layers.weight)
    assert all(p.grad.abs().max() > 0 for p in net.refinement.parameters())


@KINDS
def test_its_logits_train_what_lies_below(kind):
    """Without the decoder's own, which serve in training as well."""
    net = refining(kind)
    for parameter in net.mask_decoder.seg_layers.parameters():
        torch.nn.init.zeros_(parameter)
    net(torch.randn(1, 1, *SIZE), CLICK).square().mean().backward()
    for part in (net.mask_decoder.fusion, net.image_encoder.blocks[0], net.prompt_encoder):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


@KINDS
def test_one_image_serves_several_prompts(kind):
    net = refining(kind)
    image = torch.randn(1, 1, *SIZE)
    points = torch.tensor([[[10.0, 12, 7]], [[3.0, 20, 9]]])
    with torch.no_grad():
        together = net.decode(net.encode(image), Prompts(points, torch.tensor([[1], [2]])))
        for i in range(2):
            alone = net(image, Prompts(points[i : i + 1], torch.tensor([[1 + i]])))
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_unlabelled_clicks_are_not_drawn():
    assert network(labelled_prompts=False).refinement is None
    with pytest.raises(SAM3DError, match="unlabelled clicks can't refine its masks"):
        network(labelled_prompts=False, refine="unet")


def test_unknown_kinds_are_refused():
    with pytest.raises(SAM3DError, match="refine 'u-net' is not possible; choose one of none, convolutions, unet"):
        network(refine="u-net")


def test_the_unet_alone_needs_no_encoder():
    """Its logits are those of image and prompts, whatever encoder and decoder say, and nothing there is tuned."""
    net, image = refining(ALONE), torch.randn(1, 1, *SIZE)
    found = net(image, CLICK)
    found.square().mean().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    coarser = {f"refinement.unet.decoder.seg_layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")}
    unseen = {"refinement.reduce.weight"} | coarser  # coarser levels have logits in training mode only
    assert reached == {f"refinement.{name}" for name, _ in net.refinement.named_parameters()} - unseen
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in reached:
                torch.nn.init.normal_(parameter)
        assert torch.equal(net(image, CLICK), found)
        assert not torch.equal(net(image, CLICK._replace(points=CLICK.points + 2)), found)


def test_the_unet_sees_how_far_an_object_goes():
    """A change of the image four voxels away from all drawn clicks changes a logit; two convolutions don't see it."""
    image = torch.randn(1, 1, *SIZE)
    moved = image.clone()
    moved[..., 10, 12, 12] += 100
    for kind, seen in (("convolutions", False), ("unet", True)):
        stage = refining(kind).refinement.eval()
        without_norms(stage)
        fused = torch.zeros(1, 24, 12, 16, 10)
        with torch.no_grad():
            before, after = (stage(fused, (24, 32, 20), x, CLICK)[0] for x in (image, moved))
        assert bool((before - after)[..., 10, 12, 7].abs().max() > 1e-3) == seen


def without_norms(stage: Refinement) -> None:
    """Their means over the patch would carry a change everywhere."""
    for module in stage.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.forward = lambda x: x


@pytest.mark.parametrize("takes_maps", [True, False])
def test_drawn_prompts_are_clicks_in_each_size_and_then_maps(takes_maps):
    maps = torch.randint(-1, 3, (1, 3, *SIZE)).short()
    points, labels = torch.tensor([[[10.0, 12, 7], [torch.nan] * 3]]), torch.tensor([[2, -1]])
    drawn = drawn_prompts(Prompts(points, labels, maps), 3, SIZE, torch.float32, "gaussian", (4, 1), takes_maps)
    assert drawn.shape == (1, drawn_channels(3, 2, takes_maps), *SIZE)
    for i, token in enumerate((4, 1)):
        expected = click_maps(points[:, :1], labels[:, :1], 3, SIZE, "gaussian", token)
        assert torch.equal(drawn[:, 3 * i : 3 * i + 3], expected)
    if takes_maps:
        assert torch.equal(drawn[:, 6:], map_channels(maps, 3, 1))
        without = drawn_prompts(Prompts(points, labels), 3, SIZE, torch.float32, "gaussian", (4, 1), True)
        assert (without[:, 6:] == 0).all()


@KINDS
@pytest.mark.parametrize("stride", [2, 4])
def test_it_is_the_straightforward_formulation(kind, stride):
    """One convolution of decoder's map, image and drawn clicks together."""
    torch.manual_seed(0)
    net = SAM3D.from_preset("tiny", 1, 3, (12, 16, 8), stride, refine=kind).double().eval()
    for parameter in net.refinement.parameters():
        torch.nn.init.normal_(parameter)
    image = torch.randn(2, 1, 12, 16, 8, dtype=torch.float64)
    points = torch.rand(2, 3, 3, dtype=torch.float64) * torch.tensor([12, 16, 8]) - 0.5
    prompts = Prompts(points, torch.tensor([[1, 2, 1], [0, -1, 2]]))
    with torch.no_grad():
        found = net(image, prompts)
        assert relative_error(found, segment(net, image, prompts)) < 1e-6
        assert relative_error(found, segment(net, image, prompts._replace(points=points + 1))) > 1e-3


@KINDS
def test_clicks_may_have_another_type_than_the_network(kind):
    """As the other parts take them: those of a loader are float32, whatever the weights are."""
    net = refining(kind).double()
    image = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net(image, CLICK), net(image, CLICK._replace(points=CLICK.points.double())))
