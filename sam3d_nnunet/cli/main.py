"""The command `sam3d`: all groups of commands, and how errors are shown.

The command must start fast: modules that take long to import are imported inside the commands.
"""

import signal
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from sam3d_nnunet import __version__
from sam3d_nnunet.cli import datasets, evaluate, export_napari, nnunet, plan, predict, report, serve, workflow
from sam3d_nnunet.errors import SAM3DError, refusal
from sam3d_nnunet.processes import Stopped, stopped_by

app = typer.Typer(
    name="sam3d",
    help="Promptable 3-D segmentation inside nnU-Net v2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (nnunet, plan, predict, serve, export_napari, evaluate, report, workflow, datasets):
    app.add_typer(group.app)


def main() -> None:
    """Run `sam3d`. A mistake of the user, or a path that cannot be used, is one line on stderr and exit code 1.

    So is Ctrl-C, with exit code 130. A command that has started others (demo, benchmark) ends on SIGTERM with 143 and,
    when its terminal is closed, on SIGHUP with 129.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names may hold what the encoding lacks
    try:
        with stopped_by(signal.SIGINT):
            app()
    except Stopped as stopped:
        _stop(str(stopped), stopped.exit_code)
    except SAM3DError as error:
        _stop(f"Error: {error}")
    except OSError as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        _stop(f"Error: {sentence}")


def _stop(sentence: str, code: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    sys.exit(code)


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
