"""Commands that prepare a model or a whole run: plan, import-released, demo."""

import json
import tempfile
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from sam3d_nnunet.cli.options import AUTO_HELP, CONFIGURATION, TRAINER, Device, device_name
from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import brief, read_json_object

app = typer.Typer()


@app.command(epilog="Example: sam3d plan -d 320 --recipe kits21_tumor")
def plan(
    dataset: Annotated[list[str], typer.Option("-d", "--dataset", help="Data set id or name. Repeat for several.")],
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            "-c", "--configuration", help="Configuration to preprocess next. Repeat for several. Default: 3d_fullres."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Network: vit_b, vit_l, vit_h, paper or tiny.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a recipe, such as kits21_tumor, or a JSON file."),
    ] = None,
    overwrite_plans_name: Annotated[
        str | None,
        typer.Option(help="Name of the plans. Default: SAM3DPlans."),
    ] = None,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="D H W",
            help="Target spacing in mm, three numbers with spaces between; axes as for nnU-Net's "
            "-overwrite_target_spacing.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of trainings. The name of the plans then ends in _seed and this number; they share the "
            "preprocessed data of the plans without seed.",
        ),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="""Settings that replace the recipe's, such as '{"num_epochs": 50}'."""),
    ] = None,
    data_plans: Annotated[
        str | None, typer.Option(help="Plans with the same spacing, whose preprocessed data these plans use, too.")
    ] = None,
) -> None:
    """Plan a data set for our trainers.

    Writes SAM3DPlans.json, as nnU-Net's planning does with -pl SAM3DPlanner, but needs no registration.
    """
    from sam3d_nnunet.nnunet.folders import dataset_number
    from sam3d_nnunet.planning.plan_dataset import plan_dataset

    chosen = None if settings is None else _json_object(settings)
    for name in dataset:
        plans = plan_dataset(name, recipe, overwrite_plans_name, spacing, preset, seed, chosen, data_plans)
        number = dataset_number(plans.parent.name)
        configurations = " ".join(_known_configurations(plans, configuration or [CONFIGURATION]))
        typer.echo(f"plans: {plans}")
        if (shared := _shared_data(plans, CONFIGURATION)) is None:
            typer.echo(f"next: nnUNetv2_preprocess -d {number} -plans_name {quote(plans.stem)} -c {configurations}")
        else:  # preprocessing would delete what other trainings may read
            typer.echo(f"preprocessed data: {shared}")
            trainer = f"-tr {TRAINER} -p {quote(plans.stem)}"
            typer.echo(f"next: nnUNetv2_train {number} {CONFIGURATION} 0 {trainer}")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise typer.BadParameter(f"--settings is no JSON: {e}.") from e
    if not isinstance(value, dict):
        raise typer.BadParameter(f'--settings must be a JSON object such as {{"num_epochs": 50}}, not {brief(text)}.')
    return value


@app.command("import-released", epilog="Example: sam3d import-released kits.pth --task kits21_tumor -o kits_model")
def import_released(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint released by the authors of 3DSAM-adapter.")],
    task: Annotated[
        str,
        typer.Option(help="What it was trained for: kits21_tumor, msd_pancreas_tumor, lits17_tumor or msd_colon."),
    ],
    folder: Annotated[Path, typer.Option("-o", "--folder", help="Model folder to write. It must not exist.")],
) -> None:
    """Make a model folder from a checkpoint of the authors."""
    from sam3d_nnunet.prediction import import_released as module

    typer.echo(f"model folder: {module.import_released(checkpoint, task, folder)}")
    typer.echo(f"next: sam3d predict -i IMAGE -o OUT -m {quote(str(folder))} --prompts CLICKS")


def _shared_data(plans: Path, configuration: str) -> Path | None:
    """The folder of preprocessed data that these plans share with others, if it is there."""
    identifier = read_json_object(plans)["configurations"][configuration]["data_identifier"]
    folder = plans.parent / identifier
    return folder if identifier != f"{plans.stem}_{configuration}" and folder.is_dir() else None


def _known_configurations(plans: Path, wanted: list[str]) -> list[str]:
    """Configurations that the plans have; nnU-Net's preprocessing skips others without an error."""
    known = read_json_object(plans)["configurations"]
    for name in wanted:
        if name not in known:
            raise SAM3DError(f"{plans} has no configuration {brief(name)}; it has {', '.join(known)}. Correct -c.")
    return wanted


@app.command(epilog="Example: sam3d demo --folder demo --seed 0")
def demo(
    folder: Annotated[
        Path | None,
        typer.Option("-o", "--folder", help="Folder for all files; it is kept. Default: a new temporary folder."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of both trainings.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic data.")] = 0,
    device: Annotated[Device, typer.Option(help=f"Where to train. {AUTO_HELP}")] = Device.auto,
) -> None:
    """Train nnU-Net and our network on synthetic data.

    Compares both in a table and a figure. Takes less than 10 minutes on two idle CPU cores.
    """
    from sam3d_nnunet.demo.pipeline import run_demo

    folder = folder or Path(tempfile.mkdtemp(prefix="sam3d_demo_"))
    typer.echo(f"working in {folder}")
    run_demo(folder, seed, epochs, device_name(device))
