"""How a model was trained, as far as its checkpoint and the files beside it tell. What they don't tell is None."""

from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from sam3d_nnunet.file_content import Content, Count, Finite, fits
from sam3d_nnunet.io import read_json_object
from sam3d_nnunet.nnunet.names import TRAINERS, follows_block, takes_prompts
from sam3d_nnunet.planning.settings import SAM3DSettings, planned_block, trained_settings

DEBUG = "debug.json"
"""What nnU-Net writes beside its checkpoints when a training starts."""
UNSEEDED = "none"


class _Log(Content):
    """When epochs began and ended, in seconds."""

    epoch_start_timestamps: list[Finite] = []
    epoch_end_timestamps: list[Finite] = []


class _Optimizer(Content):
    state: dict[Any, dict[str, Any]] = {}


def training_facts(checkpoint: dict[str, Any], trainer: type, fold: Path) -> dict[str, Any]:
    """Facts for method.json. They are those of one fold, up to the checkpoint.

    Args:
        checkpoint: of nnU-Net.
        trainer: the class that wrote it.
        fold: the folder of the checkpoint.

    Returns:
        training_hours: of all epochs.
        patch_size: voxels (d, h, w).
        batch_size: patches of a step, over all GPUs.
        epochs: that are complete.
        steps: of the optimiser.
        patches: seen in training, steps times batch.
        mirroring_axes: spatial axes (0, 1, 2) that training mirrors at random; empty: none.
        test_mirroring_axes: those over which predictions are averaged, unless `sam3d evaluate` turns that off.
        seed: of the training, or "none".
        training_cases: of all that the fold has; None: all of them.
        no_click_share: share of the patches that training shows without clicks; None for methods without clicks.
        network: of a baseline, the arguments of its network by name (widths, for ways of tuning SAM the neck).
    """
    initial = checkpoint["init_args"]
    where = f"the plans in {fold}"
    planned = PlansManager(initial["plans"]).get_configuration(initial["configuration"])
    settings = None
    if follows_block(trainer):
        settings = trained_settings(planned_block(initial["plans"], initial["configuration"]), where)
    debug = read_json_object(fold / DEBUG) if (fold / DEBUG).is_file() else {}
    debug = {key: value for key, value in debug.items() if isinstance(value, str)}  # as nnU-Net writes it
    checkpoint = checkpoint | {"current_epoch": _epochs(checkpoint)}
    batch, steps = _batch_size(planned.batch_size, settings, debug), _steps(checkpoint, settings, debug)
    return {
        "training_hours": _hours(checkpoint),
        "patch_size": list(planned.patch_size),
        "batch_size": batch,
        "epochs": checkpoint.get("current_epoch"),
        "steps": steps,
        "patches": None if steps is None else steps * batch,
        "mirroring_axes": _training_mirroring(checkpoint, trainer),
        "test_mirroring_axes": list(checkpoint.get("inference_allowed_mirroring_axes") or ()),
        "seed": _seed(checkpoint, trainer, settings),
        "training_cases": None if settings is None else settings.training_cases,
        "no_click_share": _no_click_share(trainer, settings),
        **_network(trainer, settings),
    }


def _epochs(checkpoint: dict[str, Any]) -> int | None:
    epochs = checkpoint.get("current_epoch")
    return epochs if fits(epochs, Count) else None


def _hours(checkpoint: dict[str, Any]) -> float | None:
    """Of all epochs that nnU-Net has logged."""
    log = checkpoint.get("logging") or {}
    if not fits(log, _Log):
        return None
    starts, ends = (log.get(f"epoch_{event}_timestamps", []) for event in ("start", "end"))
    return sum(end - start for start, end in zip(starts, ends)) / 3600 if ends else None


def _batch_size(planned: int, settings: SAM3DSettings | None, debug: dict[str, str]) -> int:
    """That of the block, or the one that nnU-Net noted for its only GPU, or that of the plan."""
    if settings is not None:
        return settings.batch_size
    noted = debug.get("batch_size", "") if debug.get("is_ddp") == "False" else ""
    return int(noted) if noted.isdecimal() else int(planned)


def _steps(checkpoint: dict[str, Any], settings: SAM3DSettings | None, debug: dict[str, str]) -> int | None:
    """As the optimiser has counted them (AdamW does, SGD doesn't), else epochs times steps of an epoch.

    The published trainings, whose epochs have one step for each case, use AdamW.
    """
    optimizer = checkpoint.get("optimizer_state") or {}
    states = optimizer.get("state") if fits(optimizer, _Optimizer) else None
    if not states:
        return None
    steps = [state.get("step") for state in states.values()]
    counted = [int(step) for step in steps if fits(step, Count | Finite) or isinstance(step, Tensor) and step.ndim == 0]
    if counted:
        return max(counted)
    noted = debug.get("num_iterations_per_epoch", "")
    of_epoch = int(noted) if noted.isdecimal() else settings and settings.steps_per_epoch
    epochs = checkpoint.get("current_epoch")
    return None if of_epoch is None or epochs is None else of_epoch * epochs


def _is_known(checkpoint: dict[str, Any], trainer: type) -> bool:
    """Whether one of the trainers whose code we know has trained it; imported weights have no epoch."""
    return checkpoint.get("current_epoch") is not None and (trainer is nnUNetTrainer or trainer.__name__ in TRAINERS)


def _training_mirroring(checkpoint: dict[str, Any], trainer: type) -> list[int] | None:
    """nnU-Net's trainers mirror at test time along the axes of the training; others say so in `mirroring_axes`."""
    axes = getattr(trainer, "mirroring_axes", checkpoint.get("inference_allowed_mirroring_axes"))
    return list(axes or ()) if axes or _is_known(checkpoint, trainer) else None


def _seed(checkpoint: dict[str, Any], trainer: type, settings: SAM3DSettings | None) -> int | str | None:
    """nnU-Net itself seeds nothing."""
    if not _is_known(checkpoint, trainer):
        return None
    return UNSEEDED if settings is None or settings.seed is None else settings.seed


def _no_click_share(trainer: type, settings: SAM3DSettings | None) -> float | None:
    """Only the policy `default` leaves patches without clicks."""
    if settings is None or not takes_prompts(trainer):
        return None
    return settings.clicks.no_click_share if settings.clicks.policy == "default" else 0.0


def _network(trainer: type, settings: SAM3DSettings | None) -> dict[str, dict[str, Any]]:
    """Only networks of baselines have arguments of their own in the plan."""
    if settings is None or not hasattr(trainer, "network_facts"):
        return {}
    return {"network": trainer.network_facts(settings)}
