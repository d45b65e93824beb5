"""A table as one page that needs no other file and no network."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sam3d_nnunet.evaluation.table_figures import EmbeddedFigure
from sam3d_nnunet.evaluation.table_layout import TEXT_COLUMNS, Table

TEMPLATE = Path(__file__).with_name("table.html.jinja")


def to_html(table: Table, figures: Sequence[EmbeddedFigure] = ()) -> str:
    """The whole file: the table, which is sorted by clicks on its headings, its caption, and figures."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(TEMPLATE.name)
    return template.render(table=table, figures=figures, text_columns=TEXT_COLUMNS)
