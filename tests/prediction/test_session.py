"""SAM3DSession: what is encoded, what changes, what can be taken back, what is refused."""

import os

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from balls import SHAPE, ball, box_of
from torch import Tensor

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.grid_image import LocalImage
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prompts.prompt import BOX, MASK, NOTHING, SCRIBBLE


def test_a_second_click_in_a_window_encodes_nothing(session, monkeypatch):
    network, calls = session.model.networks[0], []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda image: calls.append(image) or encode(image))
    session.set_do_autozoom(False)
    session.set_image(np.random.default_rng(0).normal(100, 10, (1, *SHAPE)), {"spacing": (1, 1, 1)})
    session.set_target_buffer(np.zeros(SHAPE, np.uint8))
    session.add_point_interaction((8, 9, 10), True)
    assert len(calls) == 1
    session.add_point_interaction((4, 12, 13), True)
    session.add_point_interaction((10, 6, 7), False)
    session.undo()
    session.reset_interactions()
    session.add_point_interaction((8, 9, 10), True)
    assert len(calls) == 1
    session.add_point_interaction((36, 9, 10), True)
    assert len(calls) == 2


@pytest.mark.parametrize("takes_maps", [False, True])
def test_a_warm_up_passes_a_window_and_changes_nothing(with_balls, takes_maps):
    session, network, target = with_balls(takes_maps=takes_maps)
    session.add_point_interaction((9, 10, 11), True)
    mask, encoded = target.copy(), network.encoded
    session.warmup()
    assert network.encoded == encoded + 1 and not network.decoded[-1].any()
    assert (network.prompts[-1].maps is not None) == takes_maps
    assert (target == mask).all() and session.undo() and not session.undo()
    session.warmup()
    assert not target.any() and network.encoded == encoded + 2


def test_a_warm_up_needs_a_model_but_no_image(session):
    session.warmup()
    with pytest.raises(SAM3DError, match="before warmup"):
        SAM3DSession("cpu").warmup()


def test_the_image_may_change_after_it_was_set(session):
    image = np.random.default_rng(0).normal(100, 10, (1, *SHAPE))
    masks = []
    for change in (False, True):
        array = image.copy()
        session.set_image(array, {"spacing": (1.3, 0.9, 1.1)})
        if change:
            array[:] = 0
        session.set_target_buffer(np.zeros(SHAPE, np.uint8))
        session.add_point_interaction((8, 9, 10), True)
        masks.append(session.target_buffer)
    assert masks[0].any() and (masks[0] == masks[1]).all()


def test_only_what_windows_see_is_preprocessed(with_balls, monkeypatch):
    made = []
    preprocess = LocalImage._preprocess
    monkeypatch.setattr(LocalImage, "_preprocess", lambda self, box: made.append(box) or preprocess(self, box))
    session, _, _ = with_balls(shape=(200, 60, 60))
    assert not made
    session.add_point_interaction((9, 10, 11), True)
    assert made and max(stop for box in made for stop in box.stop) <= 64
    few = len(made)
    session.add_point_interaction((12, 12, 12), True)
    assert len(made) == few


def test_the_mask_is_that_of_the_clicks(with_balls):
    session, _, target = with_balls()
    changed = session.add_point_interaction((9, 10, 11), include_interaction=True)
    assert (target == ball((9, 10, 11))).all() and changed == box_of(target)
    changed = session.add_point_interaction((13, 10, 11), include_interaction=False)
    assert (target == (ball((9, 10, 11)) & ~ball((13, 10, 11)))).all()
    assert changed == box_of(ball((9, 10, 11)) & ball((13, 10, 11)))
    before = target.copy()
    assert session.add_point_interaction((13, 10, 11), include_interaction=False) is None
    assert (target == before).all()


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.4, 0.8, 1)])
def test_random_interactions_return_the_exact_box_and_are_undone_bit_for_bit(with_balls, spacing):
    session, network, target = with_balls(spacing=spacing, takes_maps=True)
    rng = np.random.default_rng(1)
    masks, boxes = [target.copy()], []
    for _ in range(8):
        point = [int(rng.integers(3, n - 3)) for n in SHAPE]
        boxes.append(
            session.add_point_interaction(point, bool(rng.random() < 0.7), class_label=int(rng.integers(1, 3)))
        )
        masks.append(target.copy())
    assert len(np.unique(target)) > 1
    given = len(network.prompts)
    for before, after, box in zip(masks, masks[1:], boxes):
        assert box == (box_of(before != after) if (before != after).any() else None)
    for mask in masks[-2::-1]:
        assert session.undo() is True
        assert (target == mask).all()
    assert session.undo() is False
    # the prompts are gone, too: all as the first time
    rng = np.random.default_rng(1)
    for _ in range(8):
        point = [int(rng.integers(3, n - 3)) for n in SHAPE]
        session.add_point_interaction(point, bool(rng.random() < 0.7), class_label=int(rng.integers(1, 3)))
    assert (target == masks[-1]).all()
    for again, first in zip(network.prompts[given:], network.prompts[:given], strict=True):
        for a, b in zip(again, first):
            assert torch.equal(a, b)


