"""The session has what the source of nnInteractive's own client asks for.

The client stands in for nnInteractive's session, so what it has, a session has. A new version that wants more fails
here.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from balls import SHAPE

from sam3d_nnunet.prediction.capabilities import UNKNOWN_LICENSE, read_license
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.training.trainer import SAM3DAdapterTrainer

remote = pytest.importorskip("nnInteractive.inference.remote", reason="nninteractive-client is not installed")
Client = remote.nnInteractiveRemoteInferenceSession

CONNECTION = {"ping", "heartbeat", "lease_status", "idle_timeout_seconds", "liveness_timeout_seconds"}
"""What only a connection has."""


def methods(kind: type) -> dict[str, inspect.Signature]:
    """Those that others call, by name."""
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: inspect.signature(method) for name, method in found if not name.startswith("_") or name == "_predict"}


def nodes(method: str) -> Iterator[ast.AST]:
    """Of the source of one of the client's methods."""
    yield from ast.walk(ast.parse(textwrap.dedent(inspect.getsource(getattr(Client, method)))))


def attributes() -> set[str]:
    """Those that the client sets for others to read."""
    names = {
        node.attr
        for node in nodes("__init__")
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and getattr(node.value, "id", "") == "self"
    }
    return {name for name in names if not name.startswith("_")} | {"_last_paste_bbox"}


def capability_keys() -> set[str]:
    """What the client reads of the server's answer to /capabilities."""
    keys = set()
    for node in nodes("__init__"):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "caps":
            keys.add(node.slice.value)
        if isinstance(node, ast.Call) and getattr(getattr(node.func, "value", None), "id", "") == "caps":
            keys.add(node.args[0].value)
    return keys


def test_the_source_is_read_as_expected():
    assert {"set_image", "undo", "add_point_interaction", "_predict"} <= methods(Client).keys()
    assert {"license", "target_buffer", "do_autozoom"} <= attributes()
    assert {"channel_mapping", "license", "supports_undo"} <= capability_keys()


@pytest.mark.parametrize("name", sorted(methods(Client).keys() - CONNECTION))
def test_every_method_takes_the_same_arguments(name):
    """In the same places, by the same names, with the same defaults. Ours may take more."""
    ours, theirs = methods(SAM3DSession)[name].parameters, methods(Client)[name].parameters
    for place, (argument, wanted) in enumerate(theirs.items()):
        assert list(ours)[place] == argument
        assert ours[argument].kind == wanted.kind
        if wanted.default is not inspect.Parameter.empty:
            assert ours[argument].default == wanted.default
    for argument in list(ours)[len(theirs) :]:
        assert ours[argument].default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", sorted(attributes() - CONNECTION))
def test_every_attribute_is_there(session, name):
    assert hasattr(session, name)
    assert hasattr(SAM3DSession("cpu"), name)


def test_capabilities_can_be_sent(session):
    names = {"inference_session_version": "INFERENCE_SESSION_VERSION"}
    sent = json.loads(json.dumps({key: getattr(session, names.get(key, key)) for key in capability_keys()}))
    assert sent["supported_interactions"].keys() == set(session.SUPPORTED_INTERACTION_KEYS)
    pairs = [channel for name, channel in sent["channel_mapping"].items() if name != "prev_seg"]
    assert sent["channel_mapping"].keys() - {"prev_seg"} == set(session.SUPPORTED_INTERACTION_KEYS)
    assert all(len(pair) == 2 and max(pair) < sent["num_interaction_channels"] for pair in pairs)
    assert len(sent["preferred_scribble_thickness"]) == 3


def test_the_version_is_that_of_the_client():
    assert SAM3DSession.INFERENCE_SESSION_VERSION.split(".")[:2] == version("nninteractive-client").split(".")[:2]


def test_the_guide_names_what_is_there(session):
    guide = Path(__file__).parents[2] / "docs" / "guides" / "sessions.md"
    named = set(re.findall(r"session\.(\w+)", guide.read_text("utf-8")))
    assert {"supports_background", "_predict", "embed_ahead"} <= named
    assert not [name for name in named - {"md"} if not hasattr(session, name)]  # links to session.md


def test_constructors_of_all_versions():
    """Version 1, version 2, and what napari-nninteractive 2.5 gives."""
    SAM3DSession(device="cpu", use_torch_compile=False, verbose=False, torch_n_threads=1, do_autozoom=True)
    SAM3DSession(device="cpu", do_autozoom=True, use_pinned_memory=True)
    session = SAM3DSession(device="cpu", do_autozoom=False, interactions_storage="blosc2", enable_undo=False)
    assert session.do_autozoom is False and session.supports_undo is False


def test_autozoom_by_its_old_name(session):
    session.set_do_autozoom(do_propagation=False, max_num_patches=9)
    assert session.do_autozoom is False
    session.set_do_autozoom(True)
    assert session.do_autozoom is True
    with pytest.raises(ValueError, match="do_autozoom"):
        session.set_do_autozoom()


def test_before_an_image_nothing_is_reset_or_undone():
    session = SAM3DSession("cpu")
    assert session.reset_interactions() is None and session.undo() is False
    assert not any(session.supported_interactions.values()) and session.license is None


# --- what the loaded model can do ---


