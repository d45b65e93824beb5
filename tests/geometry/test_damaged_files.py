"""Damaged files of all formats: refused by name, wherever a library would read something else than was written."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage.io import imsave

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry import damaged_files
from sam3d_nnunet.geometry.images import read_image, read_stored_image
from sam3d_nnunet.geometry.label_maps import read_label_map

# every value from 0 to 199, so that little can be compressed and the end is not zero
LABELS = np.random.default_rng(0).permutation(np.arange(6000) % 200).reshape(12, 20, 25).astype(np.uint8)
COMPRESSED = ["a.nii.gz", "c.nrrd", "c.mha", "c.mhd", "c.nhdr", "a.gipl.gz", "z.img.gz"]
PLAIN = ["a.nii", "a.nrrd", "a.mha", "a.gipl", "a.img", "a.mhd", "a.nhdr", "a.vtk", "a.mrc"]
TIFF = ["pages.tif", "zlib.tif", "contiguous.tif", "big.tif"]
DATA = {"c.mhd": "c.zraw", "c.nhdr": "c.raw.gz", "a.mhd": "a.raw", "a.nhdr": "a.raw"}
PROPERTY = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same labels in every format; a test puts back what it changes."""
    folder = tmp_path_factory.mktemp("files")
    image = sitk.GetImageFromArray(LABELS)
    for name in COMPRESSED + PLAIN:
        if name != "a.mrc":
            sitk.WriteImage(image, str(folder / name), name.startswith("c."))
    (folder / "a.mrc").write_bytes(mrc(LABELS.astype(np.int16)))
    minisblack = {"photometric": "minisblack"}
    tifffile.imwrite(folder / "pages.tif", LABELS, metadata=None, **minisblack)
    tifffile.imwrite(folder / "zlib.tif", LABELS, compression="zlib", **minisblack)
    tifffile.imwrite(folder / "contiguous.tif", LABELS, **minisblack)
    tifffile.imwrite(folder / "big.tif", LABELS, bigtiff=True, compression="zlib", **minisblack)
    imsave(folder / "a.png", LABELS[0], check_contrast=False)
    return folder


def mrc(array: np.ndarray) -> bytes:
    """A file of electron microscopes, which ITK reads but doesn't write."""
    size = array.shape[::-1]
    header = struct.pack("<10i", *size, 1, 0, 0, 0, *size) + struct.pack("<6f3i", *size, 90, 90, 90, 1, 2, 3)
    return header.ljust(208, b"\0") + b"MAP DD\0\0" + bytes(1024 - 216) + array.tobytes()


def reader_of(name: str):
    return {".tif": Tiff3DIO, ".png": NaturalImage2DIO}.get(Path(name).suffix, SimpleITKIO)()


def read(file: Path) -> np.ndarray:
    return read_label_map(file, reader_of(file.name)).array


def read_damaged(folder: Path, name: str, content: bytes) -> np.ndarray | None:
    """The labels in a file whose voxels are replaced; None if it is refused by its name."""
    target = folder / DATA.get(name, name)
    whole = target.read_bytes()
    try:
        target.write_bytes(content)
        return read(folder / name)
    except SAM3DError as e:
        assert str(folder / name) in str(e)
        return None
    finally:
        target.write_bytes(whole)


def content(folder: Path, name: str) -> bytes:
    return (folder / DATA.get(name, name)).read_bytes()


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@pytest.mark.parametrize("name", COMPRESSED + PLAIN + TIFF)
def test_whole_files(files, name):
    assert np.array_equal(read(files / name), LABELS)


