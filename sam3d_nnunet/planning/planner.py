"""The planner: nnU-Net's planning with isotropic spacing, large patches and our settings."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.datasets.raw_dataset import RawDataset
from sam3d_nnunet.datasets.spacing import (
    DEFAULT,
    describe_finer,
    isotropic_spacing,
    refuse_flat_images,
    refuse_target_spacing,
)
from sam3d_nnunet.datasets.splits import refuse_other_splits
from sam3d_nnunet.datasets.usable_files import refuse_unusable_files
from sam3d_nnunet.errors import SAM3DError, show_as_sentence
from sam3d_nnunet.geometry.grid import SMALLEST_PATCH
from sam3d_nnunet.io import read_json_object
from sam3d_nnunet.network.sam3d import default_stride
from sam3d_nnunet.nnunet.folders import dataset_name, preprocessed_root, raw_root
from sam3d_nnunet.nnunet.names import TRAINERS
from sam3d_nnunet.planning.fingerprint import FINGERPRINT, read_fingerprint, refuse_broken_statistics
from sam3d_nnunet.planning.orientation import shared_orientation
from sam3d_nnunet.planning.settings import BLOCK, SAM3DSettings, merge, parse_settings

show_as_sentence()

PLANS = "SAM3DPlans"
"""Default name of the plans."""
MAX_PATCH = 128  # voxels a side, as in the released checkpoints
MIN_EDGE = 4  # voxels a side at the U-Net's lowest resolution
TOKEN_MULTIPLE = 32  # whole windows at stride 4
DATA_NAME = "data_identifier"
"""Key of a configuration with the name of its preprocessed data."""
DATA_OF_PLANS = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
DATA_OF_CONFIGURATION = (
    "spacing",
    "preprocessor_name",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
"""What decides, with the keys before, how images are preprocessed."""


class SAM3DPlanner(ExperimentPlanner):
    """Writes plans with 1 mm target spacing, patches of up to 128^3 and a block "sam3d" in each 3-D configuration.

    Images that are more than twice as fine get a finer spacing, see `isotropic_spacing`. The plans also hold nnU-Net's
    U-Net, fitted to the patch size. nnU-Net's own trainers can use the same plans.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = PLANS,
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        """Arguments are those of nnU-Net's planner.

        Raises:
            SAM3DError: the data set is 2-D, has no foreground, files that nnU-Net would misread, or folds that can't be
                used; or its images are not finite, or become flat.
        """
        if overwrite_target_spacing is not None:
            refuse_target_spacing(overwrite_target_spacing)
        name = dataset_name(str(dataset_name_or_id))
        dataset_json = _refuse_file_names(name)  # again where plan_dataset has just done so; takes milliseconds
        refuse_other_splits(name)
        if (preprocessed_root() / name / FINGERPRINT).is_file():
            read_fingerprint(name, len(dataset_json["channel_names"]))
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        # no cascade, which nnU-Net adds for large images: prediction from clicks uses windows at full resolution
        self.lowres_creation_threshold = 0
        self.patch_size: list[int] | None = None  # along the image's axes, as the target spacing
        self.settings: dict[str, Any] = {}
        self.data_plans = self.plans_identifier
        self._refuse_unusable_data()

    def _refuse_unusable_data(self) -> None:
        shapes = np.array(self.dataset_fingerprint["shapes_after_crop"])
        if (np.median(shapes, axis=0) == 1).any():
            raise SAM3DError(
                f"{self.dataset_name} is a 2-D data set. SAM3DPlanner needs volumes; use nnU-Net's own planner instead."
            )
        images = {case: [Path(file) for file in files["images"]] for case, files in self.dataset.items()}
        fingerprint = Path(nnUNet_preprocessed) / self.dataset_name / "dataset_fingerprint.json"
        if len(shapes) != len(images):
            print(
                f"{fingerprint} describes {len(shapes)} images, but the data set has {len(images)}. If images were "
                "added or removed, delete the file and plan again."
            )
        refuse_broken_statistics(self.dataset_name, self.dataset_fingerprint, images, self._reader, fingerprint)
        target = self.determine_fullres_target_spacing()
        refuse_flat_images(list(images), shapes, self.dataset_fingerprint["spacings"], target)
        label_maps = {case: Path(files["label"]) for case, files in self.dataset.items()}
        try:
            refuse_unusable_files(label_maps, self._reader, images)
        except SAM3DError as e:
            raise SAM3DError(f"{e} Then delete {fingerprint}, which describes these files.") from e

    @cached_property
    def _reader(self) -> BaseReaderWriter:
        """nnU-Net's reader for the data set; to find it, nnU-Net reads the first image."""
        example = next(iter(self.dataset.values()))["images"][0]
        return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)()

    def _orientation(self) -> str | None:
        """How all training images lie, as nnU-Net's reader returns them; None if they differ."""
        images = {case: Path(files["images"][0]) for case, files in self.dataset.items()}
        return shared_orientation(images, self._reader)

    @staticmethod
    def static_estimate_VRAM_usage(
        patch_size: Sequence[int],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: dict[str, Any],
        arch_kwargs_req_import: Sequence[str],
    ) -> int:
        """nnU-Net's estimate, with torch's number of threads: nnU-Net sets nnUNet_n_proc_DA, and torch refuses 0."""
        parts = (arch_class_name, arch_kwargs, arch_kwargs_req_import, input_channels, output_channels)
        return get_network_from_plans(*parts, allow_init=False).compute_conv_feature_map_size(patch_size)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Name of the folder of preprocessed data, which plans that differ in the seed alone share."""
        return f"{self.data_plans}_{configuration_name}"

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """The spacing that the user asks for, or that of `isotropic_spacing`."""
        return np.array(self.overwrite_target_spacing or [self._isotropic_spacing] * 3)

    @cached_property
    def _isotropic_spacing(self) -> float:
        spacings = self.dataset_fingerprint["spacings"]
        side = isotropic_spacing(spacings)
        if side != DEFAULT:
            print(describe_finer(spacings, side))
        return side

    def get_plans_for_configuration(self, spacing, median_shape, *args, **kwargs) -> dict[str, Any]:
        """nnU-Net's plan with our patch size, a U-Net fitted to it, and our settings. 2-D plans stay as they are."""
        plan = super().get_plans_for_configuration(spacing, median_shape, *args, **kwargs)
        if len(spacing) == 2:
            return plan
        if self.patch_size is None:
            wanted = [patch_side(n) for n in median_shape]
        else:
            wanted = transposed(self.patch_size, self.determine_transpose()[0])
        _, strides, kernel_sizes, patch_size, _ = unet_topology(spacing, wanted)
        stages = len(strides)
        plan["patch_size"] = tuple(int(n) for n in patch_size)
        plan["architecture"]["arch_kwargs"] |= {
            "n_stages": stages,
            "strides": strides,
            "kernel_sizes": kernel_sizes,
            "features_per_stage": tuple(
                min(self.UNet_max_features_3d, self.UNet_base_num_features * 2**i) for i in range(stages)
            ),
            "n_conv_per_stage": self.UNet_blocks_per_stage_encoder[:stages],
            "n_conv_per_stage_decoder": self.UNet_blocks_per_stage_decoder[: stages - 1],
        }
        found = {"stride": default_stride(plan["patch_size"]), "orientation": self._orientation()}
        block = merge(found, self.settings)
        settings = parse_settings(block, f"the plans {self.plans_identifier}")
        _refuse_unknown_trainers(settings, self.plans_identifier)
        plan[BLOCK] = settings.model_dump()
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """As in nnU-Net, but plans that share preprocessed data must agree on how these are made.

        Raises:
            SAM3DError: other plans of the data set call other data by the same name. Nothing is written.
        """
        recursive_fix_for_json_export(plans)
        for file in sorted((preprocessed_root() / self.dataset_name).glob("*.json")):
            if file.stem != self.plans_identifier:
                self._refuse_other_data(plans, file)
        super().save_plans(plans)

    def _refuse_other_data(self, plans: dict[str, Any], file: Path) -> None:
        try:
            others = read_json_object(file, ("configurations", *DATA_OF_PLANS))
        except SAM3DError:  # no plans
            return
        for name, planned in plans["configurations"].items():
            other = others["configurations"].get(name, {})
            if planned.get(DATA_NAME, name) != other.get(DATA_NAME):
                continue
            differs = [key for key in DATA_OF_PLANS if plans[key] != others[key]]
            differs += [key for key in DATA_OF_CONFIGURATION if planned.get(key) != other.get(key)]
            if differs:
                raise SAM3DError(
                    f"The plans {self.plans_identifier} would share the preprocessed data {other[DATA_NAME]} with "
                    f"{file}, but differ from them in {', '.join(differs)}. Plan both with the same recipe and target "
                    f"spacing, or give these plans another name (--overwrite-plans-name), or delete {file}."
                )


