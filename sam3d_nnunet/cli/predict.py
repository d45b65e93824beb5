"""Commands that segment images from clicks: predict, predict-sam2d."""

import math
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet.cli.options import (
    CHECKPOINT,
    CONFIGURATION,
    MAX_WINDOWS,
    PLANS,
    PROMPTS_HELP,
    TRAINER,
    WINDOWS_HELP,
    Checkpoint,
    ComputeDevice,
    Configuration,
    Continue,
    Device,
    DisableTTA,
    MaxWindows,
    ModelFolder,
    OutputFolder,
    PerLesion,
    PlansName,
    Precision,
    TrainerName,
    Windows,
    device_name,
    shown,
    stop_if_failed,
)

app = typer.Typer()


class SAMModel(str, Enum):
    vit_b = "vit_b"
    vit_l = "vit_l"
    vit_h = "vit_h"


@app.command(epilog="Example: sam3d predict -i ct_0000.nii.gz -o out -m MODEL_FOLDER --click 120,96,41=1")
def predict(
    images: Annotated[
        Path,
        typer.Option("-i", help="An image, or a folder of images: CASE_0000.nii.gz, or other names for one channel."),
    ],
    output: OutputFolder,
    model: ModelFolder = None,
    dataset: Annotated[
        str | None, typer.Option("-d", help="Id or name of the data set that the model was trained on.")
    ] = None,
    configuration: Configuration = CONFIGURATION,
    trainer: TrainerName = TRAINER,
    plans: PlansName = PLANS,
    fold: Annotated[
        list[str] | None,
        typer.Option(
            "-f", help="Fold: 0 to 4, or all. Repeat for an ensemble. Default: all numbered folds, else fold all."
        ),
    ] = None,
    checkpoint: Checkpoint = CHECKPOINT,
    prompts: Annotated[Path | None, typer.Option(help=PROMPTS_HELP)] = None,
    click: Annotated[
        list[str] | None,
        typer.Option(help="i,j,k or i,j,k=label: a voxel of the image file, i along x. Repeat for several."),
    ] = None,
    click_mm: Annotated[
        list[str] | None, typer.Option(help="x,y,z or x,y,z=label: LPS millimetres. Repeat for several.")
    ] = None,
    refine_from: Annotated[
        Path | None, typer.Option(help="Folder with a segmentation of each case to refine. Needs no clicks.")
    ] = None,
    per_lesion: PerLesion = False,
    instances: Annotated[
        bool, typer.Option("--instances", help="With --per-lesion: also write instance maps, into OUTPUT/instances.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save_probabilities", help="Also write .npz and .pkl, for nnUNetv2_ensemble.")
    ] = False,
    disable_tta: DisableTTA = False,
    skip_finished: Continue = False,
    windows: Annotated[Windows, typer.Option(help=WINDOWS_HELP)] = Windows.follow,
    max_windows: MaxWindows = MAX_WINDOWS,
    max_volume: Annotated[
        float | None, typer.Option(min=0, help="Stop adding windows at a mask of this many ml. Default: never.")
    ] = None,
    device: ComputeDevice = Device.auto,
    dtype: Annotated[Precision | None, typer.Option(help="Arithmetic. Default: as in the training.")] = None,
) -> None:
    """Segment images from clicks. Exit code 1 if a case failed."""
    from sam3d_nnunet.prediction.batch import plan_cases, predict_cases
    from sam3d_nnunet.prediction.cases import ClickSource, TypedClick
    from sam3d_nnunet.prediction.model_folder import trained_model_folder
    from sam3d_nnunet.prediction.predictor import SAM3DPredictor
    from sam3d_nnunet.prediction.writer import CaseWriter

    if (model is None) == (dataset is None):
        raise typer.BadParameter("name the model either by its folder (-m) or by its data set (-d).")
    if instances and not per_lesion:
        raise typer.BadParameter("--instances needs --per-lesion.")
    output.mkdir(parents=True, exist_ok=True)  # fails now, not after minutes of prediction
    predictor = SAM3DPredictor(
        device_name(device), dtype and dtype.value, not disable_tta, max_windows, max_volume, windows=windows.value
    )
    folder = model or trained_model_folder(dataset, configuration, trainer, plans)
    predictor.initialize_from_trained_model_folder(folder, fold or None, checkpoint)
    names = predictor.model.class_names
    typed = [TypedClick.parse(text, False, names) for text in click or []]
    typed += [TypedClick.parse(text, True, names) for text in click_mm or []]
    writer = CaseWriter(output, predictor.model, save_probabilities, instances)
    clicks = ClickSource(names, prompts, typed)
    cases = plan_cases(predictor, images, clicks, writer, refine_from, overwrite=not skip_finished)
    reports = shown(predict_cases(predictor, cases, writer, per_lesion), len(cases))
    stop_if_failed([report.name for report in reports if report.error], len(cases))


