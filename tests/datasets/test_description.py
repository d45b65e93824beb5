import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sam3d_nnunet.datasets.description import description_problems

GOOD = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "kidney": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"labels": {"background": 0, "kidney": 1, "ignore": 2}},
        REGIONS,
        {"overwrite_image_reader_writer": "None"},
        {"description": [1, {}], "licence": None},
        {"channel_names": {str(n): "MR" for n in range(12)}},
    ],
)
def test_good(more):
    assert description_problems(GOOD | more) == {}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("channel_names", {}, "name each channel"),
        ("channel_names", {"0": 1}, "name each channel"),
        ("channel_names", {"1": "a", "0": "b"}, "0, 1 in this order"),
        ("labels", "kidney", "object"),
        ("labels", {"background": 0, "kidney": 1.5}, "kidney"),
        ("labels", {"background": 0, "kidney": True}, "kidney"),
        ("labels", {"background": 0, "kidney": []}, "kidney"),
        ("labels", {"background": [0], "kidney": 1}, '"background": 0'),
        ("labels", {"background": 0, "kidney": 1, "ignore": [2]}, "ignore"),
        ("labels", {"background": 0, "ignore": 1}, "other than the background"),
        ("labels", {"background": 0, "kidney": -1}, "kidney"),
        ("file_ending", "", "dot"),
        ("file_ending", ".", "dot"),
        ("regions_class_order", {}, "list"),
        ("overwrite_image_reader_writer", 1, "name of a reader"),
    ],
)
def test_bad(key, value, words):
    problems = description_problems(GOOD | {key: value})
    assert list(problems) == [key] and words in problems[key]


@pytest.mark.parametrize("order", [None, [1], [1, 2, 3]])
def test_regions_need_their_order(order):
    assert list(description_problems(GOOD | REGIONS | {"regions_class_order": order})) == ["regions_class_order"]


def test_all_problems_at_once():
    assert list(description_problems({"labels": 3})) == ["channel_names", "labels", "numTraining", "file_ending"]


label = st.integers(0, 4)


@given(
    st.dictionaries(
        st.sampled_from(["background", "a", "b", "c", "ignore"]), label | st.lists(label, min_size=1, max_size=3)
    ),
    st.none() | st.lists(label, min_size=1, max_size=4),
)
def test_labels_that_nnunet_takes(labels, order):
    problems = description_problems(GOOD | {"labels": labels, "regions_class_order": order})
    foreground = any(np.any(value) for name, value in labels.items() if name != "ignore")
    assert (not problems) == (nnunet_takes(labels, order) and foreground)


def nnunet_takes(labels: dict, order: list[int] | None) -> bool:
    """By the steps of nnU-Net's own check of a data set."""
    try:
        manager = LabelManager(labels, order)
    except (RuntimeError, AssertionError, TypeError):
        return False
    values = manager.all_labels + ([manager.ignore_label] if manager.has_ignore_label else [])
    return bool((np.ediff1d(values) == 1).all())
