import json

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.prompts import Prompt
from sam3d_nnunet.prompts.files import read_prompt, write_prompt
from sam3d_nnunet.prompts.slicer_markups import to_markups

CLASSES = {"background": 0, "Anterior": 1, "Posterior": 2, "left kidney-3": 5, "whole": [1, 2]}


def point(**more: object) -> dict:
    return {"position": [10.5, -20.0, 30.0], **more}


def write(tmp_path, *markups: object):
    file = tmp_path / "case_1.mrk.json"
    file.write_text(json.dumps({"@schema": "...", "markups": markups}))
    return file


def fiducial(*points: object, **more: object) -> dict:
    return {"type": "Fiducial", "controlPoints": list(points), **more}


@pytest.mark.parametrize("system", ["LPS", 1, "1", "lps", None])
def test_positions_in_lps(tmp_path, system):
    file = write(tmp_path, fiducial(point(), **({} if system is None else {"coordinateSystem": system})))
    prompt = read_prompt(file)
    assert prompt.points.tolist() == [[10.5, -20, 30]]
    assert prompt.image == "case_1"
    assert read_prompt(file, image_name="other").image == "other"


@pytest.mark.parametrize("system", ["RAS", 0, "0"])
def test_positions_in_ras(tmp_path, system):
    file = write(tmp_path, fiducial(point(), coordinateSystem=system))
    assert read_prompt(file).points.tolist() == [[-10.5, 20, 30]]


def test_written_in_either_system(tmp_path):
    prompt = Prompt([[10.5, -20, 30], [1, 2, 3]], [0, 2], "case_1")
    for system, first in (("LPS", [10.5, -20, 30]), ("RAS", [-10.5, 20, 30])):
        (tmp_path / "case_1.mrk.json").write_text(to_markups(prompt, system))
        content = json.loads((tmp_path / "case_1.mrk.json").read_text())
        assert content["markups"][0]["coordinateSystem"] == system
        assert content["markups"][0]["controlPoints"][0]["position"] == first
        assert (read_prompt(tmp_path / "case_1.mrk.json").points == prompt.points).all()


