import numpy as np
import outline_errors
import pytest
import SimpleITK as sitk


def cube(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((20, 20, 20), bool)
    mask[start:stop, start:stop, start:stop] = True
    return mask


def test_a_layer_more_lies_at_the_outline():
    dice, missed, added, at_outline, within_2, inside = outline_errors.errors(cube(5, 15), cube(4, 16))
    assert dice == pytest.approx(2 * 1000 / (1000 + 1728))
    assert (missed, added) == (0, pytest.approx(0.728))
    # of the layer, edges and corners share no face with the cube; edges are two steps away, corners three
    assert inside == pytest.approx(2 * 512 / (512 + 512 + 128))
    assert at_outline == pytest.approx(600 / 728) and within_2 == pytest.approx(720 / 728)


def test_a_part_that_is_missed_is_no_matter_of_outlines():
    found = cube(5, 15)
    found[:, :, 10:] = False
    dice, missed, added, at_outline, within_2, inside = outline_errors.errors(cube(5, 15), found)
    assert (dice, missed, added) == (pytest.approx(2 / 3), 0.5, 0)
    deep = 8 * 8 * 4  # voxels of the missed half that are more than one step from the outline
    assert at_outline == pytest.approx(1 - deep / 500)
    assert within_2 == pytest.approx(1 - 6 * 6 * 3 / 500)
    assert inside == pytest.approx(2 * 256 / (256 + 512))


def test_the_table_has_the_masks_and_the_labels_moved_by_a_voxel(tmp_path, monkeypatch, capsys):
    for folder, mask in (("labels", cube(5, 15)), ("masks", cube(5, 15))):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint8)), str(tmp_path / folder / "a.nii.gz"))
    monkeypatch.setattr("sys.argv", ["outline_errors.py", str(tmp_path / "labels"), str(tmp_path / "m*")])
    outline_errors.main()
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1]
        for line in capsys.readouterr().out.splitlines()
        if "|" in line
    }
    assert float(rows["masks"][0]) == 1
    assert float(rows["one voxel more"][2]) == pytest.approx(0.6, abs=1e-3)  # faces alone: 6 x 100 voxels
    assert float(rows["one voxel less"][1]) == pytest.approx(0.488, abs=1e-3)


def test_the_border_of_the_image_is_no_outline():
    truth = np.zeros((8, 8, 8), bool)
    truth[:, :, :4] = True
    less = np.zeros_like(truth)
    less[:, :, :3] = True
    assert outline_errors.errors(truth, less)[3:] == [1, 1, 1]
    assert np.array_equal(outline_errors.moved(truth)[1], less)


def test_folders_without_masks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["outline_errors.py", str(tmp_path), str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no masks"):
        outline_errors.main()
