"""Figures that others report on the paper's data sets, to show beside ours.

The paper is that of 3DSAM-adapter (Gong et al. 2023, arXiv:2306.13465). PRISM is by Li et al. 2024 (arXiv:2404.15028);
its figures and its protocol are those of its repository, https://github.com/MedICL-VU/PRISM.
"""

from dataclasses import dataclass

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.simulation.protocols import AUTOMATIC, Protocol

TARGETS = {
    "kits21": "kidney tumour",
    "msd_pancreas": "pancreas tumour",
    "lits17": "liver tumour",
    "msd_colon": "colon cancer",
}
"""What the paper segments in each of its data sets."""
SOURCE = "Reported by Gong et al. 2023 on one 20 % test split; not measured here"
PRISM_SOURCE = "Reported by Li et al. 2024 on the same data set; not measured here"
NSD = "nsd_5mm"
"""The surface Dice at the paper's tolerance."""


@dataclass(frozen=True)
class PaperRow:
    """A method on one of the paper's data sets.

    Attributes:
        method: its name in the paper.
        protocol: the one of ours that is closest, or one of its own.
        dice, nsd: shares, not per cent; None if it is not reported.
        tuned_parameters: of the whole network, or of its image encoder; None if no number is reported.
        encoder_only: whether `tuned_parameters` is that of the image encoder.
        source: who reports it.
    """

    method: str
    protocol: Protocol
    dice: float
    nsd: float | None
    tuned_parameters: int | None = None
    encoder_only: bool = False
    source: str = SOURCE

    @property
    def name(self) -> str:
        """Display name."""
        return f"{self.method} (encoder)" if self.encoder_only else self.method


# method, protocol, Dice and NSD in the order of TARGETS (per cent), tuned parameters (millions)
_METHODS = (
    ("nnU-Net", AUTOMATIC, (73.07, 77.47), (41.65, 62.54), (60.10, 75.41), (43.91, 52.52), 30.76),
    ("TransBTS", AUTOMATIC, (40.79, 37.74), (31.90, 41.62), (34.69, 49.47), (17.05, 21.63), 32.33),
    ("nnFormer", AUTOMATIC, (45.14, 42.28), (36.53, 53.97), (45.54, 60.67), (24.28, 32.19), 149.49),
    ("Swin-UNETR", AUTOMATIC, (65.54, 72.04), (40.57, 60.05), (50.26, 64.32), (35.21, 42.94), 62.19),
    ("UNETR++", AUTOMATIC, (56.49, 60.04), (37.25, 53.59), (37.13, 51.99), (25.36, 30.68), 55.70),
    ("3D UX-Net", AUTOMATIC, (57.59, 58.55), (34.83, 52.56), (45.54, 60.67), (28.50, 32.73), 53.01),
    ("SAM-B", "slice_1", (36.30, 29.86), (24.01, 26.74), (6.71, 7.63), (28.83, 33.63), None),
    ("SAM-B", "slice_3", (39.66, 34.85), (29.80, 33.24), (7.87, 6.76), (35.26, 39.31), None),
    ("SAM-B", "slice_10", (40.07, 34.96), (30.55, 32.91), (8.56, 5.97), (39.14, 42.70), None),
    ("3DSAM-adapter", "volume_1", (73.78, 83.86), (54.09, 76.27), (54.78, 69.55), (48.35, 63.65), 25.46),
    ("3DSAM-adapter", "volume_3", (74.91, 84.35), (54.92, 77.57), (56.30, 70.02), (49.43, 65.02), 25.46),
    ("3DSAM-adapter", "volume_10", (75.95, 84.92), (57.47, 79.62), (56.61, 69.52), (49.99, 65.67), 25.46),
)
# the same, of networks that differ in how the image encoder is tuned; parameters of that encoder
_ENCODERS = (
    ("Full fine-tuning", AUTOMATIC, (52.31, 50.35), (26.49, 33.28), (45.59, 52.53), (24.63, 40.67), 89.67),
    ("Adapter (Houlsby 2019)", AUTOMATIC, (46.99, 43.76), (20.28, 30.81), (42.17, 57.52), (22.55, 38.10), 7.61),
    ("Pro-tuning", AUTOMATIC, (50.73, 50.81), (18.93, 30.45), (47.33, 55.61), (21.24, 25.10), 7.17),
    ("ST-Adapter", AUTOMATIC, (47.30, 45.61), (30.27, 43.53), (51.93, 59.93), (28.41, 34.60), 7.15),
    ("Med-tuning", AUTOMATIC, (44.73, 40.28), (22.87, 30.02), (52.06, 68.44), (21.08, 37.78), 11.10),
    ("3DSAM-adapter", AUTOMATIC, (61.60, 70.40), (30.20, 45.37), (49.26, 59.48), (31.97, 40.67), 15.21),
)
PRISM_PROTOCOL = "box, scribbles and a click in each of 11 iterations"
# Dice in the order of TARGETS (per cent), after the last iteration
_PRISM = (96.58, 94.48, 94.18, 93.79)


def reported_rows(dataset: str) -> list[PaperRow]:
    """All figures that are reported on a data set: the paper's, then PRISM's. Arguments and errors are as below."""
    rows = paper_rows(dataset)
    dice = round(_PRISM[list(TARGETS).index(dataset)] / 100, 4)
    return [*rows, PaperRow("PRISM", Protocol.parse_or_other(PRISM_PROTOCOL), dice, None, source=PRISM_SOURCE)]


def paper_rows(dataset: str) -> list[PaperRow]:
    """The paper's figures, in its order.

    Args:
        dataset: one of TARGETS.

    Raises:
        SAM3DError: it is not one of them.
    """
    if dataset not in TARGETS:
        raise SAM3DError(f"The paper has no data set {dataset!r}. Choose one of {', '.join(TARGETS)}.")
    place = 2 + list(TARGETS).index(dataset)
    return [
        _row(row, place, encoder_only) for rows, encoder_only in ((_METHODS, False), (_ENCODERS, True)) for row in rows
    ]


def paper_notes(dataset: str) -> list[str]:
    """Sentences that a reader of these figures needs."""
    notes = [
        f'Rows under "{SOURCE}" take no part in bold print and tests. The paper has one click a volume or slice '
        "where the protocol says volume_1 or slice_1.",
        "Its 25.46 M tuned parameters of 3DSAM-adapter count 263,424 that never enter the forward pass; rows marked "
        "(encoder) give the parameters tuned in the image encoder alone.",
    ]
    notes.append(
        "PRISM (arXiv:2404.15028): its repository, github.com/MedICL-VU/PRISM, gives this Dice and no NSD. It ships "
        "the folds of 3DSAM-adapter's authors, and tests on patches cut around the true tumour. A box, scribbles and a "
        "click in each of 11 iterations, drawn from the truth and from the errors so far, are far more information "
        "than one click: don't compare it with volume_1. It takes no part in bold print and tests either."
    )
    if dataset == "lits17":
        notes.append("The paper gives nnFormer and 3D UX-Net the same figures for the liver.")
    return notes


def _row(row: tuple, place: int, encoder_only: bool) -> PaperRow:
    dice, nsd = (round(percent / 100, 4) for percent in row[place])
    tuned = None if row[-1] is None else round(row[-1] * 1e6)
    return PaperRow(row[0], Protocol.parse(row[1]), dice, nsd, tuned, encoder_only)
