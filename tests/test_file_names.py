"""Names that others gave and that become files: which are refused, and where."""

import json
import re
import unicodedata
from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from names import names
from unsafe_names import CHOSEN, Names, fixed_names, random_names

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import METHOD, Results
from sam3d_nnunet.evaluation.results_folder import ResultsFolder
from sam3d_nnunet.file_names import LONGEST, alike, file_name_fault, new_name_fault
from sam3d_nnunet.report.html import EmbeddedFigure, to_html
from sam3d_nnunet.report.latex import to_latex
from sam3d_nnunet.report.layout import Cell, Section, Table
from sam3d_nnunet.report.markdown import to_markdown
from sam3d_nnunet.workflow.comparison import PAPER_METHODS, Comparison

ANY = st.text(st.characters(exclude_categories=()), max_size=80)


@given(ANY)
@example("..")
@example("a/../b")
@example("\0")
def test_a_name_that_passes_is_one_file_in_its_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "one file"
    folder.mkdir(exist_ok=True)
    if file_name_fault(name) is not None:
        assert new_name_fault(name) is not None
        return
    file = folder / name
    assert file.parent == folder and file.name == name and file.resolve().parent == folder.resolve()
    assert "\n" not in name and len(name.encode()) <= LONGEST
    (folder / f"{name}_0000.nii.gz").touch()
    assert [other.name for other in folder.iterdir()] == [f"{name}_0000.nii.gz"]
    (folder / f"{name}_0000.nii.gz").unlink()


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40))
def test_letters_and_digits_of_all_scripts_are_fine(name):
    device = name.casefold() in ("con", "prn", "aux", "nul") or name[:3].casefold() in ("com", "lpt")
    assert device or file_name_fault(name) is None and new_name_fault(name) is None


@given(ANY, ANY)
def test_names_are_alike_in_any_order_and_in_capitals(one, other):
    assert (alike([one, other]) is None) == (alike([other, one]) is None)
    assert alike([one, one]) is None
    if one.upper() != one and one.upper().casefold() == one.casefold():
        assert alike([one, other, one.upper()]) is not None


def test_names_as_people_give_them_are_fine():
    assert not [name for name in names(300) if file_name_fault(name)]
    assert not [method["name"] for method in PAPER_METHODS if new_name_fault(method["name"])]
    for name in (
        "Adapter (Houlsby 2019)",
        'our\'s, "best" [a*b?] 病例 $x & 50% #1',
        "--theirs {x}",
        "v1.2",
        "Müller",
        "a|b",
    ):
        assert new_name_fault(name) is None


@pytest.mark.parametrize("name", ["CON", "con.txt", "Aux .x", "NUL", "COM¹.a", "lpt9", "conin$"])
def test_devices_of_windows(name):
    assert "Windows keeps for a device" in file_name_fault(name)
    assert file_name_fault(f"{name[:3]}_{name}") is None


def test_one_folder_on_some_systems():
    forms = [unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")]
    assert alike(forms) == tuple(forms) and alike(["a", "Ours", "b", "ours"]) == ("Ours", "ours")
    assert alike(["a", "b", "a"]) is None


# --- where they are read ---


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Names:
    scene = Names(tmp_path)
    for key, value in scene.environment().items():
        monkeypatch.setenv(key, value)
    return scene


def test_nothing_outside_the_folders_changes(scene):
    """`tests/campaigns/hostile_names.py` takes all names to all places."""
    places = list(scene.places().values())
    random_ones = islice(filter(file_name_fault, random_names(np.random.default_rng(0))), 20)
    chosen = [*fixed_names(scene.root), *random_ones]
    for number, name in enumerate(chosen):
        places[number % len(places)](name)
    places[0](str(scene.root / "victim"))
    for name in CHOSEN:
        scene.in_option(name)
    assert not scene.wrong
    assert {place for place, _ in scene.answers} == set(scene.places())


METHODS = [{"name": "ours", "trainer": "SAM3DAdapterTrainer"}, {"name": "b", "trainer": "SAM3DAdapterTrainer"}]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("<b>", "'methods.1.name'"),
        ("b<i>", "'methods.1.name': .*holds < or >"),
        ("a\nb", "'methods.1.name': .*line break.*'a.nb'"),
        ("a\0b", "'methods.1.name': .*control character"),
        ("b ", "'methods.1.name': .*space"),
        ("b..", "'methods.1.name': .*dot"),
        ("b" * 300, "'methods.1.name': .*200 bytes"),
        ("nul", "'methods.1.name': .*Windows"),
        ("Ours", "the methods 'ours' and 'Ours', whose folders are one"),
        ("Figures", "keep something else"),
        ("ours, seed 1", "a run 'ours, seed 1': the name is that of another method"),
        ("b" * 195, "a run 'bbb.*200 bytes"),
    ],
)
def test_methods_of_recipes(name, said):
    block = {"methods": [METHODS[0], METHODS[1] | {"name": name}], "seeds": [1]}
    with pytest.raises(SAM3DError, match=said) as refused:
        Comparison.parse(block, "the recipe mine")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["trainer", "configuration", "plans", "data"])
def test_other_names_of_recipes(key):
    with pytest.raises(SAM3DError, match="leads to another folder"):
        Comparison.parse({"methods": [METHODS[0] | {key: "../../x"}]}, "the recipe mine")


def test_methods_of_results(tmp_path):
    facts = {"name": "Ours", "trainer": None, "plans": None, "configuration": None, "kind": "automatic", "device": None}
    root = ResultsFolder(tmp_path)
    root.write_method("Ours", facts)
    with pytest.raises(SAM3DError, match="holds the method 'Ours'. 'ours' is the same name but for capitals"):
        root.check_method("ours", facts)
    with pytest.raises(SAM3DError, match="'../x'.* leads to another folder"):
        root.check_method("b", facts | {"run_of": "../x"})
    (tmp_path / "data.json").write_text("{}")
    assert list(Results(tmp_path).methods) == ["Ours"]
    (tmp_path / "a\nb").mkdir()
    (tmp_path / "a\nb" / METHOD).write_text(json.dumps(facts))
    with pytest.raises(SAM3DError, match=r"'a\\nb' can't be a method in .*: the name holds a line break.* Rename it"):
        Results(tmp_path)


def test_reports_escape_names_of_older_results():
    name = "<b>50 %</b> $x_1"
    training = Table(name, [name], [Section("", [[Cell(name), Cell(name)]])], [name])
    row = [Cell(name), Cell(name, detail=name, mark=name)]
    table = Table(name, [name, name], [Section(name, [row])], [name], training=training)
    page = to_html(table, [EmbeddedFigure(f'"{name}', "data:", 1, 1)])
    assert page.count("&lt;b&gt;50 %&lt;/b&gt; $x_1") > 12 and "<b>50" not in page
    assert 'alt="&#34;&lt;b&gt;' in page
    assert r"\textless{}b\textgreater{}50 \%\textless{}/b\textgreater{} \$x\_1" in to_latex(table)
    assert "<" not in re.sub(r"\\<", "", to_markdown(table))


def test_two_listed_cases_that_are_one_file(scene):
    scene.in_list("CASE_1")
    assert not scene.wrong
