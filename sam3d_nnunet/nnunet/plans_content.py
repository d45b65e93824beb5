"""What nnU-Net's plans must hold for a prediction, and which code they may name."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.file_content import Content, Finite, check_content
from sam3d_nnunet.file_names import FileName
from sam3d_nnunet.io import brief

LARGEST = 4096
"""Voxels along an axis of a patch, and numbers of channels, stages and kernels. No network of nnU-Net's has more."""
CODE = re.compile(
    r"(dynamic_network_architectures\.(architectures|building_blocks)\.\w+|torch\.nn(\.modules\.\w+)?)\.[A-Z]\w*"
)
"""Classes that nnU-Net's plans name. nnU-Net imports and calls whatever name stands there."""


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("should be greater than 0")
    return value


def _permutation(axes: list[int]) -> list[int]:
    if sorted(axes) != [0, 1, 2]:
        raise ValueError("should hold the axes 0, 1 and 2 once each")
    return axes


def _small(value: Any) -> Any:
    """Numbers in the arguments of a network, at any depth."""
    if isinstance(value, dict):
        for part in value.values():
            _small(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _small(part)
    elif isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"should hold no number larger than {LARGEST}, such as {brief(value)}")
    return value


def _stages(value: Any) -> Any:
    """A size, a list with one for each stage, or a list of lists with one for each stage and axis."""
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    sizes = [size for part in parts for size in (part if isinstance(part, (list, tuple)) else [part])]
    if not all(type(size) is int and 1 <= size <= LARGEST for size in sizes):
        raise ValueError(f"should hold whole numbers from 1 to {LARGEST}, one for each stage, or each stage and axis")
    return value


Axes = Annotated[list[int], Field(strict=False), AfterValidator(_permutation)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Spacing = Annotated[Finite, AfterValidator(_positive)]
Stages = Annotated[Any, AfterValidator(_stages)]
Sizes = Annotated[list[Size], Field(strict=False, min_length=2, max_length=3)]


class NetworkArguments(Content):
    """What decides the form of nnU-Net's networks: a number for all stages, or one for each stage (and each axis)."""

    n_stages: Size = 1
    features_per_stage: Stages = 1
    kernel_sizes: Stages = 1
    strides: Stages = 1
    n_conv_per_stage: Stages = 1
    n_conv_per_stage_decoder: Stages = 1
    n_blocks_per_stage: Stages = 1


class Architecture(Content):
    """A network of the plans.

    Attributes:
        network_class_name: its class.
        arch_kwargs: what it is called with, of which `NetworkArguments` checks a part.
        requires_import: keys of them whose values name classes, too.
    """

    network_class_name: str
    arch_kwargs: Annotated[NetworkArguments, BeforeValidator(_small)]
    requires_import: Annotated[list[str], Field(strict=False, alias="_kw_requires_import")]


class Configuration(Content):
    """One of the plans' configurations, with what it inherits. Values are as in nnU-Net.

    In checkpoints, where plans don't come from a file, lists may be tuples.
    """

    data_identifier: FileName
    preprocessor_name: str
    batch_size: Annotated[int, Field(ge=1, lt=2**31)]
    patch_size: Sizes
    spacing: Annotated[list[Spacing], Field(strict=False, min_length=2, max_length=3)]
    normalization_schemes: Annotated[list[str], Field(strict=False, min_length=1)]
    use_mask_for_norm: Annotated[list[bool], Field(strict=False, min_length=1)]
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_probabilities: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities_kwargs: dict[str, Any]
    architecture: Architecture | None = None
    previous_stage: str | None = None


class Plans(Content):
    """nnU-Net's plans. Values are as in nnU-Net."""

    dataset_name: FileName
    plans_name: FileName
    image_reader_writer: str
    transpose_forward: Axes
    transpose_backward: Axes
    label_manager: str | None = None
    foreground_intensity_properties_per_channel: dict[str, dict[str, Finite]] | None = None
    configurations: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


def check_plans(plans: Any, where: str | Path, hint: str = "") -> None:
    """Refuse plans that nnU-Net wrote for no prediction of ours.

    Args:
        plans: content of a file.
        where: the file, for errors.
        hint: a sentence for errors that says what to do.

    Raises:
        SAM3DError: names the file and the key.
    """
    check_content(plans, Plans, where, hint)


def check_configuration(plans: dict[str, Any], name: str, where: str | Path, hint: str = "") -> dict[str, Any]:
    """A configuration of plans that `check_plans` has checked, with what it inherits.

    Raises:
        SAM3DError: it isn't there, inherits from itself, or a key is wrong.
    """
    found, seen = {}, []
    while name is not None:
        entry = plans["configurations"].get(name) if isinstance(name, str) else None
        if entry is None or name in seen:
            what = f"lacks the configuration {brief(name)}" if entry is None else f"inherits {brief(name)} from itself"
            raise SAM3DError(f"{where} {what}. {hint}".rstrip())
        seen.append(name)
        found = entry | found
        name = entry.get("inherits_from")
    check_content(found, Configuration, f"{where}, configuration {brief(seen[0])}", hint)
    network = (found.get("architecture") or {}).get("arch_kwargs", {})
    for key in ("kernel_sizes", "strides"):
        stages = network.get(key)
        for stage in stages if isinstance(stages, (list, tuple)) else ():
            if isinstance(stage, (list, tuple)) and len(stage) != len(found["patch_size"]):
                raise SAM3DError(
                    f"{where}, configuration {brief(seen[0])}: {key} of its network should have a number for each axis "
                    f"of the patch, not {brief(stage)}. {hint}".rstrip()
                )
    return found


def named_code(configuration: dict[str, Any]) -> list[str]:
    """What a configuration names that nnU-Net would import and call, and that is none of its classes or torch's."""
    network = configuration.get("architecture") or {}
    values = [network.get("network_class_name"), *map(network.get("arch_kwargs", {}).get, _names(network))]
    return [value for value in values if value is not None and not CODE.fullmatch(str(value))]


def _names(network: dict[str, Any]) -> list[str]:
    return network.get("_kw_requires_import") or []
