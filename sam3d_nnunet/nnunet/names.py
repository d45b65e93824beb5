"""All trainers and planners of ours by name, for nnU-Net's look-ups, help, the tables in the docs and scripts.

nnU-Net reads it at each look-up, so it imports nothing heavy.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from sam3d_nnunet.errors import SAM3DError, show_as_sentence

OPTIONAL = ("monai", "segment_anything")
"""Packages that only baselines need."""

OURS, PUBLISHED, ABLATION = "ours", "as published", "ablation"
CONTROL, NNUNET, NETWORK, TUNING = "prompted control", "nnU-Net", "other network", "other tuning of SAM"


@dataclass(frozen=True)
class Trainer:
    """A trainer of ours.

    Attributes:
        module: below `sam3d_nnunet`, where its class is.
        group: what kind of trainer it is, one of the constants above.
        summary: what it trains, in one line.
    """

    module: str
    group: str
    summary: str


TRAINERS = {
    "SAM3DAdapterTrainer": Trainer(
        "training.trainer", OURS, "the network of the plan, SAM ViT-B by default; 200 epochs of 250 steps"
    ),
    "SAM3DAdapterTrainer_50epochs": Trainer("training.variants", OURS, "the same for 50 epochs"),
    "SAM3DAdapterTrainer_5epochs": Trainer("training.variants", OURS, "the same for 5 epochs"),
    "SAM3DAdapterTrainer_clicked": Trainer(
        "training.variants", OURS, "a click selects: only lesions that hold a prompt are the target"
    ),
    "SAM3DAdapterTrainer_tiny": Trainer(
        "training.variants", OURS, "a small network without SAM's weights, 20 epochs of 50 steps: minutes on a CPU"
    ),
    "SAM3DAdapterTrainer_tiny_clicked": Trainer("training.variants", OURS, "the small network; a click selects"),
    "SAM3DAdapterTrainer_smoke": Trainer("training.variants", OURS, "the small network for 2 epochs of 10 steps"),
    "SAM3DAdapterTrainer_demo": Trainer("training.variants", OURS, "what `sam3d demo` trains"),
    "SAM3DAdapterTrainer_paper": Trainer("training.published", PUBLISHED, "network and training as the paper says"),
    "SAM3DAdapterTrainer_released": Trainer(
        "training.published", PUBLISHED, "network and training as in the authors' released code"
    ),
    "SAM3DAdapterTrainer_posenc": Trainer(
        "training.variants", ABLATION, "SAM's positional encoding of clicks instead of the visual sampler"
    ),
    "SAM3DAdapterTrainer_nomla": Trainer("training.variants", ABLATION, "no multi-layer aggregation in the decoder"),
    "SAM3DAdapterTrainer_deepprompt_1234": Trainer("training.variants", ABLATION, "prompts at all four feature levels"),
    "SAM3DAdapterTrainer_deepprompt_14": Trainer("training.variants", ABLATION, "prompts at feature levels 1 and 4"),
    "SAM3DAdapterTrainer_deepprompt_24": Trainer("training.variants", ABLATION, "prompts at feature levels 2 and 4"),
    "SAM3DAdapterTrainer_deepprompt_34": Trainer("training.variants", ABLATION, "prompts at feature levels 3 and 4"),
    "SAM3DAdapterTrainer_vitl": Trainer("training.variants", ABLATION, "SAM ViT-L as image encoder"),
    "SAM3DAdapterTrainer_vith": Trainer("training.variants", ABLATION, "SAM ViT-H as image encoder"),
    "PromptedUNetTrainer": Trainer(
        "baselines.prompted_unet", CONTROL, "nnU-Net's U-Net of the plan with prompts as input channels"
    ),
    "PromptedResEncUNetTrainer": Trainer(
        "baselines.prompted_unet", CONTROL, "the same with nnU-Net's residual encoder"
    ),
    "nnUNetTrainer_planned": Trainer(
        "training.variants", NNUNET, "nnU-Net's network, loss and optimiser, with lengths and batches of the plan"
    ),
    "nnUNetTrainer_smoke": Trainer("training.variants", NNUNET, "nnU-Net for 2 epochs of 10 steps"),
    "nnUNetTrainer_demo": Trainer("training.variants", NNUNET, "what `sam3d demo` compares with"),
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


def class_lookup(module: str) -> Callable[[str], type]:
    """The `__getattr__` for `module`: imports a class of ours only when its name is asked for.

    It raises AttributeError for names that aren't in the registry, ImportError for classes that can't be loaded, and
    SAM3DError where an optional package is missing.
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
            # nnU-Net asks with hasattr(), which takes any AttributeError for "no such class" and would hide this one.
            raise ImportError(f"{name} could not be loaded from {place}: {error}") from error

    return lookup


def find_trainer(name: str) -> type:
    """The class of a trainer: ours whether registered or not, any other where nnU-Net finds it.

    Raises:
        SAM3DError: there is no such trainer, or a package that it needs is missing.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        found = class_lookup(__name__)(name) if name in TRAINERS else recursive_find_trainer_class_by_name(name)
    except (ImportError, RuntimeError) as error:
        raise SAM3DError(f"The trainer {name} can't be loaded: {error} Install it, or see sam3d doctor.") from error
    if found is None:
        raise SAM3DError(f"The trainer {name} is not installed. Install it, or see sam3d doctor.")
    return found


def takes_prompts(trainer: type) -> bool:
    """Whether a trainer's networks take prompts; the trainer says so itself."""
    return getattr(trainer, "takes_prompts", False)
