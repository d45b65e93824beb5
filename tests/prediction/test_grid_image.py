"""Parts of an image that are preprocessed on their own have the values that nnU-Net's preprocessor gives the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.boxes import Box
from sam3d_nnunet.geometry.grid import PreprocessedGrid
from sam3d_nnunet.geometry.images import read_image
from sam3d_nnunet.geometry.turn import NO_TURN, ORIENTATIONS, Turn
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.planning.settings import BLOCK
from sam3d_nnunet.prediction import grid_image
from sam3d_nnunet.prediction.grid_image import SIDE, LocalImage, WholeImage
from sam3d_nnunet.prediction.intensity import NORMALIZATIONS
from sam3d_nnunet.prediction.model_folder import TrainedModel
from sam3d_nnunet.prediction.preprocessing import Preprocessed, preprocess
from sam3d_nnunet.prediction.windows import Window

DATA = Path(__file__).parents[1] / "data"
IMAGES = {
    "ct": DATA / "images" / "ct.nii.gz",
    "pet": DATA / "images" / "pet.nii.gz",
    "brain_1": DATA / "images" / "brain_1.nrrd",  # thick slices
    "brain_2": DATA / "images" / "brain_2.nrrd",
    "hippocampus": sorted((DATA / "Dataset004_Hippocampus" / "imagesTr").glob("*.nii.gz"))[0],
}
FOREGROUND = {"mean": 60.0, "std": 55.0, "percentile_00_5": -50.0, "percentile_99_5": 240.0}
SPLINES = ("resample_data_or_seg_to_shape", {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None})
TORCH = ("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False})


def model_of(
    spacing=(1.0, 1.0, 1.0),
    resampling=SPLINES,
    scheme="ZScoreNormalization",
    masked=False,
    transpose=(0, 1, 2),
    channels=1,
    preprocessor="DefaultPreprocessor",
    orientation=None,
) -> TrainedModel:
    """A plan without networks."""
    function, options = resampling
    configuration = {
        "spacing": list(spacing),
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": options,
        "resampling_fn_seg": SPLINES[0],
        "resampling_fn_seg_kwargs": SPLINES[1] | {"is_seg": True, "order": 1},
        "normalization_schemes": [scheme] * channels,
        "use_mask_for_norm": [masked] * channels,
        "preprocessor_name": preprocessor,
        "architecture": {},
        BLOCK: {"orientation": orientation},
    }
    plans = PlansManager(
        {
            "transpose_forward": list(transpose),
            "transpose_backward": np.argsort(transpose).tolist(),
            "foreground_intensity_properties_per_channel": {str(c): FOREGROUND for c in range(channels)},
            "configurations": {"3d_fullres": configuration},
        }
    )
    return TrainedModel([], plans, plans.get_configuration("3d_fullres"), None, {}, channels, None, True, False)


def by_nnunet(image: np.ndarray, spacing: list[float], model: TrainedModel, turn: Turn = NO_TURN) -> np.ndarray:
    """What nnU-Net's preprocessor makes of the whole image."""
    properties = {"spacing": turn.along(spacing)}
    data, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        np.ascontiguousarray(turn.array(image)), None, properties, model.plans, model.configuration, {}
    )
    return data


def random_windows(shape: tuple[int, ...], rng: np.random.Generator, count: int) -> list[Window]:
    """Windows of different sizes, some of them across the borders."""
    windows = []
    for _ in range(count):
        size = rng.integers(4, 40, 3)
        start = [rng.integers(-4, max(1, n - s + 5)) for n, s in zip(shape, size)]
        windows.append(Window(tuple(map(int, start)), tuple(map(int, size))))
    return windows


