"""The registry of our trainers and planners.

nnU-Net's look-ups, `sam3d trainers`, the documentation and the benchmark scripts read it. nnU-Net imports it at each
look-up, so it must import nothing that takes long.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from sam3d_nnunet.errors import SAM3DError, show_as_sentence

OPTIONAL = ("monai", "segment_anything")
"""Packages that only baselines need."""

OURS = "Our network"
PUBLISHED = "Our network, trained as published"
ABLATION = "Ablations"
PUBLISHED_ABLATION = "Ablations of the paper's training"
CONTROL = "nnU-Net's U-Net with prompts"
NNUNET = "nnU-Net's U-Net without prompts"
NETWORK = "Other networks"
TUNING = "Other ways to tune SAM"


@dataclass(frozen=True)
class Trainer:
    """An entry of the registry.

    Attributes:
        module: where its class is, below `sam3d_nnunet`.
        group: what kind of trainer it is; one of the titles above.
        summary: what it trains, in one line.
    """

    module: str
    group: str
    summary: str


TRAINERS = {
    "SAM3DAdapterTrainer": Trainer(
        "training.trainer", OURS, "the network of the plan, SAM ViT-B by default; 200 epochs of 250 steps"
    ),
    "SAM3DAdapterTrainer_50epochs": Trainer("training.variants", OURS, "the network of the plan for 50 epochs"),
    "SAM3DAdapterTrainer_5epochs": Trainer("training.variants", OURS, "the network of the plan for 5 epochs"),
    "SAM3DAdapterTrainer_clicked": Trainer(
        "training.variants", OURS, "a click selects: the target is only the lesions that hold a prompt"
    ),
    "SAM3DAdapterTrainer_tiny": Trainer(
        "training.variants", OURS, "a small network without SAM's weights, 20 epochs of 50 steps, for a CPU"
    ),
    "SAM3DAdapterTrainer_tiny_clicked": Trainer("training.variants", OURS, "the small network; a click selects"),
    "SAM3DAdapterTrainer_smoke": Trainer("training.variants", OURS, "the small network for 2 epochs of 10 steps"),
    "SAM3DAdapterTrainer_demo": Trainer("training.variants", OURS, "the network of sam3d demo"),
    "SAM3DAdapterTrainer_paper": Trainer("training.published", PUBLISHED, "network and training as in the paper"),
    "SAM3DAdapterTrainer_released": Trainer(
        "training.published", PUBLISHED, "network and training as in the authors' released code, for kidney and liver"
    ),
    "SAM3DAdapterTrainer_released_inplane": Trainer(
        "training.published", PUBLISHED, "the same for pancreas and colon: turns and zooms within axial slices"
    ),
    "SAM3DAdapterTrainer_posenc": Trainer(
        "training.ablations", ABLATION, "SAM's positional encoding of clicks instead of the visual sampler"
    ),
    "SAM3DAdapterTrainer_samposenc": Trainer(
        "training.ablations", ABLATION, "SAM's prompt encoder, which encodes positions of clicks and of the image"
    ),
    "SAM3DAdapterTrainer_nomla": Trainer("training.ablations", ABLATION, "no multi-layer aggregation in the decoder"),
    "SAM3DAdapterTrainer_unetalone": Trainer(
        "training.ablations", ABLATION, "the U-Net at full resolution without SAM's encoder"
    ),
    "SAM3DAdapterTrainer_deepprompt_1234": Trainer(
        "training.ablations", ABLATION, "prompts at all four feature levels"
    ),
    "SAM3DAdapterTrainer_deepprompt_14": Trainer("training.ablations", ABLATION, "prompts at feature levels 1 and 4"),
    "SAM3DAdapterTrainer_deepprompt_24": Trainer("training.ablations", ABLATION, "prompts at feature levels 2 and 4"),
    "SAM3DAdapterTrainer_deepprompt_34": Trainer("training.ablations", ABLATION, "prompts at feature levels 3 and 4"),
    "SAM3DAdapterTrainer_vitl": Trainer("training.ablations", ABLATION, "SAM ViT-L as image encoder"),
    "SAM3DAdapterTrainer_vith": Trainer("training.ablations", ABLATION, "SAM ViT-H as image encoder"),
    "SAM3DAdapterTrainer_paper_posenc": Trainer(
        "training.ablations", PUBLISHED_ABLATION, "SAM's positional encoding of clicks instead of the visual sampler"
    ),
    "SAM3DAdapterTrainer_paper_samposenc": Trainer(
        "training.ablations",
        PUBLISHED_ABLATION,
        "SAM's prompt encoder, which encodes positions of clicks and of the image (Fig. 7 a)",
    ),
    "SAM3DAdapterTrainer_paper_nomla": Trainer(
        "training.ablations", PUBLISHED_ABLATION, "no multi-layer aggregation in the decoder (Fig. 7 b)"
    ),
    "SAM3DAdapterTrainer_paper_deepprompt_1234": Trainer(
        "training.ablations", PUBLISHED_ABLATION, "prompts at all four feature levels (Table 3)"
    ),
    "SAM3DAdapterTrainer_paper_deepprompt_14": Trainer(
        "training.ablations", PUBLISHED_ABLATION, "prompts at feature levels 1 and 4 (Table 3)"
    ),
    "SAM3DAdapterTrainer_paper_deepprompt_24": Trainer(
        "training.ablations", PUBLISHED_ABLATION, "prompts at feature levels 2 and 4 (Table 3)"
    ),
    "SAM3DAdapterTrainer_paper_deepprompt_34": Trainer(
        "training.ablations", PUBLISHED_ABLATION, "prompts at feature levels 3 and 4 (Table 3)"
    ),
    "PromptedUNetTrainer": Trainer(
        "baselines.prompted_unet", CONTROL, "the U-Net of the plan; prompts are input channels"
    ),
    "PromptedUNetTrainer_1000epochs": Trainer(
        "baselines.prompted_unet",
        CONTROL,
        "the same for as long and with the batch size as nnU-Net trains itself: 1000 epochs of 250 steps",
    ),
    "PromptedResEncUNetTrainer": Trainer(
        "baselines.prompted_unet", CONTROL, "the U-Net with nnU-Net's residual encoder; prompts are input channels"
    ),
    "PromptedUNetTrainer_adamw": Trainer(
        "baselines.prompted_unet", CONTROL, "the U-Net of the plan with our optimiser, AdamW, instead of nnU-Net's"
    ),
    "nnUNetTrainer_planned": Trainer(
        "training.variants",
        NNUNET,
        "nnU-Net's loss and optimiser, with our numbers of epochs and steps and our batch size",
    ),
    "nnUNetTrainer_smoke": Trainer("training.variants", NNUNET, "nnU-Net's training for 2 epochs of 10 steps"),
    "nnUNetTrainer_demo": Trainer("training.variants", NNUNET, "the U-Net that sam3d demo compares with"),
    "SwinUNETRTrainer": Trainer("baselines.swin_unetr", NETWORK, "Swin UNETR"),
    "UXNet3DTrainer": Trainer("baselines.ux_net", NETWORK, "3D UX-Net"),
    "UNETRPPTrainer": Trainer("baselines.unetr_pp", NETWORK, "UNETR++"),
    "NNFormerTrainer": Trainer("baselines.nnformer", NETWORK, "nnFormer"),
    "TransBTSTrainer": Trainer("baselines.trans_bts", NETWORK, "TransBTS"),
    "MedNeXtTrainer": Trainer("baselines.med_next", NETWORK, "MedNeXt-L"),
    "SAM3DFullFineTuneTrainer": Trainer("baselines.tuned_sam", TUNING, "full fine-tuning of SAM's encoder"),
    "SAM3DHoulsbyAdapterTrainer": Trainer("baselines.houlsby_adapter", TUNING, "Adapter (Houlsby 2019)"),
    "SAM3DProTuningTrainer": Trainer("baselines.pro_tuning", TUNING, "Pro-tuning"),
    "SAM3DSTAdapterTrainer": Trainer("baselines.st_adapter", TUNING, "ST-Adapter"),
    "SAM3DMedTuningTrainer": Trainer("baselines.med_tuning", TUNING, "Med-Tuning"),
    "SAM3DAdapterAutoTrainer": Trainer("baselines.tuned_sam", TUNING, "our image encoder, without prompts"),
}

PLANNERS = {"SAM3DPlanner": "planning.planner"}


def trainer_groups() -> dict[str, dict[str, Trainer]]:
    """The registry by group: title of the group -> its trainers by name."""
    groups: dict[str, dict[str, Trainer]] = {}
    for name, trainer in TRAINERS.items():
        groups.setdefault(trainer.group, {})[name] = trainer
    return groups


def trainers_in(*groups: str) -> tuple[str, ...]:
    """Names of the trainers of some groups."""
    return tuple(name for group in groups for name in trainer_groups()[group])


def class_lookup(module: str) -> Callable[[str], type]:
    """The function `__getattr__` for a module. It imports a registered class when its name is asked for.

    The function raises AttributeError if the registry does not hold the name, ImportError if the class cannot be
    loaded, and SAM3DError if an optional package is missing.
    """
    places = {name: trainer.module for name, trainer in TRAINERS.items()} | PLANNERS

    def lookup(name: str) -> type:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place = f"sam3d_nnunet.{places[name]}"
        try:
            return getattr(importlib.import_module(place), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in OPTIONAL:
                raise
            show_as_sentence()
            raise SAM3DError(f'{name} needs {error.name}: run  pip install "sam3d_nnunet[baselines]"') from error
        except AttributeError as error:
            # nnU-Net asks with hasattr(), which would take this AttributeError for "no such class" and hide it.
            raise ImportError(f"{name} could not be loaded from {place}: {error}") from error

    return lookup


def find_trainer(name: str) -> type:
    """The class of a trainer: one of ours, or any that nnU-Net finds. Ours need no registration.

    Raises:
        SAM3DError: no trainer has this name, or a package that it needs is missing.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        found = class_lookup(__name__)(name) if name in TRAINERS else recursive_find_trainer_class_by_name(name)
    except (AssertionError, ImportError, RuntimeError) as error:  # AssertionError: another class than a trainer
        raise SAM3DError(f"The trainer {name} cannot be loaded ({error}). Run sam3d doctor to see why.") from error
    if found is None:
        raise SAM3DError(f"nnU-Net finds no trainer {name}. Correct the name; sam3d trainers lists ours.")
    return found


def takes_prompts(trainer: type) -> bool:
    """Whether a trainer's network takes prompts."""
    return getattr(trainer, "takes_prompts", False)


def validation_folders(trainer: type) -> tuple[str, ...]:
    """Folders that a trainer's final validation writes. The last file in each is summary.json."""
    return getattr(trainer, "validation_folders", ("validation",))


def follows_block(trainer: type) -> bool:
    """Whether a trainer takes batch size, lengths, clicks and seed from the plan's block "sam3d"."""
    return getattr(trainer, "follows_block", False)
