"""Experiment recipes: JSON files, found by name among the installed ones from any folder, or by path."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from sam3d_nnunet.errors import SAM3DError

KEYS = ("description", "target_spacing", "patch_size", "sam3d", "benchmark")


def known_recipes() -> dict[str, Path]:
    """Name and file of each installed recipe."""
    spec = importlib.util.find_spec("sam3d_nnunet.plans")
    # In a checkout that isn't installed the recipes are still where the repository keeps them.
    folders = spec.submodule_search_locations if spec else [Path(__file__).parents[2] / "plans"]
    return {file.stem: file for folder in folders for file in sorted(Path(folder).glob("*.json"))}


def load_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """Read a recipe. Raises SAM3DError for an unknown name, broken JSON, unknown keys and unusable values."""
    file = _find(name_or_path)
    try:
        recipe = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SAM3DError(f"Recipe {file}, line {error.lineno}: {error.msg}; correct the JSON there.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SAM3DError(f"Recipe {file} cannot be read as UTF-8 text: {error}.") from error
    _check(recipe, file)
    return recipe


def _find(name_or_path: str | Path) -> Path:
    recipes = known_recipes()
    if str(name_or_path) in recipes:
        return recipes[str(name_or_path)]
    file = Path(name_or_path)
    if file.suffix == ".json" or len(file.parts) > 1:
        return file
    known = ", ".join(recipes) or "none"
    raise SAM3DError(f"There is no recipe {str(name_or_path)!r}: use one of {known}, or the path of a .json file.")


def _check(recipe: Any, file: Path) -> None:
    if not isinstance(recipe, dict):
        raise SAM3DError(f"Recipe {file} must be a JSON object with some of the keys {', '.join(KEYS)}.")
    unknown = [key for key in recipe if key not in KEYS]
    if unknown:
        raise SAM3DError(f"Recipe {file} has unknown keys: {', '.join(unknown)}. Known are {', '.join(KEYS)}.")
    if not isinstance(recipe.get("description", ""), str):
        raise SAM3DError(f"Recipe {file}: description must be a text.")
    for block in ("sam3d", "benchmark"):
        if not isinstance(recipe.get(block, {}), dict):
            raise SAM3DError(f"Recipe {file}: {block} must be an object with settings of the {block} block.")
    _check_triple(recipe, "target_spacing", (int, float), file)
    _check_triple(recipe, "patch_size", (int,), file)


def _check_triple(recipe: dict[str, Any], key: str, types: tuple[type, ...], file: Path) -> None:
    if key not in recipe:
        return
    value = recipe[key]
    # type() and not isinstance(), which takes true for 1
    if not isinstance(value, list) or len(value) != 3 or not all(type(v) in types and v > 0 for v in value):
        kind = "whole numbers" if types == (int,) else "numbers"
        raise SAM3DError(f"Recipe {file}: {key} must be a list of three {kind} above 0, not {json.dumps(value)}.")
