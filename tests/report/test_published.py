import re
from pathlib import Path

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.report.published import PRISM_SOURCE, TARGETS, paper_notes, paper_rows, reported_rows

FIGURES = Path(__file__).parents[1] / "data" / "paper_figures.md"
POINTS = re.compile(r", ([0-9]+) points? a (slice|volume)$")


@pytest.fixture(scope="module")
def printed_rows() -> list[list[str]]:
    """Cells of the two tables of methods, below each other."""
    lines = FIGURES.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.startswith("|") and not line.startswith(("| method", "| --"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("place, dataset", enumerate(TARGETS))
def test_figures_are_those_of_the_paper(printed_rows, place, dataset):
    rows = paper_rows(dataset)
    assert len(rows) == len(printed_rows) == 18
    for row, cells in zip(rows, printed_rows):
        points = POINTS.search(cells[0])
        assert row.method.lower() == POINTS.sub("", cells[0]).lower()
        assert row.protocol.name == (f"{points[2]}_{points[1]}" if points else "automatic")
        assert f"{100 * row.dice:.2f} / {100 * row.nsd:.2f}" == cells[1 + place]
        tuned = "-" if row.tuned_parameters is None else f"{row.tuned_parameters / 1e6:.2f} M"
        assert tuned == cells[-1]
    assert [row.encoder_only for row in rows] == [False] * 12 + [True] * 6


def test_what_must_be_known_is_noted():
    assert "nnFormer and 3D UX-Net" in " ".join(paper_notes("lits17"))
    assert "nnFormer" not in " ".join(paper_notes("kits21"))
    liver = {row.method: (row.dice, row.nsd) for row in paper_rows("lits17")}
    assert liver["nnFormer"] == liver["3D UX-Net"]


def test_prism_is_reported_with_its_own_protocol():
    percent = {"msd_colon": 93.79, "msd_pancreas": 94.48, "lits17": 94.18, "kits21": 96.58}
    for dataset, dice in percent.items():
        *of_paper, prism = reported_rows(dataset)
        assert of_paper == paper_rows(dataset)
        assert (prism.name, 100 * prism.dice, prism.nsd) == ("PRISM", pytest.approx(dice), None)
        assert prism.source == PRISM_SOURCE
        assert prism.protocol.name == "box, scribbles and a click in each of 11 iterations"
        assert not prism.protocol.is_automatic and not prism.protocol.family.is_drawn
        assert "far more information than one click" in " ".join(paper_notes(dataset))


def test_unknown_data_set_is_refused():
    with pytest.raises(SAM3DError, match="'amos'.*kits21"):
        paper_rows("amos")