def assert_same_windows(done: Preprocessed, whole: np.ndarray, windows: list[Window]) -> None:
    assert isinstance(done.on_grid, LocalImage) and done.note is None
    assert done.on_grid.shape == whole.shape[1:] == tuple(done.grid.shape)
    tolerance = 1e-4 * whole.std()
    for window in windows:
        found, expected = done.on_grid.cut(window.box), WholeImage(np.ascontiguousarray(whole)).cut(window.box)
        assert (found - expected).abs().max() <= tolerance


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("number", range(8))
def test_windows_are_those_of_nnunet(name, number):
    """320 random windows; odd spacings, turned arrays, empty borders, all resampling functions and normalisations."""
    rng = np.random.default_rng(number)
    image, properties = read_image([IMAGES[name]], SimpleITKIO())
    image = image[:, -60:, -120:, -120:]
    inside = (slice(None), *(slice(a, -b) for a, b in zip(rng.integers(0, 4, 3), rng.integers(1, 5, 3))))
    bordered = np.zeros_like(image)
    bordered[inside] = image[inside]
    spacing = [float(s * f) for s, f in zip(properties["spacing"], rng.uniform(0.7, 1.4, 3))]
    wanted = str(rng.choice(sorted(ORIENTATIONS)))
    geometry = ImageGeometry.from_file(IMAGES[name], properties)
    scheme = sorted(NORMALIZATIONS)[number % 5] if name != "ct" else "CTNormalization"
    if scheme == "RGBTo01Normalization":
        bordered *= 255 / bordered.max()
        bordered[bordered < 0] = 0
    resampling = [SPLINES, TORCH, (SPLINES[0], SPLINES[1] | {"order": 1, "order_z": 1})][number % 3]
    target = [float(x) for x in np.mean(spacing) * rng.uniform(0.5, 1.3, 3)]
    model = model_of(
        target, resampling, scheme, masked=number % 2 == 1, transpose=rng.permutation(3).tolist(), orientation=wanted
    )
    done = preprocess(bordered, {"spacing": spacing}, geometry, model)
    whole = by_nnunet(bordered, spacing, model, Turn.between(geometry.orientation, wanted))
    assert_same_windows(done, whole, random_windows(whole.shape[1:], rng, 8))


SHAPES = st.tuples(*[st.integers(1, 40)] * 3)
SPACINGS = st.tuples(*[st.floats(0.4, 6.0)] * 3)


@given(
    SHAPES,
    SPACINGS,
    SPACINGS,
    st.sampled_from([SPLINES, TORCH]),
    st.sampled_from([None, True, False]),
    st.integers(0, 3),
    st.permutations([0, 1, 2]),
)
@example((9, 20, 21), (5.0, 1.0, 1.0), (2.5, 1.0, 1.0), SPLINES, None, 0, [0, 1, 2])  # centres halfway between slices
@example((8, 30, 30), (6.0, 1.0, 1.0), (3.0, 0.8, 0.8), SPLINES, None, 3, [2, 0, 1])
@example((40, 40, 40), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), SPLINES, None, 0, [0, 1, 2])
@example((1, 1, 40), (1.0, 1.0, 1.0), (2.0, 2.0, 0.5), SPLINES, False, 0, [0, 1, 2])
def test_any_plan_gives_the_values_of_nnunet(shape, spacing, target, resampling, separate, order_z, transpose):
    function, options = resampling
    options = options | {"force_separate_z": separate} | ({"order_z": order_z} if resampling is SPLINES else {})
    model = model_of(target, (function, options), "NoNormalization", transpose=transpose)
    image = np.random.default_rng(0).normal(3, 1, (1, *shape)).astype(np.float32)
    voxels = np.array(shape) * np.array(spacing) / np.array(target)[np.argsort(transpose)]
    assume(voxels.min() > 0.6 and voxels.prod() < 3e5)  # nnU-Net can't make an axis without voxels
    whole = by_nnunet(image, list(spacing), model)
    done = preprocess(image, {"spacing": list(spacing)}, None, model)
    np.testing.assert_allclose(done.on_grid.cut(done.grid.box), whole, atol=2e-5)


@pytest.fixture
def made(monkeypatch) -> list[Box]:
    """The boxes that images have preprocessed."""
    boxes, preprocess_box = [], LocalImage._preprocess
    monkeypatch.setattr(LocalImage, "_preprocess", lambda self, box: boxes.append(box) or preprocess_box(self, box))
    return boxes


