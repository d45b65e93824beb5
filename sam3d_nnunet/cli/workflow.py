"""The command that runs a whole comparison: benchmark."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet.cli.options import AUTO_HELP, Device, RawDataset, ResultsFolder, device_name

app = typer.Typer()


@app.command(epilog="Example: sam3d benchmark hippocampus -d 4 -o RESULTS -f 0")
def benchmark(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, such as kits21_tumor, or a JSON file.")],
    dataset: RawDataset,
    results: ResultsFolder,
    method: Annotated[
        list[str] | None, typer.Option(help="Method of the recipe to compare. Repeat for several. Default: all.")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option("-f", help="Fold. Repeat for several. Default: the folds of the recipe.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="Folder of a Snakemake profile, for SLURM and other clusters. Default: this machine alone."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps to run at once on this machine. They share its cores and its GPU. Default: 1.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the remaining commands. Draws the folds if there are none yet."),
    ] = False,
    device: Annotated[
        Device, typer.Option(help=f"Where to train and predict. {AUTO_HELP} With --profile: the GPUs of the cluster.")
    ] = Device.auto,
) -> None:
    """Compare all methods of a recipe, from planning to tables.

    Plans, preprocesses, trains, evaluates and tabulates. Exit code 1 if a step failed. After a failure or a power cut,
    run the same command again: it skips finished steps.
    """
    from sam3d_nnunet.workflow.benchmark import Benchmark

    if profile is not None and jobs is not None:
        raise typer.BadParameter("--jobs is for this machine alone. With --profile, write it into the profile.")
    if device is Device.auto and profile is not None:  # this machine only hands on steps, and may have no GPU
        device = Device.cuda
    job = Benchmark(recipe, dataset, results, method or (), fold or (), device_name(device))
    for note in job.notes():
        typer.echo(note)
    if dry_run:
        steps = job.left()
        for step in steps:
            typer.echo("\n  ".join([step.name, *map(shlex.join, step.commands)]))
        typer.echo(f"{len(steps)} step(s) left to run")
        return
    unfinished = job.run(profile, jobs or 1)
    for step in unfinished:
        typer.echo(f"not finished: {step.name}. {job.explain(step)}", err=True)
    for file in job.report():
        typer.echo(f"written: {file}")
    if unfinished:
        typer.echo(f"Error: {len(unfinished)} step(s) are not finished.", err=True)
        raise typer.Exit(1)
