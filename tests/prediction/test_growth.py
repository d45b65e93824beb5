import cc3d
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.network import SAM3D, Prompts
from sam3d_nnunet.prediction.dense_prompts import DensePrompts
from sam3d_nnunet.prediction.embeddings import EmbeddingCache, tensor_bytes
from sam3d_nnunet.prediction.grid_image import WholeImage
from sam3d_nnunet.prediction.growth import BoxLogits, objects_prompted, predict_prompted
from sam3d_nnunet.prediction.windows import SINGLE, Window, WindowPredictor
from sam3d_nnunet.prompts.prompt import BOX, MASK, SCRIBBLE, VoxelPrompts

RADIUS = 3.0
PATCH = (12, 14, 16)


class BallNetwork(nn.Module):
    """Marks a ball around each click in the channel of its label; keeps what it was given."""

    def __init__(self, num_classes: int = 2, inside: float = 10.0) -> None:
        super().__init__()
        self.inside = nn.Parameter(torch.tensor(inside))
        self.num_classes = num_classes
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        points, labels, _ = prompts
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
    return run(network, shape, points, labels, **options).on_grid()


def run(
    network: nn.Module,
    shape: tuple[int, ...],
    points: list,
    labels: list | None = None,
    region_order: tuple[int, ...] | None = None,
    mirror_axes: tuple[int, ...] | None = None,
    **options,
) -> BoxLogits:
    image = torch.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape)
    labels = np.array(labels if labels is not None else [1] * len(points), int)
    points = np.array(points, float).reshape(-1, 3)
    predictor = WindowPredictor([network], WholeImage(image), PATCH, region_order, mirror_axes)
    return predict_prompted(predictor, VoxelPrompts(points, labels), **options)


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
    logits = predict(BallNetwork(num_classes=4), (40, 36, 31), [(20, 21, 22)], [3])
    seen = np.zeros((40, 36, 31), bool)
    seen[14:26, 14:28, 14:30] = True  # the patch around the click
    probabilities = logits.softmax(0).numpy()
    assert probabilities[1:, ~seen].max() < 1e-6
    assert probabilities[0, ~seen].min() > 1 - 1e-6
    assert (probabilities[3, seen] > 0.5).sum() == ball((40, 36, 31), (20, 21, 22)).sum()


def test_regions_outside_the_windows_are_absent():
    """Regions have no channel for the background, and channel 0 is one of them."""
    logits = predict(BallNetwork(num_classes=3), (40, 36, 31), [(20, 21, 22)], [0], region_order=(1, 2, 3))
    seen = np.zeros((40, 36, 31), bool)
    seen[14:26, 14:28, 14:30] = True
    probabilities = logits.sigmoid().numpy()
    assert probabilities[:, ~seen].max() < 1e-6
    assert (probabilities[0] > 0.5).sum() == ball((40, 36, 31), (20, 21, 22)).sum()


@pytest.mark.parametrize("regions", [False, True])
def test_no_clicks(regions):
    network = BallNetwork(3)
    logits = predict(network, (20, 20, 20), [], region_order=(1, 2, 3) if regions else None)
    assert network.calls == []
    foreground = logits.sigmoid() if regions else logits.softmax(0)[1:]
    assert foreground.max() < 1e-6


def test_windows_of_their_own_know_their_own_clicks():
    network = BallNetwork(3)
    clicks = [(8, 9, 10), (60, 50, 40), (10, 9, 10)]
    logits = predict(network, (70, 60, 50), clicks, [1, 2, 1])
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
            self.num_classes = 2
            self.calls = 0

        def forward(self, image, prompts):
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


# --- growth ---


