"""Commands for nnU-Net's installation: register, unregister, doctor, trainers."""

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


@app.command(epilog="Example: sam3d doctor")
def doctor() -> None:
    """Check the installation, and say what is missing. Exit code 1 if training would fail."""
    from sam3d_nnunet.nnunet.doctor import examine

    failed = False
    for finding in examine():
        typer.echo(str(finding))
        failed |= finding.mark == "FAIL"
    raise typer.Exit(int(failed))


@app.command(epilog="Example: sam3d trainers")
def trainers() -> None:
    """List our trainers by name. After sam3d register, nnUNetv2_train -tr accepts them."""
    from sam3d_nnunet.nnunet.names import TRAINERS, trainer_groups

    width = max(map(len, TRAINERS))
    for group, members in trainer_groups().items():
        typer.echo(f"{group}:")
        for name, trainer in members.items():
            typer.echo(f"  {name:<{width}}  {trainer.summary}")
