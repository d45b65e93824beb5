import pytest
import torch
from torch import Tensor, nn

from sam3d_nnunet.network.prompt_encoder import CLICK_MAPS, click_maps, drawn_channels
from sam3d_nnunet.network.prompted_unet import PromptedUNet
from sam3d_nnunet.network.prompts import Prompts
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING

SIZE = (8, 10, 12)


class Seen(nn.Module):
    """Hands back its input: what the U-Net is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def shown() -> PromptedUNet:
    return PromptedUNet(Seen(), num_classes=3, num_click_labels=3)


def clicks(*given: tuple[float, float, float, int]) -> Prompts:
    return Prompts(torch.tensor([[g[:3] for g in given]]), torch.tensor([[g[3] for g in given]]))


def test_image_comes_first_and_prompts_are_zero_without_any(shown):
    image = torch.randn(2, 1, *SIZE)
    seen = shown(image)
    assert seen.shape == (2, 1 + drawn_channels(3), *SIZE)
    assert torch.equal(seen[:, :1], image)
    assert not seen[:, 1:].any()


def test_a_click_is_a_ball_in_the_channel_of_its_label(shown):
    seen = shown(torch.zeros(1, 1, *SIZE), clicks((2.0, 5, 7, 2), (float("nan"), 0, 0, -1)))
    ball = seen[0, 1 + 2]
    assert ball[2, 5, 7] == 1
    assert ball[3, 5, 7] == pytest.approx(torch.exp(torch.tensor(-0.5)).item())
    assert not seen[0, [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]].any()


@pytest.mark.parametrize("kind", CLICK_MAPS)
def test_a_click_is_as_large_as_for_our_network(kind):
    """The same function of millimetres: 8 voxels away is as 2 tokens of 4 voxels away."""
    unet = PromptedUNet(Seen(), num_classes=3, num_click_labels=3, click_map=kind, token=4)
    seen = unet(torch.zeros(1, 1, *SIZE), clicks((2.0, 1, 7, 2)))
    ours = click_maps(torch.zeros(1, 1, 3), torch.tensor([[2]]), 3, (2, 3, 2), kind)[0, 2]
    drawn = seen[0, 1 + 2]
    same = {(2, 1, 7): (0, 0, 0), (6, 1, 7): (1, 0, 0), (2, 9, 7): (0, 2, 0), (6, 9, 3): (1, 2, 1)}
    for place, token in same.items():
        torch.testing.assert_close(drawn[place], ours[token])


def test_maps_have_a_channel_for_each_label(shown):
    maps = torch.full((1, 3, *SIZE), NOTHING)
    maps[0, MASK, 1], maps[0, BOX, 4] = 1, 0
    seen = shown(torch.zeros(1, 1, *SIZE), Prompts.none(1)._replace(maps=maps))
    first = 1 + 3  # behind image and clicks
    assert torch.equal(seen[0, first + 3 * MASK + 1], (maps[0, MASK] == 1).float())
    assert torch.equal(seen[0, first + 3 * BOX], (maps[0, BOX] == 0).float())
    assert seen[0, 1:].sum() == (maps != NOTHING).sum()


def test_one_image_serves_several_sets_of_clicks(shown):
    image = torch.randn(1, 1, *SIZE)
    points, labels = torch.tensor([[[1.0, 1, 1]], [[5.0, 5, 5]]]), torch.tensor([[1], [2]])
    seen = shown.decode(shown.encode(image), Prompts(points, labels))
    for i in range(2):
        assert torch.equal(seen[i : i + 1], shown(image, Prompts(points[i : i + 1], labels[i : i + 1])))


def test_corrected_step_decodes_again(shown):
    image = torch.randn(1, 1, *SIZE)
    given = []

    def correct(logits, prompts):
        given.append((logits, prompts))
        return clicks((4, 4, 4, 1))

    first = clicks((2, 2, 2, 2))
    seen = shown(image, first, correct)
    assert torch.equal(seen, shown(image, clicks((4, 4, 4, 1))))
    assert torch.equal(given[0][0], shown(image, first)) and given[0][1] is first


def test_bf16_comes_back_as_float32():
    network = PromptedUNet(nn.Conv3d(1 + drawn_channels(2), 2, 1), 2, 2, precision="bf16")
    logits = network(torch.randn(1, 1, *SIZE))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, network.unet(torch.cat([torch.zeros(1, 1, *SIZE)] * 9, dim=1)))