class ObjectNetwork(nn.Module):
    """Marks the bright components of a patch that hold a click, each with the label of the click."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        points, labels, _ = prompts
        components = cc3d.connected_components((image[0, 0] > 0.5).numpy())
        logits = torch.zeros((1, self.num_classes, *image.shape[2:]))
        logits[0, 0] = 1
        for point, label in zip(points[0].round().int(), labels[0]):
            if label > 0 and components[tuple(point)]:
                logits[0, label, torch.from_numpy(components == components[tuple(point)])] = 5
        return logits


def grow(objects: np.ndarray, points: list, labels: list | None = None, num_classes: int = 2, **options) -> BoxLogits:
    image = torch.from_numpy(objects > 0).float()[None]
    labels = np.array(labels if labels is not None else [1] * len(points))
    predictor = WindowPredictor([ObjectNetwork(num_classes)], WholeImage(image), PATCH)
    return predict_prompted(predictor, VoxelPrompts(np.array(points, float), labels), **options)


def snake() -> np.ndarray:
    """From one corner along all three axes, five windows long, and a stranger beside it."""
    objects = np.zeros((60, 70, 80), np.uint8)
    objects[2:56, 3:7, 4:8] = 1
    objects[52:56, 3:66, 4:8] = 1
    objects[52:56, 62:66, 4:76] = 1
    objects[20:24, 12:15, 4:8] = 2
    return objects


def test_an_object_of_many_windows_is_found_whole_from_its_end():
    result = grow(snake(), [(3, 5, 5)])
    assert np.array_equal(result.on_grid().argmax(0).numpy(), snake() == 1)
    assert len(result.windows) > 5 and result.hit_cap is None
    assert len(set(result.windows)) == len(result.windows)


@pytest.mark.parametrize("seed", range(12))
def test_an_object_that_touches_opposite_faces_is_found_whole(seed):
    """One window around all of them would lie where the last one did."""
    rng, shape = np.random.default_rng(seed), (40, 44, 48)
    radii = np.array(PATCH) * rng.uniform(0.5, 0.95, 3)
    places = np.stack(np.indices(shape), -1)
    objects = (((places - np.array(shape) / 2) / radii) ** 2).sum(-1) <= 1
    click = rng.choice(np.argwhere(objects)) if seed else np.array(shape) // 2
    result = grow(objects, [click])
    assert result.hit_cap is None
    assert np.array_equal(result.on_grid().argmax(0).numpy(), objects)


@pytest.mark.parametrize("seed", range(10))
def test_growth_ends_where_all_that_touches_faces_has_been_seen(seed):
    """In branching objects that many windows touch, and no window is looked at twice."""
    rng, shape = np.random.default_rng(seed), (36, 42, 48)
    noise = gaussian_filter(rng.normal(size=shape), 3)
    objects = cc3d.largest_k(noise > np.quantile(noise, 0.8), k=1) > 0
    result = grow(objects, [rng.choice(np.argwhere(objects))], max_windows=1000)
    assert result.hit_cap is None and len(set(result.windows)) == len(result.windows)
    found = result.on_grid().argmax(0).numpy() > 0
    for window in result.windows:
        for face in window.open_faces(shape):
            touched = np.argwhere(found[face.slices]) + face.start
            assert np.any([w.sees(touched, shape) for w in result.windows], axis=0).all()


class LeakyNetwork(ObjectNetwork):
    """Marks, beside the objects that hold a click, the last plane of each other one in the patch."""

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        logits = super().forward(image, prompts)
        strangers = (image[0, 0] > 0.5) & (logits[0, 1] == 0)
        planes = torch.where(strangers.any(1).any(1))[0]
        if len(planes):
            logits[0, 1, planes[-1], strangers[planes[-1]]] = 5
        return logits


def two_bars() -> np.ndarray:
    """Two long bars that go on through several windows."""
    bars = np.zeros((60, 14, 16), np.uint8)
    bars[2:50, 3:6, 4:7] = 1
    bars[5:58, 9:12, 10:13] = 2
    return bars


def grow_leaky(select: bool, **options) -> np.ndarray:
    image = torch.from_numpy(two_bars() > 0).float()[None]
    predictor = WindowPredictor([LeakyNetwork()], WholeImage(image), PATCH, clicks_select=select)
    click = VoxelPrompts(np.array([(4.0, 4, 5)]), np.ones(1, int), **options)
    return predict_prompted(predictor, click).on_grid().argmax(0).numpy()


def test_where_clicks_select_an_object_its_look_alike_is_not_followed():
    """The voxels of the other bar that a window marks by mistake get no clicks in the next window."""
    bars = two_bars()
    found = grow_leaky(select=True)
    assert (found[bars == 1] == 1).all()
    assert 0 < found[bars == 2].mean() < 0.2
    assert grow_leaky(select=False)[bars == 2].mean() > 0.5, (
        "this network's mistakes are followed where all objects are"
    )


@pytest.mark.parametrize("kind", [SCRIBBLE, BOX])
def test_objects_under_scribbles_and_boxes_are_followed(kind):
    maps = DensePrompts.none(two_bars().shape)
    maps.draw(kind, Box.from_lists([[10, 13], [9, 12], [10, 13]]), 1)
    assert grow_leaky(select=True, maps=maps)[two_bars() == 2].mean() > 0.5
    maps = DensePrompts.none(two_bars().shape)
    maps.draw(kind, Box.from_lists([[10, 13], [9, 12], [10, 13]]), 0)
    assert grow_leaky(select=True, maps=maps)[two_bars() == 2].mean() < 0.2, "background is followed nowhere"


@pytest.mark.parametrize("seed", range(6))
def test_growth_of_selected_objects_finds_them_whole(seed):
    """As it does where a click stands for all objects, if the network marks nothing by mistake."""
    rng, shape = np.random.default_rng(seed), (36, 42, 48)
    objects = gaussian_filter(rng.normal(size=shape), 3)
    objects = objects > np.quantile(objects, 0.8)
    click = rng.choice(np.argwhere(objects))
    components = cc3d.connected_components(objects)
    image = torch.from_numpy(objects).float()[None]
    predictor = WindowPredictor([ObjectNetwork()], WholeImage(image), PATCH, clicks_select=True)
    result = predict_prompted(predictor, VoxelPrompts(click[None].astype(float), np.ones(1, int)), max_windows=1000)
    assert np.array_equal(result.on_grid().argmax(0).numpy(), components == components[tuple(click)])


def test_a_click_beside_the_mask_holds_the_nearest_object_if_it_is_near():
    found = np.zeros((12, 12, 12), np.int64)
    found[0:3, 0:3, 0:3], found[7:12, 7:12, 7:12] = 1, 2
    near = {(3, 3, 3): 1, (5, 5, 5): 2, (0, 0, 6): 0, (11, 11, 5): 2, (0, 5, 2): 1}
    for click, label in near.items():
        prompts = VoxelPrompts(np.array([click], float), np.ones(1, int))
        kept = objects_prompted(found, prompts, regions=False)
        assert np.array_equal(kept, np.where(found == label, found, 0) if label else np.zeros_like(found)), click


def test_what_a_further_window_parts_from_the_click_is_not_followed():
    """The second window unmarks all that lies between the click and the other face of the first one."""
    bar = np.zeros((60, 14, 16), np.uint8)
    bar[2:58, 3:6, 4:7] = 1
    bar[33:58, 2:8, 3:9] = 1  # more of it touches the upper face, so that growth goes there first

    class Parting(ObjectNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.clicks: list[int] = []

        def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
            self.clicks.append(int((prompts.labels > 0).sum()))
            logits = super().forward(image, prompts)
            if len(self.clicks) > 1:
                logits[0, 0] = 1e4
            return logits

    network = Parting()
    predictor = WindowPredictor([network], WholeImage(torch.from_numpy(bar).float()[None]), PATCH, clicks_select=True)
    click = VoxelPrompts(np.array([(34.0, 4, 5)]), np.ones(1, int))
    predict_prompted(predictor, click, windows=[Window((24, 0, 0), PATCH)])
    assert len(network.clicks) == 2 and all(network.clicks), "no window is predicted without a click"


def test_objects_of_nested_regions_are_one_object():
    """A click on the rim of a lesion holds its core too."""
    found = np.zeros((8, 8, 8), np.int64)
    found[1:5, 1:5, 1:5], found[2:4, 2:4, 2:4], found[6:8, 6:8, 6:8] = 1, 2, 2
    rim = VoxelPrompts(np.array([(1.0, 1, 1)]), np.ones(1, int))
    whole = np.where(np.indices(found.shape).max(0) < 5, found, 0)
    assert np.array_equal(objects_prompted(found, rim, regions=True), whole)
    assert np.array_equal(objects_prompted(found, rim, regions=False), np.where(whole == 1, 1, 0))
    background = VoxelPrompts(np.array([(1.0, 1, 1)]), np.zeros(1, int))
    assert not objects_prompted(found, background, regions=True).any()


def test_growth_keeps_classes_apart():
    result = grow(snake(), [(3, 5, 5), (22, 13, 5)], [2, 1], num_classes=3)
    assert np.array_equal(result.on_grid().argmax(0).numpy(), np.array([0, 2, 1])[snake()])


def test_growth_of_a_network_whose_clicks_carry_no_labels():
    """Where an object goes on, its next window is given points of the second class, which the network can't tell."""

    class Unlabelled(ObjectNetwork):
        def forward(self, image, prompts):
            assert prompts.labels.max() <= 1
            return super().forward(image, prompts)[:, [0, 2, 1]]

    image = torch.from_numpy(snake() > 0).float()[None]
    predictor = WindowPredictor([Unlabelled(3)], WholeImage(image), PATCH, clicks_carry_labels=False)
    result = predict_prompted(predictor, VoxelPrompts(np.array([(3.0, 5, 5)]), np.array([2])))
    assert np.array_equal(result.on_grid().argmax(0).numpy(), 2 * (snake() == 1))


