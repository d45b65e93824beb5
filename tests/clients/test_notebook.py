"""The notebook of the guide, run without a browser: all cells, then a click of a user on each button."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sam3d_nnunet.prediction.session import SAM3DSession

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
AFFINE = np.array([[0, -1.2, 0, 30], [0, 0, 3.0, -20], [0.8, 0, 0, 5], [0, 0, 0, 1]])  # stored in no usual order
SHAPE = (26, 22, 11)


def code_cells() -> list[str]:
    cells = json.loads((GUIDES / "session.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def notebook(make_model, tmp_path, monkeypatch) -> dict:
    """Names that the cells have defined, with a model and an image."""
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed")
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(image, AFFINE), "case.nii.gz")
    names = {"__name__": "__main__"}
    for cell in code_cells():
        exec(cell.replace("SAM3DAdapterTrainer__SAM3DPlans__3d_fullres", str(make_model("one class").folder)), names)
    return names


def look_at(names: dict, voxel: tuple[float, ...]) -> None:
    """Put the viewer's crosshair on a voxel, as the browser reports it."""
    mm = nib.affines.apply_affine(AFFINE, voxel)
    location = {"mm": [*mm, 0], "vox": [0, 0, 0], "frac": [0, 0, 0], "values": [], "string": "", "xy": [0, 0]}
    names["viewer"]._handle_custom_msg({"event": "location_change", "data": location}, [])


def press(names: dict, description: str) -> None:
    next(button for button in names["buttons"] if button.description == description).click()


def test_buttons_do_what_the_session_does(notebook):
    expected = SAM3DSession(device=notebook["session"].device, torch_n_threads=1)
    expected.use_model(notebook["session"].model)
    image = nib.load("case.nii.gz")
    expected.set_image(image.get_fdata(dtype=np.float32)[None], {"affine": AFFINE})
    expected.set_target_buffer(np.zeros(SHAPE, np.uint8))
    masks = []
    for voxel, button in (((12, 10, 5), "Object here"), ((20, 4, 6), "Background here")):
        look_at(notebook, voxel)
        press(notebook, button)
        expected.add_point_interaction(voxel, button == "Object here")
        masks.append(notebook["mask"].copy())
        assert np.array_equal(masks[-1], expected.target_buffer)
    assert masks[0].any() and (masks[0] != masks[1]).any()
    shown = nib.Nifti1Image.from_bytes(notebook["viewer"].volumes[1].data)
    assert np.array_equal(shown.dataobj, masks[1]) and np.allclose(shown.affine, AFFINE)
    press(notebook, "Undo")
    assert np.array_equal(notebook["mask"], masks[0])
    press(notebook, "Save, next object")
    saved = nib.load("case_mask.nii.gz")
    assert np.array_equal(saved.dataobj, masks[0]) and np.allclose(saved.affine, AFFINE)
    assert not notebook["mask"].any()


def test_the_guide_shows_the_cells_of_the_notebook():
    shown = re.findall("```python\n(.*?)\n```", (GUIDES / "notebook.md").read_text(), re.DOTALL)
    assert shown == code_cells()
