"""Commands that measure predictions: prompts, evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet.cli.options import (
    CHECKPOINT,
    CONFIGURATION,
    MAX_WINDOWS,
    PLANS,
    TRAINER,
    WINDOWS_HELP,
    Checkpoint,
    ComputeDevice,
    Configuration,
    Device,
    DisableTTA,
    MaxWindows,
    ModelFolder,
    PerLesion,
    PlansName,
    ResultsFolder,
    TestSet,
    TrainerName,
    Trials,
    Windows,
    device_name,
    stop_if_failed,
)
from sam3d_nnunet.simulation.protocols import AUTOMATIC, PAPER, protocol_help

app = typer.Typer()


@app.command(epilog="Example: sam3d prompts -d 4 --protocol slice_1 --trials 3 -f 0 -o RESULTS")
def prompts(
    results: ResultsFolder,
    dataset: Annotated[str, typer.Option("-d", help="Id or name of the data set.")],
    protocol: Annotated[
        list[str], typer.Option(help="Protocol, such as volume_1; see sam3d evaluate --help. Repeat for several.")
    ],
    trials: Trials = 1,
    fold: Annotated[
        list[str] | None,
        typer.Option("-f", help="Fold whose validation cases get clicks. Repeat for several. Default: all cases."),
    ] = None,
    test: TestSet = None,
) -> None:
    """Draw the clicks of protocols into prompt files.

    The clicks are those of sam3d evaluate, drawn from the label maps. The files are
    RESULTS/prompts/PROTOCOL/trial_T/CASE.json. Any tool that predicts from clicks can use them. Existing files are
    kept. Exit code 1 if a case failed.
    """
    from sam3d_nnunet.evaluation.drawn_prompts import draw_prompts

    if fold and test:
        raise typer.BadParameter("give folds (-f) or a test set (--test), not both.")
    stop_if_failed(draw_prompts(dataset, results, protocol, trials, fold or (), test))
    typer.echo(f"prompts: {results / 'prompts'}")


@app.command(
    epilog="Example: sam3d evaluate -d 4 -f 0 --protocol automatic --protocol volume_1 --trials 3 -o RESULTS; "
    "sam3d evaluate -d 4 -f 0 --protocol volume_1 --server http://localhost:1527 --name nnInteractive -o RESULTS"
)
def evaluate(
    context: typer.Context,
    results: ResultsFolder,
    dataset: Annotated[
        str | None, typer.Option("-d", help="Id or name of the data set. Default: the data set of the model.")
    ] = None,
    configuration: Configuration = CONFIGURATION,
    trainer: TrainerName = TRAINER,
    plans: PlansName = PLANS,
    model: ModelFolder = None,
    fold: Annotated[
        list[str] | None,
        typer.Option(
            "-f",
            help="Fold. Repeat for several. Default: all trained numbered folds. Their ensemble predicts a test set.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Which clicks each case gets; repeat for several. Default: {AUTOMATIC}. Choose from {protocol_help()}"
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Evaluate fold 0 as in the paper: --windows single, its sliding windows for the whole image, and "
            f"{', '.join(str(known) for known in PAPER)}.",
        ),
    ] = False,
    trials: Trials = 1,
    test: TestSet = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Measure this folder of predictions of another program. Needs -d, --name, and -f or --test."),
    ] = None,
    trial: Annotated[
        int, typer.Option(min=0, help="With --predictions: trial whose clicks, or random seed, the program used.")
    ] = 0,
    server: Annotated[
        str | None,
        typer.Option(
            help="Let this server predict, such as http://localhost:1527, which speaks nnInteractive's protocol. Needs "
            "-d, --name, --protocol, and -f or --test. Its key is read from NN_INTERACTIVE_API_KEY."
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            min=0.001,
            help="With --server: seconds for one answer, as to one click; beyond that, the case fails. Default: 300.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the method. Default: name of the model folder.")] = None,
    run_of: Annotated[
        str | None,
        typer.Option(
            "--run-of",
            help="The model is one of several trainings of this method, as with several seeds: tables pool them under "
            "this name. Each needs a --name of its own.",
        ),
    ] = None,
    tolerance: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Tolerance of the surface Dice in mm. Repeat for several. Default: 5."),
    ] = None,
    per_lesion: PerLesion = False,
    checkpoint: Checkpoint = CHECKPOINT,
    disable_tta: DisableTTA = False,
    windows: Annotated[
        Windows | None, typer.Option(help=f"{WINDOWS_HELP} Default: follow, or single with --paper.")
    ] = None,
    max_windows: MaxWindows = MAX_WINDOWS,
    device: ComputeDevice = Device.auto,
) -> None:
    """Predict with drawn clicks and measure the masks.

    The clicks are drawn from the label maps. Exit code 1 if a case failed.
    """
    from sam3d_nnunet.evaluation import evaluate as module
    from sam3d_nnunet.evaluation.external import evaluate_predictions
    from sam3d_nnunet.evaluation.model import PredictionOptions
    from sam3d_nnunet.evaluation.server import evaluate_server
    from sam3d_nnunet.prediction.model_folder import trained_model_folder

    if paper and protocol:
        raise typer.BadParameter("--paper has its own protocols: leave out --protocol.")
    if paper and windows is Windows.follow:
        raise typer.BadParameter("--paper predicts a single window: leave out --windows follow.")
    protocols, tolerances = protocol or [AUTOMATIC], sorted(tolerance or [5.0])
    if time_limit is not None and server is None:
        raise typer.BadParameter("--time-limit is only for --server.")
    if server is not None:
        _check_server_options(context)
        if dataset is None or name is None or not protocol or bool(fold) == (test is not None):
            raise typer.BadParameter("--server needs -d, --name, --protocol, and either folds (-f) or --test.")
        more = {"tolerances": tolerances} | ({} if time_limit is None else {"time_limit": time_limit})
        failed = evaluate_server(server, results, dataset, name, protocols, fold or (), test, trials, **more)
    elif predictions is not None:
        if dataset is None or name is None or len(protocols) > 1 or model or paper or run_of:
            raise typer.BadParameter(
                "--predictions needs -d and --name, and takes at most one --protocol and none of -m, --paper, --run-of."
            )
        if len(fold or []) + (test is not None) != 1:
            raise typer.BadParameter("--predictions needs one fold (-f), whose validation cases they are, or --test.")
        if trials != 1 or per_lesion or windows:
            raise typer.BadParameter(
                "--predictions only measures: --trials and --per-lesion do not apply, nor does --windows. Name the "
                "trial of the predictions with --trial."
            )
        cases = fold[0] if fold else test
        failed = evaluate_predictions(predictions, results, dataset, name, cases, protocols[0], trial, tolerances)
    else:
        if trial:
            raise typer.BadParameter("--trial is only for --predictions. --trials is the number of trials to predict.")
        if model is None and dataset is None:
            raise typer.BadParameter("name the model either by its folder (-m) or by its data set (-d).")
        folder = model or trained_model_folder(dataset, configuration, trainer, plans)
        rule = windows or Windows.follow
        options = PredictionOptions(
            device_name(device), checkpoint, not disable_tta, max_windows, per_lesion, windows=rule.value
        )
        more = {"name": name, "dataset": dataset, "test": test, "tolerances": tolerances, "run_of": run_of}
        if paper:
            failed = module.evaluate_as_in_paper(folder, results, fold or (), trials, options, **more)
        else:
            failed = module.evaluate(folder, results, fold or (), protocols, trials, options, **more)
    stop_if_failed(failed)
    typer.echo(f"results: {results}")


def _check_server_options(context: typer.Context) -> None:
    """Refuse options that say how a model of ours predicts, or what else to do."""
    ours = (
        "configuration",
        "trainer",
        "plans",
        "model",
        "checkpoint",
        "disable_tta",
        "windows",
        "max_windows",
        "device",
    )
    refused = {*ours, "per_lesion", "paper", "predictions", "trial", "run_of"}
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in refused and context.get_parameter_source(option.name).name != "DEFAULT"
    ]
    if given:
        raise typer.BadParameter(f"--server predicts with the model of the server: leave out {', '.join(given)}.")
