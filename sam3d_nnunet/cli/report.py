"""Commands that show results: table, figures."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sam3d_nnunet.cli.options import ShownMethods, ShownProtocols, WrittenResults

app = typer.Typer()


class PaperDataset(str, Enum):
    kits21 = "kits21"
    msd_pancreas = "msd_pancreas"
    lits17 = "lits17"
    msd_colon = "msd_colon"


@app.command(epilog="Example: sam3d table RESULTS --baseline nnU-Net --with-paper kits21")
def table(
    results: WrittenResults,
    output: Annotated[Path | None, typer.Option("-o", help="Folder for the tables. Default: RESULTS/table.")] = None,
    method: ShownMethods = None,
    protocol: ShownProtocols = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Method to test all others against. Default: nnU-Net's trainer, if it is shown. If it takes no "
            "clicks, rows with clicks are tested against the prompted U-Net, if that is shown."
        ),
    ] = None,
    with_paper: Annotated[
        PaperDataset | None, typer.Option(help="Add the scores that the paper reports on this data set.")
    ] = None,
    lesions: Annotated[bool, typer.Option("--lesions", help="Add the detection of lesions.")] = False,
    without_figures: Annotated[
        bool, typer.Option("--without-figures", help="Leave the figures out of the HTML file: faster and smaller.")
    ] = False,
) -> None:
    """Write tables of the results.

    The formats are Markdown, CSV, LaTeX, and HTML with figures.
    """
    from sam3d_nnunet.evaluation.results import Results
    from sam3d_nnunet.report.tables import write_tables

    paper = with_paper and with_paper.value
    options = {"lesions": lesions, "figures": not without_figures}
    folder = output or results / "table"
    for file in write_tables(Results(results), folder, method, protocol, baseline, paper, **options):
        typer.echo(f"written: {file}")


@app.command(epilog="Example: sam3d figures RESULTS --baseline nnU-Net --case case_00002")
def figures(
    results: WrittenResults,
    output: Annotated[Path | None, typer.Option("-o", help="Folder for the figures. Default: RESULTS/figures.")] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Case to overlay. Repeat for several. Default: the best, the median and the worst case."),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Method to compare the others with.")] = None,
    protocol: ShownProtocols = None,
    method: ShownMethods = None,
) -> None:
    """Draw overlays and plots of the results, as PNG and SVG."""
    from sam3d_nnunet.evaluation.results import Results
    from sam3d_nnunet.report.figures import write_figures

    folder = output or results / "figures"
    files = write_figures(Results(results), folder, case, baseline, protocol, method)
    typer.echo(f"{len(files)} files in {folder}")