def test_capabilities_are_those_of_the_model(session, make_model):
    assert all(session.supported_interactions.values()) and session.supports_background
    assert session.supports_initial_label and session.supports_zero_shot_label_refinement == session.model.takes_maps
    unlabelled = {"labelled_prompts": False, "clicks": {"policy": "paper"}}
    model = make_model("one class", settings=unlabelled, trainer_class=SAM3DAdapterTrainer)
    session.initialize_from_trained_model_folder(model.folder)
    assert not session.supports_background and not session.supports_zero_shot_label_refinement
    assert session.supported_interactions["points"] and session.supports_initial_label
    assert session.classes.numbers == [1]


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, UNKNOWN_LICENSE),
        (b"", UNKNOWN_LICENSE),
        (b"CC BY 4.0\nhttps://example.org\n", "CC BY 4.0"),
        (b"\xef\xbb\xbf\r\n  Apache-2.0 \r\nmore", "Apache-2.0"),
        (b"Universit\xe4t\n", "Universit\ufffdt"),
    ],
)
def test_the_licence_is_the_first_line(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "LICENSE").write_bytes(text)
    assert read_license(tmp_path) == expected


def test_the_licence_of_a_folder(session, make_model):
    folder = make_model().folder
    (folder / "LICENSE").write_text("CC0\n")
    session.initialize_from_trained_model_folder(folder)
    assert session.license == "CC0"


# --- what clients copy ---


def test_last_box(with_balls):
    session, _, target = with_balls()
    assert session._last_paste_bbox is None
    changed = session.add_point_interaction((9, 10, 11), True)
    assert session._last_paste_bbox == changed
    session.add_point_interaction((13, 10, 11), True, run_prediction=False)
    assert session._last_paste_bbox is None
    assert session.undo() and session._last_paste_bbox is None
    assert session.undo() and session._last_paste_bbox == changed
    session.add_point_interaction((9, 10, 11), True)
    session.reset_interactions()
    assert session._last_paste_bbox is None


def test_answers_of_the_server_hold_all_changes_since_the_last_reset(with_balls):
    """So that a client that has missed one of them gets it with the next one."""
    session, _, target = with_balls()
    assert session._touched is None
    first = session.add_point_interaction((9, 10, 11), True)
    assert session._touched == first
    second = session.add_point_interaction((36, 10, 11), True)
    both = [[min(a, c), max(b, d)] for (a, b), (c, d) in zip(first, second)]
    assert session._touched == both != first
    assert session.undo() and session._touched == both
    session.reset_interactions()
    assert session._touched is None


def test_clicks_on_the_outer_faces_belong_to_the_outermost_voxels(with_balls):
    session, network, _ = with_balls()
    for point in (np.array(SHAPE) - 0.5, np.full(3, -0.5)):
        session.add_point_interaction(point, True)
        assert (network.prompts[-1].labels >= 0).any()
        session.reset_interactions()


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("takes_maps", [False, True])
def test_after_an_existing_mask_the_last_box_makes_copies_equal(with_balls, predict, takes_maps):
    """Clients have written the mask into their own buffer, then write what they hear of."""
    session, _, target = with_balls(takes_maps=takes_maps)
    session.add_point_interaction((9, 10, 11), True)
    initial = np.zeros(SHAPE, np.uint8)
    initial[25:38, 5:12, 6:14] = 2
    session.add_initial_seg_interaction(initial, run_prediction=predict)
    if session._last_paste_bbox is not None:
        place = tuple(slice(*ends) for ends in session._last_paste_bbox)
        initial[place] = target[place]
    assert (initial == target).all()


# --- prompts that wait ---


def test_predict_takes_what_waits(with_balls):
    session, network, target = with_balls()
    assert session._predict() is None and network.prompts == []
    session.add_point_interaction((9, 10, 11), True, run_prediction=False)
    session.add_point_interaction((13, 10, 11), True, run_prediction=False)
    assert network.prompts == []
    changed = session._predict()
    assert changed == session._last_paste_bbox and target[9, 10, 11] and target[13, 10, 11]
    decoded = len(network.prompts)
    assert session._predict(force_full_refine=True) is None and len(network.prompts) == decoded


def test_undo_after_predict_takes_the_last_prompt_back(with_balls):
    session, _, target = with_balls()
    session.add_point_interaction((9, 10, 11), True)
    first = target.copy()
    session.add_point_interaction((20, 10, 11), True, run_prediction=False)
    session.add_point_interaction((30, 10, 11), True, run_prediction=False)
    changed = session._predict()
    both = target.copy()
    assert session.undo() and (target == first).all() and session._last_paste_bbox == changed
    session._predict()  # of the prompt that still waits
    assert target[20, 10, 11] and not target[30, 10, 11]
    session.add_point_interaction((30, 10, 11), True)
    assert (target == both).all()
    assert session.undo() and session.undo() and (target == first).all()
    assert session.undo() and not target.any() and not session.undo()


# --- masks of 255 ---


def test_255_is_the_class_of_a_model_with_one(session, make_model):
    session.initialize_from_trained_model_folder(make_model("one class").folder)
    session.set_image(np.random.default_rng(0).normal(100, 10, (1, *SHAPE)), {"spacing": (1, 1, 1)})
    target = np.zeros(SHAPE, np.uint8)
    session.set_target_buffer(target)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 4:8, 5:9] = 255
    assert session.add_initial_seg_interaction(mask) is None
    assert (target == (mask > 0)).all()
    assert session._last_paste_bbox == [[3, 9], [4, 8], [5, 9]]  # where clients have copied 255
    session.add_initial_seg_interaction(mask > 0)
    assert (target == (mask > 0)).all() and session._last_paste_bbox is None


def test_255_is_no_class_of_a_model_with_several(with_balls):
    session, _, target = with_balls()
    with pytest.raises(ValueError, match="255.* 1, 2"):
        session.add_initial_seg_interaction(np.full(SHAPE, 255, np.uint8))
    assert not target.any() and session.undo() is False