def test_undo_of_what_was_not_predicted_yet(with_balls):
    session, _, target = with_balls()
    session.add_point_interaction((9, 10, 11), True)
    before = target.copy()
    assert session.add_point_interaction((13, 10, 11), False, run_prediction=False) is None
    assert (target == before).all()
    assert session.undo() and (target == before).all()
    assert session.add_point_interaction((9, 14, 11), True, run_prediction=False) is None
    session.add_point_interaction((5, 10, 11), True)
    assert (target == (ball((9, 10, 11)) | ball((9, 14, 11)) | ball((5, 10, 11)))).all()


def test_undo_can_be_switched_off(make_model):
    session = SAM3DSession("cpu", enable_undo=False)
    session.initialize_from_trained_model_folder(make_model().folder)
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 20, 20)))
    session.set_target_buffer(np.zeros((20, 20, 20), np.uint8))
    session.add_point_interaction((9, 10, 11), True)
    assert not session.supports_undo and session.undo() is False


def test_reset(with_balls):
    session, network, target = with_balls(takes_maps=True)
    session.add_point_interaction((9, 10, 11), True)
    first = target.copy()
    session.add_point_interaction((30, 10, 11), True)
    session.reset_interactions()
    assert not target.any() and session.undo() is False
    network.prompts.clear()
    session.add_point_interaction((9, 10, 11), True)
    assert (target == first).all()
    assert (network.prompts[0][2] == NOTHING).all()


def test_growth_and_autozoom(with_balls):
    session, network, target = with_balls()
    session.add_point_interaction((9, 10, 11), True, run_prediction=False)
    session.add_point_interaction((15, 10, 11), True)  # its ball goes beyond slice 17, the last of the window
    assert network.encoded > 1 and target[18].any()
    session.reset_interactions()
    session.set_do_autozoom(False)
    session.add_point_interaction((9, 10, 11), True, run_prediction=False)
    session.add_point_interaction((15, 10, 11), True)
    assert not target[18].any()


@pytest.mark.parametrize("select", [False, True])
def test_clicks_in_grown_windows_stay_in_them(with_balls, select):
    """They get no window of their own, and the part of the mask there, which no click marks, is not lost."""
    session, network, target = with_balls(radius=8, clicks_select=select)
    session.add_point_interaction((13, 10, 11), True)  # its window ends at slice 21, grown ones begin at 14
    known = len(network.decoded)
    assert target[24, 10, 11]
    session.add_point_interaction((29, 3, 5), False)
    with_click = [e for e, (_, labels, _) in list(zip(network.decoded, network.prompts))[known:] if (labels == 0).any()]
    assert any(with_click[0] is embedding for embedding in network.decoded[:known])
    assert target[24, 10, 11]


@pytest.mark.parametrize("select", [False, True])
def test_a_kept_window_gets_clicks_on_selected_objects_alone(with_balls, select):
    """If clicks select objects, what was marked by mistake beside them gets none."""
    session, network, target = with_balls(radius=8, clicks_select=select)
    session.add_point_interaction((13, 10, 11), True)
    target[27:30, 14:17, 15:18] = 1  # as if a look-alike had been marked, in a grown window
    session.add_point_interaction((29, 3, 5), False)
    assert target[24, 10, 11], "the ball itself gets clicks in both cases"
    assert bool(target[28, 15, 16]) is not select


