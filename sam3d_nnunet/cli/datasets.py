"""Commands for data sets and their folds: splits import and show; dataset convert, fetch and target."""

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sam3d_nnunet.cli.options import RawDataset
from sam3d_nnunet.errors import SAM3DError

if TYPE_CHECKING:
    from sam3d_nnunet.datasets.convert import Conversion

splits = typer.Typer(
    help="nnU-Net's folds of a data set.", epilog="Example: sam3d splits show -d 220", no_args_is_help=True
)
dataset = typer.Typer(
    help="Bring public data sets into nnU-Net's layout.",
    epilog="Example: sam3d dataset convert kits21/data -d 220 --layout kits",
    no_args_is_help=True,
)
app = typer.Typer()
app.add_typer(splits, name="splits")
app.add_typer(dataset, name="dataset")


class TheirValidation(str, Enum):
    train = "train"
    leave_out = "leave-out"


class Layout(str, Enum):
    msd = "msd"
    kits = "kits"
    lits = "lits"


class PublicSet(str, Enum):
    sts = "sts"


class Modality(str, Enum):
    pet = "pet"
    mr = "mr"


NewDataset = Annotated[str, typer.Option("-d", help="Free id from 1 to 999, or full name: Dataset220_KiTS21.")]


@splits.command("import", epilog="Example: sam3d splits import kits.split.pkl -d 220")
def splits_import(
    file: Annotated[Path, typer.Argument(help="Pickled folds of the authors of 3DSAM-adapter.")],
    dataset: RawDataset,
    their_validation: Annotated[
        TheirValidation,
        typer.Option(help="What to do with their validation sets: train on them too, or leave them out as the paper."),
    ] = TheirValidation.train,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out cases that the data set does not have.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other folds of the data set.")] = False,
) -> None:
    """Write splits_final.json from the authors' folds.

    nnU-Net then validates on their test sets. Cases are matched by name, and cases missing on either side are listed.
    Reading the pickle cannot run code.
    """
    from sam3d_nnunet.datasets.paper_folds import import_splits
    from sam3d_nnunet.datasets.splits import describe_splits

    train_on_validation = their_validation is TheirValidation.train
    imported = import_splits(file, dataset, train_on_validation, allow_missing, overwrite)
    typer.echo(f"{'unchanged' if imported.unchanged else 'written'}: {imported.file}")
    for line in [*imported.notes(), *describe_splits(imported.splits)]:
        typer.echo(line)


