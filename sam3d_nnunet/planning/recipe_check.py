"""Do plans that are there agree with a recipe?"""

from typing import Any

from sam3d_nnunet.planning.planner import unet_topology
from sam3d_nnunet.planning.settings import BLOCK, merge, parse_settings, planned_block


def differences(plans: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """What of a recipe isn't as planned in 3d_fullres; patch size and spacing count where the recipe gives them.

    Args:
        plans: as nnU-Net keeps them.
        recipe: as `load_recipe` reads it.

    Raises:
        SAM3DError: the block "sam3d" of either is not usable.
        KeyError: the plans have no 3d_fullres.
    """
    configuration = plans["configurations"]["3d_fullres"]
    planned = parse_settings(planned_block(plans, "3d_fullres"), "the plans").model_dump()
    wanted = parse_settings(merge({"stride": planned["stride"]}, recipe.get(BLOCK, {})), "the recipe").model_dump()
    found = [key for key in planned if planned[key] != wanted[key]]
    # nnU-Net transposes axes, and enlarges patches to what its U-Net divides
    spacing, patch_size = configuration["spacing"], configuration["patch_size"]
    if sorted(recipe.get("target_spacing", spacing)) != sorted(spacing):
        found.append("target_spacing")
    if "patch_size" in recipe:
        _, _, _, fitted, _ = unet_topology(spacing, recipe["patch_size"])
        if sorted(fitted) != sorted(patch_size):
            found.append("patch_size")
    return found
