"""Command for napari: export-napari."""

from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet.cli.options import CHECKPOINT, Checkpoint

app = typer.Typer()


@app.command("export-napari", epilog="Example: sam3d export-napari MODEL_FOLDER")
def export_napari(
    model: Annotated[Path, typer.Argument(help="Folder TRAINER__PLANS__CONFIGURATION of the model.")],
    output: Annotated[
        Path | None, typer.Option("-o", help="New folder for a copy that holds only what napari needs.")
    ] = None,
    fold: Annotated[
        str | None, typer.Option("-f", help="With -o: fold to copy, 0 to 4, or all. Default: the first one.")
    ] = None,
    checkpoint: Checkpoint = CHECKPOINT,
) -> None:
    """Let napari-nninteractive run a model without a server.

    Writes inference_session_class.json into the model folder, which tells napari to use our session. napari always
    loads fold_0/checkpoint_final.pth. For another fold or checkpoint, or to take the model to another machine, make a
    copy with -o.
    """
    from sam3d_nnunet.prediction.napari_folder import copy_for_napari, mark_for_napari

    if output is None:
        if fold is not None or checkpoint != CHECKPOINT:
            raise typer.BadParameter("-f and -chk need -o: napari itself loads fold 0 and checkpoint_final.pth.")
        mark_for_napari(model)
    else:
        copied = copy_for_napari(model, output, fold, checkpoint)
        typer.echo(f"copied: fold {copied}, {checkpoint}")
    folder = (output or model).resolve()
    typer.echo(f"In napari, open Plugins > nnInteractive > Settings, choose Local and enter as checkpoint: {folder}")