def test_blocks_are_the_same_in_any_order_and_are_made_once(made):
    image = np.random.default_rng(0).normal(size=(1, 70, 80, 90)).astype(np.float32)
    first, second = (preprocess(image, {"spacing": [1.0] * 3}, None, model_of((0.9, 0.8, 1.1))).on_grid for _ in "ab")
    boxes = [Box((0, 0, 0), (5, 5, 5)), Box((30, 30, 30), (40, 40, 40)), Box((-5, 60, 3), (10, 300, 70))]
    found = [first.cut(box) for box in boxes]
    assert made[0] == Box.of_shape([SIDE] * 3) and len(made) == 3
    assert all(torch.equal(first.cut(box), values) for box, values in zip(boxes, found)) and len(made) == 3
    whole = WholeImage(second.cut(Box.of_shape(second.shape)))
    for box, values in zip(boxes, found):  # the order in which products are summed may differ
        np.testing.assert_allclose(values, whole.cut(box), rtol=1e-6, atol=1e-7)


def test_large_boxes_are_made_in_parts(made, monkeypatch):
    monkeypatch.setattr(grid_image, "MOST", 1e5)
    image = np.random.default_rng(0).normal(size=(1, 230, 40, 50)).astype(np.float32)
    model = model_of((1.0, 1.2, 1.2), scheme="NoNormalization")
    done = preprocess(image, {"spacing": [1.0] * 3}, None, model)
    whole = done.on_grid.cut(done.grid.box)
    assert len(made) > 4 and sum(np.prod(box.shape) for box in made) == whole.numel()
    np.testing.assert_allclose(whole, by_nnunet(image, [1.0] * 3, model), atol=1e-5)


def test_nothing_is_made_before_a_window_looks(made):
    image = np.ones((1, 40, 40, 40), np.int16)
    done = preprocess(image, {"spacing": [1.0, 1.0, 1.0]}, None, model_of())
    assert done.on_grid.shape == (40, 40, 40) and done.on_grid.is_finite and not done.empty
    assert not done.on_grid.cut(Box((90, 0, 0), (99, 9, 9))).any() and not made


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, bool])
def test_stored_types_give_the_values_of_float32(dtype):
    image = (np.random.default_rng(0).normal(20, 9, (2, 20, 30, 25)).clip(0, 255)).astype(dtype)
    model = model_of((0.8, 1.2, 1.0), channels=2, masked=True)
    image[:, :4] = 0
    image[0, 9:12, 9:12, 9:12] = 0
    done = preprocess(image, {"spacing": [1.0, 1.0, 1.0]}, None, model)
    whole = by_nnunet(image, [1.0, 1.0, 1.0], model)
    assert done.grid.crop.start[0] == 4
    np.testing.assert_allclose(done.on_grid.cut(done.grid.box), whole, atol=1e-5)


class Cropping(DefaultPreprocessor):
    """A preprocessor of the user's, which cuts off two slices and turns the rest."""

    def run_case_npy(self, data, seg, properties, *rest):
        kept = data[:, 2:, ::-1]
        properties |= {
            "shape_before_cropping": data.shape[1:],
            "bbox_used_for_cropping": [[2, data.shape[1]], *([0, n] for n in data.shape[2:])],
            "shape_after_cropping_and_before_resampling": kept.shape[1:],
        }
        return kept, seg, properties


