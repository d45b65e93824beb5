"""napari-nninteractive with our session, local and remote, driven by the mouse.

Needs an environment with napari, Qt, napari-nninteractive 2.5.4 and nnInteractive 2.6 beside the project, and a
display. Without a screen, as in a container:

    pip install "napari[pyqt6]" "napari-nninteractive[local]==2.5.4"
    xvfb-run -a -s "-screen 0 1400x900x24" python -m pytest -n 0 tests/clients/test_napari.py

Elsewhere these tests are skipped.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch._dynamo  # noqa: F401  after software OpenGL, its triton crashes the process
from serving import server_process

from sam3d_nnunet.prediction.napari_folder import mark_for_napari
from sam3d_nnunet.prediction.session import SAM3DSession

if find_spec("napari_nninteractive") is None or find_spec("qtpy") is None:
    pytest.skip("napari-nninteractive is not installed", allow_module_level=True)
if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    pytest.skip("napari needs a display", allow_module_level=True)

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "NAPARI_CONFIG": "",
}  # read at import: ask for no list of models, save no settings

import napari
from qtpy.QtCore import QPoint, QSettings, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

SHAPE, SPACING = (10, 26, 22), (3.0, 0.8, 1.2)
SLICE = 5  # that is shown
POINT, BOX, SCRIBBLE, LASSO = range(4)  # buttons of the plug-in's tools


class Napari:
    """A viewer with an image and the plug-in's panel. Positions are voxels of the shown slice."""

    def __init__(self, image: np.ndarray, scale: tuple[float, ...]) -> None:
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1280, 800)
        self.viewer.add_image(image, name="image", scale=scale)
        self.viewer.dims.set_current_step(0, SLICE)
        _, self.panel = self.viewer.window.add_plugin_dock_widget("napari-nninteractive", "nnInteractive")
        self.canvas = self.viewer.window._qt_viewer.canvas.native

    def initialize(self, model: Path | None = None, url: str | None = None) -> None:
        """With a model folder (local), or with a server (remote)."""
        mode = 0 if url is None else 1
        self.panel.mode_switch._uncheck()
        self.panel.mode_switch._check(mode)
        self.panel.on_mode_switched()
        if url is None:
            self.panel.model_selection_local.setText(str(model))
        else:
            self.panel.server_url_edit.setText(url)
        self.panel.init_button.click()
        layer = self.panel.point_layer_name
        self.wait(lambda: layer in self.viewer.layers and self.panel._upload_dialog is None)
        self.wait(lambda: False, seconds=0.5)  # until the window has its size

    def wait(self, until: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            QApplication.processEvents()
            time.sleep(0.01)

    def choose(self, tool: int, positive: bool = True) -> None:
        self.panel.interaction_button.buttons[tool].click()
        self.panel.prompt_button.buttons[0 if positive else 1].click()
        QApplication.processEvents()

    def drag(self, *voxels: tuple[float, float]) -> None:
        """The left button goes down at the first of these voxels (row, column), and up at the last one."""
        pixels = [self._pixel(voxel) for voxel in voxels]
        QTest.mouseMove(self.canvas, pixels[0])
        QTest.mousePress(self.canvas, Qt.LeftButton, Qt.NoModifier, pixels[0])
        for pixel in pixels[1:]:
            QTest.mouseMove(self.canvas, pixel)
            QApplication.processEvents()
        QTest.mouseRelease(self.canvas, Qt.LeftButton, Qt.NoModifier, pixels[-1])
        QApplication.processEvents()

    def _pixel(self, voxel: tuple[float, float]) -> QPoint:
        layer, camera = self.viewer.layers["image"], self.viewer.camera
        world = layer.data_to_world((SLICE, *voxel))
        y, x = (np.array(world[1:]) - camera.center[1:]) * camera.zoom
        middle = self.canvas.rect().center()
        return QPoint(round(middle.x() + x), round(middle.y() + y))

    def layer(self, tool: int):
        return self.viewer.layers[self.panel.layer_dict[tool]]

    @property
    def mask(self) -> np.ndarray:
        return self.viewer.layers[self.panel.label_layer_name].data


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)


@pytest.fixture
def start(image, tmp_path) -> Iterator[Callable[..., Napari]]:
    """Opens napari with the image; closes it after the test."""
    QSettings.setPath(QSettings.NativeFormat, QSettings.UserScope, str(tmp_path))
    opened = []

    def make(scale: tuple[float, ...] = SPACING) -> Napari:
        opened.append(Napari(image, scale))
        return opened[-1]

    yield make
    for one in opened:
        one.panel._release_session()
        one.viewer.close()