def test_the_mask_so_far_is_background_where_nothing_is(with_balls):
    session, network, target = with_balls(takes_maps=True)
    session.add_point_interaction((6, 10, 11), True)
    network.prompts.clear()
    session.add_point_interaction((38, 10, 11), True)
    masks = [maps[0, MASK] for _, _, maps in network.prompts]
    assert sorted(mask.sum().item() for mask in masks) == [0, ball((6, 10, 11)).sum()]


def test_background_where_nothing_is_needs_no_window(with_balls):
    session, network, target = with_balls()
    session.add_point_interaction((6, 10, 11), True)
    encoded, mask = network.encoded, target.copy()
    assert session.add_point_interaction((40, 10, 11), False) is None
    assert network.encoded == encoded and (target == mask).all()


def test_classes(with_balls):
    session, _, target = with_balls()
    session.add_point_interaction((6, 10, 11), True)
    session.add_point_interaction((36, 10, 11), True, class_label=2)
    assert (target == ball((6, 10, 11)) + 2 * ball((36, 10, 11))).all()


def test_spacing_is_that_of_the_axes(with_balls):
    """Balls of the 1 mm grid are flat in voxels of 2 mm."""
    session, _, target = with_balls(shape=(12, 20, 22), spacing=(2, 1, 1))
    session.add_point_interaction((6, 10, 11), True)
    sides = [high - low for low, high in box_of(target)]
    assert sides[0] in (4, 5) and sides[1] == sides[2] >= 7
    assert target[6, 10, 11]


def test_tensors(with_balls):
    session, _, target = with_balls()
    session.add_point_interaction((9, 10, 11), True)
    image = torch.from_numpy(np.random.default_rng(0).normal(100, 10, (1, *SHAPE)))
    session.set_image(image, {"spacing": torch.ones(3)})
    assert session.target_buffer is None
    tensor = torch.zeros(SHAPE, dtype=torch.uint8)
    session.set_target_buffer(tensor)
    session.add_point_interaction(torch.tensor((9, 10, 11)), True)
    assert session.target_buffer is tensor and (tensor.numpy() == target).all()
    scribble = torch.zeros(SHAPE)
    scribble[20:30, 10, 11] = 1
    session.add_scribble_interaction(scribble, True)
    assert tensor[20:30, 10, 11].all()
    session.undo()
    assert (tensor.numpy() == target).all()
    session.add_initial_seg_interaction(tensor.clone())
    assert (tensor.numpy() == target).all()


def test_a_new_buffer(with_balls):
    session, _, target = with_balls()
    session.add_point_interaction((9, 10, 11), True)
    first, other = target.copy(), np.zeros(SHAPE, np.float32)
    session.set_target_buffer(other)
    assert session.undo() is False
    session.reset_interactions()
    session.add_point_interaction((30, 10, 11), True)
    assert (target == first).all() and (other == ball((30, 10, 11))).all()


# --- scribbles, lassos, boxes ---


def scribble() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[8, 5:14, 10] = 1
    return mask


def ring(radius: float = 5.0) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    distance = np.hypot(*(np.indices(SHAPE[1:]) - np.array([10, 11])[:, None, None]))
    mask[8][np.abs(distance - radius) < 0.8] = 1
    return mask


