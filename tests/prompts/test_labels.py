"""What texts for labels mean, in every format and in typed clicks."""

import json

import numpy as np
import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.world import ImageGeometry
from sam3d_nnunet.prediction.cases import ClickSource, TypedClick
from sam3d_nnunet.prompts.files import read_prompt

CLASSES = {"background": 0, "Lung Left": 1, "tumour": 2, "lymph-node_3": 3, "whole": [1, 2, 3]}


def as_markups(path, label, **options):
    content = {"type": "Fiducial", "controlPoints": [{"label": label, "position": [1, 2, 3]}], **options}
    path.write_text(json.dumps({"markups": [content]}), encoding="utf-8")
    return path


def as_fcsv(path, label):
    columns = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    head = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = {columns}\n"
    path.write_text(f'{head}vtkMRMLMarkupsFiducialNode_0,1,2,3,0,0,0,1,1,1,0,"{label}",,\n', encoding="utf-8")
    return path


def as_table(path, label):
    path.write_text(f'x,y,z,label\n1,2,3,"{label}"\n', encoding="utf-8")
    return path


WRITERS = {".mrk.json": as_markups, ".fcsv": as_fcsv, ".csv": as_table}


@pytest.fixture
def label_of(tmp_path):
    """The label that a text means, which must be the same in all formats and in a typed click."""

    def label_of(text: str, classes: dict | None = CLASSES, case: str | None = None) -> int:
        labels = {
            int(read_prompt(write(tmp_path / f"{case or 'case_1'}{ending}", text), class_names=classes).labels[0])
            for ending, write in WRITERS.items()
        }
        if case is None:  # a typed click knows no case
            labels.add(TypedClick.parse(f"1,2,3={text}", True, classes).label)
        (label,) = labels
        return label

    return label_of


NEGATIVE = ["N", "n", "neg", "negative", "negative_points", "background", "BG", "exclude", "Negative Point"]
POSITIVE = ["P", "p", "pos", "positive", "positive_points", "foreground", "FG", "include", "Positive Clicks"]


@pytest.mark.parametrize("number", ["", "-1", "_12", " 1", "7", "_1-3"])
@pytest.mark.parametrize("words, label", [(NEGATIVE, 0), (POSITIVE, 1)])
def test_words_mean_what_they_say(label_of, words, label, number):
    for word in words:
        assert label_of(word + number) == label, word


@pytest.mark.parametrize("number", ["", "-1", "_1-3"])
@pytest.mark.parametrize("name", ["Lung Left", "lung_left", "LUNG-LEFT", "lungleft", " Lung  left"])
def test_class_names_match_loosely(label_of, name, number):
    assert label_of(name + number) == 1
    assert label_of(name + number, {"background": 0, "left lung": 1, "lung-left": 2}) == 2


def test_accents_may_be_written_in_two_ways(label_of):
    for name in ("Tumör", "tumo\u0308r-1"):
        assert label_of(name, {"background": 0, "rest": 1, "tum\u00f6r": 2}) == 2


@pytest.mark.parametrize(
    "text", ["", "F", "F-1", "F-17", "F_1-2", "F_2", "f-1", "MarkupsFiducial-3", "MarkupsFiducial_1-3"]
)
def test_names_that_slicer_gives_say_nothing(tmp_path, text):
    for ending, write in WRITERS.items():
        prompt = read_prompt(write(tmp_path / f"case_1{ending}", text), class_names=CLASSES)
        assert prompt.labels.tolist() == [1]
        (note,) = prompt.notes
        assert f"case_1{ending}" in note and "1 click(s) name no class and have the label 1 (Lung Left)" in note


def test_a_list_named_like_its_case_says_nothing(label_of, tmp_path):
    """Slicer names a list that it loads for its file, and labels the points added then accordingly."""
    assert label_of("neg_012-4", case="neg_012") == 1
    assert label_of("tumour_012_1-4", case="tumour_012") == 1
    file = as_markups(tmp_path / "session 2.mrk.json", "session 2-1")
    assert read_prompt(file, image_name="case_1", class_names=CLASSES).labels.tolist() == [1]
    with pytest.raises(SAM3DError, match="'session 3-1', which names no label"):
        label_of("session 3-1")


@pytest.mark.parametrize("text", ["2", "label=2", "Class = 2", "2.0", "2.", "2,0", "2-1", "label=2-7"])
def test_numbers(label_of, text):
    assert label_of(text) == 2


@pytest.mark.parametrize(
    "text, nearest",
    [
        ("tumor", "tumour"),
        ("tumuor-3", "tumour"),
        ("lung", "Lung Left"),
        ("Lung Lefft-1", "Lung Left"),
        ("backgroud", "background"),
        ("Negativ-2", "negative"),
        ("Points-1", None),
        ("whole-1", None),
        ("left_lung-1", None),
        ("_", None),
        ("-1", None),
        ("label=-1", None),
        ("1.5", None),
        ("1" * 30, None),
    ],
)
def test_other_texts_are_refused_with_the_nearest_name(label_of, text, nearest):
    with pytest.raises(SAM3DError, match="names no label") as refused:
        label_of(text)
    sentence = str(refused.value)
    assert (f"Did you mean {nearest}?" in sentence) if nearest else ("Did you mean" not in sentence)
    for known in ("Lung Left (1)", "tumour (2)", "lymph-node_3 (3)", "background", "negative", "positive", "label=K"):
        assert known in sentence
    assert "Regions have no label: whole." in sentence


