"""Round trips through nnU-Net's readers, in part; benchmarks/readers.py makes all of them.

Each reader meets each variation of the label maps, and the eight orientations take turns.
"""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from reader_cells import (
    CHOSEN,
    CODES,
    EXPECTED,
    READERS,
    REFUSED,
    VARIATIONS,
    Case,
    Cell,
    environment,
    outcome,
    read,
    write,
    write_off,
    write_scaled,
)

PAIRS = [(reader, variation) for reader in READERS for variation in VARIATIONS]
CELLS = [(reader, CODES[3 * n % 8], variation, CODES[(3 * n + 4) % 8]) for n, (reader, variation) in enumerate(PAIRS)]


@pytest.mark.parametrize(("reader", "code", "variation", "turned"), CELLS)
def test_round_trip(tmp_path, reader, code, variation, turned):
    cell = Cell(tmp_path, reader, code, variation, turned=[turned])
    assert cell.run() == cell.expected


def without_direction(labels, file):
    """As programs write label maps that keep voxels and spacing only."""
    plain = sitk.Image(labels)
    plain.SetDirection(np.eye(3).ravel())
    write(plain, file)


def turned_in_place(labels, file):
    write(sitk.DICOMOrient(labels, "LPS"), file)


def test_label_maps_without_a_direction_are_taken_voxel_by_voxel(tmp_path):
    cell = Cell(tmp_path, "NibabelIO", "RPS", "label header off", turned=["PIR"])
    cell.write_labels["label header off"] = without_direction
    assert cell.run() == EXPECTED["label header off"]


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
@pytest.mark.parametrize("write_labels", [without_direction, turned_in_place])
def test_readers_that_turn_images_need_right_headers(tmp_path, reader, write_labels):
    """They turn a label map by its own header; nnU-Net then trains on voxels that don't belong together."""
    cell = Cell(tmp_path, reader, "RPS", "label header off")
    cell.write_labels["label header off"] = write_labels
    with environment(tmp_path):
        cell.write_data()
        found = {"plan": outcome(cell.plan), "others": outcome(cell.measure_others)}
    assert set(found.values()) == {REFUSED if write_labels is without_direction else "right"}


def test_all_readers_for_volumes_take_part():
    """A new one, such as for NPY, belongs into the table."""
    known = {reader.__name__ for reader in LIST_OF_IO_CLASSES} | {"SimpleITKIOWithReorient"}
    assert known - {"NaturalImage2DIO"} == READERS.keys() - {CHOSEN}


@pytest.mark.parametrize("ending", [".nii.gz", ".tif"])
def test_label_maps_vary_as_they_should(tmp_path, ending):
    """What the table rests on: headers that differ, and values that nnU-Net would cut off."""
    case = Case.make("usual", "ASL", placed=ending == ".nii.gz")
    write_off(case.labels, tmp_path / f"off{ending}")
    write_scaled(case.labels, tmp_path / f"scaled{ending}")
    off, scaled = read(tmp_path / f"off{ending}"), read(tmp_path / f"scaled{ending}")
    wanted = sitk.GetArrayFromImage(case.labels)
    assert np.array_equal(sitk.GetArrayFromImage(off), wanted)
    if ending == ".nii.gz":
        np.testing.assert_allclose(np.subtract(off.GetOrigin(), case.image.GetOrigin()), (8, 8, 6), atol=1e-4)
        values = nibabel.load(tmp_path / f"scaled{ending}").get_fdata().transpose()
    else:
        assert off.GetSpacing() == tuple(np.multiply(case.image.GetSpacing(), 2))
        values = sitk.GetArrayFromImage(scaled)
    assert np.array_equal(np.rint(values), wanted)
    assert (values.astype(int)[wanted > 0] == wanted[wanted > 0] - 1).all()
    assert scaled.GetSpacing() == pytest.approx(case.image.GetSpacing())
