"""Colours, line breaks and files of all figures."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from sam3d_nnunet.io import whole_file

# Okabe and Ito, Color Universal Design (2008); their yellow is too faint on white paper
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
METHOD_MARKERS = ("o", "s", "^", "D", "v")
# the bright ones of them, for grey images
TARGET_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
# names of cases and methods can contain a dollar sign; the salt keeps ids in SVG, and so its bytes, the same
STYLE = {"text.parse_math": False, "svg.hashsalt": "sam3d_nnunet", "font.size": 9, "axes.titlesize": 9}
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@contextmanager
def style() -> Iterator[None]:
    """Draw figures in our style whatever was set before. nnU-Net sets a style of its own to plot training progress."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def method_style(index: int) -> dict[str, str]:
    """Colour and marker of the method with this index among all methods of the results."""
    colours = len(METHOD_COLOURS)
    return {
        "color": METHOD_COLOURS[index % colours],
        "marker": METHOD_MARKERS[index // colours % len(METHOD_MARKERS)],
    }


def target_colour(index: int) -> str:
    """Colour of the target with this index in dataset.json."""
    return TARGET_COLOURS[index % len(TARGET_COLOURS)]


def wrap(text: str, width: int = 28) -> str:
    """Break text into lines of at most `width` characters; names of nnU-Net's folders break between their parts."""
    lines = textwrap.wrap(text.replace("__", "__ "), width)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG, with the same bytes each time. Each file appears complete or not at all.

    Args:
        figure: drawn in `style`.
        stem: path without the ending.

    Returns:
        the files.
    """
    files = []
    for ending, metadata in METADATA.items():
        file = stem.with_name(f"{stem.name}.{ending}")
        with whole_file(file) as part:
            # tight, since titles of many lines would not fit into the figure
            figure.savefig(part, format=ending, dpi=150, facecolor="white", metadata=metadata, bbox_inches="tight")
        files.append(file)
    return files
