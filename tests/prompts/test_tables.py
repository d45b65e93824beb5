"""Tables as spreadsheets, pandas, NumPy and 3D Slicer write them."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.cases import ClickSource
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import find_prompts, read_prompt, write_prompt

CLASSES = {"background": 0, "liver": 1, "tumour": 2}
POINTS, LABELS = [[1.5, -2, 30], [4, 5, 6]], [2, 1]
SLICER = "label,l,p,s,defined,selected,visible,locked,description\n"
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = LPS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
"""


@pytest.fixture
def read(tmp_path):
    def read(content: str | bytes, ending: str = ".csv", **options) -> Prompt:
        file = tmp_path / f"case_1{ending}"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_prompt(file, class_names=CLASSES, **options)

    return read


@pytest.mark.parametrize(
    "content, noted",
    [
        (SLICER + "tumour-1,1.5,-2,30,1,1,1,0,\nF-2,4,5,6,1,1,1,0,\n", "columns l, p, s (LPS)"),
        (SLICER.replace("l,p,s", "r,a,s") + "F-1,-1.5,2,30,1,1,1,0,tumour\nF-2,-4,-5,6,1,0,1,0,1\n", "r, a, s (RAS)"),
        ('"label","r","a","s"\n"2",-1.5,2,30\n"F-3",-4,-5,6\n', "r, a, s (RAS)"),
        (SLICER.replace(",", "\t") + "2\t1.5\t-2\t30\t1\t1\t1\t0\t\nF-2\t4\t5\t6\t1\t1\t1\t0\t\n", "tabs"),
        (SLICER + "2,1.5,-2,30,1\nF-9,0,0,0,0\nliver-1,4,5,6,1\n", "1 point(s) without a position skipped"),
        (FCSV + "0,1.5,-2,30,0,0,0,1,1,1,0,2,,\n\n# side\n1,4,5,6,0,0,0,1,1,1,0,F-2,,\n", "1 click(s) name no class"),
        (FCSV.replace("LPS", "0") + "a,-1.5,2,30,0,0,0,1,1,1,0,F-1,tumour,\nb,-4,-5,6,0,0,0,1,1,1,0,F-2,,\n", "class"),
        ("x,y,z,label\n1.5,-2,30,tumour-1\n4,5,6,F-1\n", "1 click(s) name no class and have the label 1 (liver)"),
        ("sep=;\nx;y;z;label\n1,5;-2;30;2\n4;5;6;1\n", "cells separated by semicolons, decimal commas"),
        ('"sep=;";;;\r\nx;y;z;label\r\n1,5;-2;30;2\r\n4;5;6;1\r\n', "decimal commas"),
        ("sep=,\nx,y,z,label\n1.5,-2,30,2\n4,5,6,1\n", ""),
        ("sep=\t\nx\ty\tz\tlabel\n1.5\t-2\t30\t2\n4\t5\t6\t1\n", "tabs"),
        ("x\ty\tz\tlabel\n1,5\t-2\t30\t2\n4\t5\t6\t1\n", "tabs, decimal commas"),
        ("x|y|z|label\n1.5|-2|30|2\n4|5|6|1\n", "vertical bars"),
        ('a;b,"x;y",x,y,z,label\n,,1.5,-2,30,2\n,,4,5,6,1\n', ""),  # a semicolon in the header separates nothing
        (",x,y,z,label\n0,1.5,-2.0,30.0,2.0\n1,4.0,5.0,6.0,\n", "1 click(s) name no class"),
        ("x,y,z,label,note\n1.5,-2,30,2\n4,5,6\n", "2 row(s) lack their last cells"),
        ("x,y,z,label,,\n1.5,-2,30,2,,,,\n4,5,6,1\n", "1 row(s) lack their last cells"),
        ("\n# clicks of Anna\n\nx,y,z,label\n# left\n1.5,-2,30,2\n\n,,,\n4,5,6,1\n", ""),
        ("# x,y,z,label\n1.5,-2,30,2\n4,5,6,1\n", ""),  # numpy.savetxt
        ("# CoordinateSystem = RAS\nx,y,z,label\n-1.5,2,30,2\n-4,-5,6,1\n", ""),
        ("x,y,z,label,note\n1.5,-2,30,2,gr\u00f6\u00dfer\n4,5,6,1,\n".encode("utf-16"), "UTF-16 text"),
        ("x,y,z,label\n1.5,-2,30,2\n4,5,6,1\n".encode("utf-16-be").join([b"\xfe\xff", b""]), "UTF-16 text"),
        ("x;y;z;label;note\n1,5;-2;30;2;gr\u00f6\u00dfer\n4;5;6;1;\n".encode("cp1252"), "Windows-1252 text"),
        ("x,y,z,label,note\n1.5,-2,30,2,gr\u00f6\u00dfer\n4,5,6,1,\n".encode("utf-8-sig"), ""),
    ],
)
def test_dialects(read, content, noted):
    prompt = read(content)
    assert prompt.points.tolist() == POINTS and prompt.labels.tolist() == LABELS
    assert noted in "".join(prompt.notes)
    assert bool(prompt.notes) == bool(noted)