@pytest.mark.parametrize(
    "options, named",
    [
        ({"resampling": (SPLINES[0], SPLINES[1] | {"is_seg": True})}, "resample_data_or_seg_to_shape"),
        ({"resampling": (TORCH[0], TORCH[1] | {"mode": "nearest"})}, "resample_torch_fornnunet"),
        ({"resampling": ("a_function_of_the_users", {})}, "a_function_of_the_users"),
        ({"preprocessor": "Cropping"}, "Cropping"),
        ({"scheme": "OtherNormalization"}, "OtherNormalization"),
    ],
)
def test_other_plans_take_the_whole_image_and_say_so(options, named, monkeypatch):
    model = model_of(**options)
    monkeypatch.setattr(type(model.configuration), "preprocessor_class", Cropping)
    image = np.random.default_rng(0).normal(size=(1, 10, 11, 12)).astype(np.float32)
    image[:, :4] = 0
    done = preprocess(image, {"spacing": [1.0, 1.0, 1.0]}, None, model)
    assert isinstance(done.on_grid, WholeImage) and named in done.note
    assert np.array_equal(done.on_grid.cut(done.grid.box), image[:, 2:, ::-1])
    assert done.grid.crop == Box((2, 0, 0), (10, 11, 12))


def test_images_too_thin_for_the_spacing_are_refused():
    with pytest.raises(SAM3DError, match="shows 1 mm along an axis on which the model's voxels have 3 mm"):
        preprocess(np.ones((1, 1, 40, 40)), {"spacing": [1.0] * 3}, None, model_of((3.0, 3.0, 3.0)))


def test_images_without_a_resampling_keep_their_voxels():
    model = model_of((3.0, 3.0, 3.0), ("no_resampling_hack", {}), "NoNormalization")
    image = np.random.default_rng(0).normal(size=(1, 10, 40, 12)).astype(np.float32)
    done = preprocess(image, {"spacing": [1.0, 1.0, 1.0]}, None, model)
    assert np.array_equal(done.on_grid.cut(done.grid.box), image)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_values_that_are_not_finite_are_found_without_making_a_block(value, masked):
    image = np.ones((1, 40, 40, 40), np.float32)
    image[0, 39, 2, 3] = value
    assert not preprocess(image, {"spacing": [1.0] * 3}, None, model_of(masked=masked)).finite


def test_empty_images_are_noticed():
    done = preprocess(np.zeros((2, 5, 6, 7)), {"spacing": [1.0] * 3}, None, model_of(channels=2))
    assert done.empty and done.grid.crop == Box.of_shape((5, 6, 7))


def test_colours_out_of_range_are_refused():
    with pytest.raises(SAM3DError, match="0 to 255"):
        preprocess(np.full((1, 5, 6, 7), 300.0), {"spacing": [1.0] * 3}, None, model_of(scheme="RGBTo01Normalization"))


@given(st.integers(1, 3), st.tuples(*[st.integers(1, 40)] * 3), st.data())
def test_the_box_around_what_is_not_zero(channels, shape, data):
    image = np.zeros((channels, *shape), np.int16)
    for _ in range(data.draw(st.integers(0, 3))):
        voxel = tuple(data.draw(st.integers(0, n - 1)) for n in image.shape)
        image[voxel] = data.draw(st.sampled_from([-1, 1]))
    turned = image.transpose(0, *(1 + np.array(data.draw(st.permutations([0, 1, 2])))))[:, ::-1]
    assert Box.of_nonzero(turned) == Box.from_mask((turned != 0).any(axis=0))


def test_grids_lead_back_to_images():
    """The grid of a turned image with an empty border is that of nnU-Net's properties."""
    image = np.zeros((1, 30, 31, 32), np.float32)
    image[:, 3:20, 5:, :-7] = 1
    model = model_of((2.0, 1.5, 0.7), transpose=(2, 0, 1))
    properties = {"spacing": [1.0, 2.0, 3.0]}
    done = preprocess(image, properties, None, model)
    theirs = dict(properties)
    data, _, theirs = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, theirs, model.plans, model.configuration, {}
    )
    expected = PreprocessedGrid.from_properties(theirs, [2, 0, 1], data.shape[1:])
    for name in ("transpose", "crop_start", "crop_shape", "shape", "flipped"):
        assert np.array_equal(getattr(done.grid, name), getattr(expected, name))
    for key in ("shape_before_cropping", "bbox_used_for_cropping", "shape_after_cropping_and_before_resampling"):
        assert done.properties[key] == theirs[key]