def test_an_object_inside_a_window_needs_one():
    objects = np.zeros((60, 70, 80), np.uint8)
    objects[30:36, 30:38, 40:49] = 1
    assert len(grow(objects, [(32, 33, 44)]).windows) == 1


def test_at_the_border_of_the_image_nothing_goes_on():
    objects = np.zeros((12, 14, 40), np.uint8)
    objects[:, :, :6] = 1
    assert len(grow(objects, [(5, 5, 2)]).windows) == 1


def test_caps_are_reported():
    result = grow(snake(), [(3, 5, 5)], max_windows=3)
    assert len(result.windows) == 3 and result.hit_cap == "3 windows"
    found = result.on_grid().argmax(0).numpy() > 0
    assert 0 < found.sum() < (snake() == 1).sum() and not (found & (snake() != 1)).any()
    result = grow(snake(), [(3, 5, 5)], max_voxels=300)
    assert result.hit_cap == "300 voxels of the mask"
    assert 300 <= (result.on_grid().argmax(0) > 0).sum() < (snake() == 1).sum()


def test_a_cap_is_reported_whenever_it_leaves_windows_out():
    """Of the windows at the two ends of a bar one is left out, and from the other nothing goes on."""
    bar = np.zeros((12, 14, 60), np.uint8)
    bar[4:8, 4:8, 13:39] = 1
    whole = grow(bar, [(5, 5, 25)])
    assert len(whole.windows) == 3 and whole.hit_cap is None
    cut = grow(bar, [(5, 5, 25)], max_windows=2)
    assert len(cut.windows) == 2 and cut.hit_cap == "2 windows"


