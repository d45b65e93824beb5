"""Convert the authors' checkpoints to nnU-Net model folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import whole_folder, write_json
from sam3d_nnunet.network.sam3d import SAM3D
from sam3d_nnunet.network.weights import load_released_checkpoint
from sam3d_nnunet.planning.settings import BLOCK, parse_settings

TRAINER = "SAM3DAdapterTrainer"
CONFIGURATION = "3d_fullres"
PATCH = (128, 128, 128)  # voxels
SPACING = (1.0, 1.0, 1.0)  # mm
# Turns images so that slices follow each other along d, however the file is stored: KiTS keeps slices along its first
# axis, most others along their last.
READER = "SimpleITKIOWithReorient"
ORIENTATION = "RAS"  # that this reader turns images to
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "tumour": 1},
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": READER,
}


@dataclass(frozen=True)
class ReleasedTask:
    """Intensities of a task in the released code, in HU.

    Attributes:
        low, high: intensities are clipped to this range.
        mean, sd: then the mean is subtracted, and the result divided by the standard deviation.
    """

    low: float
    high: float
    mean: float
    sd: float


TASKS = {
    "kits21_tumor": ReleasedTask(-54, 247, 59.53867, 55.457336),
    "msd_pancreas_tumor": ReleasedTask(-39, 204, 68.45214, 63.422806),
    "lits17_tumor": ReleasedTask(-48, 163, 60.057533, 40.198017),
    "msd_colon": ReleasedTask(-57, 175, 65.175035, 32.651197),
}


def import_released(checkpoint: str | Path, task: str, folder: str | Path) -> Path:
    """Write a model folder for `sam3d predict` and nnU-Net's own prediction.

    Args:
        checkpoint: the authors' file.
        task: that it was trained for, a key of `TASKS`.
        folder: the new model folder; it appears complete or not at all.

    Returns:
        The folder.

    Raises:
        SAM3DError: the task is unknown, the folder exists or can't be written, or the checkpoint is not the authors'.
    """
    folder = Path(folder)
    if task not in TASKS:
        raise SAM3DError(f"There is no released model for {task!r}; choose one of {', '.join(TASKS)}.")
    if folder.exists():
        raise SAM3DError(f"{folder} already exists. Remove it, or name a new folder.")
    network = load_released_checkpoint(checkpoint)
    _refuse_other_sizes(network, checkpoint)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as part:
            _write_model(network, task, part)
    except (OSError, RuntimeError) as e:  # torch reports a full disk as the latter
        raise SAM3DError(f"The model folder {folder} can't be written: {e}") from e
    return folder


def _refuse_other_sizes(network: SAM3D, checkpoint: str | Path) -> None:
    classes = network.num_classes
    if classes != len(DATASET["labels"]):
        raise SAM3DError(f"{checkpoint} has {classes} classes, but released models have two: background and tumour.")


def _write_model(network: SAM3D, task: str, folder: Path) -> None:
    plans = released_plans(task)
    dataset = {"name": task, "description": "Trained by the authors of 3DSAM-adapter.", **DATASET}
    (folder / "fold_0").mkdir()
    write_json(folder / "plans.json", plans, indent=4)
    write_json(folder / "dataset.json", dataset, indent=4)
    # what nnU-Net needs for prediction; there is no training state to resume
    content = {
        "network_weights": network.state_dict(),
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")


def released_plans(task: str) -> dict[str, Any]:
    """nnU-Net's plans for a key of `TASKS`: 1 mm voxels, patches of 128^3, the released normalisation."""
    constants = TASKS[task]
    intensities = {
        "mean": constants.mean,
        "std": constants.sd,
        "percentile_00_5": constants.low,
        "percentile_99_5": constants.high,
    }
    return {
        "dataset_name": task,
        "plans_name": "SAM3DPlans",
        "original_median_spacing_after_transp": SPACING,
        "original_median_shape_after_transp": PATCH,
        "image_reader_writer": READER,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: _configuration(task)},
        "experiment_planner_used": "SAM3DPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def _configuration(task: str) -> dict[str, Any]:
    block = {
        "preset": "paper",
        "stride": 4,
        "num_click_labels": 2,
        "orientation": ORIENTATION,
        "batch_size": 1,
        "clicks": {"policy": "released"},
    }
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"SAM3DPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCH,
        "median_image_size_in_voxels": PATCH,
        "spacing": SPACING,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": _unet(),
        "batch_dice": False,
        BLOCK: parse_settings(block, f"the plans of {task}").model_dump(),
    }


def _unet() -> dict[str, Any]:
    """nnU-Net's default U-Net for this patch: plans must hold one, and nnU-Net's trainers can then use them."""
    _, strides, kernel_sizes, _, _ = get_pool_and_conv_props(SPACING, PATCH, 4, 999999)
    stages = len(strides)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(320, 32 * 2**i) for i in range(stages)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": kernel_sizes,
            "strides": strides,
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
