"""SAM3DSession: mistakes get a sentence and change nothing."""

import logging

import numpy as np
import pytest
import torch
from balls import SHAPE, ball

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prompts.prompt import NOTHING, SCRIBBLE
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer


def test_mistakes_are_sentences(with_balls, tmp_path):
    session, network, target = with_balls()
    other = SAM3DSession("cpu")
    mask = np.zeros(SHAPE)
    mistakes = {
        "nowhere": lambda: other.initialize_from_trained_model_folder(tmp_path / "nowhere"),
        "initialize_from_trained_model_folder": lambda: other.set_image(np.ones((1, 9, 9, 9))),
        "call set_image before set_target": lambda: other.set_target_buffer(np.zeros((9, 9, 9))),
        "call set_image before inter": lambda: other.add_point_interaction((1, 1, 1), True),
        "call set_image before _predict": other._predict,
        "four axes": lambda: session.set_image(np.ones((9, 9, 9))),
        "2 channels": lambda: session.set_image(np.ones((2, 9, 9, 9))),
        "finite": lambda: session.set_image(np.full((1, 9, 9, 9), np.nan)),
        "empty": lambda: session.set_image(np.zeros((1, 9, 9, 9))),
        "3000 x 3000 x 3000 mm.*Check its spacing": lambda: session.set_image(
            np.ones((1, 100, 100, 100)), {"spacing": (30, 30, 30)}
        ),
        "three numbers above 0": lambda: session.set_image(np.ones((1, 9, 9, 9)), {"spacing": (1, 0, 1)}),
    }
    for text, mistake in mistakes.items():
        with pytest.raises(SAM3DError, match=text):
            mistake()
    session, network, target = with_balls()
    mistakes = {
        "image's shape": lambda: session.set_target_buffer(np.zeros((1, 2, 3))),
        "NumPy array or a torch": lambda: session.set_target_buffer([[[0]]]),
        "outside the image, which has 44 x 20 x 22": lambda: session.add_point_interaction((44, 0, 0), True),
        "outside": lambda: session.add_point_interaction((0, -1, 0), True),
        "three coordinates": lambda: session.add_point_interaction((1, 2), True),
        "class 3.* 1, 2": lambda: session.add_point_interaction((1, 2, 3), True, class_label=3),
        "scribble has the shape": lambda: session.add_scribble_interaction(mask[1:], True),
        "beyond": lambda: session.add_lasso_interaction(mask, True, interaction_bbox=[[1, 45], [0, 20], [0, 22]]),
        "box .* outside": lambda: session.add_bbox_interaction([[50, 60], [1, 2], [1, 2]], True),
        "is empty": lambda: session.add_scribble_interaction(mask, True, interaction_bbox=[[5, 5], [1, 2], [1, 2]]),
        r"needs \[\[x1": lambda: session.add_bbox_interaction([1, 2, 3], True),
        "mask has the shape": lambda: session.add_initial_seg_interaction(mask[1:]),
        "7.* 1, 2": lambda: session.add_initial_seg_interaction(mask + 7),
    }
    for text, mistake in mistakes.items():
        with pytest.raises(SAM3DError, match=text):
            mistake()
    assert network.prompts == [] and not target.any() and session.undo() is False


def test_no_target_buffer_for_a_new_image(with_balls):
    session, _, target = with_balls()
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 20, 20)))
    assert session.add_point_interaction((9, 10, 11), True, run_prediction=False) is None
    with pytest.raises(SAM3DError, match="set_target_buffer"):
        session.add_point_interaction((9, 10, 11), True)
    with pytest.raises(SAM3DError, match="image's shape"):
        session.set_target_buffer(target)


def test_spacing_that_is_not_given_is_said(session, caplog):
    with caplog.at_level(logging.WARNING):
        session.set_image(np.random.default_rng(0).normal(size=(1, 20, 20, 20)))
    assert "1 mm" in caplog.text
    caplog.clear()
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 20, 20)), {"spacing": [1, 1, 1]})
    assert caplog.text == ""