def test_a_cap_on_the_mask_leaves_no_click_out():
    objects = snake()
    objects[10:14, 60:64, 70:74] = 3
    for clicks in ([(3, 5, 5), (12, 61, 72)], [(12, 61, 72), (3, 5, 5)]):
        result = grow(objects, clicks, max_voxels=50)
        assert result.hit_cap == "50 voxels of the mask"
        assert (result.on_grid().argmax(0).numpy()[objects == 3] == 1).all()
        assert len(result.windows) == 2


def test_all_clicks_are_looked_at_whatever_the_cap():
    objects = np.zeros((60, 70, 80), np.uint8)
    clicks = [(5, 5, 5), (5, 60, 5), (50, 5, 70)]
    for d, h, w in clicks:
        objects[d, h, w] = 1
    assert grow(objects, clicks, max_windows=1).on_grid().argmax(0).sum() == 3


def test_windows_that_are_given_stay_put():
    objects = snake()
    first = grow(objects, [(3, 5, 5)], max_windows=2)
    again = grow(objects, [(3, 5, 5), (4, 6, 6)], windows=first.windows, max_windows=2)
    assert again.windows == first.windows


# --- one window ---


def test_several_networks_are_averaged_by_probability():
    networks = [BallNetwork(inside=1.0), BallNetwork(inside=6.0)]
    image, click = torch.zeros(1, *PATCH), VoxelPrompts(np.array([[6.0, 7, 8]]), np.array([1]))
    window = Window((0, 0, 0), PATCH)
    probabilities = []
    for members in ([networks[0]], [networks[1]], networks):
        logits = WindowPredictor(members, WholeImage(image), PATCH).predict(window, click)
        probabilities.append(logits.softmax(0))
    torch.testing.assert_close(probabilities[2], (probabilities[0] + probabilities[1]) / 2)
    predictor = WindowPredictor(networks, WholeImage(image), PATCH, region_order=(1, 2))
    both = predictor.predict(window, click).sigmoid()
    torch.testing.assert_close(both.max(), (torch.tensor([1.0, 6.0]).sigmoid().mean()))