def test_a_class_wins_over_a_word(label_of):
    classes = {"background": 0, "N": 1, "P": 2, "F": 3, "Positive": 4}
    assert [label_of(text, classes) for text in ("N-1", "P", "F-2", "positive_1", "neg", "F_1-2")] == [1, 2, 3, 4, 0, 3]


def test_texts_that_could_mean_two_things(label_of):
    twins = {"background": 0, "left lung": 1, "Left_Lung": 2}
    assert [label_of(text, twins) for text in ("left lung", "Left_Lung-1", "LEFT LUNG", "left_lung")] == [1, 2, 1, 2]
    for text in ("left-lung", "leftlung-3"):
        with pytest.raises(SAM3DError, match="'left lung' or 'Left_Lung'.*number"):
            label_of(text, twins)
    numbered = {"background": 0, "lesion": 1, "lesion_1": 2, "N1": 3}
    assert [label_of(text, numbered) for text in ("lesion", "lesion_1", "lesion-2", "lesion_1-7", "n1")] == [
        1,
        2,
        1,
        2,
        3,
    ]
    for text, both in (("lesion-1", "'lesion_1' or 'lesion'"), ("N-1", "'N1' or 'N'")):
        with pytest.raises(SAM3DError, match=f"could mean {both}"):
            label_of(text, numbered)


def test_names_of_classes_that_are_unknown(label_of):
    assert label_of("background-1", None) == 0
    with pytest.raises(SAM3DError, match="unknown here"):
        label_of("tumour", None)


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("name, label", [("background", 0), ("Tumour", 2), ("negative_points_1", 0), ("clicks", 1)])
def test_the_name_of_the_file_counts_for_points_that_say_nothing(tmp_path, ending, name, label):
    file = WRITERS[ending](tmp_path / f"{name}{ending}", "F-1")
    prompt = read_prompt(file, image_name="case_1", class_names=CLASSES)
    assert prompt.labels.tolist() == [label]
    assert ("of the name" in prompt.notes[0]) == (name != "clicks")
    assert read_prompt(file, image_name=name, class_names=CLASSES).labels.tolist() == [
        1
    ]  # the case's name says nothing
    assert read_prompt(
        WRITERS[ending](file, "lung left"), image_name="case_1", class_names=CLASSES
    ).labels.tolist() == [1]


def test_numbers_in_names_of_files_are_no_labels(tmp_path):
    for name in ("2", "002", "2024-10"):
        file = as_table(tmp_path / f"{name}.csv", "")
        assert read_prompt(file, image_name="case_1", class_names=CLASSES).labels.tolist() == [1]


def test_the_name_of_a_list(tmp_path):
    file = as_markups(tmp_path / "case_1.mrk.json", "F-1", name="exclude")
    assert read_prompt(file, class_names=CLASSES).labels.tolist() == [0]


@pytest.mark.parametrize(
    "case, file_name, list_name, text",
    [
        ("neg_012", "neg_012_0000", None, "F-1"),
        ("neg_012", "neg_012", "neg_012_0000", "neg_012_0000-1"),
        ("N-01", "clicks", "N-01", "N-01-1"),
        ("N-01", "N-01_1", "F", "N-01-1"),
        ("liver_0001", "clicks", "liver_0001_0000", ""),
        ("liver_0001", "liver-0001", "F", "F-2"),
        ("l\u00e9sion_1", "le\u0301sion_1", None, "F-1"),  # two forms of Unicode
    ],
)
def test_names_of_the_case_say_nothing(tmp_path, case, file_name, list_name, text):
    classes = {"background": 0, "kidney": 1, "liver": 2, "l\u00e9sion": 3}
    options = {} if list_name is None else {"name": list_name}
    for ending, write in WRITERS.items():
        file = write(tmp_path / f"{file_name}{ending}", text, **(options if ending == ".mrk.json" else {}))
        assert read_prompt(file, image_name=case, class_names=classes).labels.tolist() == [1], ending


def test_running_numbers_are_no_classes(tmp_path):
    file = as_markups(tmp_path / "case_1.mrk.json", "2", labelFormat="%d")
    with pytest.raises(SAM3DError, match="label '2', a class or a running number.*labelFormat.*description"):
        read_prompt(file, class_names=CLASSES)
    as_markups(file, "2", labelFormat="%N-%d")
    assert read_prompt(file, class_names=CLASSES).labels.tolist() == [2]
    as_markups(file, "tumour", labelFormat="%d")
    assert read_prompt(file, class_names=CLASSES).labels.tolist() == [2]


def test_notes_are_kept_with_the_clicks_of_a_case(tmp_path):
    as_markups(tmp_path / "case_1.mrk.json", "positive-1")
    prompt = ClickSource(CLASSES, tmp_path).prompt("case_1", ImageGeometry(np.eye(4)))
    assert prompt.notes == ("case_1.mrk.json: 1 click(s) name no class and have the label 1 (Lung Left)",)
    only_one = {"background": 0, "tumour": 1}
    assert ClickSource(only_one, tmp_path).prompt("case_1", ImageGeometry(np.eye(4))).notes == ()
