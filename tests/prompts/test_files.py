import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import read_prompt, write_prompt

POINT = {"position": [1.5, -2.0, 3], "label": 1}
FILE = {"format": "sam3d_prompts", "version": 1, "image": "case_001", "coordinates": "LPS, mm", "points": [POINT]}


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    count = draw(st.integers(0, 6))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    points = draw(arrays(np.float64, (count, 3), elements=finite))
    return Prompt(points, draw(arrays(np.int64, count, elements=st.integers(0, 2**63 - 1))), draw(st.text()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=prompts())
def test_round_trip(tmp_path, prompt):
    file = tmp_path / "clicks.json"
    write_prompt(prompt, file)
    read = read_prompt(str(file))
    assert (read.points == prompt.points).all() and read.points.shape == prompt.points.shape
    assert (read.labels == prompt.labels).all()
    assert read.image == prompt.image
    assert os.listdir(tmp_path) == ["clicks.json"]


def test_layout_is_as_documented(tmp_path):
    write_prompt(Prompt([[1.5, -2, 3]], [1], "case_001"), tmp_path / "clicks.json")
    assert json.loads((tmp_path / "clicks.json").read_text()) == FILE


def test_names_that_are_not_latin(tmp_path):
    file = tmp_path / "病例_Fall_Müller.json"
    write_prompt(Prompt([[0, 0, 0]], [0], "病例_Fall_Müller"), file)
    assert read_prompt(file).image == "病例_Fall_Müller"


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_failing_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, step):
    file = tmp_path / "clicks.json"
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
    assert read_prompt(file).image == "old"
    assert os.listdir(tmp_path) == ["clicks.json"]


def without(key: str) -> dict:
    return {k: v for k, v in FILE.items() if k != key}


@pytest.mark.parametrize(
    "content, problem",
    [
        ("", "line 1"),
        ('{\n"format": "sam3d_prompts",\n', "line 3"),
        ("[" * 100_000, "JSON"),
        ('{"label": ' + "1" * 5000 + "}", "JSON"),
        ("[]", '"format"'),
        ("3", '"format"'),
        (without("format"), '"format"'),
        (FILE | {"format": "markups"}, '"format"'),
        (without("version"), "version None"),
        (FILE | {"version": 2}, "version 2"),
        (FILE | {"coordinates": "RAS, mm"}, "RAS, mm"),
        (without("coordinates"), "coordinates None"),
        (FILE | {"image": 7}, '"image"'),
        (without("image"), '"image"'),
        (without("points"), '"points"'),
        (FILE | {"points": {"0": POINT}}, '"points"'),
        (FILE | {"points": [POINT, [1, 2, 3]]}, r"points\[1\]"),
        (FILE | {"points": [{"position": [1, 2], "label": 1}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": "1 2 3", "label": 1}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, "3"], "label": 1}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, True], "label": 1}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, None], "label": 1}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, 3]}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, 3], "label": "tumour"}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, 3], "label": 1.0}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, 3], "label": True}]}, r"points\[0\]"),
        (FILE | {"points": [{"position": [1, 2, 3], "label": -1}]}, "label"),
        (FILE | {"points": [{"position": [1, 2, 3], "label": 10**30}]}, "too large"),
        (FILE | {"points": [{"position": [1, 2, 10**400], "label": 1}]}, "too large"),
        (FILE | {"points": [{"position": [1, 2, float("nan")], "label": 1}]}, "finite"),
        (FILE | {"points": [{"position": [1, 2, float("inf")], "label": 1}]}, "finite"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path, content, problem):
    file = tmp_path / "clicks.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(SAM3DError, match=problem) as refused:
        read_prompt(file)
    assert str(file) in str(refused.value)
    assert len(str(refused.value)) < 600  # a sentence, not a dump


def test_unreadable_files_are_refused_by_name(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\x80\x00\xff")
    (tmp_path / "folder.json").mkdir()
    for name in ("binary.json", "folder.json", "missing.json"):
        with pytest.raises(SAM3DError, match=name):
            read_prompt(tmp_path / name)


def test_prompts_that_make_no_sense():
    with pytest.raises(SAM3DError, match="case_7.* 1 points but 2 labels"):
        Prompt([[1, 2, 3]], [1, 1], "case_7")
    with pytest.raises(SAM3DError, match="case_7.*finite"):
        Prompt([[1, 2, np.nan]], [1], "case_7")
    with pytest.raises(SAM3DError, match="case_7.*-1"):
        Prompt([[1, 2, 3]], [-1], "case_7")


def test_no_clicks_at_all(tmp_path):
    write_prompt(Prompt(np.zeros((0, 3)), [], "case_001"), tmp_path / "none.json")
    assert read_prompt(tmp_path / "none.json").points.shape == (0, 3)
