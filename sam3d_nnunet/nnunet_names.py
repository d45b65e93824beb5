"""Which class nnU-Net finds under which name: a light table, read on each of nnU-Net's look-ups."""

import importlib
from collections.abc import Callable

from sam3d_nnunet.errors import SAM3DError, show_as_sentence

OPTIONAL = ("monai", "segment_anything")
"""Packages that only baselines need."""

_TRAINER = "sam3d_nnunet.training.trainer"
_VARIANTS = "sam3d_nnunet.training.variants"
_ABLATIONS = "sam3d_nnunet.training.ablations"
_PUBLISHED = "sam3d_nnunet.training.published"
_BASELINES = "sam3d_nnunet.baselines"
_PROMPTED_UNET = f"{_BASELINES}.prompted_unet_trainer"

TRAINERS = {
    "SAM3DAdapterTrainer": _TRAINER,
    "SAM3DAdapterTrainer_tiny": _VARIANTS,
    "SAM3DAdapterTrainer_clicked": _VARIANTS,
    "SAM3DAdapterTrainer_tiny_clicked": _VARIANTS,
    "SAM3DAdapterTrainer_5epochs": _VARIANTS,
    "SAM3DAdapterTrainer_50epochs": _VARIANTS,
    "SAM3DAdapterTrainer_smoke": _VARIANTS,
    "SAM3DAdapterTrainer_demo": _VARIANTS,
    "SAM3DAdapterTrainer_posenc": _ABLATIONS,
    "SAM3DAdapterTrainer_nomla": _ABLATIONS,
    "SAM3DAdapterTrainer_deepprompt_1234": _ABLATIONS,
    "SAM3DAdapterTrainer_deepprompt_14": _ABLATIONS,
    "SAM3DAdapterTrainer_deepprompt_24": _ABLATIONS,
    "SAM3DAdapterTrainer_deepprompt_34": _ABLATIONS,
    "SAM3DAdapterTrainer_vitl": _ABLATIONS,
    "SAM3DAdapterTrainer_vith": _ABLATIONS,
    "SAM3DAdapterTrainer_paper": _PUBLISHED,
    "SAM3DAdapterTrainer_released": _PUBLISHED,
    "PromptedUNetTrainer": _PROMPTED_UNET,
    "PromptedResEncUNetTrainer": _PROMPTED_UNET,
    "SwinUNETRTrainer": f"{_BASELINES}.swin_unetr",
    "UXNet3DTrainer": f"{_BASELINES}.ux_net",
    "UNETRPPTrainer": f"{_BASELINES}.unetr_pp",
    "NNFormerTrainer": f"{_BASELINES}.nnformer",
    "TransBTSTrainer": f"{_BASELINES}.trans_bts",
    "MedNeXtTrainer": f"{_BASELINES}.med_next",
    "SAM3DFullFineTuneTrainer": f"{_BASELINES}.full_fine_tuning",
    "SAM3DHoulsbyAdapterTrainer": f"{_BASELINES}.houlsby_adapter",
    "SAM3DProTuningTrainer": f"{_BASELINES}.pro_tuning",
    "SAM3DSTAdapterTrainer": f"{_BASELINES}.st_adapter",
    "SAM3DMedTuningTrainer": f"{_BASELINES}.med_tuning",
    "SAM3DAdapterAutoTrainer": f"{_BASELINES}.adapter_auto",
    "nnUNetTrainer_smoke": _VARIANTS,
    "nnUNetTrainer_planned": _VARIANTS,
    "nnUNetTrainer_demo": _VARIANTS,
}

PLANNERS = {"SAM3DPlanner": "sam3d_nnunet.planning.planner"}


def class_lookup(module: str) -> Callable[[str], type]:
    """The `__getattr__` for `module`: imports a class of ours only when its name is asked for.

    It raises AttributeError for names that aren't in the tables, ImportError for classes that can't be loaded, and
    SAM3DError where an optional package is missing.
    """
    places = TRAINERS | PLANNERS

    def lookup(name: str) -> type:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(places[name]), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in OPTIONAL:
                raise
            show_as_sentence()
            raise SAM3DError(f'{name} needs {error.name}: run  pip install "sam3d_nnunet[baselines]"') from error
        except AttributeError as error:
            # nnU-Net asks with hasattr(), which takes any AttributeError for "no such class" and would hide this one.
            raise ImportError(f"{name} could not be loaded from {places[name]}: {error}") from error

    return lookup