def test_layout_is_as_documented(tmp_path):
    write_prompt(Prompt([[1.5, -2, 3]], [2], "case"), tmp_path / "case.mrk.json")
    content = json.loads((tmp_path / "case.mrk.json").read_text())
    # Slicer 5 asks for a schema like this before it reads a file
    assert content["@schema"].endswith("/markups-schema-v1.0.3.json#")
    expected = {
        "id": "1",
        "label": "label=2",
        "description": "",
        "position": [1.5, -2, 3],
        "positionStatus": "defined",
    }
    assert content["markups"] == [
        {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": [expected]}
    ]


def test_as_slicer_writes_it(tmp_path):
    """All that Slicer 5 puts into a file; points that are not placed have an empty text for a position."""
    placed = {
        "id": "1",
        "label": "F-1",
        "description": "",
        "associatedNodeID": "vtkMRMLScalarVolumeNode1",
        "position": [1.0, 2.0, 3.0],
        "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    }
    waiting = placed | {"id": "2", "label": "F-2", "position": "", "positionStatus": "undefined"}
    preview = placed | {"id": "3", "label": "F-3", "positionStatus": "preview"}
    markup = fiducial(
        placed,
        waiting,
        preview,
        coordinateSystem="LPS",
        coordinateUnits="mm",
        locked=False,
        fixedNumberOfControlPoints=False,
        labelFormat="%N-%d",
        lastUsedControlPointNumber=3,
        measurements=[],
        display={"visibility": True, "color": [0.4, 1.0, 1.0]},
    )
    prompt = read_prompt(write(tmp_path, markup))
    assert prompt.points.tolist() == [[1, 2, 3]] and prompt.labels.tolist() == [1]


def test_several_lists_are_joined(tmp_path):
    first = fiducial(point(label="background"), coordinateUnits=["mm", "UCUM", "millimeter"])
    second = fiducial(point(label="3"), point(), coordinateSystem="RAS")
    prompt = read_prompt(write(tmp_path, first, {"type": "Fiducial"}, second))
    assert prompt.points.tolist() == [[10.5, -20, 30], [-10.5, 20, 30], [-10.5, 20, 30]]
    assert prompt.labels.tolist() == [0, 3, 1]


@pytest.mark.parametrize("key", ["description", "label"])
@pytest.mark.parametrize(
    "text, label",
    [
        ("2", 2),
        (2, 2),
        (0, 0),
        (" 3 ", 3),
        ("label=2", 2),
        ("Label = 2", 2),
        ("class=0", 0),
        ("CLASS=12", 12),
        ("background", 0),
        ("Negative", 0),
        ("neg", 0),
        ("-", 0),
        ("foreground", 1),
        ("positive", 1),
        ("pos", 1),
        ("+", 1),
        ("", 1),
        (None, 1),
        ("F-1", 1),
        ("F-17", 1),
        ("MarkupsFiducial-3", 1),
        ("F_1-2", 1),
        ("F_2", 1),
        ("background-3", 0),
        ("neg_2", 0),
        ("Posterior", 2),
        ("POSTERIOR", 2),
        ("posterior-7", 2),
        ("Left Kidney-3", 5),
        ("left kidney-3-2", 5),
        ("LEFT_KIDNEY_3", 5),
        ("N-1", 0),
        ("negative_points-1", 0),
        ("exclude_4", 0),
        ("P-2", 1),
        ("2-1", 2),
    ],
)
def test_labels(tmp_path, key, text, label):
    assert read_prompt(write(tmp_path, fiducial(point(**{key: text}))), class_names=CLASSES).labels.tolist() == [label]


def test_the_description_counts_before_the_label(tmp_path):
    points = [
        point(description="2", label="background"),
        point(description="", label="background"),
        point(description="F-1", label="2"),  # a copied automatic name says nothing
        point(description="-", label="F-1"),
    ]
    assert read_prompt(write(tmp_path, fiducial(*points))).labels.tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize("key", ["description", "label"])
@pytest.mark.parametrize(
    "text", ["Posterior", "tumour", "tumour-1", "two words-3", "-1", "label=-1", "1.5", "1" * 30, True, ["2"]]
)
def test_texts_that_name_no_label(tmp_path, key, text):
    file = write(tmp_path, fiducial(point(), point(**{key: text})))
    with pytest.raises(SAM3DError, match=rf"markups\[0\]\.controlPoints\[1\] has the {key} .*label=K") as refused:
        read_prompt(file, class_names={"background": 0, "Anterior": 1})
    assert str(file) in str(refused.value) and "Anterior" in str(refused.value)


def test_regions_are_no_labels(tmp_path):
    with pytest.raises(SAM3DError, match="whole"):
        read_prompt(write(tmp_path, fiducial(point(label="whole"))), class_names=CLASSES)


@pytest.mark.parametrize(
    "markup, problem",
    [
        ({"type": "Line", "controlPoints": []}, "'Line'.*Fiducial"),
        ({"type": "ROI"}, "'ROI'"),
        ({"type": "ClosedCurve", "controlPoints": [point()]}, "'ClosedCurve'"),
        ({"controlPoints": [point()]}, "type None"),
        ("text", "'text'"),
        (fiducial(coordinateSystem="IJK"), "coordinateSystem 'IJK'"),
        (fiducial(coordinateSystem=2), "coordinateSystem 2"),
        (fiducial(coordinateSystem=True), "coordinateSystem True"),
        (fiducial(coordinateSystem=["LPS"]), "coordinateSystem"),
        (fiducial(coordinateSystem=""), "coordinateSystem ''"),
        (fiducial(coordinateUnits="um"), "coordinateUnits 'um'"),
        (fiducial(coordinateUnits=["um", "UCUM", "micrometer"]), "coordinateUnits"),
        (fiducial(coordinateUnits=3), "coordinateUnits 3"),
        ({"type": "Fiducial", "controlPoints": {"0": point()}}, '"controlPoints"'),
        (fiducial("text"), r"controlPoints\[0\].*'text'"),
        (fiducial(point(), {"label": "F-1"}), r"controlPoints\[1\].*None"),
        (fiducial(point(), {"position": [1, 2]}), r"controlPoints\[1\].*\[1, 2\]"),
        (fiducial({"position": [1, 2, float("nan")]}), "finite"),
        (fiducial({"position": [1, 2, "3"]}), "finite"),
        (fiducial({"position": ""}), "finite"),
    ],
)
def test_what_is_no_list_of_points(tmp_path, markup, problem):
    file = write(tmp_path, fiducial(point()), markup)
    with pytest.raises(SAM3DError, match=problem) as refused:
        read_prompt(file)
    assert str(file) in str(refused.value) and "markups[1]" in str(refused.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"markups": {}}', '{"format": "sam3d_prompts", "points": []}'])
def test_what_is_no_markups_file(tmp_path, content):
    (tmp_path / "case.mrk.json").write_text(content)
    with pytest.raises(SAM3DError, match=r'case\.mrk\.json.*"markups"'):
        read_prompt(tmp_path / "case.mrk.json")


def test_markups_under_the_wrong_ending(tmp_path):
    (tmp_path / "case.json").write_text(to_markups(Prompt([[1, 2, 3]], [1], "case")))
    with pytest.raises(SAM3DError, match=r"\.mrk\.json"):
        read_prompt(tmp_path / "case.json")
