import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sam3d_nnunet.inference.prompted import predict_prompted

RADIUS = 3.0
PATCH = (12, 14, 16)


class BallNetwork(nn.Module):
    """Marks a ball around each click in the channel of its label; keeps what it was given."""

    def __init__(self, num_classes: int = 2, inside: float = 10.0) -> None:
        super().__init__()
        self.inside = nn.Parameter(torch.tensor(inside))
        self.num_classes = num_classes
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, image: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        self.calls.append((image, points, labels))
        logits = -self.inside * torch.ones((1, self.num_classes, *image.shape[2:]))
        voxels = torch.stack(torch.meshgrid(*map(torch.arange, image.shape[2:]), indexing="ij"), -1)
        for point, label in zip(points[0], labels[0]):
            if label >= 0:
                logits[0, label, ((voxels - point) ** 2).sum(-1) <= RADIUS**2] = self.inside
        return logits


def ball(shape: tuple[int, ...], centre: tuple[float, ...]) -> np.ndarray:
    return ((np.stack(np.indices(shape), -1) - centre) ** 2).sum(-1) <= RADIUS**2


def predict(network: nn.Module, shape: tuple[int, ...], points: list, labels: list | None = None, **options) -> Tensor:
    """Logits for an image whose voxels hold their own number, starting at 1."""
    image = torch.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape)
    labels = np.array(labels if labels is not None else [1] * len(points))
    points = np.array(points, float).reshape(-1, 3)
    return predict_prompted(network, image, points, labels, PATCH, options.pop("num_classes", 2), **options)


# clicks at a border and between voxels: what is mirrored by one voxel too much or too little shows
@pytest.mark.parametrize("click", [(20, 21, 22), (0, 0, 0), (39, 35, 30), (7.3, 18.6, 12.45)])
@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirroring_mirrors_clicks(click, axes):
    shape = (40, 36, 31)
    network = BallNetwork()
    plain = predict(network, shape, [click])
    assert len(network.calls) == 1
    mirrored = predict(network, shape, [click], mirror_axes=axes)
    assert len(network.calls) == 1 + 2 ** len(axes)
    assert len({tuple(points[0, 0].tolist()) for _, points, _ in network.calls[1:]}) > 1
    torch.testing.assert_close(mirrored, plain)
    # the window may cut the ball, but here it never does
    assert ((plain[1] > 0).numpy() == ball(shape, click)).all()


def test_mirrored_patches_belong_to_their_clicks():
    """The image's value under each click stays the same."""
    network = BallNetwork()
    predict(network, (40, 36, 31), [(11, 12, 13)], mirror_axes=(0, 1, 2))
    under_click = {image[(0, 0, *points[0, 0].int().tolist())].item() for image, points, _ in network.calls}
    assert under_click == {1 + np.ravel_multi_index((11, 12, 13), (40, 36, 31))}
    assert len(network.calls) == 8


def test_classes_outside_the_windows_are_background():
    logits = predict(BallNetwork(num_classes=4), (40, 36, 31), [(20, 21, 22)], [3], num_classes=4)
    seen = np.zeros((40, 36, 31), bool)
    seen[14:26, 14:28, 14:30] = True  # the patch around the click
    probabilities = logits.softmax(0).numpy()
    assert probabilities[1:, ~seen].max() < 1e-6
    assert probabilities[0, ~seen].min() > 1 - 1e-6
    assert (probabilities[3, seen] > 0.5).sum() == ball((40, 36, 31), (20, 21, 22)).sum()


def test_regions_outside_the_windows_are_absent():
    """Regions have no channel for the background, and channel 0 is one of them."""
    logits = predict(BallNetwork(num_classes=3), (40, 36, 31), [(20, 21, 22)], [0], num_classes=3, regions=True)
    seen = np.zeros((40, 36, 31), bool)
    seen[14:26, 14:28, 14:30] = True
    probabilities = logits.sigmoid().numpy()
    assert probabilities[:, ~seen].max() < 1e-6
    assert (probabilities[0] > 0.5).sum() == ball((40, 36, 31), (20, 21, 22)).sum()


@pytest.mark.parametrize("regions", [False, True])
def test_no_clicks(regions):
    network = BallNetwork(3)
    logits = predict(network, (20, 20, 20), [], num_classes=3, regions=regions)
    assert network.calls == []
    foreground = logits.sigmoid() if regions else logits.softmax(0)[1:]
    assert foreground.max() < 1e-6


def test_windows_of_their_own_know_their_own_clicks():
    network = BallNetwork(3)
    clicks = [(8, 9, 10), (60, 50, 40), (10, 9, 10)]
    logits = predict(network, (70, 60, 50), clicks, [1, 2, 1], num_classes=3)
    assert len(network.calls) == 2
    given = [[k for k in labels[0].tolist() if k != -1] for _, _, labels in network.calls]
    assert given == [[1, 1], [2]]
    assert ((logits[1] > 0).numpy() == ball((70, 60, 50), clicks[0]) | ball((70, 60, 50), clicks[2])).all()
    assert ((logits[2] > 0).numpy() == ball((70, 60, 50), clicks[1])).all()


def test_overlapping_windows_are_averaged():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(3.0))
            self.calls = 0

        def forward(self, image, points, labels):
            self.calls += 1
            return self.value.expand(1, 2, *image.shape[2:]).clone()

    network = Constant()
    logits = predict(network, (20, 20, 20), [(2, 10, 10), (17, 10, 10)])  # windows 0-12 and 8-20 of the first axis
    assert network.calls == 2
    seen = logits[1] > 0
    assert seen.sum() == 20 * 14 * 16
    torch.testing.assert_close(logits[1][seen], torch.full((20 * 14 * 16,), 3.0))


def test_image_smaller_than_the_patch():
    """The window reaches over the border, filled with zeros as nnU-Net does."""
    network = BallNetwork()
    shape, click = (5, 30, 9), (4, 12, 0)
    logits = predict(network, shape, [click], mirror_axes=(0, 2))
    assert logits.shape == (2, *shape)
    assert ((logits[1] > 0).numpy() == ball(shape, click)).all()
    patch, points, _ = network.calls[0]
    assert patch.shape[2:] == PATCH
    # 3.5 voxels are added on each side along the first axis, and along the last: 4 before and 3 after
    assert points[0, 0].tolist() == [4 + 4, 12 - 6, 0 + 4]
    assert patch[0, 0].count_nonzero() == 5 * 14 * 9
    assert patch[0, 0, 8, 6, 4] == 1 + np.ravel_multi_index(click, shape)


@pytest.mark.parametrize("click", [(-30, 5, 5), (5, 500, 5), (1e6, -1e6, 1e6)])
def test_click_outside_the_image(click):
    """It is not in the window nearest to it, so that the network isn't told of it; others keep theirs."""
    network = BallNetwork()
    logits = predict(network, (40, 36, 31), [click, (20, 21, 22)])
    assert ((logits[1] > 0).numpy() == ball((40, 36, 31), (20, 21, 22))).all()
    assert sum((labels != -1).sum().item() for _, _, labels in network.calls) == 1


def test_result_is_float32_on_the_cpu():
    logits = predict(BallNetwork().double(), (20, 20, 20), [(3, 3, 3)])
    assert logits.dtype == torch.float32 and logits.device.type == "cpu"
    assert logits.isfinite().all()
