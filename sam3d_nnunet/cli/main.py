"""The command `sam3d`: parses, calls, prints. Whatever takes long to import is imported inside the commands."""

import math
import shlex
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sam3d_nnunet import __version__
from sam3d_nnunet.errors import SAM3DError, refusal

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


class Precision(str, Enum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class SAMModel(str, Enum):
    vit_b = "vit_b"
    vit_l = "vit_l"
    vit_h = "vit_h"


def main() -> None:
    """Run `sam3d`; a mistake of the user, or a path that can't be used, becomes one line on stderr and exit code 1."""
    try:
        app()
    except SAM3DError as error:
        _stop(str(error))
    except OSError as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        _stop(sentence)


def _stop(sentence: str) -> NoReturn:
    typer.echo(f"Error: {sentence}", err=True)
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
    from sam3d_nnunet.nnunet import registration

    for file in registration.register():
        typer.echo(f"registered: {file}")


@app.command(epilog="Example: sam3d unregister")
def unregister() -> None:
    """Remove the files that `sam3d register` wrote."""
    from sam3d_nnunet.nnunet import registration

    removed = registration.unregister()
    for file in removed:
        typer.echo(f"removed: {file}")
    if not removed:
        typer.echo("nothing to remove: sam3d_nnunet is not registered")


@app.command(epilog="Example: sam3d doctor")
def doctor() -> None:
    """Say what is installed, set and registered, and what is missing. Exit code 1 if training would fail."""
    from sam3d_nnunet.nnunet.doctor import examine

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
    from sam3d_nnunet.nnunet.folders import dataset_number
    from sam3d_nnunet.planning.plan_dataset import plan_dataset

    for name in dataset:
        plans = plan_dataset(name, recipe, overwrite_plans_name, spacing, preset)
        number = dataset_number(plans.parent.name)
        configurations = " ".join(configuration or ["3d_fullres"])
        typer.echo(f"plans: {plans}")
        typer.echo(f"next: nnUNetv2_preprocess -d {number} -plans_name {plans.stem} -c {configurations}")


@app.command("import-released", epilog="Example: sam3d import-released kits.pth --task kits21_tumor -o kits_model")
def import_released(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the authors of 3DSAM-adapter.")],
    task: Annotated[
        str,
        typer.Option(help="What it was trained for: kits21_tumor, msd_pancreas_tumor, lits17_tumor or msd_colon."),
    ],
    folder: Annotated[Path, typer.Option("-o", "--folder", help="Model folder to write; must not exist.")],
) -> None:
    """Make a model folder for prediction of one of the authors' checkpoints."""
    from sam3d_nnunet.prediction import import_released as module

    typer.echo(f"model folder: {module.import_released(checkpoint, task, folder)}")
    typer.echo(f"next: sam3d predict -i IMAGE -o OUT -m {folder} --prompts CLICKS")


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


@app.command(epilog="Example: sam3d predict -i ct_0000.nii.gz -o out -m MODEL_FOLDER --click 120,96,41=1")
def predict(
    images: Annotated[
        Path,
        typer.Option("-i", help="An image, or a folder of them named as nnU-Net wants it: CASE_0000.nii.gz."),
    ],
    output: Annotated[Path, typer.Option("-o", help="Folder for the segmentations.")],
    model: Annotated[Path | None, typer.Option("-m", help="Model folder; or name it by -d, -c, -tr and -p.")] = None,
    dataset: Annotated[str | None, typer.Option("-d", help="Id or name of the data set that was trained on.")] = None,
    configuration: Annotated[str, typer.Option("-c", help="Configuration that was trained.")] = "3d_fullres",
    trainer: Annotated[str, typer.Option("-tr", help="Trainer.")] = "SAM3DAdapterTrainer",
    plans: Annotated[str, typer.Option("-p", help="Name of the plans.")] = "SAM3DPlans",
    fold: Annotated[
        list[str] | None,
        typer.Option("-f", help="0 to 4 or all; repeat for an ensemble. Default: all numbered folds, else all."),
    ] = None,
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint of each fold.")] = "checkpoint_final.pth",
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompt file, or a folder with one for each case: CASE.json, CASE.mrk.json or CASE.csv."),
    ] = None,
    click: Annotated[
        list[str] | None,
        typer.Option(help="i,j,k or i,j,k=label: voxel of the image file, i along x; repeat for several."),
    ] = None,
    click_mm: Annotated[
        list[str] | None, typer.Option(help="x,y,z or x,y,z=label: LPS millimetres; repeat for several.")
    ] = None,
    refine_from: Annotated[
        Path | None, typer.Option(help="Folder with a segmentation of each case, to be refined; needs no clicks.")
    ] = None,
    per_lesion: Annotated[
        bool, typer.Option("--per-lesion", help="Predict each foreground click on its own, then unite.")
    ] = False,
    instances: Annotated[
        bool, typer.Option("--instances", help="With --per-lesion: also write instance maps, into OUTPUT/instances.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save_probabilities", help="Also write .npz and .pkl, for nnUNetv2_ensemble.")
    ] = False,
    disable_tta: Annotated[bool, typer.Option("--disable_tta", help="Don't average over mirrored images.")] = False,
    skip_finished: Annotated[bool, typer.Option("--continue", help="Skip cases that are finished.")] = False,
    max_windows: Annotated[int, typer.Option(min=1, help="How many windows of an image to look at, at most.")] = 32,
    max_volume: Annotated[
        float | None, typer.Option(min=0, help="Look no further once the mask has so many ml. Default: any volume.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cuda,
    dtype: Annotated[Precision | None, typer.Option(help="Arithmetic. Default: as the model was trained.")] = None,
) -> None:
    """Segment images from clicks. Exit code 1 if a case failed."""
    from tqdm import tqdm

    from sam3d_nnunet.prediction.batch import plan_cases, predict_cases
    from sam3d_nnunet.prediction.cases import ClickSource, TypedClick
    from sam3d_nnunet.prediction.model_folder import trained_model_folder
    from sam3d_nnunet.prediction.predictor import SAM3DPredictor
    from sam3d_nnunet.prediction.writer import CaseWriter

    if (model is None) == (dataset is None):
        raise typer.BadParameter("name the model either by its folder (-m) or by its data set (-d).")
    if instances and not per_lesion:
        raise typer.BadParameter("--instances needs --per-lesion.")
    output.mkdir(parents=True, exist_ok=True)  # before minutes pass, should that be impossible
    predictor = SAM3DPredictor(device.value, dtype and dtype.value, not disable_tta, max_windows, max_volume)
    folder = model or trained_model_folder(dataset, configuration, trainer, plans)
    predictor.initialize_from_trained_model_folder(folder, fold or None, checkpoint)
    names = predictor.model.class_names
    typed = [TypedClick.parse(text, False, names) for text in click or []]
    typed += [TypedClick.parse(text, True, names) for text in click_mm or []]
    writer = CaseWriter(output, predictor.model, save_probabilities, instances)
    clicks = ClickSource(names, prompts, typed)
    cases = plan_cases(predictor, images, clicks, writer, refine_from, overwrite=not skip_finished)
    failed = []
    with tqdm(total=len(cases), unit="case") as bar:
        for report in predict_cases(predictor, cases, writer, per_lesion):
            bar.update()
            bar.write(str(report), file=sys.stderr if report.error else sys.stdout)
            failed += [report.name] if report.error else []
    if failed:
        typer.echo(f"Error: {len(failed)} of {len(cases)} case(s) failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command(
    "predict-sam2d",
    epilog="Example: sam3d predict-sam2d -i imagesTs -o out --prompts prompts/slice_1/trial_0 -d 220 --clip -54 247",
)
def predict_sam2d(
    images: Annotated[Path, typer.Option("-i", help="Folder of images CASE_0000; SAM sees this channel only.")],
    output: Annotated[Path, typer.Option("-o", help="Folder for the segmentations.")],
    prompts: Annotated[
        Path,
        typer.Option(help="Prompt file, or a folder with one for each case: CASE.json, CASE.mrk.json or CASE.csv."),
    ],
    dataset: Annotated[str | None, typer.Option("-d", help="Id or name of the data set, for its labels.")] = None,
    dataset_json: Annotated[Path | None, typer.Option(help="dataset.json with its labels, instead of -d.")] = None,
    model: Annotated[SAMModel, typer.Option(help="Size of SAM.")] = SAMModel.vit_b,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="SAM's weights. Default: SAM3D_CHECKPOINT, the cache, then a download."),
    ] = None,
    clip: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Intensities shown as black and as white. Default: each image's percentiles 0.5 and 99.5."),
    ] = None,
    skip_finished: Annotated[bool, typer.Option("--continue", help="Skip cases that are finished.")] = False,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cuda,
) -> None:
    """Segment axial slices with the original 2-D SAM, each from the clicks on it. Exit code 1 if a case failed.

    Images without a prompt file are left out. prediction.csv notes the seconds of each case, for sam3d evaluate.
    """
    from tqdm import tqdm

    from sam3d_nnunet.baselines.sam2d import SliceCases, SliceSAM, load_sam
    from sam3d_nnunet.datasets.raw_dataset import RawDataset, read_dataset_json
    from sam3d_nnunet.evaluation.results_folder import add_cost
    from sam3d_nnunet.network.device import usable_device
    from sam3d_nnunet.network.weights import sam_checkpoint

    if (dataset is None) == (dataset_json is None):
        raise typer.BadParameter("name the data set either by -d or by its --dataset-json.")
    if clip is not None and not -math.inf < clip[0] < clip[1] < math.inf:
        raise typer.BadParameter("--clip needs two finite intensities, the lower one first.")
    where = usable_device(device.value)
    described = RawDataset.find(dataset).dataset_json if dataset_json is None else read_dataset_json(dataset_json)
    cases = SliceCases(images, output, described)
    clicked = cases.with_clicks(prompts)
    names = [name for name in clicked if not (skip_finished and cases.is_finished(name))]
    sam = SliceSAM(load_sam(model.value, checkpoint or sam_checkpoint(model.value)), where)
    failed = []
    with tqdm(total=len(names), unit="case") as bar:
        for report in cases.predict(sam, names, prompts, clip):
            bar.update()
            bar.write(str(report), file=sys.stderr if report.error else sys.stdout)
            if report.error is None:
                add_cost(output, report.name, report.clicks, None, report.seconds)
            else:
                failed.append(report.name)
    if len(clicked) < len(cases.names):
        left_out = len(cases.names) - len(clicked)
        typer.echo(f"{left_out} of {len(cases.names)} case(s) have no clicks in {prompts} and were left out.")
    if failed:
        typer.echo(f"Error: {len(failed)} of {len(names)} case(s) failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command(epilog="Example: sam3d prompts -d 4 --protocol slice_1 --trials 3 -f 0 -o RESULTS")
def prompts(
    results: Annotated[Path, typer.Option("-o", help="Folder of results of the data set, as for sam3d evaluate.")],
    dataset: Annotated[str, typer.Option("-d", help="Id or name of the data set.")],
    protocol: Annotated[
        list[str], typer.Option(help="As for sam3d evaluate: volume_N, slice_N and so on; repeat for several.")
    ],
    trials: Annotated[int, typer.Option(min=1, help="How many times clicks are drawn.")] = 1,
    fold: Annotated[
        list[str] | None,
        typer.Option("-f", help="Fold to draw for its validation cases; repeat for several. Default: all cases."),
    ] = None,
    test: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Images and label maps (two folders) of a test set, instead of training cases."),
    ] = None,
) -> None:
    """Draw the clicks of protocols from the truth into prompt files, as sam3d evaluate does.

    They are RESULTS/prompts/PROTOCOL/trial_T/CASE.json, for any tool that predicts from clicks. Clicks that are there
    stay. Exit code 1 if a case failed.
    """
    from sam3d_nnunet.evaluation.drawn_prompts import draw_prompts

    if fold and test:
        raise typer.BadParameter("give folds (-f) or a test set (--test), not both.")
    failed = draw_prompts(dataset, results, protocol, trials, fold or (), test)
    if failed:
        typer.echo(f"Error: {len(failed)} case(s) failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"prompts: {results / 'prompts'}")


@app.command(epilog="Example: sam3d evaluate -d 4 -f 0 --protocol automatic --protocol volume_1 --trials 3 -o RESULTS")
def evaluate(
    results: Annotated[Path, typer.Option("-o", help="Folder of results of the data set; several methods share it.")],
    dataset: Annotated[
        str | None, typer.Option("-d", help="Id or name of the data set. Default: that which -m was trained on.")
    ] = None,
    configuration: Annotated[str, typer.Option("-c", help="Configuration that was trained.")] = "3d_fullres",
    trainer: Annotated[str, typer.Option("-tr", help="Trainer.")] = "SAM3DAdapterTrainer",
    plans: Annotated[str, typer.Option("-p", help="Name of the plans.")] = "SAM3DPlans",
    model: Annotated[Path | None, typer.Option("-m", help="Model folder, instead of -c, -tr and -p.")] = None,
    fold: Annotated[
        list[str] | None,
        typer.Option("-f", help="Fold; repeat for several. Default: all trained ones. A test set gets their ensemble."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="automatic, or volume_N, lesion_N, slice_N, center_N, surrounding_N, margin_N (N clicks each; "
            "_off20_5mm behind it moves 20 % of them 5 mm off target), or iterated_N; repeat for several. "
            "Default: automatic."
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The paper's protocols (automatic, volume_1, _3 and _10), windows and fold 0."),
    ] = False,
    trials: Annotated[int, typer.Option(min=1, help="How many times clicks are drawn.")] = 1,
    test: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Images and label maps (two folders) of a test set, instead of validation cases."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Measure this folder of predictions from elsewhere; needs -d, --name, and the cases: -f or --test."
        ),
    ] = None,
    trial: Annotated[
        int, typer.Option(min=0, help="With --predictions: whose clicks, or which random seed, they were made with.")
    ] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the method. Default: that of the model folder.")] = None,
    tolerance: Annotated[
        list[float] | None, typer.Option(min=0, help="Of the surface Dice, in mm; repeat for several. Default: 5.")
    ] = None,
    per_lesion: Annotated[
        bool, typer.Option("--per-lesion", help="Predict each foreground click on its own, then unite.")
    ] = False,
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint of each fold.")] = "checkpoint_final.pth",
    disable_tta: Annotated[bool, typer.Option("--disable_tta", help="Don't average over mirrored images.")] = False,
    max_windows: Annotated[int, typer.Option(min=1, help="How many windows of an image to look at, at most.")] = 32,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cuda,
) -> None:
    """Predict under protocols with clicks drawn from the truth, and measure. Exit code 1 if a case failed."""
    from sam3d_nnunet.evaluation import evaluate as module
    from sam3d_nnunet.evaluation.external import evaluate_predictions
    from sam3d_nnunet.evaluation.model import PredictionOptions
    from sam3d_nnunet.prediction.model_folder import trained_model_folder

    if paper and protocol:
        raise typer.BadParameter("--paper has its own protocols: leave out --protocol.")
    tolerances = sorted(tolerance or [5.0])
    if predictions is not None:
        if dataset is None or name is None or len(protocol or []) > 1 or model or paper:
            raise typer.BadParameter("--predictions needs -d and --name, and takes at most one --protocol.")
        if len(fold or []) + (test is not None) != 1:
            raise typer.BadParameter("--predictions needs one fold (-f), whose validation cases they are, or --test.")
        if trials != 1 or per_lesion:
            raise typer.BadParameter(
                "--trials and --per-lesion are about predicting, which --predictions doesn't do. Say by --trial which "
                "trial the predictions are."
            )
        chosen = fold[0] if fold else test, (protocol or ["automatic"])[0]
        failed = evaluate_predictions(predictions, results, dataset, name, *chosen, trial, tolerances)
    else:
        if trial:
            raise typer.BadParameter("--trial is for --predictions; --trials says how many are drawn and predicted.")
        if model is None and dataset is None:
            raise typer.BadParameter("name the model either by its folder (-m) or by its data set (-d).")
        folder = model or trained_model_folder(dataset, configuration, trainer, plans)
        options = PredictionOptions(device.value, checkpoint, not disable_tta, max_windows, per_lesion)
        more = {"name": name, "dataset": dataset, "test": test, "tolerances": tolerances}
        if paper:
            failed = module.evaluate_as_in_paper(folder, results, fold or (), trials, options, **more)
        else:
            protocols = protocol or ["automatic"]
            failed = module.evaluate(folder, results, fold or (), protocols, trials, options, **more)
    if failed:
        typer.echo(f"Error: {len(failed)} case(s) failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"results: {results}")


@app.command(epilog="Example: sam3d figures RESULTS --baseline nnU-Net --case case_00002")
def figures(
    results: Annotated[Path, typer.Argument(help="Folder that sam3d evaluate wrote.")],
    output: Annotated[Path | None, typer.Option("-o", help="Folder for the figures. Default: RESULTS/figures.")] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Case to be overlaid; repeat for several. Default: the best, the median and the worst one."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Method that the others are compared with: its folder's or display name.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="Protocol to show, such as volume_1; repeat for several. Default: all.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method to show; repeat for several. Default: all.")] = None,
) -> None:
    """Draw overlays and plots of a folder of results, as PNG and SVG."""
    from sam3d_nnunet.evaluation.results import Results
    from sam3d_nnunet.report.figures import write_figures

    folder = output or results / "figures"
    files = write_figures(Results(results), folder, case, baseline, protocol, method)
    typer.echo(f"{len(files)} files in {folder}")


class PaperDataset(str, Enum):
    kits21 = "kits21"
    msd_pancreas = "msd_pancreas"
    lits17 = "lits17"
    msd_colon = "msd_colon"


@app.command(epilog="Example: sam3d table RESULTS --baseline nnU-Net --with-paper kits21")
def table(
    results: Annotated[Path, typer.Argument(help="Folder that sam3d evaluate wrote.")],
    output: Annotated[Path | None, typer.Option("-o", help="Folder for the tables. Default: RESULTS/table.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to show: its folder's or display name; repeat for several. Default: all."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="Protocol to show, such as volume_1; repeat for several. Default: all.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Method that the others are tested against. Default: nnU-Net's trainer, if it is shown."),
    ] = None,
    with_paper: Annotated[
        PaperDataset | None, typer.Option(help="Add what the paper reports on this data set, marked as such.")
    ] = None,
    lesions: Annotated[bool, typer.Option("--lesions", help="Add the detection of lesions.")] = False,
    without_figures: Annotated[
        bool, typer.Option("--without-figures", help="Leave the figures out of the HTML: faster, and smaller.")
    ] = False,
) -> None:
    """Write what was measured as Markdown, CSV, LaTeX and HTML with the figures inside."""
    from sam3d_nnunet.evaluation.results import Results
    from sam3d_nnunet.report.tables import write_tables

    paper = with_paper and with_paper.value
    options = {"lesions": lesions, "figures": not without_figures}
    folder = output or results / "table"
    for file in write_tables(Results(results), folder, method, protocol, baseline, paper, **options):
        typer.echo(f"written: {file}")


@app.command(epilog="Example: sam3d benchmark hippocampus -d 4 -o RESULTS -f 0 --device cpu")
def benchmark(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, such as kits21_tumor, or a JSON file.")],
    dataset: Annotated[str, typer.Option("-d", help="Id or name of the data set in nnUNet_raw.")],
    results: Annotated[Path, typer.Option("-o", help="Folder of results of the data set, as for sam3d evaluate.")],
    method: Annotated[
        list[str] | None, typer.Option(help="Method of the recipe to compare; repeat for several. Default: all.")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option("-f", help="Fold; repeat for several. Default: those of the recipe.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="Folder of a Snakemake profile, for SLURM and other clusters. Default: this machine alone."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the commands that are left; folds are drawn where there are none."),
    ] = False,
    device: Annotated[Device, typer.Option(help="Where to train and predict.")] = Device.cuda,
) -> None:
    """Plan, preprocess, train, evaluate and tabulate all methods of a recipe. Exit code 1 if a step failed.

    What is finished is not done again: after a failure or a power cut, the same command goes on.
    """
    from sam3d_nnunet.workflow.benchmark import Benchmark

    job = Benchmark(recipe, dataset, results, method or (), fold or (), device.value)
    if dry_run:
        steps = job.left()
        for step in steps:
            typer.echo("\n  ".join([step.name, *map(shlex.join, step.commands)]))
        typer.echo(f"{len(steps)} step(s) left to run")
        return
    unfinished = job.run(profile)
    for step in unfinished:
        typer.echo(f"not finished: {step.name}. {job.explain(step)}", err=True)
    for file in job.report():
        typer.echo(f"written: {file}")
    if unfinished:
        typer.echo(f"Error: {len(unfinished)} step(s) are not finished.", err=True)
        raise typer.Exit(1)


splits_app = typer.Typer(
    help="nnU-Net's folds of a data set.",
    epilog="Example: sam3d splits show -d 220",
    no_args_is_help=True,
    rich_markup_mode=None,
)
dataset_app = typer.Typer(
    help="Data sets of the paper in nnU-Net's layout.",
    epilog="Example: sam3d dataset convert kits21/data -d 220 --layout kits",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(splits_app, name="splits")
app.add_typer(dataset_app, name="dataset")


class TheirValidation(str, Enum):
    train = "train"
    leave_out = "leave-out"


class Layout(str, Enum):
    msd = "msd"
    kits = "kits"
    lits = "lits"


@splits_app.command("import", epilog="Example: sam3d splits import kits.split.pkl -d 220")
def splits_import(
    file: Annotated[Path, typer.Argument(help="Pickled folds of the authors of 3DSAM-adapter.")],
    dataset: Annotated[str, typer.Option("-d", help="Id or name of the data set in nnUNet_raw.")],
    their_validation: Annotated[
        TheirValidation,
        typer.Option(help="Their validation set: train on it, too, or leave it out, as the paper did."),
    ] = TheirValidation.train,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out cases that the data set doesn't have.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other folds of the data set.")] = False,
) -> None:
    """Write splits_final.json from the authors' folds: nnU-Net validates on their test sets.

    Cases are matched by name; those that are missing on either side are listed. The pickle can't run code.
    """
    from sam3d_nnunet.datasets.import_splits import import_splits
    from sam3d_nnunet.datasets.splits_summary import describe_splits

    join = their_validation is TheirValidation.train
    imported = import_splits(file, dataset, join, allow_missing, overwrite)
    typer.echo(f"{'unchanged' if imported.unchanged else 'written'}: {imported.file}")
    for line in [*imported.notes(), *describe_splits(imported.splits)]:
        typer.echo(line)


@splits_app.command("show", epilog="Example: sam3d splits show -d 220")
def splits_show(
    file: Annotated[
        Path | None, typer.Argument(help="A splits_final.json, or a pickle (.pkl) of the authors', instead of -d.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("-d", help="Id or name of the data set in nnUNet_raw.")] = None,
) -> None:
    """Print the sizes of folds, and cases in no fold, in several, or in none of the data set's files."""
    from sam3d_nnunet.datasets.splits_summary import describe_dataset, describe_file

    if (file is None) == (dataset is None):
        raise typer.BadParameter("name either a file or a data set (-d).")
    for line in describe_dataset(dataset) if file is None else describe_file(file):
        typer.echo(line)


@dataset_app.command("convert", epilog="Example: sam3d dataset convert Task07_Pancreas -d 221 --layout msd")
def dataset_convert(
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked data set.")],
    dataset: Annotated[str, typer.Option("-d", help="Free id from 1 to 999, or whole name: Dataset220_KiTS21.")],
    layout: Annotated[Layout, typer.Option(help="How the data set is laid out; see above.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Do without cases that are missing or can't be used.")
    ] = False,
    ignore_label_geometry: Annotated[
        bool,
        typer.Option(
            "--ignore-label-geometry", help="Put label maps on the voxels of their images, whatever they say."
        ),
    ] = False,
) -> None:
    """Convert a published data set into nnUNet_raw. Exit code 1 if cases are missing; repeat to go on.

    msd: a task of the Medical Segmentation Decathlon. The paper used all labelled cases and the published label maps of
    Task07_Pancreas (281 cases; tumour = label 2, "cancer") and Task10_Colon (126 cases; label 1).

    kits: KiTS21, case_00000 to case_00299 with imaging.nii.gz. The paper used all 300 cases and the majority vote of
    the annotations, aggregated_MAJ_seg.nii.gz (kidney 1, tumour 2, cyst 3).

    lits: LiTS17, volume-N.nii and segmentation-N.nii, in one folder or several (liver 1, tumour 2). All 131 training
    volumes are converted; the paper used the 118 with a tumour: see sam3d dataset target --drop-empty.
    """
    from sam3d_nnunet.datasets.convert import convert

    done = convert(source, dataset, layout.value, allow_missing, ignore_label_geometry)
    for note in done.notes:
        typer.echo(f"note: {note}")
    for name, sentence in done.failed.items():
        typer.echo(f"{name}: {sentence}", err=True)
    if not done.complete:
        typer.echo(
            f"Error: {len(done.failed)} case(s) failed. {done.cases} are in {done.folder}; repeat the command "
            "to go on, or finish without the others by --allow-missing.",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"{done.cases} training cases: {done.folder}")


@dataset_app.command("target", epilog="Example: sam3d dataset target -d 220 --label tumour -o 320")
def dataset_target(
    dataset: Annotated[str, typer.Option("-d", help="Id or name of a data set in nnUNet_raw.")],
    label: Annotated[
        list[str], typer.Option(help="Label or region of its dataset.json; repeat to unite several into one.")
    ],
    output: Annotated[str, typer.Option("-o", help="Free id from 1 to 999, or whole name, of the new data set.")],
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out cases without it, as the paper did with LiTS17.")
    ] = False,
) -> None:
    """Make a data set with one foreground label, such as the paper's of tumours; images are linked, folds kept."""
    from sam3d_nnunet.datasets.target import derive_target

    done = derive_target(dataset, label, output, drop_empty)
    typer.echo(f"{done.cases} training cases: {done.folder}")
    typer.echo(f"images: {done.linked} linked, {done.copied} copied")
    if done.splits is not None:
        typer.echo(f"folds: {done.splits}")
    for line in done.notes():
        typer.echo(line)