def test_empty_border(with_balls):
    """nnU-Net cuts it off."""
    image = np.random.default_rng(0).normal(100, 10, (1, *SHAPE))
    image[:, :6] = 0
    session, _, target = with_balls(image=image)
    session.add_point_interaction((12, 10, 11), True)
    assert (target == ball((12, 10, 11))).all()
    with pytest.raises(SAM3DError, match="empty border"):
        session.add_point_interaction((3, 10, 11), True)
    with pytest.raises(SAM3DError, match="empty border"):
        session.add_bbox_interaction([[1, 4], [3, 9], [3, 9]], True)
    session.add_point_interaction((3, 10, 11), False)
    assert session.add_bbox_interaction([[1, 4], [3, 9], [3, 9]], False) is None
    assert (target == ball((12, 10, 11))).all()


def test_a_failed_prediction_leaves_all_as_it_was(with_balls, monkeypatch):
    session, network, target = with_balls(takes_maps=True)
    session.add_point_interaction((9, 10, 11), True)
    before, drawn = target.copy(), np.zeros(SHAPE, np.uint8)
    drawn[8, 5:14, 10] = 1
    decode = network.decode

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(network, "decode", fail)
    with pytest.raises(RuntimeError, match="memory"):
        session.add_scribble_interaction(drawn, True)
    monkeypatch.setattr(network, "decode", decode)
    network.prompts.clear()
    session.add_point_interaction((9, 10, 11), True)
    assert (network.prompts[0][2][0, SCRIBBLE] == NOTHING).all()
    assert (target == before).all()


def test_models_of_unlabelled_clicks_take_foreground_only(make_model):
    unlabelled = {"labelled_prompts": False, "clicks": {"policy": "paper"}}
    model = make_model(settings=unlabelled, trainer_class=SAM3DAdapterTrainer)
    session = SAM3DSession("cpu")
    session.initialize_from_trained_model_folder(model.folder)
    session.set_image(np.random.default_rng(0).normal(size=(1, 20, 20, 20)), {"spacing": (1, 1, 1)})
    session.set_target_buffer(np.zeros((20, 20, 20), np.uint8))
    with pytest.raises(SAM3DError, match="foreground prompts only"):
        session.add_point_interaction((9, 10, 11), False)
    session.add_point_interaction((9, 10, 11), True, class_label=2)


# --- an image that is refused ---

IMAGE = np.ones((1, 9, 9, 9))

REFUSED_IMAGES = {
    "empty": (np.zeros((1, 9, 9, 9)), {}),
    "finite": (np.full((1, 9, 9, 9), np.inf), {}),
    "four axes": (IMAGE[0], {}),
    "no voxels": (np.ones((1, 9, 0, 9)), {}),
    "2 channels": (np.ones((2, 9, 9, 9)), {}),
    "real numbers": (IMAGE.astype(complex), {}),
    "type <U": (IMAGE.astype(str), {}),
    "can't be read": ([[1, 2], [3]], {}),
    "spacing is '1 1 1'": (IMAGE, {"spacing": "1 1 1"}),
    "spacing is .'1', '1', '1'": (IMAGE, {"spacing": ["1", "1", "1"]}),
    "spacing is .1, 1": (IMAGE, {"spacing": [1, 1]}),
    "spacing is .1, .2": (IMAGE, {"spacing": [1, [2], 3]}),
    "spacing is .1, nan": (IMAGE, {"spacing": [1, float("nan"), 1]}),
    "dictionary": (IMAGE, [1, 1, 1]),
    "direction of the image is .1, .2": (IMAGE, {"direction": [1, [2], np.ones(3)]}),
    "must be 3 x 3": (IMAGE, {"direction": np.eye(2)}),
    "fourth axis": (IMAGE, {"direction": 1 - np.eye(4)}),
    "must be 4 x 4": (IMAGE, {"affine": "none"}),
    "unusable affine": (IMAGE, {"affine": np.zeros((4, 4))}),
    "sitk_stuff is not what a reader": (IMAGE, {"sitk_stuff": {"spacing": (1, 1, 1)}}),
    "nibabel_stuff is not what a reader": (IMAGE, {"nibabel_stuff": [1, 2, 3]}),
}


