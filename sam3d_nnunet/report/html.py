"""Write a table as one HTML page with its figures inside, which needs no other file and no network."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sam3d_nnunet.evaluation.results import TEST, Results
from sam3d_nnunet.report.figures import write_figures
from sam3d_nnunet.report.layout import Table

HEADINGS = {
    "overlay": "Truth and methods",
    "clicks": "The same case after different clicks",
    "dice_against_clicks": "Dice and NSD against the number of clicks",
    "dice_against_cases": "Dice against the number of training cases",
    "bars": "Dice and NSD of all methods",
    "click_position": "Dice by the position of the click",
    "robustness": "Dice with clicks of the robot, and beside it of a person or off target",
    "scatter": "Dice against that of the baseline",
    "dice_against_volume": "Dice against the volume of the truth",
}
"""By the first words of the file's name. The rest names the case, the protocol or the method, and the test set."""
OF_CASES = ("overlay", "clicks")


@dataclass(frozen=True)
class EmbeddedFigure:
    """A picture inside a page.

    Attributes:
        heading: what it shows.
        address: "data:" address that holds the PNG.
        width, height: in pixels.
    """

    heading: str
    address: str
    width: int
    height: int


def embedded_figures(
    results: Results,
    methods: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    baseline: str | None = None,
) -> list[EmbeddedFigure]:
    """All figures that the results allow. Arguments and messages on stderr are those of `write_figures`."""
    with TemporaryDirectory(prefix="sam3d_") as folder:
        files = write_figures(results, folder, None, baseline, protocols, methods)
        pictures = {file: file.read_bytes() for file in files if file.suffix == ".png"}
    return [_embed(_heading(file, results), png) for file, png in pictures.items()]


def _embed(heading: str, png: bytes) -> EmbeddedFigure:
    size = struct.unpack(">II", png[16:24])  # the first chunk of a PNG, after its signature
    return EmbeddedFigure(heading, f"data:image/png;base64,{base64.b64encode(png).decode()}", *size)


def _heading(file: Path, results: Results) -> str:
    kind = next(kind for kind in HEADINGS if file.stem == kind or file.stem.startswith(f"{kind}_"))
    what = file.stem.removeprefix(kind).removeprefix("_")
    of_test = kind not in OF_CASES and what not in results.methods and f"_{what}".endswith(f"_{TEST}")
    if of_test:
        what = what.removesuffix(TEST).removesuffix("_")
    if kind == "scatter":
        what = results.methods[what].get("name") or what
    details = ", ".join([what] * bool(what) + ["test set"] * of_test)
    return f"{HEADINGS[kind]}: {details}" if details else HEADINGS[kind]


TEMPLATE = Path(__file__).with_name("table.html.jinja")


def to_html(table: Table, figures: Sequence[EmbeddedFigure] = ()) -> str:
    """The content of the file: the table, which clicks on its headings sort, its caption, how the methods were trained,
    and the figures.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(TEMPLATE.name)
    return template.render(table=table, figures=figures)
