from pathlib import Path

import click_offsets
import numpy as np
import pytest
import SimpleITK as sitk

from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

CENTRES = np.array([[10, 10, 10], [10, 10, 30]])
MOVES = np.array([[2, -1, 3], [-3, 2, 1]])  # of the clicks, in voxels (d, h, w)


def write(file: Path, centres: np.ndarray) -> sitk.Image:
    """Cubes of nine voxels a side in a tilted image with voxels of 1 x 1.5 x 3 mm."""
    mask = np.zeros((20, 20, 40), np.uint8)
    for d, h, w in centres:
        mask[d - 4 : d + 5, h - 4 : h + 5, w - 4 : w + 5] = 1
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing((1, 1.5, 3))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    image.SetOrigin((5, -7, 9))
    file.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(file))
    return image


def run(tmp_path: Path, masks: np.ndarray, monkeypatch, capsys) -> list[float]:
    """The numbers of the table for masks around these centres, and clicks off the objects' centres by `MOVES`."""
    image = write(tmp_path / "labels" / "a.nii.gz", CENTRES)
    write(tmp_path / "masks" / "a.nii.gz", masks)
    points = [image.TransformIndexToPhysicalPoint(voxel[::-1].tolist()) for voxel in CENTRES + MOVES]
    write_prompt(Prompt(np.array(points), np.array([1, 1]), "a"), tmp_path / "masks" / "a.json")
    monkeypatch.setattr("sys.argv", ["click_offsets.py", str(tmp_path / "labels"), str(tmp_path / "m*")])
    click_offsets.main()
    return [float(cell) for cell in capsys.readouterr().out.splitlines()[-1].split("|")[2:-1]]


def test_masks_of_the_objects_follow_the_objects(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, CENTRES, monkeypatch, capsys) == [2, 0, 0, 0, 0]


def test_masks_around_the_clicks_follow_the_clicks(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, CENTRES + MOVES, monkeypatch, capsys) == [2, 1, 1, 1, 1]


def test_objects_of_which_nothing_is_marked_are_left_out(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, CENTRES[:1], monkeypatch, capsys) == [1, 0, 0, 0, 0]


def test_interval_over_cases():
    """Cases with slopes 0 and 1 and the same clicks: resampled means lie anywhere between."""
    clicks = np.ones((4, 3))
    cases = [np.stack([clicks, 0 * clicks]), np.stack([clicks, clicks])]
    assert click_offsets.slope(cases, slice(None)) == "0.50 [0.00, 1.00]"
    assert click_offsets.slope(cases[1:], 0) == "1.00"


def test_folders_without_masks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["click_offsets.py", str(tmp_path), str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no masks"):
        click_offsets.main()
