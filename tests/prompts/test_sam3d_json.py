import json

import numpy as np
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import read_prompt, write_prompt

POINT = {"position": [1.5, -2.0, 3], "label": 1}
FILE = {"format": "sam3d_prompts", "version": 1, "image": "case_001", "coordinates": "LPS, mm", "points": [POINT]}


def test_layout_is_as_documented(tmp_path):
    write_prompt(Prompt([[1.5, -2, 3]], [1], "case_001"), tmp_path / "clicks.json")
    assert json.loads((tmp_path / "clicks.json").read_text()) == FILE


@pytest.mark.parametrize("image", ["", " spaces ", "two\nlines"])
def test_any_text_is_a_name(tmp_path, image):
    write_prompt(Prompt([[1, 2, 3]], [1], image), tmp_path / "clicks.json")
    assert read_prompt(tmp_path / "clicks.json").image == image


def test_the_largest_label(tmp_path):
    write_prompt(Prompt([[1, 2, 3]], [2**63 - 1], "case"), tmp_path / "clicks.json")
    assert read_prompt(tmp_path / "clicks.json").labels.tolist() == [2**63 - 1]


def test_byte_order_mark(tmp_path):
    (tmp_path / "clicks.json").write_text(json.dumps(FILE), encoding="utf-8-sig")
    assert read_prompt(tmp_path / "clicks.json").points.tolist() == [[1.5, -2, 3]]


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
        (FILE | {"version": list(range(1000))}, r"version \["),
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
        (FILE | {"points": [{"position": [1, 2, 3], "label": -1}]}, r"points\[0\].*label from 0"),
        (FILE | {"points": [{"position": [1, 2, 3], "label": 10**30}]}, r"points\[0\]"),
        (FILE | {"points": [POINT, {"position": [1, 2, 10**400], "label": 1}]}, "line 1 has hundreds of digits"),
        (FILE | {"points": [POINT, {"position": [1, 2, float("nan")], "label": 1}]}, r"points\[1\].*finite"),
        (FILE | {"points": [{"position": [1, 2, float("inf")], "label": 1}]}, r"points\[0\].*finite"),
        (FILE | {"points": [{"position": list(range(10_000)), "label": 1}]}, r"points\[0\]"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path, content, problem):
    file = tmp_path / "clicks.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(SAM3DError, match=problem) as refused:
        read_prompt(file)
    assert str(file) in str(refused.value)
    assert len(str(refused.value)) < 600  # a sentence, not a dump


def test_no_clicks_at_all(tmp_path):
    write_prompt(Prompt(np.zeros((0, 3)), [], "case_001"), tmp_path / "none.json")
    assert read_prompt(tmp_path / "none.json").points.shape == (0, 3)
