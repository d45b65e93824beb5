import json

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.planning.recipes import known_recipes, load_recipe

NAMES = [
    "demo",
    "hippocampus",
    "hippocampus_corrections",
    "kits21_ablations",
    "kits21_tumor",
    "lits17_tumor",
    "msd_colon",
    "msd_pancreas_tumor",
    "spine_ablations",
    "spine_mr",
    "spine_mr_ablations",
    "spine_mr_cpu",
    "sts_mr",
    "sts_mr_cpu",
    "sts_pet",
    "sts_pet_cpu",
    "sts_pet_few_cpu",
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
    with pytest.raises(SAM3DError, match="'kits'.*hippocampus_corrections, kits21_ablations, kits21_tumor"):
        load_recipe("kits")


def test_missing_file(tmp_path):
    with pytest.raises(SAM3DError, match=r"mine\.json"):
        load_recipe(tmp_path / "mine.json")


@pytest.mark.parametrize(
    "content, values",
    [
        (b'{\n  "sam3d": {},\n}', ["line 3"]),
        (b"\xff\xfe", ["UTF-8"]),
        (b"[1, 2]", ["object"]),
        (b'{"patchsize": [1, 1, 1], "sam": {}}', ["patchsize", "'sam'", "no such setting"]),
        (b'{"description": 3}', ["description"]),
        (b'{"sam3d": "vit_b"}', ["sam3d"]),
        (b'{"patch_size": [32, 32]}', ["patch_size", "3 items", "[32, 32]"]),
        (b'{"patch_size": [4, 32, 32]}', ["patch_size.0", "8"]),
        (b'{"patch_size": [32, 32, 32.5]}', ["patch_size.2", "32.5"]),
        (b'{"patch_size": [32, 32, true]}', ["patch_size.2", "True"]),
        (b'{"target_spacing": [1, 0, 1]}', ["target_spacing.1", "0.001"]),
        (b'{"target": ["tumour"]}', ["target"]),
        (b'{"target": {"names": []}}', ["target", "names"]),
        (b'{"target": {"names": ["tumour"], "classes": 1}}', ["target", "classes"]),
        (b'{"target_spacing": null}', ["target_spacing", "None"]),
        (b'{"target_spacing": [1, 1e400, 1]}', ["target_spacing.1", "inf"]),
        (b'{"patch_size": [32, 32, 99999999999999999999]}', ["patch_size.2"]),
        (b'{"description": ' + b"[" * 10_000, ["recursion"]),
        (b'{"description": ' + b"9" * 5000 + b"}", ["digits"]),
    ],
)
def test_unusable_files_are_named(tmp_path, content, values):
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(SAM3DError) as error:
        load_recipe(file)
    for value in (str(file), *values):
        assert value in str(error.value)
