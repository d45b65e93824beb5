"""Model folders for napari-nninteractive, which runs sessions without a server.

It loads fold_0/checkpoint_final.pth of a model folder, with the session class that a file in this folder names.
"""

import shutil
from pathlib import Path

import torch

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import whole_folder, write_json
from sam3d_nnunet.prediction.model_folder import FINAL, Fold, choose_folds, load_checkpoint, load_model_folder

SESSION_FILE = "inference_session_class.json"
SESSION_CLASS = "SAM3DSession"
"""As napari finds it, in namespace/nnInteractive/inference/sam3d_session.py."""

FOLD = 0
FOR_TRAINING = ("optimizer_state", "grad_scaler_state")
"""What checkpoints hold to continue a training: two thirds of their size."""


def mark_for_napari(model: Path) -> None:
    """Name our session class in a model folder.

    Raises:
        SAM3DError: the model can't be loaded, or lacks the fold and checkpoint that napari loads.
    """
    if not (model / f"fold_{FOLD}" / FINAL).is_file():
        there = choose_folds(model, None, FINAL)  # or says what the folder holds
        raise SAM3DError(
            f"napari loads fold_{FOLD}/{FINAL}, which {model} lacks. Make a copy of the model with another fold in its "
            f"place: sam3d export-napari {model} -o OUT -f {there[0]}."
        )
    load_model_folder(model, FOLD)
    write_json(model / SESSION_FILE, SESSION_CLASS)


def copy_for_napari(model: Path, output: Path, fold: Fold | None = None, checkpoint_name: str = FINAL) -> Fold:
    """Write a copy of a model that holds what napari needs, and nothing else. It can be taken to another machine.

    Args:
        model: folder TRAINER__PLANS__CONFIGURATION.
        output: folder that does not exist yet.
        fold: None: fold 0, else the first one.
        checkpoint_name: file in the fold.

    Returns:
        The fold that was copied.

    Raises:
        SAM3DError: the model can't be loaded, or there is something at `output`.
    """
    if output.exists():
        raise SAM3DError(f"{output} is there already. Name a new folder with -o.")
    if fold is None:
        fold = choose_folds(model, None, checkpoint_name)[0]  # in numerical order
    load_model_folder(model, fold, checkpoint_name)
    checkpoint = load_checkpoint(model / f"fold_{fold}" / checkpoint_name)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output) as part:
        (part / f"fold_{FOLD}").mkdir()
        kept = {name: content for name, content in checkpoint.items() if name not in FOR_TRAINING}
        torch.save(kept, part / f"fold_{FOLD}" / FINAL)
        for name in ("plans.json", "dataset.json", "LICENSE"):
            if (model / name).is_file():
                shutil.copyfile(model / name, part / name)
        write_json(part / SESSION_FILE, SESSION_CLASS)
    return fold