@pytest.fixture(params=["local", "remote"])
def place(request, make_model) -> Iterator[tuple[Path, dict[str, object]]]:
    """The folder of a model, and what the plug-in is told of it."""
    folder = make_model("one class").folder
    if request.param == "local":
        mark_for_napari(folder)
        yield folder, {"model": folder}
    else:
        with server_process(folder) as server:
            yield folder, {"url": server.url}


def same_session(folder: Path, image: np.ndarray, autozoom: bool, properties: dict) -> SAM3DSession:
    """A session without napari, for the masks to expect."""
    session = SAM3DSession("cpu", do_autozoom=autozoom, torch_n_threads=1)
    session.initialize_from_trained_model_folder(folder, 0, "checkpoint_final.pth")
    session.set_image(image[None], properties)
    session.set_target_buffer(np.zeros(image.shape, np.uint8))
    return session


def test_all_tools_do_what_the_session_does(start, place, image):
    folder, told = place
    app = start()
    app.initialize(**told)
    expected = same_session(folder, image, app.panel.propagate_ckbx.isChecked(), {"spacing": SPACING})

    def check() -> None:
        assert np.array_equal(app.mask, expected.target_buffer)

    app.choose(POINT)
    app.drag((12, 10))
    point = app.layer(POINT).data[-1]
    assert np.allclose(point, (SLICE, 12, 10), atol=0.1)
    expected.add_point_interaction(point, True)
    check()
    assert app.mask.any()

    app.panel.auto_run_ckbx.setChecked(False)
    app.choose(POINT, positive=False)
    app.drag((20, 15))
    check()
    app.panel.run_button.click()
    expected.add_point_interaction(app.layer(POINT).data[-1], False)
    check()
    app.panel.auto_run_ckbx.setChecked(True)

    app.choose(BOX)
    app.drag((6, 4), (9, 9), (18, 16))
    corners = app.layer(BOX).data[-1]
    ends = [[low, high + (low == high)] for low, high in zip(corners.min(0), corners.max(0))]
    assert np.allclose(ends, [[SLICE, SLICE + 1], [6, 18], [4, 16]], atol=0.1)
    expected.add_bbox_interaction(ends, True)
    check()

    app.choose(SCRIBBLE)
    app.drag((4, 4), (6, 8), (8, 12))
    stroke = app.layer(SCRIBBLE).data != 0
    assert stroke[SLICE, 6, 8] and not np.delete(stroke, SLICE, axis=0).any()
    before = app.mask.copy()
    expected.add_scribble_interaction(stroke.astype(np.uint8), True)
    check()

    app.panel.undo_button.click()
    assert expected.undo() and not (app.layer(SCRIBBLE).data != 0).any()
    check()
    app.drag((4, 4), (6, 8), (8, 12))  # the same again
    expected.add_scribble_interaction(stroke.astype(np.uint8), True)
    check()
    assert before.any()

    app.choose(LASSO, positive=False)
    app.drag((15, 5), (15, 15), (22, 15), (22, 5), (15, 5))
    drawn, ends = app.layer(LASSO).get_last()
    expected.add_lasso_interaction(drawn, False, interaction_bbox=ends)
    check()

    finished = app.mask.copy()
    app.panel.reset_button.click()  # Next Object
    expected.reset_interactions()
    check()
    assert np.array_equal(app.viewer.layers["object 1 - image"].data, finished)
    app.choose(POINT)
    app.drag((20, 5))
    expected.add_point_interaction(app.layer(POINT).data[-1], True)
    check()
    assert app.mask.any()


def test_starts_from_a_mask(start, place, image):
    folder, told = place
    app = start()
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6, 8:15, 6:12] = 2
    app.viewer.add_labels(mask, name="mask", scale=SPACING)
    app.initialize(**told)
    expected = same_session(folder, image, app.panel.propagate_ckbx.isChecked(), {"spacing": SPACING})
    app.panel.label_for_init.setCurrentText("mask")
    app.panel.class_for_init.setValue(2)
    app.panel.auto_refine.setChecked(True)
    app.panel.load_mask_btn.click()
    expected.add_initial_seg_interaction((mask == 2).astype(np.uint8), run_prediction=True)
    assert app.mask.any() and np.array_equal(app.mask, expected.target_buffer)


def test_nifti_as_napari_opens_it(start, place, image):
    """Its reader turns all images to axes (superior, anterior, right) and makes their scale negative."""
    folder, told = place
    app = start(tuple(-size for size in SPACING))
    app.initialize(**told)
    autozoom = app.panel.propagate_ckbx.isChecked()
    right_anterior_superior = {"spacing": SPACING, "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
    expected = same_session(folder, image, autozoom, right_anterior_superior)
    app.choose(POINT)
    app.drag((12, 10))
    expected.add_point_interaction(app.layer(POINT).data[-1], True)
    assert app.mask.any() and np.array_equal(app.mask, expected.target_buffer)