def test_one_note_for_a_file(read):
    prompt = read("sep=;\nx;y;z;size\n1,5;-2;30;2\n4;5;6;\n", image_name="patient")
    assert prompt.notes == (
        "case_1.csv: cells separated by semicolons, decimal commas, no column label (columns not used: size), "
        "2 click(s) name no class and have the label 1 (liver)",
    )


@pytest.mark.parametrize("name", ["labl", "labels", "Lable", "class", "type"])
def test_labels_under_another_name(read, name):
    """All clicks would be on one class, those on the background, too."""
    with pytest.raises(SAM3DError, match=f"no column label, but a column '{name.lower()}'. Rename it to label"):
        read(f"x,y,z,{name}\n1.5,-2,30,liver\n4,5,6,background\n")
    assert read(f"x,y,z,{name}\n1.5,-2,30,\n4,5,6,\n").labels.tolist() == [1, 1]
    assert read(f"x,y,z,label,{name}\n1.5,-2,30,2,a\n4,5,6,1,b\n").labels.tolist() == LABELS


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".fcsv"])
@pytest.mark.parametrize("upper", [False, True])
def test_endings(tmp_path, ending, upper):
    file = tmp_path / f"case_1{ending.upper() if upper else ending}"
    file.write_text(SLICER + "2,1.5,-2,30,1,1,1,0,\n1,4,5,6,1,1,1,0,\n")
    assert find_prompts(tmp_path, ["case_1"]) == find_prompts(file, ["case_1"]) == {"case_1": file}
    assert read_prompt(file).points.tolist() == POINTS
    (tmp_path / "CASE_1.csv").write_text("another case\n")
    assert find_prompts(tmp_path, ["case_1"]) == {"case_1": file}


def test_endings_in_upper_case(tmp_path):
    write_prompt(Prompt(POINTS, LABELS, "a"), tmp_path / "a.JSON")
    write_prompt(Prompt(POINTS, LABELS, "b"), tmp_path / "b.MRK.json")
    write_prompt(Prompt(POINTS, LABELS, "c"), tmp_path / "c.CSV")
    source = ClickSource(CLASSES, tmp_path)
    for case in "abc":
        prompt = source.prompt(case, ImageGeometry(np.eye(4)))
        assert prompt.points.tolist() == POINTS and prompt.labels.tolist() == LABELS
    write_prompt(Prompt(POINTS, LABELS, "c"), tmp_path / "c.csv")
    with pytest.raises(SAM3DError, match=r"2 prompt files for the case c: c\.CSV and c\.csv"):
        find_prompts(tmp_path, ["a", "c"])


def test_images_whose_names_start_like_comments(read):
    prompt = read("image,x,y,z\n#1,1,2,3\n#2,4,5,6\n", image_name="#2")
    assert prompt.points.tolist() == [[4, 5, 6]]


def test_columns_of_slicer_beside_ours_are_ignored(read):
    text = "x,y,z,label,p,s,l,description\n1.5,-2,30,2,0.9,a,b,hard to see\n4,5,6,1,0.5,,,\n"
    prompt = read(text)
    assert prompt.points.tolist() == POINTS and prompt.labels.tolist() == LABELS and not prompt.notes


@pytest.mark.parametrize(
    "content, problem",
    [
        (SLICER + "F-1,1.5,two,30,1,1,1,0,\n", "line 2: p is 'two'"),
        (FCSV + "0,1,2,3,0,0,0,1,1,1,0,F-1,,\n1,1,,3,0,0,0,1,1,1,0,F-1,,\n", "line 5: y is ''"),
        ("sep=;\n\n# from Anna\nx;y;z\n1,5;2;3\n1.234,5;2;3\n", "line 6: x is '1.234,5'"),
        (
            FCSV.replace("# CoordinateSystem = LPS\n", "") + "0,1,2,3,0,0,0,1,1,1,0,F-1,,\n",
            "names no coordinate system",
        ),
        (FCSV.replace("LPS", "2") + "0,1,2,3,0,0,0,1,1,1,0,F-1,,\n", "CoordinateSystem '2'.*LPS"),
        ("r,a,s,l,p\n1,2,3,4,5\n", "columns.*needs either"),
        ("r,a\n1,2\n", "columns"),
        ("x,y,z,label\n1,5,2,3,1\n", "line 2 has 5 cells, but the header has 4.*semicolons"),
        ("label,x,y,z\n1,5,2\n", "line 2 has 3 cells, but the header has 4"),
        ("x,y,z,image\n1,5,2\n", "line 2 has 3 cells, but the header has 4"),
        ("# only a comment", "empty"),
        ("sep=;\n", "empty"),
        (SLICER + "tumor-1,1,2,3,1,1,1,0,\n", "line 2 has the label 'tumor-1', which.*Did you mean tumour"),
        (SLICER + "F-1,1,2,3,1,1,1,0,maybe\n", "line 2 has the description 'maybe'"),
        (b"x,y,z\n1,2,\x81\n", r"case_1\.csv can't be read: it is not text in utf-8 or cp1252.*UTF-8"),
        ("x,y,z\n1,2,3\n".encode("utf-16")[:-1], "not text in utf-16"),
    ],
)
def test_mistakes_are_named(read, content, problem):
    with pytest.raises(SAM3DError, match=problem) as refused:
        read(content)
    assert "case_1.csv" in str(refused.value)


