import re

import numpy as np
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.cases import ClickSource, TypedClick
from sam3d_nnunet.prompts.files import write_prompt
from sam3d_nnunet.prompts.prompt import Prompt

NAMES = {"background": 0, "core": 1, "rim": 2}
# i runs along -x, half a millimetre a voxel
FILE = np.array([[-0.5, 0, 0, 10], [0, 1, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])
GEOMETRY = ImageGeometry(FILE[:, [2, 1, 0, 3]], FILE)


@pytest.mark.parametrize(
    "text, position, label",
    [
        ("1,2,3", (1, 2, 3), 1),
        ("1.5, -2,3e1=2", (1.5, -2, 30), 2),
        ("1,2,3=rim", (1, 2, 3), 2),
        ("1,2,3=-", (1, 2, 3), 0),
    ],
)
def test_typed(text, position, label):
    assert TypedClick.parse(text, False, NAMES) == TypedClick(position, label, False)


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3,4", "1;2;3", "a,b,c", "1,2,nan", "1,2,3=", "1,2,3=liver", "1,2,3=-1"]
)
def test_wrong_clicks_are_named(text):
    with pytest.raises(SAM3DError, match=re.escape(repr(text))):
        TypedClick.parse(text, True, NAMES)


def test_files_and_typed_clicks_add_up(tmp_path):
    write_prompt(Prompt([[1, 2, 3]], [2], "case"), tmp_path / "case.json")
    typed = [TypedClick((2, 3, 4), 1, False), TypedClick((7, 8, 9), 0, True)]
    source = ClickSource(NAMES, tmp_path, typed)
    prompt = source.prompt("case", GEOMETRY)
    assert prompt.points.tolist() == [[1, 2, 3], [9, 23, 38], [7, 8, 9]]
    assert prompt.labels.tolist() == [2, 1, 0]
    assert prompt.image == "case"
    assert ClickSource(NAMES, None, typed).prompt("case", GEOMETRY).labels.tolist() == [1, 0]


def test_no_source():
    assert not ClickSource(NAMES)
    assert ClickSource(NAMES).prompt("case", GEOMETRY) is None


def test_typed_clicks_are_for_one_image(tmp_path):
    source = ClickSource(NAMES, None, [TypedClick((1, 2, 3), 1, False)])
    source.check(["case"])
    with pytest.raises(SAM3DError, match="one image.* 2"):
        source.check(["a", "b"])


def test_one_file_for_several_cases(tmp_path):
    write_prompt(Prompt([[1, 2, 3]], [2], "a"), tmp_path / "a.json")
    with pytest.raises(SAM3DError, match="a.json .*2 images"):
        ClickSource(NAMES, tmp_path / "a.json").check(["a", "b"])
    with pytest.raises(SAM3DError, match="no .*b.json"):
        ClickSource(NAMES, tmp_path / "b.json").check(["b"])
