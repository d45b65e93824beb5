"""`sam3d plan`: plan a data set without a registered planner, and compare plans with a recipe."""

from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tqdm import tqdm

from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.usable_files import refuse_unusable_files
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.geometry.label_maps import read_label_map
from sam3d_nnunet.network.sam3d import PRESETS
from sam3d_nnunet.nnunet.folders import dataset_name, refuse_plans_name
from sam3d_nnunet.planning.fingerprint import extract_fingerprint
from sam3d_nnunet.planning.planner import PLANS, SAM3DPlanner, transposed, unet_topology
from sam3d_nnunet.planning.recipe_data import refuse_other_labels
from sam3d_nnunet.planning.recipes import load_recipe
from sam3d_nnunet.planning.settings import BLOCK, merge, parse_settings, planned_block


def plan_dataset(
    dataset: str,
    recipe: str | None = None,
    overwrite_plans_name: str | None = None,
    target_spacing: tuple[float, float, float] | None = None,
    preset: str | None = None,
    seed: int | None = None,
    settings: dict[str, Any] | None = None,
    data_plans: str | None = None,
) -> Path:
    """Write plans as `nnUNetv2_plan_experiment -pl SAM3DPlanner` does. Extracts the fingerprint if there is none.

    Args:
        dataset: id or name of a data set in nnUNet_raw.
        recipe: name or path of a recipe. The other arguments override it.
        overwrite_plans_name: name of the plans, `SAM3DPlans` by default.
        target_spacing: mm along the image's axes. By default 1 mm, unless the images are more than twice as fine.
        preset: size of the network.
        seed: of trainings with these plans, which `seeded_plans` names. They share the preprocessed data of the plans
            without seed.
        settings: of the block "sam3d".
        data_plans: name of plans whose preprocessed data these plans use, too.

    Returns:
        The plans file.

    Raises:
        SAM3DError: nnU-Net's folders are not set, the data set is missing, cannot be used or has other labels than the
            recipe needs, or the plans cannot have this name.
    """
    plans = overwrite_plans_name or PLANS
    refuse_plans_name(plans)
    name = _name_in_raw(dataset)
    chosen = load_recipe(recipe) if recipe else {}
    if recipe:
        for note in refuse_other_labels(recipe, RawDataset.find(name)):
            print(note)
    fingerprint = Path(nnUNet_preprocessed) / name / "dataset_fingerprint.json"
    if not fingerprint.is_file():
        extract_fingerprint(name, *_usable_images(name))
    spacing = target_spacing or chosen.get("target_spacing")
    planner = SAM3DPlanner(
        name,
        plans_name=plans if seed is None else seeded_plans(plans, seed),
        overwrite_target_spacing=spacing and tuple(map(float, spacing)),  # nnU-Net accepts only floats
    )
    planner.patch_size = chosen.get("patch_size")
    planner.settings = _with_preset(merge(chosen.get("sam3d", {}), settings or {}), preset)
    if seed is not None:
        planner.data_plans, planner.settings = plans, merge(planner.settings, {"seed": seed})
    if data_plans is not None:
        refuse_plans_name(data_plans)
        planner.data_plans = data_plans
    planner.plan_experiment()
    return Path(nnUNet_preprocessed) / name / f"{planner.plans_identifier}.json"


def seeded_plans(plans: str, seed: int) -> str:
    """Name of the same plans for trainings with a seed."""
    return f"{plans}_seed{seed}"


def _with_preset(settings: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """Settings with a preset; where they choose no click policy, with one that can train it."""
    if preset is None:
        return settings
    unlabelled = preset in PRESETS and not PRESETS[preset].labelled_prompts
    if unlabelled and settings.get("clicks", {}).get("policy", "default") == "default":
        settings = merge(settings, {"clicks": {"policy": "paper"}})
    return merge(settings, {"preset": preset})


def _name_in_raw(dataset: str) -> str:
    for variable, folder in (("nnUNet_raw", nnUNet_raw), ("nnUNet_preprocessed", nnUNet_preprocessed)):
        if not folder.is_set():
            raise SAM3DError(f"The variable {variable} is not set. Set it as nnU-Net's documentation describes.")
    name = dataset_name(dataset)
    if not (Path(nnUNet_raw) / name / "dataset.json").is_file():
        raise SAM3DError(f"There is no file {Path(nnUNet_raw) / name / 'dataset.json'}. Add it, or correct nnUNet_raw.")
    return name


def _usable_images(name: str) -> tuple[dict[str, list[Path]], BaseReaderWriter]:
    """Images of all cases, and nnU-Net's reader for them.

    Names and files that nnU-Net can't take are refused before its fingerprint describes them, since that stays. So are
    label maps without foreground, on which the fingerprint ends in an IndexError.
    """
    folder = Path(nnUNet_raw) / name
    dataset_json = read_dataset_json(folder / "dataset.json")
    RawDataset(folder, dataset_json).refuse_file_names()
    cases = get_filenames_of_train_images_and_targets(str(folder), dataset_json)
    first = next(iter(cases.values()))
    reader = determine_reader_writer_from_dataset_json(dataset_json, first["images"][0], verbose=False)()
    images = {case: list(map(Path, files["images"])) for case, files in cases.items()}
    label_maps = {case: Path(files["label"]) for case, files in cases.items()}
    refuse_unusable_files(label_maps, reader, images)
    for file in tqdm(label_maps.values(), desc="Looking for foreground"):
        if np.any(read_label_map(file, reader).array > 0):
            return images, reader
    raise SAM3DError(f"The label maps of {name} hold no foreground voxel. Correct them.")


def differences(plans: dict[str, Any], recipe: dict[str, Any], where: str | Path = "the plans") -> list[str]:
    """Names of the settings in which the configuration 3d_fullres of plans differs from a recipe.

    Target spacing and patch size are compared only if the recipe sets them.

    Args:
        plans: content of nnU-Net's plans file.
        recipe: as `load_recipe` reads it.
        where: the file of the plans, for errors.

    Raises:
        SAM3DError: the block "sam3d" of the plans or of the recipe cannot be used.
        KeyError: the plans have no configuration 3d_fullres.
    """
    configuration = plans["configurations"]["3d_fullres"]
    planned = parse_settings(planned_block(plans, "3d_fullres"), where).model_dump()
    found = {key: planned[key] for key in ("stride", "orientation")}  # by the planner, unless the recipe says otherwise
    wanted = parse_settings(merge(found, recipe.get(BLOCK, {})), "the recipe").model_dump()
    found = [key for key in planned if planned[key] != wanted[key]]
    spacing, order = list(configuration["spacing"]), plans["transpose_forward"]
    if "target_spacing" in recipe and transposed(recipe["target_spacing"], order) != spacing:
        found.append("target_spacing")
    if "patch_size" in recipe:
        # fitted, since nnU-Net enlarges patches to what its U-Net can divide
        _, _, _, fitted, _ = unet_topology(spacing, transposed(recipe["patch_size"], order))
        if list(fitted) != list(configuration["patch_size"]):
            found.append("patch_size")
    return found