def test_our_json_stays_strict(tmp_path):
    point = {"position": [1, 2, 3], "label": "tumour"}
    content = {"format": "sam3d_prompts", "version": 1, "image": "a", "coordinates": "LPS, mm", "points": [point]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SAM3DError, match=r"points\[0\]"):
        read_prompt(tmp_path / "a.json", class_names=CLASSES)


# --- each dialect, written by others' code, gives back the same clicks ---


def as_pandas(points, labels, **options):
    frame = pd.DataFrame(points, columns=["x", "y", "z"])
    frame["label"] = [np.nan if label == 1 else label for label in labels]  # so the others become 2.0
    return frame.to_csv(**options).encode(options.get("encoding", "utf-8"))


def as_excel(points, labels):
    """A German Excel: separator told, semicolons, decimal commas, cells dropped at the end, Windows-1252."""
    rows = [[*(repr(float(v)).replace(".", ",") for v in p), *([] if k == 1 else [k])] for p, k in zip(points, labels)]
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerows([["X", "Y", "Z", "Label", "Gr\u00f6\u00dfe"], *rows])
    return ("sep=;\r\n" + text.getvalue()).encode("cp1252")


def as_slicer(points, labels, system="l,p,s", separator=","):
    signs = (1, 1, 1) if system == "l,p,s" else (-1, -1, 1)
    names = {0: "N-1", 1: "F-2", 2: "tumour-3"}
    text = io.StringIO()
    table = csv.writer(text, delimiter=separator, lineterminator="\n")
    table.writerow(["label", *system.split(","), "defined", "selected", "visible", "locked", "description"])
    table.writerows([names[k], *(p * signs).tolist(), 1, 1, 1, 0, ""] for p, k in zip(points, labels))
    return text.getvalue().encode()


def as_fcsv(points, labels, system="LPS"):
    signs = (1, 1, 1) if system in ("LPS", "1") else (-1, -1, 1)
    names = {0: "background-1", 1: "F_1-2", 2: "2"}
    rows = [
        f"{i},{','.join(map(repr, (p * signs).tolist()))},0,0,0,1,1,1,0,{names[k]},,\n"
        for i, (p, k) in enumerate(zip(points, labels))
    ]
    return (FCSV.replace("LPS", system) + "".join(rows)).encode()


def as_numpy(points, labels):
    text = io.StringIO()
    np.savetxt(text, np.column_stack([points, labels]), fmt="%.17g", delimiter=",", header="x,y,z,label")
    return text.getvalue().encode()


DIALECTS = {
    "pandas": as_pandas,
    "pandas, European": lambda p, k: as_pandas(p, k, sep=";", decimal=",", index=False),
    "pandas, tabs": lambda p, k: as_pandas(p, k, sep="\t", index=False),
    "pandas, UTF-16": lambda p, k: as_pandas(p, k, encoding="utf-16"),
    "Excel": as_excel,
    "Slicer": as_slicer,
    "Slicer, RAS": lambda p, k: as_slicer(p, k, "r,a,s"),
    "Slicer, tabs": lambda p, k: as_slicer(p, k, "r,a,s", "\t"),
    ".fcsv": as_fcsv,
    ".fcsv, RAS": lambda p, k: as_fcsv(p, k, "RAS"),
    ".fcsv, numbered": lambda p, k: as_fcsv(p, k, "0"),
    "numpy": as_numpy,
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_round_trips(tmp_path, dialect):
    """Also without labels or rows: points -> text by other programs' rules -> the same points."""

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
    @given(st.data())
    def check(data):
        labels = data.draw(st.lists(st.sampled_from([0, 1, 2]), max_size=5))
        values = st.floats(-1e4, 1e4, allow_subnormal=False)
        points = data.draw(arrays(np.float64, (len(labels), 3), elements=values))
        file = tmp_path / f"case_1{'.fcsv' if dialect.startswith('.fcsv') else '.csv'}"
        file.write_bytes(DIALECTS[dialect](points, labels))
        prompt = read_prompt(file, class_names=CLASSES)
        np.testing.assert_array_equal(prompt.points, points)
        assert prompt.labels.tolist() == labels

    check()
