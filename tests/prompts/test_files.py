"""Reading, writing and finding prompt files, whatever the format; each format has tests of its own."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import ENDINGS, LARGEST, WRITTEN, find_prompts, read_prompt, write_prompt

FINITE = st.floats(allow_nan=False, allow_infinity=False)
# tables trim their cells, and their files hold UTF-8
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.strip).filter(bool)
IN_TMP_PATH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
GEOMETRY = ImageGeometry.from_properties({"spacing": [3.0, 2.0, 1.0]})


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    count = draw(st.integers(0, 6))
    labels = draw(arrays(np.int64, count, elements=st.integers(0, 10**18 - 1)))
    return Prompt(draw(arrays(np.float64, (count, 3), elements=FINITE)), labels, draw(NAMES))


@pytest.mark.parametrize("ending", WRITTEN)
def test_round_trip(tmp_path, ending):
    @IN_TMP_PATH
    @given(prompt=prompts())
    @example(Prompt([[1, 2, 3]], [1], 'line\rends, "quotes"; and more\n!'))
    def check(prompt):
        file = tmp_path / f"clicks{ending}"
        write_prompt(prompt, file)
        for read in (read_prompt(str(file), image_name=prompt.image), read_prompt(file)):
            assert (read.points == prompt.points).all() and read.points.shape == prompt.points.shape
            assert (read.labels == prompt.labels).all()
        # markups hold no name of an image, and a table without rows neither
        named = ending == ".json" or (ending == ".csv" and len(prompt.points))
        assert read.image == (prompt.image if named else "clicks")
        assert read_prompt(file, image_name=prompt.image).image == prompt.image
        assert os.listdir(tmp_path) == [file.name]

    check()


def test_examples_of_the_documentation(tmp_path):
    """One of each format, in the order of the page."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    examples = re.findall(r"```(?:json)?\n(.*?)```", page, re.DOTALL)
    expected = ((".json", [1, 0]), (".mrk.json", [2, 0]), (".csv", [1, 0]), (".tsv", [1, 0]))
    for (ending, labels), text in zip(expected, examples):
        (tmp_path / f"case_001{ending}").write_text(text, encoding="utf-8")
        prompt = read_prompt(tmp_path / f"case_001{ending}", image_name="case_001")
        assert prompt.points.tolist() == [[-12.5, 30, 118.2], [-20, 31.5, 118.2]] and prompt.labels.tolist() == labels


@pytest.mark.parametrize("ending", WRITTEN)
def test_names_that_are_not_latin(tmp_path, ending):
    file = tmp_path / f"病例_Fall_Müller{ending}"
    write_prompt(Prompt([[0, 0, 0]], [0], "病例_Fall_Müller"), file)
    assert read_prompt(file).image == "病例_Fall_Müller"


