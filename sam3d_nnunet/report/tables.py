"""`sam3d table`: write the results as Markdown, CSV, LaTeX and one self-contained HTML page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sam3d_nnunet.errors import SAM3DError, refusal
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.io import write_text
from sam3d_nnunet.report.content import gather
from sam3d_nnunet.report.html import embedded_figures, to_html
from sam3d_nnunet.report.latex import to_latex
from sam3d_nnunet.report.layout import lay_out
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.report.markdown import to_markdown

FORMATS = ("md", "csv", "tex", "html")


def write_tables(
    results: Results,
    folder: str | Path,
    methods: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    baseline: str | None = None,
    paper: str | None = None,
    lesions: bool = False,
    formats: Sequence[str] = FORMATS,
    figures: bool = True,
) -> list[Path]:
    """Write table.md, table.csv, table.tex and table.html. Lines on stderr say what is incomplete.

    The same results give the same bytes. Each file appears complete or not at all.

    Args:
        results: the folder of results.
        folder: for the tables; made if it isn't there.
        methods, protocols, baseline, paper, lesions: as in `gather`.
        formats: some of FORMATS.
        figures: whether to put the figures of `sam3d figures` into the HTML page.

    Returns:
        the files.

    Raises:
        SAM3DError: a name is unknown, the numbers can't be pooled or compared, or a file can't be written.
    """
    content = gather(results, protocols, methods, baseline, paper, lesions)
    for note in content.notes:
        tqdm.write(f"note: {note}", file=sys.stderr)
    table = lay_out(content)
    writers = {
        "md": lambda: to_markdown(table),
        "csv": lambda: to_csv(content),
        "tex": lambda: to_latex(table),
        "html": lambda: to_html(
            table, embedded_figures(results, methods, protocols, content.baseline) if figures else ()
        ),
    }
    return [_write(Path(folder) / f"table.{ending}", writers[ending]()) for ending in formats]


def _write(file: Path, text: str) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as e:
        raise SAM3DError(refusal(e)) from e
    return file
