"""Recipes: JSON files with the settings of an experiment, found by name if installed, else by path."""

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import SMALLEST_PATCH
from sam3d_nnunet.io import read_json
from sam3d_nnunet.planning.settings import Block

KEYS = ("description", "target", "target_spacing", "patch_size", "sam3d", "benchmark")


class Target(Block):
    """The one foreground class of the data that a recipe is about."""

    names: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1, description="words in the names that this class may have; messages use the first one"
    )
    drop_empty: bool = Field(False, description="whether cases without the class are left out when it is derived")

    @classmethod
    def of(cls, recipe: dict[str, Any], where: str | Path) -> "Target":
        """The target of a recipe that has one. Raises SAM3DError if it can't be used; `where` names the recipe."""
        return cls.read(recipe["target"], f"target of the recipe {where}")

    def is_named(self, label: str) -> bool:
        """Whether a label of a data set has one of the names, or one as a part of its own."""
        return any(name.casefold() in label.casefold() for name in self.names)


def known_recipes() -> dict[str, Path]:
    """Name and file of each installed recipe."""
    spec = importlib.util.find_spec("sam3d_nnunet.plans")
    # a checkout that is not installed keeps them in the folder plans
    folders = spec.submodule_search_locations if spec else [Path(__file__).parents[2] / "plans"]
    return {file.stem: file for folder in folders for file in sorted(Path(folder).glob("*.json"))}


def load_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """Read a recipe.

    Raises:
        SAM3DError: there is no such recipe, it is not JSON, or it has unknown keys or impossible values.
    """
    file = _find(name_or_path)
    recipe = read_json(file, hint="Correct it, or name another recipe.")
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
    raise SAM3DError(f"There is no recipe {str(name_or_path)!r}. Use one of {known}, or the path of a .json file.")


def _check(recipe: Any, file: Path) -> None:
    if not isinstance(recipe, dict):
        raise SAM3DError(f"The recipe {file} must be a JSON object with any of the keys {', '.join(KEYS)}.")
    unknown = [key for key in recipe if key not in KEYS]
    if unknown:
        raise SAM3DError(
            f"The recipe {file} has unknown keys: {', '.join(unknown)}. The known keys are {', '.join(KEYS)}."
        )
    if not isinstance(recipe.get("description", ""), str):
        raise SAM3DError(f"The recipe {file} has a description that is not a text. Put it in quotes.")
    for block in ("sam3d", "benchmark"):
        if not isinstance(recipe.get(block, {}), dict):
            raise SAM3DError(f"{block} of the recipe {file} must be an object with settings.")
    if "target" in recipe:
        Target.of(recipe, file)
    _check_triple(recipe, "target_spacing", (int, float), file)
    _check_triple(recipe, "patch_size", (int,), file)
    if min(recipe.get("patch_size", [SMALLEST_PATCH])) < SMALLEST_PATCH:
        raise SAM3DError(f"patch_size of the recipe {file} must be {SMALLEST_PATCH} or more along every axis.")


def _check_triple(recipe: dict[str, Any], key: str, types: tuple[type, ...], file: Path) -> None:
    if key not in recipe:
        return
    value = recipe[key]
    # type() instead of isinstance(), which accepts true as 1
    if not isinstance(value, list) or len(value) != 3 or not all(type(v) in types and v > 0 for v in value):
        kind = "whole numbers" if types == (int,) else "numbers"
        raise SAM3DError(f"{key} of the recipe {file} must be a list of three {kind} above 0, not {json.dumps(value)}.")