REGIONS = {
    "scribble": (lambda s, **more: s.add_scribble_interaction(scribble(), **more), scribble() > 0),
    "lasso": (lambda s, **more: s.add_lasso_interaction(ring(), **more), None),
    "bbox": (lambda s, **more: s.add_bbox_interaction([[4, 12], [5, 15], [6, 16]], **more), None),
    "slice": (lambda s, **more: s.add_bbox_interaction([[8, 9], [5, 15], [6, 16]], **more), None),
}


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_regions_become_points_without_maps(with_balls, kind, label):
    session, network, target = with_balls()
    session.add_point_interaction((8, 10, 11), True)
    network.prompts.clear()
    REGIONS[kind][0](session, include_interaction=label > 0, class_label=max(1, label))
    points, labels, maps = network.prompts[0]
    assert maps is None
    window_start = np.array((8, 10, 11)) - points[0].numpy()
    added = points[1:-1][labels[1:-1] == label].numpy() + window_start
    assert 2 <= len(added) <= 5
    low, high = {"scribble": ((8, 5, 10), (8, 13, 10)), "bbox": ((4, 5, 6), (11, 14, 15))}.get(
        kind, ((8, 5, 6), (8, 15, 16))
    )
    assert ((added >= low) & (added <= high)).all()
    assert np.ptp(added, axis=0).max() >= 3  # spread
    if kind == "lasso":
        inner = np.hypot(added[:, 1] - 10, added[:, 2] - 11)
        assert (inner < 4).all()


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("label", [0, 2])
def test_regions_are_drawn_for_models_that_take_maps(with_balls, kind, label):
    session, network, target = with_balls(takes_maps=True)
    session.add_point_interaction((8, 10, 11), True)
    network.prompts.clear()
    REGIONS[kind][0](session, include_interaction=label > 0, class_label=max(1, label))
    points, labels, maps = network.prompts[0]
    channel = maps[0, SCRIBBLE if kind == "scribble" else BOX].numpy()
    if label == 0 and kind != "scribble":
        assert (channel == NOTHING).all()
        assert (labels == 0).sum() > 1
        return
    assert (labels == label).sum() == 1
    assert set(np.unique(channel)) == {NOTHING, label}
    drawn = np.argwhere(channel == label)
    expected = {"scribble": 9, "bbox": 8 * 10 * 10, "slice": 100}.get(kind)
    if kind == "lasso":
        assert len(drawn) == pytest.approx(np.pi * 5.5**2, rel=0.15)  # filled
    else:
        assert len(drawn) == expected
    # the mask so far is the other prompt
    assert (maps[0, MASK] >= 0).all() and (maps[0, MASK] == 1).sum() == ball((8, 10, 11)).sum()


@pytest.mark.parametrize("spacing", [(3, 1, 1), (0.4, 0.4, 0.4), (1, 2.5, 1)])
def test_scribbles_have_no_gaps_on_other_grids(with_balls, spacing):
    shape = (30, 30, 30)
    session, network, _ = with_balls(shape=shape, spacing=spacing, takes_maps=True)
    mask = np.zeros(shape, np.uint8)
    mask[15, 8:20, 15] = 1
    session.add_scribble_interaction(mask, True)
    drawn = [np.argwhere(maps[0, SCRIBBLE] == 1) for _, _, maps in network.prompts]
    along = np.unique(torch.cat(tuple(drawn))[1].numpy()) if isinstance(drawn[0], Tensor) else np.unique(drawn[0][1])
    assert len(along) and (np.diff(along) == 1).all()


def test_part_of_an_image_as_scribble(with_balls):
    session, network, target = with_balls()
    session.add_scribble_interaction(scribble(), True)
    whole = target.copy()
    session.reset_interactions()
    part = scribble()[6:10, 2:18, 9:12]
    session.add_scribble_interaction(part, True, interaction_bbox=[[6, 10], [2, 18], [9, 12]])
    assert (target == whole).all() and whole.any()


def test_an_empty_scribble_changes_nothing(with_balls, caplog):
    session, network, target = with_balls()
    assert session.add_scribble_interaction(np.zeros(SHAPE), True) is None
    assert network.prompts == [] and session.undo() is False
    assert "empty" in caplog.text


# --- an existing mask ---


@pytest.mark.parametrize("takes_maps", [False, True])
def test_initial_mask_resets_interactions(with_balls, takes_maps):
    session, network, target = with_balls(takes_maps=takes_maps)
    session.add_point_interaction((9, 10, 11), True)
    clicked = target.copy()
    network.prompts.clear()
    initial = np.zeros(SHAPE, np.uint8)
    initial[30:38, 5:12, 6:14] = 2
    assert session.add_initial_seg_interaction(initial) is None
    assert network.prompts == [] and (target == initial).all()
    changed = session.add_point_interaction((6, 10, 11), True)
    assert (target == initial + ball((6, 10, 11))).all()  # not the ball of the first click; the rest stays
    assert changed == box_of(ball((6, 10, 11)))
    points, labels, maps = network.prompts[0]
    assert (labels >= 0).sum() == 1
    assert (maps is not None) == takes_maps
    assert session.undo() and (target == initial).all()
    assert session.undo() and (target == clicked).all()
    session.add_point_interaction((9, 10, 11), True)
    assert (target == clicked).all()


@pytest.mark.parametrize("takes_maps", [False, True])
def test_initial_mask_improved_at_once(with_balls, takes_maps):
    session, network, target = with_balls(takes_maps=takes_maps)
    initial = np.zeros(SHAPE, bool)
    initial[30:37, 6:13, 7:14] = True
    initial[3:8, 8:13, 8:13] = True
    target[0] = 1
    before = target.copy()
    changed = session.add_initial_seg_interaction(initial, run_prediction=True)
    assert (target == ball((33, 9, 10)) | ball((5, 10, 10))).all()
    assert changed == box_of(before != target)
    if takes_maps:
        assert any((maps[0, MASK] == 1).any() for _, _, maps in network.prompts)


