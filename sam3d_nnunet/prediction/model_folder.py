"""Load a trained model from the folder in which nnU-Net keeps it: plans, data set and one checkpoint per fold."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import nn

from sam3d_nnunet.datasets.description import read_dataset_json
from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.file_content import Content, check_content
from sam3d_nnunet.io import brief, listing, read_json_object
from sam3d_nnunet.network.checkpoint_files import TRUST, read_checkpoint, trusted
from sam3d_nnunet.network.prompts import PromptableNetwork
from sam3d_nnunet.network.weights import refuse_broken_weights
from sam3d_nnunet.nnunet.folders import dataset_name
from sam3d_nnunet.nnunet.names import TRAINERS, find_trainer, takes_prompts
from sam3d_nnunet.nnunet.plans_content import check_configuration, check_plans, named_code
from sam3d_nnunet.planning.networks import BUILDERS
from sam3d_nnunet.planning.settings import BLOCK, noted_orientation, trained_settings

FINAL = "checkpoint_final.pth"
Fold = int | str
"""A number, or "all"."""
DAMAGED = "Get a complete copy of the model, or correct what was changed."


class InitialArguments(Content):
    """What a trainer was made with."""

    plans: dict[str, Any]
    configuration: str


class Checkpoint(Content):
    """What one of nnU-Net's checkpoints must hold for a prediction."""

    trainer_name: str
    network_weights: dict[str, Any]
    init_args: InitialArguments
    inference_allowed_mirroring_axes: (
        Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(strict=False, max_length=3)] | None
    ) = None


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, with everything that prediction needs.

    Attributes:
        networks: one for each fold, in evaluation mode.
        plans, configuration, labels, dataset_json: of the training.
        channels: of the images.
        mirror_axes: spatial axes that training mirrored, for test-time mirroring.
        clicks_carry_labels: whether the networks know click labels, so that background and classes can be clicked.
        clicks_select: whether a click stands for the object under it (target policy `clicked`), not for all objects of
            its class.
    """

    networks: list[PromptableNetwork]
    plans: PlansManager
    configuration: ConfigurationManager
    labels: LabelManager
    dataset_json: dict[str, Any]
    channels: int
    mirror_axes: tuple[int, ...] | None
    clicks_carry_labels: bool
    clicks_select: bool

    @property
    def file_ending(self) -> str:
        """Of the data set's images and label maps."""
        return self.dataset_json["file_ending"]

    @property
    def class_names(self) -> dict[str, int]:
        """Labels by name, without regions, which have several labels."""
        return {name: k for name, k in self.dataset_json["labels"].items() if isinstance(k, int) and name != "ignore"}

    @property
    def click_labels(self) -> list[int]:
        """Labels that clicks may have."""
        foreground = [int(label) for label in self.labels.foreground_labels]
        return [0, *foreground] if self.clicks_carry_labels else foreground

    @property
    def region_order(self) -> list[int] | None:
        """For logits of overlapping regions: the label that each region sets, one after the other. None: no regions."""
        return self.labels.regions_class_order if self.labels.has_regions else None

    @property
    def orientation(self) -> str | None:
        """Of the arrays that the networks were trained on, see `geometry.turn`. None: it is not known, or they differ.

        Images are turned to it.
        """
        return noted_orientation(self.configuration.configuration)

    @property
    def takes_maps(self) -> bool:
        """Whether the networks take previous masks, scribbles and boxes."""
        return all(network.takes_maps for network in self.networks)


