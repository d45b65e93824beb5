"""The command that serves a model to viewers: serve."""

from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet.cli.options import CHECKPOINT, Checkpoint, ComputeDevice, Device, Precision, device_name

app = typer.Typer()


@app.command(epilog="Example: sam3d serve MODEL_FOLDER --label tumour")
def serve(
    model: Annotated[Path, typer.Argument(help="Model folder, TRAINER__PLANS__CONFIGURATION.")],
    fold: Annotated[
        list[str] | None,
        typer.Option(
            "--fold", "-f", help="Fold: 0 to 4, or all. Repeat for an ensemble. Default: all numbered folds, else all."
        ),
    ] = None,
    checkpoint: Checkpoint = CHECKPOINT,
    label: Annotated[
        str | None,
        typer.Option(help="Serve this class alone, by name or number, as foreground. Default: all classes."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own (127.0.0.1) needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 1527,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="NN_INTERACTIVE_API_KEY",
            help="Key that clients must send. Set the variable rather than the option, which others can see in the "
            "list of processes.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name by which clients call this server, such as that of a proxy. Repeat."),
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="How many users can work at the same time.")] = 3,
    idle_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which the session of a user who does nothing ends.")
    ] = 600.0,
    cache_gb: Annotated[
        float, typer.Option(min=0, help="Memory for the embeddings of all sessions, on the device.")
    ] = 4.0,
    max_image_gb: Annotated[float, typer.Option(min=0.001, help="Size of the largest image that is taken.")] = 4.0,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose images the page in the browser offers. Repeat for several."),
    ] = None,
    device: ComputeDevice = Device.auto,
    precision: Annotated[Precision | None, typer.Option(help="Arithmetic. Default: as in the training.")] = None,
) -> None:
    """Serve a model to 3D Slicer, napari, Python clients and browsers.

    It speaks the protocol of nnInteractive 2.6. Ctrl-C ends it.
    """
    from sam3d_nnunet.serve.pool import PoolOptions
    from sam3d_nnunet.serve.server import Address, ServedModel, serve

    precision_name = None if precision is None else precision.value
    served = ServedModel(model, fold or None, checkpoint, label, device_name(device), precision_name, cache_gb)
    address = Address(host, port, api_key or None, tuple(allow_host or ()))
    serve(served, address, PoolOptions(sessions, idle_timeout), max_image_gb, images or [], typer.echo)