@app.command(
    "predict-sam2d",
    epilog="Example: sam3d predict-sam2d -i imagesTs -o out --prompts prompts/slice_1/trial_0 -d 320",
)
def predict_sam2d(
    images: Annotated[Path, typer.Option("-i", help="Folder of images CASE_0000. SAM sees only this channel.")],
    output: OutputFolder,
    prompts: Annotated[Path, typer.Option(help=PROMPTS_HELP)],
    dataset: Annotated[
        str | None, typer.Option("-d", help="Id or name of the data set, for its labels and the window of CT.")
    ] = None,
    dataset_json: Annotated[Path | None, typer.Option(help="dataset.json with the labels, instead of -d.")] = None,
    model: Annotated[SAMModel, typer.Option(help="Size of SAM.")] = SAMModel.vit_b,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="SAM's weights. Default: SAM3D_CHECKPOINT, the cache, then a download."),
    ] = None,
    clip: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Intensities shown as black and white. Default for CT with -d: where nnU-Net clips it, at percentiles "
            "0.5 and 99.5 of the foreground of all training images (their fingerprint). Default for others, which have "
            "no common scale, and without -d: percentiles 0.5 and 99.5 of each image.",
        ),
    ] = None,
    skip_finished: Continue = False,
    device: ComputeDevice = Device.auto,
) -> None:
    """Segment axial slices with the original 2-D SAM.

    Each slice is segmented from its own clicks. Exit code 1 if a case failed. Images without a prompt file are left
    out. prediction.csv holds the seconds per case, for sam3d evaluate.
    """
    from sam3d_nnunet.baselines.sam2d import SliceCases, SliceReport, SliceSAM, load_sam
    from sam3d_nnunet.datasets.description import read_dataset_json
    from sam3d_nnunet.datasets.raw_dataset import RawDataset
    from sam3d_nnunet.evaluation.results_folder import add_cost
    from sam3d_nnunet.network.device import usable_device
    from sam3d_nnunet.network.weights import sam_checkpoint
    from sam3d_nnunet.planning.fingerprint import clipping_window

    if (dataset is None) == (dataset_json is None):
        raise typer.BadParameter("name the data set either by -d or by its --dataset-json.")
    if clip is not None and not -math.inf < clip[0] < clip[1] < math.inf:
        raise typer.BadParameter("--clip needs two finite intensities, the lower one first.")
    where = usable_device(device_name(device))
    known = RawDataset.find(dataset) if dataset_json is None else None
    described = read_dataset_json(dataset_json) if known is None else known.dataset_json
    window = clipping_window(known) if known and clip is None else clip
    cases = SliceCases(images, output, described)
    clicked = cases.with_clicks(prompts)
    typer.echo(f"black and white: {'percentiles of each image' if window is None else '{:g} and {:g}'.format(*window)}")
    names = [name for name in clicked if not (skip_finished and cases.is_finished(name))]
    sam = SliceSAM(load_sam(model.value, checkpoint or sam_checkpoint(model.value)), where)

    def note(report: SliceReport) -> None:
        add_cost(output, report.name, report.clicks, None, report.seconds)

    failed = []
    for report in shown(cases.predict(sam, names, prompts, window, note), len(names)):
        if report.error is not None:
            failed.append(report.name)
    if len(clicked) < len(cases.names):
        left_out = len(cases.names) - len(clicked)
        typer.echo(f"{left_out} of {len(cases.names)} case(s) have no clicks in {prompts} and were left out.")
    stop_if_failed(failed, len(names))