def load_model_folder(
    folder: str | Path, folds: Sequence[Fold] | Fold | None = None, checkpoint_name: str = FINAL
) -> TrainedModel:
    """Load a model on the CPU.

    Its files are read as data, and run no code: see `load_checkpoint` and `refuse_configuration`.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION, with plans.json, dataset.json and fold_X/.
        folds: one or several folds, whose predictions are averaged. None: see `choose_folds`.
        checkpoint_name: file in each fold.

    Raises:
        SAM3DError: a file is missing or can't be used, or the model takes no prompts.
    """
    folder = Path(folder)
    plans = PlansManager(read_plans(folder))
    dataset_json = read_dataset(folder)
    chosen = choose_folds(folder, folds, checkpoint_name)
    files = [folder / f"fold_{fold}" / checkpoint_name for fold in chosen]
    checkpoints = [load_checkpoint(file) for file in files]
    build = _builder(checkpoints[0], folder)
    configuration_name = checkpoints[0]["init_args"]["configuration"]
    refuse_configuration(plans.plans, configuration_name, folder)
    configuration = plans.get_configuration(configuration_name)
    settings = trained_settings(configuration.configuration.get(BLOCK, {}), str(folder / "plans.json"))
    _refuse_unknown_names(plans, configuration, folder)
    labels = plans.get_label_manager(dataset_json)
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    networks = []
    for file, checkpoint in zip(files, checkpoints):
        network = _build(build, plans, configuration, channels, labels.num_segmentation_heads, folder)
        try:
            network.load_state_dict(checkpoint["network_weights"])
        except (RuntimeError, AttributeError, TypeError) as e:  # values that are no tensors raise all of them
            raise SAM3DError(
                f"{file} doesn't fit the network of plans.json and dataset.json in {folder}: {_short(e)}"
            ) from e
        refuse_broken_weights(
            checkpoint["network_weights"], str(file), "Choose another checkpoint or fold, or train the fold again."
        )
        networks.append(network.eval())
    mirror_axes = checkpoints[0].get("inference_allowed_mirroring_axes")
    return TrainedModel(
        networks,
        plans,
        configuration,
        labels,
        dataset_json,
        channels,
        mirror_axes,
        settings.clicks_carry_labels,
        settings.clicks_select,
    )


def trained_model_folder(dataset: str, configuration: str, trainer: str, plans_name: str) -> Path:
    """Where nnU-Net keeps a model, below the folder that nnUNet_results names.

    Raises:
        SAM3DError: nnUNet_results is not set, or no data set has this id or name.
    """
    name = dataset_name(dataset)
    try:
        return Path(get_output_folder(name, trainer, plans_name, configuration))
    except RuntimeError as e:
        raise SAM3DError(f"The model folder of data set {dataset} can't be found: {e}") from e


def read_plans(folder: Path) -> dict[str, Any]:
    """nnU-Net's plans in a model folder.

    Raises:
        SAM3DError: this is not a model folder, or its plans can't be used.
    """
    _refuse_missing(folder)
    plans = read_json_object(folder / "plans.json", ("dataset_name", "plans_name", "configurations"), _hint(folder))
    check_plans(plans, folder / "plans.json", DAMAGED)
    return plans


def refuse_configuration(plans: dict[str, Any], name: str, folder: Path) -> None:
    """Refuse a configuration of a model's plans that can't be used.

    nnU-Net imports and calls the classes that it names. Others than nnU-Net's and torch's are refused, unless the user
    has set `TRUST`.

    Raises:
        SAM3DError: the plans lack this configuration, a key is wrong, or it names other code.
    """
    file = folder / "plans.json"
    foreign = named_code(check_configuration(plans, name, file, DAMAGED))
    if foreign and not trusted():
        raise SAM3DError(
            f"{file}, configuration {brief(name)}, names {brief(foreign[0])}, which is not loaded because it could run "
            f"any code. Set the variable {TRUST} to 1 if you trust it."
        )


def read_dataset(folder: Path) -> dict[str, Any]:
    """nnU-Net's dataset.json in a model folder.

    Raises:
        SAM3DError: it is missing, or can't be used.
    """
    _refuse_missing(folder)
    return read_dataset_json(folder / "dataset.json", _hint(folder))


def choose_folds(folder: Path, folds: Sequence[Fold] | Fold | None, checkpoint_name: str) -> list[str]:
    """Names of the folds to use, such as "0".

    Args:
        folder: of the model.
        folds: one or several. None: all numbered folds, or else fold_all.
        checkpoint_name: file in each fold.

    Raises:
        SAM3DError: there is no such folder, or a fold without this checkpoint, or no fold with it.
    """
    _refuse_missing(folder)
    there = {fold.name for fold in folder.glob("fold_*") if (fold / checkpoint_name).is_file()}
    if folds is None:
        numbers = sorted(int(name[5:]) for name in there if re.fullmatch("fold_[0-9]+", name))
        chosen = [str(number) for number in numbers] or (["all"] if "fold_all" in there else [])
    else:
        chosen = [str(fold) for fold in ([folds] if isinstance(folds, (int, str)) else folds)]
    missing = [f"fold_{fold}" for fold in chosen if f"fold_{fold}" not in there]
    if missing or not chosen:
        wanted = f"no {checkpoint_name} in {', '.join(missing)}" if missing else f"no fold with {checkpoint_name}"
        raise SAM3DError(f"{folder} has {wanted}. {_content(folder)}")
    return list(dict.fromkeys(chosen))