@pytest.mark.parametrize("name", COMPRESSED + PLAIN + TIFF + ["a.png"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_cut_files_are_refused(files, name, share):
    assert read_damaged(files, name, cut(content(files, name), share)) is None


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_every_reader_of_nifti(files, tmp_path, name, reader):
    (tmp_path / name).write_bytes(cut(content(files, name), 0.8))
    with pytest.raises(SAM3DError, match=f"{name} is damaged"):
        read_label_map(tmp_path / name, reader())


@pytest.mark.parametrize("name", COMPRESSED)
@PROPERTY
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bits_of_compressed_voxels_are_found(files, name, place, bit):
    """The header of gzip holds a time and more that doesn't matter."""
    data = bytearray(content(files, name))
    start = {"c.mha": data.find(b"LOCAL") + len("LOCAL\n"), "c.nrrd": data.find(b"\x1f\x8b")}.get(name, 0)
    data[start + int(place * (len(data) - start))] ^= 1 << bit
    found = read_damaged(files, name, bytes(data))
    assert found is None or np.array_equal(found, LABELS)


@pytest.mark.parametrize("name", COMPRESSED + PLAIN + TIFF)
@PROPERTY
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_anywhere(files, name, share):
    """What stands behind the last voxel may be missing, such as a checksum of slices that are whole."""
    found = read_damaged(files, name, cut(content(files, name), share))
    assert found is None or np.array_equal(found, LABELS)
    assert found is None or name in TIFF


def test_flipped_bits_of_png_are_found(files):
    data = content(files, "a.png")
    for place in range(8, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 4
        assert read_damaged(files, "a.png", bytes(changed)) is None


def test_name_and_content_differ(files, tmp_path):
    """ITK looks at the content, not at the name."""
    (tmp_path / "plain.nii.gz").write_bytes((files / "a.nii").read_bytes())
    assert np.array_equal(read(tmp_path / "plain.nii.gz"), LABELS)
    (tmp_path / "plain.nii.gz").write_bytes(cut((files / "a.nii").read_bytes(), 0.8))
    with pytest.raises(SAM3DError, match=r"plain.nii.gz is damaged: it holds \d+ bytes instead of 6352"):
        read(tmp_path / "plain.nii.gz")


def test_compressed_again_after_it_was_cut(files, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(cut((files / "a.nii").read_bytes(), 0.8)))
    with pytest.raises(SAM3DError, match="a.nii.gz is damaged"):
        read(tmp_path / "a.nii.gz")


def test_several_members_and_what_follows_them(files, tmp_path):
    data = (files / "a.nii").read_bytes()
    members = gzip.compress(data[:3000]) + gzip.compress(data[3000:])
    for more in (b"", bytes(512), b"the rest of a longer file"):
        (tmp_path / "a.nii.gz").write_bytes(members + more)
        assert np.array_equal(read(tmp_path / "a.nii.gz"), LABELS)
    (tmp_path / "a.nii.gz").write_bytes(members[:-100])
    with pytest.raises(SAM3DError, match="a.nii.gz is damaged: its compressed data are cut off"):
        read(tmp_path / "a.nii.gz")


def test_nifti_2_and_header_of_a_pair(files, tmp_path):
    nibabel.save(nibabel.Nifti2Image(LABELS.T, np.eye(4)), tmp_path / "two.nii")
    assert np.array_equal(read_label_map(tmp_path / "two.nii", NibabelIO()).array, LABELS)
    data = (tmp_path / "two.nii").read_bytes()
    (tmp_path / "two.nii").write_bytes(data[:-1])
    with pytest.raises(SAM3DError, match="two.nii is damaged"):
        read_label_map(tmp_path / "two.nii", NibabelIO())
    (tmp_path / "b.hdr").write_bytes((files / "a.hdr").read_bytes())
    (tmp_path / "b.img").write_bytes((files / "a.img").read_bytes()[:-1])
    with pytest.raises(SAM3DError, match="b.hdr is damaged: b.img holds 5999 bytes instead of 6000"):
        read(tmp_path / "b.hdr")


@pytest.mark.parametrize("length", [4085, 4086, 4087, 9000])
@pytest.mark.parametrize("name", ["c.nrrd", "c.mha"])
def test_long_lines_in_a_header(tmp_path, name, length):
    """As in 3D Slicer's segmentations, which list their segments."""
    image = sitk.GetImageFromArray(LABELS)
    image.SetMetaData("Segments", "x" * length)
    sitk.WriteImage(image, str(tmp_path / name), True)
    assert np.array_equal(read(tmp_path / name), LABELS)


@pytest.mark.parametrize(
    "line",
    [
        "NDims = -1",
        "NDims = 99999",
        "NDims = 0x7fff",
        f"Name = {'x' * 300}",
        f"Name = {'x' * 300}\nName = short",
        "ElementDataFile = %s",
        "ElementDataFile = a%n",
    ],
)
def test_headers_of_meta_image_that_crash_itk(files, tmp_path, line):
    whole = (files / "a.mha").read_bytes()
    key, end = line.split(" = ")[0].encode(), whole.index(b"LOCAL\n") + len(b"LOCAL\n")
    lines = [given for given in whole[:end].splitlines() if not given.startswith(key)]
    lines.insert(1 if key != b"ElementDataFile" else len(lines), line.encode())
    (tmp_path / "a.mha").write_bytes(b"\n".join(lines) + b"\n" + whole[end:])
    with pytest.raises(SAM3DError, match=f"a.mha is damaged: '{key.decode().lower()}' in its header"):
        damaged_files.refuse_crashing(tmp_path / "a.mha")


def test_patterns_of_slices_in_meta_image_are_read(tmp_path):
    (tmp_path / "a.mhd").write_text("NDims = 3\nName = brain\nElementDataFile = slice_%03d.raw 1 9 1\n")
    damaged_files.refuse_crashing(tmp_path / "a.mhd")


@pytest.mark.parametrize("bits", [1, 64])
def test_number_of_bits_that_no_library_reads(files, tmp_path, bits):
    whole = bytearray((files / "a.nii").read_bytes())
    whole[72:74] = struct.pack("<h", bits)
    (tmp_path / "a.nii").write_bytes(whole)
    assert np.array_equal(read(tmp_path / "a.nii"), LABELS)
    (tmp_path / "a.nii").write_bytes(whole[:-1])
    with pytest.raises(SAM3DError, match="a.nii is damaged"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("name", TIFF)
def test_lists_longer_than_a_tiff(files, tmp_path, name):
    """Its reader would make room for as many numbers."""
    file = tmp_path / name
    file.write_bytes((files / name).read_bytes())
    with tifffile.TiffFile(file) as tiff:
        entry, big = tiff.pages[0].tags["StripByteCounts"].offset, tiff.is_bigtiff
    with file.open("r+b") as stream:
        stream.seek(entry + 4)
        stream.write(struct.pack("<Q" if big else "<I", 287348549))
    with pytest.raises(SAM3DError, match=f"{name} is damaged: it holds .* bytes instead of"):
        read(file)


def test_slices_of_a_tiff_in_a_circle(files, tmp_path):
    """ITK would go around in it."""
    file = tmp_path / "pages.tif"
    file.write_bytes((files / "pages.tif").read_bytes())
    with tifffile.TiffFile(file) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[-1]
        entries = len(last.tags)
    with file.open("r+b") as stream:
        stream.seek(last.offset + 2 + 12 * entries)
        stream.write(struct.pack("<I", first))
    with pytest.raises(SAM3DError, match="pages.tif is damaged: its slices follow one another in a circle"):
        read(file)


def test_a_huge_slice_of_a_tiff(files, tmp_path):
    """ITK would make room for it."""
    file = tmp_path / "pages.tif"
    file.write_bytes((files / "pages.tif").read_bytes())
    with tifffile.TiffFile(file) as tiff:
        entry = tiff.pages[3].tags["ImageLength"].offset
    with file.open("r+b") as stream:
        stream.seek(entry + 2)
        stream.write(struct.pack("<HII", 4, 1, 10**9))
    with pytest.raises(SAM3DError, match="pages.tif is damaged: a slice has 1000000000 voxels along an axis"):
        read(file)


def test_no_voxel(tmp_path):
    file = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), file)
    file.write_bytes(file.read_bytes().replace(b"DimSize = 25 20 12", b"DimSize = 25 0 12"))
    with pytest.raises(SAM3DError, match="a.mha holds no voxel"):
        read(file)
    for read_any in (read_image, read_stored_image):
        with pytest.raises(SAM3DError, match="a.mha holds no voxel"):
            read_any([file], SimpleITKIO())


def test_a_file_is_decompressed_once(files, tmp_path, monkeypatch):
    opened = []
    decompress = damaged_files.zlib.decompressobj
    monkeypatch.setattr(damaged_files.zlib, "decompressobj", lambda *a: opened.append(1) or decompress(*a))
    file = tmp_path / "a.nii.gz"
    file.write_bytes((files / "a.nii.gz").read_bytes())
    for _ in range(3):
        read(file)
    assert len(opened) == 1
    file.write_bytes(cut(file.read_bytes(), 0.8))
    with pytest.raises(SAM3DError, match="damaged"):
        read(file)