def test_background_click_on_an_initial_mask(with_balls):
    session, _, target = with_balls()
    initial = np.zeros(SHAPE, np.uint8)
    initial[30:37, 6:13, 7:14] = 1
    session.add_initial_seg_interaction(initial)
    session.add_point_interaction((30, 9, 10), False)
    assert not target[30, 9, 10] and target[36, 9, 10]


def test_two_sessions_know_nothing_of_each_other(make_model):
    folder = make_model().folder
    images = [np.random.default_rng(seed).normal(100, 10, (1, *SHAPE)) for seed in (0, 1)]

    def start(image):
        session = SAM3DSession("cpu", torch_n_threads=1)
        session.initialize_from_trained_model_folder(folder)
        session.set_image(image, {"spacing": (1, 1, 1)})
        session.set_target_buffer(np.zeros(SHAPE, np.uint8))
        return session

    def click(session):
        session.add_point_interaction((9, 10, 11), True)
        session.add_point_interaction((30, 8, 11), True, class_label=2)

    alone = []
    for image in images:
        session = start(image)
        click(session)
        alone.append(session.target_buffer)
    a, b = map(start, images)
    a.add_point_interaction((9, 10, 11), True)
    click(b)
    a.add_point_interaction((30, 8, 11), True, class_label=2)
    assert (a.target_buffer == alone[0]).all() and (b.target_buffer == alone[1]).all()
    assert (alone[0] != alone[1]).any()


def test_a_script_for_nninteractive(make_model, monkeypatch):
    """The steps of its README, with another import and model folder."""
    monkeypatch.setattr("sam3d_nnunet.prediction.image_session.usable_cores", lambda: 1)  # small tensors
    model = make_model()
    file = sorted(model.images.iterdir())[0]

    session = SAM3DSession(
        device=torch.device("cpu"),
        use_torch_compile=False,
        verbose=False,
        torch_n_threads=os.cpu_count(),
        do_autozoom=True,
        use_pinned_memory=True,
    )
    session.initialize_from_trained_model_folder(str(model.folder))
    img = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[None]
    session.set_image(img)
    target_tensor = torch.zeros(img.shape[1:], dtype=torch.uint8)
    session.set_target_buffer(target_tensor)
    session.add_point_interaction((9, 8, 10), include_interaction=True)
    session.add_point_interaction((3, 3, 3), include_interaction=False)
    session.add_bbox_interaction([[6, 12], [5, 11], [10, 11]], include_interaction=True)
    drawn = np.zeros(img.shape[1:], dtype=np.uint8)
    drawn[9, 6:10, 8] = 1
    assert len(session.preferred_scribble_thickness) == 3
    session.add_scribble_interaction(drawn, include_interaction=True)
    session.add_lasso_interaction(drawn, include_interaction=True)
    results = session.target_buffer.clone()
    assert results.any() and torch.equal(results, target_tensor)
    session.set_target_buffer(torch.zeros(img.shape[1:], dtype=torch.uint8))
    session.reset_interactions()
    assert torch.equal(results, target_tensor) and not session.target_buffer.any()
    new_image = np.random.default_rng(0).normal(size=(1, 18, 19, 20))
    session.set_image(new_image)
    session.set_target_buffer(torch.zeros(new_image.shape[1:], dtype=torch.uint8))
    session.add_point_interaction((9, 8, 10), include_interaction=True)


def test_models_of_overlapping_regions(make_model):
    session = SAM3DSession("cpu", torch_n_threads=1, do_autozoom=False)
    session.initialize_from_trained_model_folder(make_model("regions").folder)
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 20, 20)), {"spacing": (1, 1, 1)})
    target = np.zeros((20, 20, 20), np.uint8)
    session.set_target_buffer(target)
    session.add_point_interaction((9, 10, 11), True, class_label=2)
    session.add_scribble_interaction(target, True)
    session.add_initial_seg_interaction(np.clip(target, 0, 2), run_prediction=True)
    assert set(np.unique(target)) <= {0, 1, 2} and target.any()