def load_checkpoint(file: Path) -> dict[str, Any]:
    """One of nnU-Net's checkpoints, on the CPU.

    It is read as data. One that holds more is refused, since loading that could run code, unless the user has set
    `TRUST`.

    Raises:
        SAM3DError: the file is missing or damaged, holds more than data, or is not a checkpoint of nnU-Net.
    """
    checkpoint = read_checkpoint(file, may_be_trusted=True)
    needed = {"trainer_name", "init_args", "network_weights"}
    if not needed <= checkpoint.keys():
        raise SAM3DError(f"{file} is no checkpoint of nnU-Net's. (sam3d import-released converts the authors' files.)")
    check_content({name: checkpoint.get(name) for name in Checkpoint.model_fields}, Checkpoint, file, DAMAGED)
    initial = checkpoint["init_args"]
    check_plans(initial["plans"], file, DAMAGED)
    check_configuration(initial["plans"], initial["configuration"], file, DAMAGED)
    return checkpoint


def trainer_of(checkpoint: dict[str, Any], folder: Path) -> type:
    """The class of the trainer that wrote a checkpoint.

    Raises:
        SAM3DError: it is not installed; the message names the model folder.
    """
    try:
        return find_trainer(checkpoint["trainer_name"])
    except SAM3DError as e:
        raise SAM3DError(f"{folder} can't be used. {e}") from e


def _builder(checkpoint: dict[str, Any], folder: Path) -> Callable[..., PromptableNetwork]:
    """What builds the network of a checkpoint. Only a trainer that isn't ours has to be imported, which takes seconds.

    Raises:
        SAM3DError: the trainer takes no prompts, or is not installed.
    """
    name = checkpoint["trainer_name"]
    if name in TRAINERS:
        build = BUILDERS.get(name)
    else:
        trainer = trainer_of(checkpoint, folder)
        build = trainer.build_network_architecture if takes_prompts(trainer) else None
    if build is None:
        raise SAM3DError(
            f"{folder} was trained with {name}, which takes no clicks. Predict with nnUNetv2_predict, or choose a "
            "model of SAM3DAdapterTrainer or PromptedUNetTrainer."
        )
    return build


def _refuse_unknown_names(plans: PlansManager, configuration: ConfigurationManager, folder: Path) -> None:
    """Refuse plans that name parts of nnU-Net that this version has not."""
    for manager, part in (
        (plans, "label_manager_class"),
        (plans, "image_reader_writer_class"),
        (configuration, "preprocessor_class"),
        (configuration, "resampling_fn_data"),
        (configuration, "resampling_fn_seg"),
        (configuration, "resampling_fn_probabilities"),
    ):
        try:
            found, why = getattr(manager, part), "there is none of this name"
        except Exception as e:  # nnU-Net fails in many ways to find it
            found, why = None, last_line(e)[:200]
        if found is None:
            raise SAM3DError(f"{folder / 'plans.json'}: nnU-Net doesn't find the {part}: {why}. {DAMAGED}")


def _build(
    build: Callable[..., PromptableNetwork],
    plans: PlansManager,
    configuration: ConfigurationManager,
    channels: int,
    classes: int,
    folder: Path,
) -> nn.Module:
    """
    Raises:
        SAM3DError: the plans describe a network that can't be built.
    """
    try:
        return build(plans, configuration, channels, classes, enable_deep_supervision=False)
    except SAM3DError:
        raise
    except Exception as e:  # whatever nnU-Net's code does with such plans
        raise SAM3DError(
            f"The network of {folder / 'plans.json'} can't be built: {last_line(e)[:200]}. {DAMAGED}"
        ) from e


def _short(error: Exception) -> str:
    """The beginning of torch's message, which can list all tensors."""
    text = str(error)
    return text if len(text) < 1000 else f"{text[:1000]} ..."


def _refuse_missing(folder: Path) -> None:
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.glob("*__*__*/")]
        hint = "Give the folder TRAINER__PLANS__CONFIGURATION."
        if beside:
            hint = f"{folder.parent} has {listing(beside)}. Choose one with -tr, -p and -c, or its folder with -m."
        raise SAM3DError(f"There is no model folder {folder}. {hint}")


def _hint(folder: Path) -> str:
    return f"Give the folder TRAINER__PLANS__CONFIGURATION of a model. {_content(folder)}"


def _content(folder: Path) -> str:
    """The content of a model folder, for messages."""
    checkpoints = [str(file.relative_to(folder)) for file in folder.glob("fold_*/*.pth")]
    if checkpoints:
        return f"It holds {listing(checkpoints)}."
    return f"It holds {listing([file.name for file in folder.iterdir()]) or 'nothing'}, no checkpoint."
