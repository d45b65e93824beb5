"""Commands for nnU-Net's installation: register, unregister, doctor, trainers."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: sam3d register")
def register() -> None:
    """Let nnU-Net find our trainers and our planner. Writes two small files into nnunetv2."""
    from sam3d_nnunet.nnunet import registration

    for file in registration.register():
        typer.echo(f"registered: {file}")


@app.command(epilog="Example: sam3d unregister")
def unregister() -> None:
    """Remove the files that sam3d register wrote."""
    from sam3d_nnunet.nnunet import registration

    removed = registration.unregister()
    for file in removed:
        typer.echo(f"removed: {file}")
    if not removed:
        typer.echo("nothing to remove: sam3d_nnunet is not registered")


@app.command(epilog="Example: sam3d doctor 4")
def doctor(
    dataset: Annotated[
        str | None, typer.Argument(help="Id or name of a data set in nnUNet_raw to check, instead of the installation.")
    ] = None,
) -> None:
    """Check the installation, or a data set before training, and say what to repair.

    Without an argument: what is missing in the installation. Exit code 1 if training would fail.

    With a data set: headers, label values, damaged files, intensities that are not finite, thin volumes, names,
    dataset.json and folds. A line that begins with FAIL is an error: training or measuring would fail, or be wrong
    without a word. A note is worth a look. Exit code 1 if there is an error.
    """
    raise typer.Exit(_examine_installation() if dataset is None else _examine_dataset(dataset))


def _examine_installation() -> int:
    from sam3d_nnunet.nnunet.doctor import examine

    failed = False
    for finding in examine():
        typer.echo(str(finding))
        failed |= finding.mark == "FAIL"
    return int(failed)


def _examine_dataset(dataset: str) -> int:
    from sam3d_nnunet.datasets.check import check_dataset

    checked = check_dataset(dataset)
    for finding in checked.findings:
        typer.echo(str(finding))
    if not checked.findings:
        typer.echo(f"no fault found: {checked.name}, {checked.cases} training cases")
    return int(not checked.usable)


@app.command(epilog="Example: sam3d trainers")
def trainers() -> None:
    """List our trainers by name. After sam3d register, nnUNetv2_train -tr accepts them."""
    from sam3d_nnunet.nnunet.names import TRAINERS, trainer_groups

    width = max(map(len, TRAINERS))
    for group, members in trainer_groups().items():
        typer.echo(f"{group}:")
        for name, trainer in members.items():
            typer.echo(f"  {name:<{width}}  {trainer.summary}")