@splits.command("show", epilog="Example: sam3d splits show -d 220")
def splits_show(
    file: Annotated[
        Path | None, typer.Argument(help="A splits_final.json, or a pickle (.pkl) of the authors, instead of -d.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("-d", help="Id or name of the data set in nnUNet_raw.")] = None,
) -> None:
    """Print the sizes of the folds.

    Names the cases that are in no fold, in several folds, or without a file.
    """
    from sam3d_nnunet.datasets.paper_folds import describe_file
    from sam3d_nnunet.datasets.splits import describe_dataset

    if (file is None) == (dataset is None):
        raise typer.BadParameter("name either a file or a data set (-d).")
    for line in describe_dataset(dataset) if file is None else describe_file(file):
        typer.echo(line)


@dataset.command("convert", epilog="Example: sam3d dataset convert Task07_Pancreas -d 221 --layout msd")
def dataset_convert(
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked data set.")],
    dataset: NewDataset,
    layout: Annotated[Layout, typer.Option(help="Layout of the folder, as described above.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Convert without cases that are missing or unusable.")
    ] = False,
    ignore_label_geometry: Annotated[
        bool,
        typer.Option(
            "--ignore-label-geometry", help="Give label maps the geometry of their images, whatever their headers say."
        ),
    ] = False,
) -> None:
    """Convert a published data set into nnUNet_raw.

    Exit code 1 if cases are missing; run the same command again to continue.

    msd: a task of the Medical Segmentation Decathlon. The paper used all labelled cases and the published label maps of
    Task07_Pancreas (281 cases; tumour = label 2, "cancer") and Task10_Colon (126 cases; label 1).

    kits: KiTS21, case_00000 to case_00299 with imaging.nii.gz. The paper used all 300 cases and the majority vote of
    the annotations, aggregated_MAJ_seg.nii.gz (kidney 1, tumour 2, cyst 3).

    lits: LiTS17, volume-N.nii and segmentation-N.nii, in one folder or several (liver 1, tumour 2). All 131 training
    volumes are converted. The paper used the 118 with a tumour: see sam3d dataset target --drop-empty.
    """
    from sam3d_nnunet.datasets.convert import convert

    _report(convert(source, dataset, layout.value, allow_missing, ignore_label_geometry))


@dataset.command("fetch", epilog="Example: sam3d dataset fetch sts -d 911 --modality pet")
def dataset_fetch(
    name: Annotated[PublicSet, typer.Argument(help="Public data set, as described above.")],
    dataset: NewDataset,
    modality: Annotated[Modality, typer.Option(help="Which images: FDG-PET or T1 MR.")] = Modality.pet,
    copy: Annotated[
        Path | None,
        typer.Option("--from", help="Take the files from this folder instead of the network."),
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence without being asked, in scripts.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Finish without cases that the copy lacks or that are damaged.")
    ] = False,
) -> None:
    """Fetch a public data set into nnUNet_raw.

    Prints the licence and asks for it; nothing is fetched before. Exit code 1 if files are missing; run the same
    command again to continue.

    sts: soft-tissue sarcomas of 51 patients (Vallieres 2015), as the Image Biomarker Standardisation Initiative
    published them: cropped 5 cm around the tumour, one label (tumour 1). PET (SUV) has 17 MB, T1 MR 97 MB. CC BY 3.0.

    Files come from a fixed commit on GitHub, are compared with their SHA-256 and stay in the user's cache. --from takes
    a clone of that repository, its folder ibsi_validation, or an nnU-Net data set that this command made.
    """
    from sam3d_nnunet.datasets.fetch import fetch_sts, sts_terms

    typer.echo(sts_terms(modality.value))
    if not accept_licence:
        _ask_for_licence()
    _report(fetch_sts(dataset, modality.value, copy, allow_missing))


def _ask_for_licence() -> None:
    if not _at_terminal():
        raise SAM3DError(
            "Nothing was fetched: there is no terminal to ask on. Add --accept-licence if you accept the licence above."
        )
    if not typer.confirm("Do you accept this licence?"):
        raise SAM3DError("Nothing was fetched, because the licence was not accepted.")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _report(done: "Conversion") -> None:
    for note in done.notes:
        typer.echo(f"note: {note}")
    for name, sentence in done.failed.items():
        typer.echo(f"{name}: {sentence}", err=True)
    if not done.complete:
        typer.echo(
            f"Error: {len(done.failed)} case(s) failed. {done.cases} are in {done.folder}. Run the command again to "
            "continue, or add --allow-missing to finish without the others.",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"{done.cases} training cases: {done.folder}")


@dataset.command("target", epilog="Example: sam3d dataset target -d 220 --label tumour -o 320")
def dataset_target(
    dataset: RawDataset,
    label: Annotated[
        list[str], typer.Option(help="Label or region of its dataset.json. Repeat to merge several into one.")
    ],
    output: Annotated[str, typer.Option("-o", help="Free id from 1 to 999, or full name, of the new data set.")],
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out cases without the label, as the paper did for LiTS17.")
    ] = False,
) -> None:
    """Derive a data set with one foreground label.

    Links the images and keeps the folds.
    """
    from sam3d_nnunet.datasets.target import derive_target

    done = derive_target(dataset, label, output, drop_empty)
    typer.echo(f"{done.cases} training cases: {done.folder}")
    typer.echo(f"images: {done.linked} linked, {done.copied} copied")
    if done.splits is not None:
        typer.echo(f"folds: {done.splits}")
    for line in done.notes():
        typer.echo(line)