@pytest.mark.parametrize("step", ["write_text", "replace"])
@pytest.mark.parametrize("ending", WRITTEN)
def test_failing_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, step, ending):
    file = tmp_path / f"clicks{ending}"
    write_prompt(Prompt([[1, 2, 3]], [1], "old"), file)
    write_text = Path.write_text

    def fail(*arguments, **options):
        if step == "write_text":  # as when the disk is full
            write_text(arguments[0], arguments[1][:20], **options)
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "write_text") if step == "write_text" else (os, "replace")), fail)
        with pytest.raises(OSError, match="No space left"):
            write_prompt(Prompt([[9, 9, 9]], [2], "new"), file)
    assert read_prompt(file).points.tolist() == [[1, 2, 3]]
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("ending", WRITTEN)
def test_an_image_name_that_is_not_unicode(tmp_path, ending):
    """File names of other encodings reach Python as lone surrogates."""
    with pytest.raises(SAM3DError, match=rf"\\udcff.*clicks{re.escape(ending)}"):
        write_prompt(Prompt([[1, 2, 3]], [1], "case\udcff"), tmp_path / f"clicks{ending}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["clicks", "clicks.txt", "clicks.acsv", "clicks.json.gz"])
def test_other_endings_are_refused(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(SAM3DError, match=r"\.mrk\.json, \.json, \.csv, \.tsv, \.fcsv"):
        read_prompt(tmp_path / name)
    with pytest.raises(SAM3DError, match=name):
        write_prompt(Prompt([[1, 2, 3]], [1], "case"), tmp_path / name)
    with pytest.raises(SAM3DError, match=name):
        find_prompts(tmp_path / name, ["case"])


@pytest.mark.parametrize("name", ["clicks.tsv", "clicks.fcsv"])
def test_formats_that_are_only_read(tmp_path, name):
    with pytest.raises(SAM3DError, match=rf"{name}.*\.mrk\.json, \.json, \.csv\."):
        write_prompt(Prompt([[1, 2, 3]], [1], "case"), tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
def test_unreadable_files_are_refused_by_name(tmp_path, ending):
    (tmp_path / f"binary{ending}").write_bytes(b"\x80\x00\xff")
    (tmp_path / f"utf16{ending}").write_bytes("x,y,z\n1,2,3".encode("utf-16")[:-1])
    (tmp_path / f"folder{ending}").mkdir()
    (tmp_path / f"empty{ending}").touch()
    for name in ("binary", "utf16", "folder", "missing", "empty"):
        with pytest.raises(SAM3DError, match=f"{name}{ending}"):
            read_prompt(tmp_path / f"{name}{ending}")


def test_files_of_another_image_are_refused(tmp_path):
    for ending in (".json", ".csv"):
        file = tmp_path / f"clicks{ending}"
        write_prompt(Prompt([[1, 2, 3]], [1], "case_1"), file)
        with pytest.raises(SAM3DError, match="case_1") as refused:
            read_prompt(file, image_name="case_2")
        assert "case_2" in str(refused.value) and file.name in str(refused.value)


BYTES = st.binary(max_size=300)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))
POSITIONS = st.lists(st.integers() | st.floats(-500, 500) | st.floats(), min_size=3, max_size=3)


@st.composite
def documents(draw: st.DrawFn, **known: st.SearchStrategy) -> dict:
    """Dictionaries with keys that mean something, at most two of them missing or with an arbitrary value."""
    document = draw(st.fixed_dictionaries(known))
    for key in draw(st.just(set()) | st.sets(st.sampled_from(sorted(known)), max_size=2)):
        document[key] = draw(VALUES)
        if draw(st.booleans()):
            del document[key]
    return document


OURS = documents(
    format=st.just("sam3d_prompts"),
    version=st.just(1),
    coordinates=st.just("LPS, mm"),
    image=st.text(),
    points=st.lists(documents(position=POSITIONS, label=st.integers()), max_size=3),
)
LABELS = st.text() | st.from_regex(r"\A(label=|class = |F-|-)?[0-9]{0,3}\Z") | st.sampled_from(["neg", "tumour", "F-1"])
CONTROL_POINTS = documents(
    position=POSITIONS, label=LABELS, description=LABELS, positionStatus=st.sampled_from(["defined", "undefined"])
)
MARKUPS = documents(
    markups=st.lists(
        documents(
            type=st.just("Fiducial"),
            coordinateSystem=st.sampled_from(["LPS", "RAS", 0, 1, "0", "1"]),
            coordinateUnits=st.just("mm"),
            controlPoints=st.lists(CONTROL_POINTS, max_size=3),
        ),
        max_size=3,
    )
)
CELLS = st.text(max_size=6) | st.floats().map(str) | st.integers().map(str)
HEADERS = st.sampled_from(
    ["x,y,z,label", "X, Y ,Z", "i,j,k,label,image", "image;x;y;z", "x,y,z,i", "", "\ufeffx,y,z", "sep=,\nlabel,r,a,s"]
    + ["# x,y,z", "# CoordinateSystem = 0\n# columns = x,y,z,label", "l,p,s,defined,label", "sep=;", "#"]
)
TABLES = st.tuples(HEADERS, st.lists(st.lists(CELLS, max_size=6).map(",".join), max_size=4)).map(
    lambda parts: "\n".join([parts[0], *parts[1]])
)


@pytest.mark.parametrize("ending", WRITTEN)
def test_whatever_the_file_holds_it_is_read_or_refused(tmp_path, ending):
    """Nothing but a Prompt or a sentence comes out."""
    file = tmp_path / f"case{ending}"
    tried, accepted = [], []

    def read(content: bytes) -> None:
        tried.append(content)
        file.write_bytes(content)
        for options in ({}, {"image_geometry": GEOMETRY, "image_name": "case", "class_names": {"tumour": 2}}):
            try:
                accepted.append(read_prompt(file, **options))
            except SAM3DError as e:
                assert file.name in str(e) or " on " in str(e)  # a position of 1e308 voxels is found out only later
                assert len(str(e)) < 1500
            if ending == ".csv":
                try:
                    find_prompts(file, ["case"])
                except SAM3DError:
                    pass

    @IN_TMP_PATH
    @given(BYTES)
    @example(b"\xef\xbb\xbf")
    @example(b"\xff\xfe")
    @example(b'"' * 200)
    @example(b"x,y,z\n" + b"1" * 200_000 + b",2,3")
    @example(b"x,y,z\n1,2,\0")
    @example(b"x,y,z\r1,2,3\r")
    @example(b"[" * 100_000)
    @example(b'{"markups":' * 20_000)
    @example(b'{"a": ' + b"1" * 5000 + b"}")
    def from_bytes(content):
        read(content)

    @IN_TMP_PATH
    @given(VALUES | OURS | MARKUPS)
    def from_json(content):
        read(json.dumps(content).encode())

    @IN_TMP_PATH
    @given(TABLES)
    def from_tables(content):
        read(content.encode(errors="replace"))

    for check in (from_bytes, from_json, from_tables):
        check()
    clicks = sum(len(prompt.points) for prompt in accepted)
    print(f"{ending}: {len(tried)} files, each read twice; {len(accepted)} times a Prompt, {clicks} clicks in all")


@pytest.fixture
def folder(tmp_path) -> Path:
    """One file for each of three cases, and others."""
    for case, ending in zip("abc", WRITTEN):
        write_prompt(Prompt([[1, 2, 3]], [1], case), tmp_path / f"{case}{ending}")
    for other in ("summary.json", "d.nii.gz", "other.csv", "a.json.part"):
        (tmp_path / other).write_text("{}")
    return tmp_path


def test_find_in_a_folder(folder):
    found = find_prompts(str(folder), ["b", "a", "c"])
    assert found == {"a": folder / "a.mrk.json", "b": folder / "b.json", "c": folder / "c.csv"}
    assert list(found) == ["b", "a", "c"]
    assert find_prompts(folder, {"a": "a dictionary of cases will do"}) == {"a": folder / "a.mrk.json"}
    for case, file in found.items():
        assert read_prompt(file, image_name=case).image == case


def test_all_missing_cases_are_named_at_once(folder):
    with pytest.raises(SAM3DError, match=r"2 case\(s\).*: d, case_7\. ") as refused:
        find_prompts(folder, ["a", "d", "b", "case_7"])
    assert str(folder) in str(refused.value)


def test_two_files_for_one_case(folder):
    write_prompt(Prompt([[1, 2, 3]], [1], "a"), folder / "a.csv")
    with pytest.raises(SAM3DError, match=r"case a: a\.mrk\.json and a\.csv"):
        find_prompts(folder, ["a", "b"])


@pytest.mark.parametrize("name", ["a.mrk.json", "b.json"])
def test_one_file(folder, name):
    assert find_prompts(folder / name, ["whatever"]) == {"whatever": folder / name}
    with pytest.raises(SAM3DError, match="2 images.*folder"):
        find_prompts(folder / name, ["a", "b"])


def test_one_table_for_several_cases(tmp_path):
    file = tmp_path / "clicks.csv"
    file.write_text("image,x,y,z\na,1,2,3\nb,4,5,6\na,7,8,9\n")
    assert find_prompts(file, ["b", "a"]) == {"b": file, "a": file}
    assert read_prompt(file, image_name="a").points.tolist() == [[1, 2, 3], [7, 8, 9]]
    with pytest.raises(SAM3DError, match=r"column image of .*clicks\.csv .*: c, d\. "):
        find_prompts(file, ["a", "c", "d"])
    with pytest.raises(SAM3DError, match=": c"):
        find_prompts(file, ["c"])
    file.write_text("x,y,z\n1,2,3\n")
    assert find_prompts(file, ["c"]) == {"c": file}
    with pytest.raises(SAM3DError, match="2 images"):
        find_prompts(file, ["a", "b"])


def test_nothing_there(tmp_path):
    with pytest.raises(SAM3DError, match=r"no prompt file or folder .*clicks\.json"):
        find_prompts(tmp_path / "clicks.json", ["a"])


def test_prompts_that_make_no_sense():
    with pytest.raises(SAM3DError, match="case_7.* 1 points but 2 labels"):
        Prompt([[1, 2, 3]], [1, 1], "case_7")
    with pytest.raises(SAM3DError, match="Click 2 of 2 on case_7.*finite"):
        Prompt([[1, 2, 3], [1, 2, np.nan]], [1, 1], "case_7")
    with pytest.raises(SAM3DError, match="case_7.*-1"):
        Prompt([[1, 2, 3]], [-1], "case_7")
    with pytest.raises(SAM3DError, match="case_7 have 2 coordinates"):
        Prompt([[1, 2], [3, 4], [5, 6]], [1, 1], "case_7")


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_nobody_has_clicked_are_refused_before_they_are_read(tmp_path, ending, monkeypatch):
    file = tmp_path / f"case{ending}"
    with file.open("wb") as stream:
        stream.truncate(LARGEST + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    for read in (read_prompt, lambda path: find_prompts(path, ["case", "other"])):
        with pytest.raises(SAM3DError, match="16 MB"):
            read(file)