def test_cached_windows_are_encoded_once():
    torch.manual_seed(0)
    network = SAM3D.from_preset("tiny", 1, 2, (16, 16, 16), stride=4).eval()
    encoded = []
    network.image_encoder.register_forward_hook(lambda *_: encoded.append(1))
    image = torch.randn(1, 40, 16, 16)
    one = tensor_bytes(network.encode(image[None, :, :16]))
    share = EmbeddingCache(4 * one).share()  # two windows with two mirrorings each
    encoded.clear()
    predictor = WindowPredictor([network], WholeImage(image), (16, 16, 16), mirror_axes=(0,), embeddings=share)
    plain = WindowPredictor([network], WholeImage(image), (16, 16, 16), mirror_axes=(0,))
    windows = [Window((start, 0, 0), (16, 16, 16)) for start in (0, 8, 24)]

    def same(window: Window, click: tuple[int, ...]) -> None:
        prompts = VoxelPrompts(np.array([click], float), np.array([1]))
        torch.testing.assert_close(predictor.predict(window, prompts), plain.predict(window, prompts))

    same(windows[0], (3, 4, 5))
    assert len(encoded) == 2 + 2  # two mirrorings, with and without cache
    same(windows[0], (9, 4, 5))
    same(windows[1], (9, 4, 5))
    assert len(encoded) == 4 + 2 + 4
    same(windows[2], (30, 4, 5))  # drives the first one out
    same(windows[1], (12, 4, 5))
    assert len(encoded) == 10 + 4 + 2
    same(windows[0], (3, 4, 5))
    assert len(encoded) == 16 + 4


def test_maps_are_cut_and_mirrored_with_the_image():
    class Echo(BallNetwork):
        def forward(self, image, prompts):
            return torch.cat([prompts.maps[:, :1].float(), image], dim=1)

    shape = (20, 24, 28)
    image = torch.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape)
    maps = DensePrompts.none(shape)
    maps.draw(MASK, Box.of_shape((1, 1, 1), (10, 11, 12)), 7)
    predictor = WindowPredictor([Echo()], WholeImage(image), PATCH, mirror_axes=(0, 1, 2))
    logits = predictor.predict(Window((5, 6, 7), PATCH), VoxelPrompts.none()._replace(maps=maps))
    assert logits[0, 5, 5, 5] == 7 and (logits[0] == -1).sum() == np.prod(PATCH) - 1
    assert logits[1, 5, 5, 5] == image[0, 10, 11, 12]


# --- a single window ---


def test_a_single_window_neither_splits_nor_grows():
    """Two clicks far apart: one window between them, where it may see none of them. Else two windows."""
    objects, clicks = np.zeros((40, 40, 60), np.uint8), [(20, 20, 8), (20, 20, 50)]
    for d, h, w in clicks:
        objects[d - 2 : d + 3, h - 2 : h + 3, w - 2 : w + 3] = 1
    both = grow(objects, clicks)
    assert len(both.windows) == 2 and np.array_equal(both.on_grid().argmax(0).numpy(), objects)
    one = grow(objects, clicks, rule=SINGLE)
    assert one.windows == [Window((14, 13, 21), PATCH)] and not one.on_grid().argmax(0).any()


def test_a_single_window_cuts_an_object():
    result, box = grow(snake(), [(3, 5, 5)], rule=SINGLE), np.zeros(snake().shape, bool)
    box[:9, :12, :13] = True  # centred at the click, so that half of it lies outside of the image
    assert result.windows == [Window((-3, -2, -3), PATCH)] and result.hit_cap is None
    assert np.array_equal(result.on_grid().argmax(0).numpy(), (snake() == 1) & box)
