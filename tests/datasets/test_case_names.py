import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3d_nnunet.datasets.import_splits import match_names
from sam3d_nnunet.errors import SAM3DError


def test_same_case_in_other_spelling():
    wanted = ["volume-8", "case_00013", "colon_001", "pancreas_331", "v1.2"]
    there = ["Volume_008", "Case13", "colon_001", "pancreas 331", "v12"]
    match = match_names(wanted, there)
    assert match.found == {
        "volume-8": "Volume_008",
        "case_00013": "Case13",
        "colon_001": "colon_001",
        "pancreas_331": "pancreas 331",
    }
    assert match.missing == ["v1.2"] and match.surplus == ["v12"]


@pytest.mark.parametrize("other", ["liver_8", "volume-80", "8", "volume", "volume-8-8", "volume-o8"])
def test_other_cases(other):
    assert match_names(["volume-8"], [other]).found == {}


def test_equal_names_win():
    assert match_names(["case_1"], ["case_1", "case_01"]).found == {"case_1": "case_1"}
    match = match_names(["case_1", "case_01"], ["case_01", "Case-1"])
    assert match.found == {"case_01": "case_01", "case_1": "Case-1"}


@pytest.mark.parametrize(
    "wanted, there", [(["case_1"], ["case_01", "Case-1"]), (["case_1", "case_01"], ["Case-1"]), (["1"], ["01", "001"])]
)
def test_several_candidates(wanted, there):
    with pytest.raises(SAM3DError, match="can't be told"):
        match_names(wanted, there)


NUMBERS = st.sets(st.integers(0, 10**6), min_size=1, max_size=30)


@given(NUMBERS, NUMBERS, st.integers(0, 9), st.integers(0, 9), st.sampled_from("-_. "), st.booleans())
def test_numbered_names(wanted, there, width, other_width, separator, upper):
    """However they are padded, separated and capitalised, exactly the common numbers are found."""
    names = {n: f"case_{n:0{width}}" for n in wanted}
    others = {n: f"{'CASE' if upper else 'case'}{separator}{n:0{other_width}}" for n in there}
    match = match_names(names.values(), others.values())
    assert match.found == {names[n]: others[n] for n in wanted & there}
    assert match.missing == sorted(names[n] for n in wanted - there)
    assert match.surplus == sorted(others[n] for n in there - wanted)


@given(st.sets(st.text()), st.sets(st.text()))
def test_any_names(wanted, there):
    """No name is lost, none is taken twice, equal names are found."""
    try:
        match = match_names(wanted, there)
    except SAM3DError:
        return
    assert match.found.keys() | set(match.missing) == wanted and not match.found.keys() & set(match.missing)
    assert set(match.found.values()) | set(match.surplus) == there
    assert len(set(match.found.values())) == len(match.found) == len(there) - len(match.surplus)
    assert all(match.found[name] == name for name in wanted & there)


@given(st.sets(st.text()))
def test_a_set_matches_itself(names):
    match = match_names(names, names)
    assert match.found == {name: name for name in names} and not match.missing and not match.surplus