def _refuse_file_names(dataset: str) -> dict[str, Any]:
    """Refuse names with which nnU-Net would lose files. Its own commands may have extracted the fingerprint.

    Returns:
        the content of dataset.json.
    """
    folder = raw_root() / dataset
    raw = RawDataset(folder, read_dataset_json(folder / "dataset.json"))
    raw.refuse_file_names()
    return raw.dataset_json


def _refuse_unknown_trainers(settings: SAM3DSettings, plans: str) -> None:
    """Refuse misspelt names, whose arguments no trainer would read."""
    unknown = [trainer for trainer in settings.networks if trainer not in TRAINERS]
    if unknown:
        alike = ", ".join(name for wrong in unknown for name in get_close_matches(wrong, TRAINERS, n=1))
        raise SAM3DError(
            f"The block '{BLOCK}' of the plans {plans} gives arguments of networks for {', '.join(unknown)}, but "
            f"none of our trainers has this name. {f'Did you mean {alike}?' if alike else 'Correct it.'}"
        )


def transposed(sides: Sequence[float], transpose_forward: Sequence[int]) -> list[float]:
    """Numbers along the image's axes in the order of nnU-Net's plans, which begin with the coarsest axis."""
    return [sides[axis] for axis in transpose_forward]


def unet_topology(spacing: Sequence[float], patch_size: Sequence[int]) -> tuple:
    """nnU-Net's layout of a U-Net, as `get_pool_and_conv_props` returns it; the fitted patch size comes fourth."""
    return get_pool_and_conv_props(spacing, patch_size, MIN_EDGE, 999999)


def patch_side(extent: float) -> int:
    """Size of a patch along an axis with a median image size of `extent`, both in voxels.

    It is at least 8 (nnU-Net pads smaller images), at most 128, and is rounded up to a multiple of 32 if that adds at
    most a quarter.
    """
    side = max(SMALLEST_PATCH, min(MAX_PATCH, int(np.ceil(extent))))
    rounded = -(-side // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
    return rounded if rounded <= 1.25 * side else side
