"""Makes the tables and figures of docs/results from the folders of kept results, with the same bytes each time.

docs/results/NAME gets table.md, table.csv and the plots as SVG, from results/NAME as benchmarks/keep_results.py wrote
it. Other Markdown, CSV and SVG files in that folder are removed. With --check nothing is written: it prints what is not
as these folders give it, and the exit code is then 1. Overlays need images, which are not kept.

Tables are the same bytes on any machine, figures only with the same version of matplotlib.

Examples:
    python benchmarks/results_pages.py spine_mr
    python benchmarks/results_pages.py --check
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.io import read_json_object, write_text
from sam3d_nnunet.report.content import Content, gather
from sam3d_nnunet.report.figures import write_figures
from sam3d_nnunet.report.layout import lay_out
from sam3d_nnunet.report.long_csv import to_csv
from sam3d_nnunet.report.markdown import to_markdown

ORIGIN = "ORIGIN.json"
TABLES = ("table.md", "table.csv")
ROOT = Path(__file__).parents[1]
KEPT, PAGES = ROOT / "results", ROOT / "docs" / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__[__doc__.index("docs/results/NAME") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="folders in results/; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--without-figures", action="store_true", help="make or compare the tables only")
    parser.add_argument("--results", type=Path, default=KEPT, help="kept results; default: results/ here")
    parser.add_argument("--pages", type=Path, default=PAGES, help="pages; default: docs/results/ here")
    options = parser.parse_args(arguments)
    try:
        wrong = run(options)
    except SAM3DError as e:
        sys.exit(f"Error: {e}")
    if wrong:
        print("\n".join(wrong))
        sys.exit(f"Make the pages again: python benchmarks/{Path(__file__).name}")


def run(options: argparse.Namespace) -> list[str]:
    """Make or compare the pages of each folder.

    Returns:
        sentences about what differs; none if the pages were made.

    Raises:
        SAM3DError: there is no such folder of kept results, or it can't be read.
    """
    names, figures, wrong = options.names or kept_names(options.results), not options.without_figures, []
    for name in names:
        pages = options.pages / name
        if options.check:
            found = compare(options.results / name, pages, figures)
            print(f"{pages}: {'as ' if not found else 'NOT as '}{options.results / name} gives it")
            wrong += found
        else:
            files = make(options.results / name, pages, figures)
            print(f"{len(files)} files in {pages}")
    if options.check and not options.names:
        made = {file.parent for name in TABLES for file in options.pages.glob(f"*/{name}")}
        wrong += [
            f"{pages} has no folder {options.results / pages.name}" for pages in sorted(made) if pages.name not in names
        ]
    if not names:
        print(f"There are no kept results in {options.results}.")
    return wrong


def kept_names(results: Path) -> list[str]:
    """Names of all folders of kept results."""
    return sorted(file.parent.name for file in results.glob(f"*/{ORIGIN}"))


def kept_content(kept: Path, origin: dict[str, Any] | None = None) -> Content:
    """All numbers of the table of a folder of kept results.

    Args:
        kept: the folder.
        origin: the content of ORIGIN.json, if it isn't there yet.

    Raises:
        SAM3DError: the folder or ORIGIN.json can't be read, or what it says of the table can't be shown.
    """
    if origin is None:
        origin = read_json_object(kept / ORIGIN, ["table"], "benchmarks/keep_results.py writes it.")
    table = origin["table"]
    return gather(Results(kept), baseline=table["baseline"], paper=table["paper"], lesions=table["lesions"])


def make(kept: Path, pages: Path, figures: bool = True) -> list[Path]:
    """Write the tables and figures of a folder of kept results, and remove other such files there.

    Returns:
        the files.

    Raises:
        SAM3DError: the folder can't be read.
    """
    made = _contents(kept, figures)
    pages.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        write_text(pages / name, text)
    for file in _left_over(pages, made, figures):
        file.unlink()
        print(f"removed {file}")
    return [pages / name for name in made]


def compare(kept: Path, pages: Path, figures: bool = True) -> list[str]:
    """Sentences about the files of the pages that are not as the folder of kept results gives them."""
    made, wrong = _contents(kept, figures), []
    for name, text in made.items():
        file = pages / name
        if not file.is_file():
            wrong.append(f"{file} is missing")
        elif (found := file.read_bytes()) != text.encode():
            lines = zip(found.split(b"\n"), text.encode().split(b"\n"))
            line = next((i for i, (one, other) in enumerate(lines, 1) if one != other), "last")
            wrong.append(f"{file}, line {line}, differs from what {kept} gives")
    return wrong + [f"{file} is not made from {kept}" for file in _left_over(pages, made, figures)]


def _contents(kept: Path, figures: bool) -> dict[str, str]:
    """The text of each file by its name."""
    content = kept_content(kept)
    made = dict(zip(TABLES, (to_markdown(lay_out(content)), to_csv(content))))
    if figures:
        with TemporaryDirectory(prefix="sam3d_") as folder:
            for file in write_figures(Results(kept), folder, baseline=content.baseline):
                if file.suffix == ".svg":  # without spaces, so that Markdown can name it
                    made[re.sub(r"[^\w.+-]+", "_", file.name)] = file.read_text(encoding="utf-8")
    return made


def _left_over(pages: Path, made: dict[str, str], figures: bool) -> list[Path]:
    endings = (".md", ".csv", ".svg") if figures else (".md", ".csv")
    return sorted(file for file in pages.glob("*") if file.suffix in endings and file.name not in made)


if __name__ == "__main__":
    main()