@pytest.mark.parametrize("text", REFUSED_IMAGES)
def test_an_image_that_is_refused_leaves_the_one_before(with_balls, text):
    session, _, target = with_balls()
    session.add_point_interaction((9, 10, 11), True)
    before, (image, properties) = target.copy(), REFUSED_IMAGES[text]
    with pytest.raises(SAM3DError, match=text):
        session.set_image(image, properties)
    assert session.original_image_shape == (1, *SHAPE) and session.target_buffer is target
    assert (target == before).all()
    session.add_point_interaction((13, 10, 11), False)
    assert (target == (before & ~ball((13, 10, 11)))).all()
    assert session.undo() and session.undo() and not target.any()


def test_images_of_any_kind_of_number(with_balls):
    session, _, _ = with_balls()
    voxels = np.random.default_rng(0).integers(1, 100, (1, *SHAPE))
    masks = []
    for image in (
        voxels,
        voxels.astype(np.uint8),
        voxels.astype(np.float16),
        np.asfortranarray(voxels),
        voxels.astype(">i2"),
        voxels.astype(">f8"),
        torch.from_numpy(voxels).bfloat16(),  # which NumPy does not know
        torch.from_numpy(voxels).float().requires_grad_(),
        voxels.tolist(),
    ):
        session.set_image(image, {"spacing": torch.ones(3)})
        session.set_target_buffer(np.zeros(SHAPE, np.uint8))
        session.add_point_interaction((9, 10, 11), True)
        session.add_initial_seg_interaction(session.target_buffer.astype(">i4"))
        masks.append(session.target_buffer)
    assert all((mask == masks[0]).all() for mask in masks) and masks[0].any()


def test_the_direction_of_an_image_with_channels(with_balls):
    """ITK has 16 numbers for an image with four axes."""
    session, _, _ = with_balls()
    turned = np.diag([-1.0, 1, 1, 1])
    session.set_image(np.ones((1, 20, 20, 20)), {"spacing": [1, 1, 1], "direction": turned.ravel().tolist()})
    assert session.original_image_shape == (1, 20, 20, 20)


# --- a buffer that is refused ---


def in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(SHAPE)


REFUSED_BUFFERS = {
    "bfloat16": lambda: torch.zeros(SHAPE, dtype=torch.bfloat16),
    "complex": lambda: torch.zeros(SHAPE, dtype=torch.complex64),
    "inference_mode": in_inference_mode,
    "expanded": lambda: torch.zeros((1, 1, 1), dtype=torch.uint8).expand(SHAPE),
    "expanded: several": lambda: np.lib.stride_tricks.as_strided(np.zeros(9, np.uint8), SHAPE, (0, 0, 0)),
    "read-only": lambda: np.broadcast_to(np.uint8(0), SHAPE),
    "no plain tensor": lambda: torch.zeros(SHAPE).to_sparse(),
    "no plain tensor in memory": lambda: torch.zeros(SHAPE, device="meta"),
    "type object": lambda: np.zeros(SHAPE, object),
    "bool.* label 2": lambda: np.zeros(SHAPE, bool),  # the model has two classes
    "shape": lambda: np.zeros((1, *SHAPE), np.uint8),
}


@pytest.mark.parametrize("text", REFUSED_BUFFERS)
def test_a_buffer_that_is_refused_leaves_the_one_before(with_balls, text):
    session, _, target = with_balls()
    session.add_point_interaction((9, 10, 11), True)
    before = target.copy()
    with pytest.raises(SAM3DError, match=text):
        session.set_target_buffer(REFUSED_BUFFERS[text]())
    assert session.target_buffer is target and (target == before).all()
    assert session.undo() and not target.any()


def test_mistakes_are_value_errors():
    """Clients and servers of nnInteractive catch those."""
    assert issubclass(SAM3DError, ValueError)
