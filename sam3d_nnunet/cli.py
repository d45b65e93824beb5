"""The command `sam3d`: parses, calls, prints. Whatever takes long to import is imported inside the commands."""

import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet import __version__
from sam3d_nnunet.errors import SAM3DError

app = typer.Typer(
    name="sam3d",
    help="Promptable 3-D segmentation inside nnU-Net v2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Device(str, Enum):
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def main() -> None:
    """Run `sam3d`; a SAM3DError becomes one line on stderr and exit code 1."""
    try:
        app()
    except SAM3DError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sam3d_nnunet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: sam3d register")
def register() -> None:
    """Let nnU-Net find our trainers and our planner, by two small files inside the installed nnunetv2."""
    from sam3d_nnunet import registration

    for file in registration.register():
        typer.echo(f"registered: {file}")


@app.command(epilog="Example: sam3d unregister")
def unregister() -> None:
    """Remove the files that `sam3d register` wrote."""
    from sam3d_nnunet import registration

    removed = registration.unregister()
    for file in removed:
        typer.echo(f"removed: {file}")
    if not removed:
        typer.echo("nothing to remove: sam3d_nnunet is not registered")


@app.command(epilog="Example: sam3d doctor")
def doctor() -> None:
    """Say what is installed, set and registered, and what is missing. Exit code 1 if training would fail."""
    from sam3d_nnunet.doctor import examine

    failed = False
    for finding in examine():
        typer.echo(str(finding))
        failed |= finding.mark == "FAIL"
    raise typer.Exit(int(failed))


@app.command(epilog="Example: sam3d plan -d 220 --recipe kits21_tumor")
def plan(
    dataset: Annotated[list[str], typer.Option("-d", "--dataset", help="Data set id or name; repeat for several.")],
    configuration: Annotated[
        list[str] | None,
        typer.Option("-c", "--configuration", help="To preprocess next; repeat for several. Default: 3d_fullres."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Network: vit_b, vit_l, vit_h, paper or tiny.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe's name, such as kits21_tumor, or a JSON file."),
    ] = None,
    overwrite_plans_name: Annotated[
        str | None,
        typer.Option(help="Name of the plans. Default: SAM3DPlans."),
    ] = None,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Target spacing in mm, axes as for nnU-Net's -overwrite_target_spacing."),
    ] = None,
) -> None:
    """Write SAM3DPlans.json: the same as nnU-Net's planning with -pl SAM3DPlanner, without registration."""
    from sam3d_nnunet.planning.plan_dataset import plan_dataset

    for name in dataset:
        plans = plan_dataset(name, recipe, overwrite_plans_name, spacing, preset)
        number = int(plans.parent.name[len("Dataset") :].split("_")[0])
        configurations = " ".join(configuration or ["3d_fullres"])
        typer.echo(f"plans: {plans}")
        typer.echo(f"next: nnUNetv2_preprocess -d {number} -plans_name {plans.stem} -c {configurations}")


@app.command(epilog="Example: sam3d demo --folder demo --seed 0")
def demo(
    folder: Annotated[
        Path | None,
        typer.Option("-o", "--folder", help="Where to work; kept. Default: a new temporary folder."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of both trainings.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic data.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.cpu,
) -> None:
    """Train nnU-Net and our trainer on a small synthetic data set and compare them; 10 minutes on 2 CPU cores."""
    from sam3d_nnunet.demo.pipeline import run_demo

    folder = folder or Path(tempfile.mkdtemp(prefix="sam3d_demo_"))
    typer.echo(f"working in {folder}")
    run_demo(folder, seed, epochs, device.value)
