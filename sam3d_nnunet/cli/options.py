"""Options that several commands share, and how commands report cases one by one and those that failed."""

import sys
from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

CONFIGURATION, TRAINER, PLANS = "3d_fullres", "SAM3DAdapterTrainer", "SAM3DPlans"
CHECKPOINT = "checkpoint_final.pth"
MAX_WINDOWS = 32


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(str, Enum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Windows(str, Enum):
    follow = "follow"
    single = "single"


# Which model
ModelFolder = Annotated[Path | None, typer.Option("-m", help="Model folder. Or name the model by -d, -c, -tr and -p.")]
Configuration = Annotated[str, typer.Option("-c", help="Configuration that the model was trained with.")]
TrainerName = Annotated[str, typer.Option("-tr", help="Trainer of the model. sam3d trainers lists ours.")]
PlansName = Annotated[str, typer.Option("-p", help="Name of the plans that the model was trained with.")]
Checkpoint = Annotated[str, typer.Option("-chk", help="Checkpoint file of each fold.")]

# How to predict
AUTO_HELP = "auto: the GPU (cuda) if there is one, else the CPU."
ComputeDevice = Annotated[Device, typer.Option("--device", help=f"Where to compute. {AUTO_HELP}")]
DisableTTA = Annotated[bool, typer.Option("--disable_tta", help="Do not average over mirrored images.")]
PerLesion = Annotated[
    bool, typer.Option("--per-lesion", help="Predict each foreground click on its own, then merge the masks.")
]
MaxWindows = Annotated[
    int, typer.Option("--max-windows", min=1, help="With --windows follow: add no further windows at this number.")
]
WINDOWS_HELP = (
    "follow: windows around all clicks, and further ones as long as the mask continues. single: one window around the "
    "middle of the clicks, as in the paper; clicks outside of it are not used."
)
Continue = Annotated[bool, typer.Option("--continue", help="Skip cases that are finished.")]
OutputFolder = Annotated[Path, typer.Option("-o", help="Folder for the segmentations.")]
PROMPTS_HELP = "Prompt file, or a folder with one per case: CASE.json, CASE.mrk.json, CASE.csv, .tsv or .fcsv."

# What to evaluate
ResultsFolder = Annotated[
    Path, typer.Option("-o", help="Folder of results of the data set. All methods share this folder.")
]
Trials = Annotated[int, typer.Option(min=1, help="How many times to draw the clicks.")]
TestSet = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="IMAGES LABELS",
        help="Two folders, images and label maps of a test set, to use instead of the training cases.",
    ),
]
WrittenResults = Annotated[Path, typer.Argument(help="Folder that sam3d evaluate wrote.")]
ShownMethods = Annotated[
    list[str] | None,
    typer.Option(
        "--method", help="Method to show: name of its folder or its display name. Repeat for several. Default: all."
    ),
]
ShownProtocols = Annotated[
    list[str] | None,
    typer.Option("--protocol", help="Protocol to show, such as volume_1. Repeat for several. Default: all."),
]

RawDataset = Annotated[str, typer.Option("-d", help="Id or name of the data set in nnUNet_raw.")]


def device_name(device: Device) -> str:
    """The device that "auto" means on this machine, or the one that was named; printed if "auto" finds no GPU."""
    if device is not Device.auto:
        return device.value
    from sam3d_nnunet.network.device import AUTO, usable_device

    found = usable_device(AUTO).type
    if found == "cpu":
        typer.echo("device: cpu (no CUDA GPU found)")
    return found


def shown(reports: Iterable[Any], total: int) -> Iterator[Any]:
    """Pass reports of cases on, and print each one above a progress bar; on stderr if its case failed."""
    from tqdm import tqdm

    with tqdm(total=total, unit="case") as bar:
        for report in reports:
            bar.update()
            bar.write(str(report), file=sys.stderr if report.error else sys.stdout)
            yield report


def stop_if_failed(failed: Collection[str], total: int | None = None) -> None:
    """If cases failed, name them on stderr and end the command with exit code 1."""
    if failed:
        count = len(failed) if total is None else f"{len(failed)} of {total}"
        typer.echo(f"Error: {count} case(s) failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
