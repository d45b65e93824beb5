import json

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.recipes import known_recipes, load_recipe

NAMES = [
    "demo",
    "hippocampus",
    "hippocampus_corrections",
    "kits21_tumor",
    "lits17_tumor",
    "msd_colon",
    "msd_pancreas_tumor",
]


@pytest.mark.parametrize("name", NAMES)
def test_installed_recipes_are_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(known_recipes()) == NAMES
    assert load_recipe(name)["sam3d"]["preset"] in ("vit_b", "tiny")


def test_recipe_by_path(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"patch_size": [64, 96, 96], "target_spacing": [1.5, 1, 1]}')
    assert load_recipe(file) == load_recipe(str(file)) == json.loads(file.read_text())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(SAM3DError, match="no recipe 'kits'.*hippocampus_corrections, kits21_tumor"):
        load_recipe("kits")


def test_missing_file(tmp_path):
    with pytest.raises(SAM3DError, match=r"mine\.json cannot be read"):
        load_recipe(tmp_path / "mine.json")


@pytest.mark.parametrize(
    "content, words",
    [
        (b'{\n  "sam3d": {},\n}', "line 3"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (b"[1, 2]", "must be a JSON object"),
        (b'{"patchsize": [1, 1, 1], "sam": {}}', "unknown keys: patchsize, sam"),
        (b'{"description": 3}', "description must be"),
        (b'{"sam3d": "vit_b"}', "sam3d must be an object"),
        (b'{"patch_size": [32, 32]}', "patch_size must be a list of three whole numbers"),
        (b'{"patch_size": [32, 32, 32.5]}', "patch_size must be"),
        (b'{"patch_size": [32, 32, true]}', "patch_size must be"),
        (b'{"target_spacing": [1, 0, 1]}', "target_spacing must be a list of three numbers above 0"),
        (b'{"target_spacing": null}', "target_spacing must be"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, words):
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(SAM3DError) as error:
        load_recipe(file)
    assert str(file) in str(error.value) and words in str(error.value)
