"""Labels that are stored with a scale, or are none."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.geometry.label_values import refuse_cut_labels, whole_labels

LABELS = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]


def write_scaled(file, slope: float) -> None:
    """As a program does that scales labels to bytes; the header's scale turns them back, nearly."""
    image = nibabel.Nifti1Image(np.rint(LABELS.T / slope).astype(np.uint8), np.eye(4))
    image.header.set_slope_inter(1, 0)
    nibabel.save(image, file)
    content = bytearray(file.read_bytes())
    content[112:116] = np.float32(slope).tobytes()  # scl_slope, which nibabel would not write by itself
    file.write_bytes(content)


@pytest.mark.parametrize("reader", READERS)
def test_labels_with_a_scale_in_the_header(tmp_path, reader):
    write_scaled(tmp_path / "a.nii", 3 / 253)
    stored = reader().read_seg(str(tmp_path / "a.nii"))[0]
    assert (stored.astype(int) != np.rint(stored)).any()  # what cutting off does
    assert np.array_equal(read_label_map(tmp_path / "a.nii", reader()).array, LABELS)


@pytest.mark.parametrize("value", [0.5, 1.011, -1.02, np.nan, np.inf, -np.inf, 2.0**24, 1e30])
@pytest.mark.parametrize("reader, name", [(SimpleITKIO, "a.nrrd"), (NibabelIO, "a.nii.gz")])
def test_values_that_are_no_labels(tmp_path, reader, name, value):
    """ITK itself takes NaN and infinite values of NIfTI for 0."""
    array = LABELS.astype(np.float32)
    array[2, 3, 4] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    with pytest.raises(SAM3DError, match=rf"{name} holds .* at voxel \(2, 3, 4\)") as e:
        read_label_map(tmp_path / name, reader())
    assert f"{np.float32(value):.9g}" in str(e.value)


def test_formats_without_a_header(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS * np.float32(0.9999), photometric="minisblack")
    assert np.array_equal(read_label_map(tmp_path / "a.tif", Tiff3DIO()).array, LABELS)


@given(
    arrays(np.int64, (2, 3, 4), elements=st.integers(-5, 1000)),
    st.floats(-0.0099, 0.0099),
    st.sampled_from([np.float32, np.float64]),
)
def test_near_values_are_rounded(labels, error, dtype):
    values = (labels + error).astype(dtype)
    assert np.array_equal(whole_labels(values, "The mask"), labels)


@given(arrays(np.float64, (2, 3, 4), elements=st.floats(-300, 300)))
def test_no_value_moves_far(values):
    try:
        labels = whole_labels(values, "The mask")
    except SAM3DError:
        assert (np.abs(values - np.rint(values)) > 0.01).any()
    else:
        assert (np.abs(labels - values) <= 0.01).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, bool])
def test_integers_stay_as_they_are(dtype):
    values = np.array([[[0, 1, np.iinfo(dtype).max if dtype is not bool else 1]]], dtype)
    assert whole_labels(values, "The mask") is values
    refuse_cut_labels(values, "The mask")


@pytest.mark.parametrize(
    "value, does",
    [
        (0.9961, "nnU-Net cuts off to 0"),
        (1.0039, "nnU-Net's validation takes for no label, since it compares them exactly"),
        (-0.999, "nnU-Net cuts off to 0"),
    ],
)
def test_labels_that_nnunet_cuts_off(value, does):
    values = LABELS.astype(np.float32)
    refuse_cut_labels(values, "The label map a.nii.gz")
    values[1, 2, 3] = value
    with pytest.raises(SAM3DError, match=rf"a.nii.gz holds {value}.* \(1, 2, 3\) .* which {does}\. "):
        refuse_cut_labels(values, "The label map a.nii.gz")
