"""Recipes: JSON files with the settings of an experiment, found by name if installed, else by path."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sam3d_nnunet.datasets.spacing import LARGEST, SMALLEST
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.grid import SMALLEST_PATCH
from sam3d_nnunet.io import read_json
from sam3d_nnunet.planning.settings import Block

LARGEST_PATCH = 4096
"""Voxels along an axis."""


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


class Recipe(Block):
    """A recipe. The blocks for trainings and for comparisons are checked by whatever uses them."""

    description: str = ""
    target: Target = None
    target_spacing: list[Annotated[float, Field(ge=SMALLEST, le=LARGEST)]] = Field([], min_length=3, max_length=3)
    patch_size: list[Annotated[int, Field(ge=SMALLEST_PATCH, le=LARGEST_PATCH)]] = Field([], min_length=3, max_length=3)
    sam3d: dict[str, Any] = {}
    benchmark: dict[str, Any] = {}


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
    Recipe.read(recipe, f"The recipe {file}")
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
