"""The numbers of a table, before it is laid out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sam3d_nnunet.evaluation.metrics import ALL_CLASSES, LESION_SCORES, VOLUMES, is_tested
from sam3d_nnunet.evaluation.results import Results
from sam3d_nnunet.nnunet.names import CONTROL, trainers_in
from sam3d_nnunet.report.pooling import Pooled, pool
from sam3d_nnunet.report.published import NSD, TARGETS, PaperRow, reported_rows
from sam3d_nnunet.report.selection import Selection
from sam3d_nnunet.report.statistics import Baselines, Statistics, table_statistics
from sam3d_nnunet.report.training import Training, trainings

USUAL_BASELINE = "nnUNetTrainer"
TUMOUR = re.compile("tumou?r|cancer|lesion", re.IGNORECASE)
Column = tuple[str, str]
"""Target and metric."""


@dataclass(frozen=True)
class Content:
    """All numbers of a table.

    Attributes:
        dataset: name of the data set.
        pools: what was measured, one for each row.
        statistics: of the pools.
        targets: in the order of metrics.csv.
        facts: method.json of each method.
        baselines: what the rows are compared with.
        trainings: how the methods were trained.
        notes: sentences about what is incomplete or could not be checked.
        lesions: whether to show the detection of lesions.
        paper: the paper's data set, one of `published.TARGETS`, or None.
    """

    dataset: str
    pools: list[Pooled]
    statistics: Statistics
    targets: list[str]
    facts: dict[str, dict[str, Any]]
    baselines: Baselines
    trainings: list[Training]
    notes: list[str]
    lesions: bool
    paper: str | None

    @property
    def columns(self) -> list[Column]:
        """Columns with any number in them. Scores of all classes come last, then what only the paper fills."""
        columns = [(target, metric) for target in [*self.targets, ALL_CLASSES] for metric in self._shown(target)]
        of_paper = [(self.paper_target, metric) for metric in ("dice", NSD)] if self.paper else []
        return columns + [column for column in of_paper if column not in columns]

    @property
    def baseline(self) -> str | None:
        """What figures compare with: folder name of the baseline of automatic rows."""
        return self.baselines.automatic

    @property
    def reported_rows(self) -> list[PaperRow]:
        """The paper's figures and PRISM's; none if they weren't asked for."""
        return reported_rows(self.paper) if self.paper else []

    @property
    def paper_target(self) -> str:
        """The target that the paper's figures are about: our only target, or our only one named like a tumour.

        Otherwise the paper's own name for it: its figures then get columns of their own.
        """
        tumours = [target for target in self.targets if TUMOUR.fullmatch(target)]
        tumours = tumours or [target for target in self.targets if TUMOUR.search(target)]
        found = self.targets if len(self.targets) == 1 else tumours
        return found[0] if len(found) == 1 else TARGETS[self.paper]

    def _shown(self, target: str) -> list[str]:
        """Dice and NSD; false positives if the truth of a case is empty; detection of lesions on request."""
        known = dict.fromkeys(m for (_, t, m), s in self.statistics.items() if t == target and s.cases)
        scores = [m for m in known if is_tested(m) and m not in LESION_SCORES]
        lesions = [m for m in known if m in LESION_SCORES and self.lesions]
        return scores + [m for m in known if m in VOLUMES] + lesions


def gather(
    results: Results,
    protocols: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    baseline: str | None = None,
    paper: str | None = None,
    lesions: bool = False,
) -> Content:
    """Pool the results and compute all statistics.

    Args:
        results: the folder of results.
        protocols: names of those to show; None: all.
        methods: folder or display names of those to show; None: all.
        baseline: folder or display name of the method that the others are compared with. None: the first automatic
            method shown that was trained by nnU-Net's trainer. Where the baseline has no rows with clicks, the first
            prompted U-Net shown is that of all rows with clicks.
        paper: the paper's data set, one of `published.TARGETS`; None: leave the paper's figures out.
        lesions: whether to show the detection of lesions.

    Raises:
        SAM3DError: a name is unknown, nothing was measured, or the numbers can't be pooled or compared.
    """
    if paper is not None:
        reported_rows(paper)  # refuse an unknown name before the bootstrap, which takes long
    selection = Selection(results, methods, protocols, baseline)
    pools, notes = pool(selection)
    targets = list(dict.fromkeys(selection.table["target"]))
    baselines = _baselines(selection, pools)
    with_all = targets if results.scores is None else [*targets, ALL_CLASSES]
    statistics = table_statistics(pools, with_all, baselines)
    dataset = results.data.get("dataset") or results.root.resolve().name
    trained = trainings(results, ((pooled.method, pooled.protocol.name) for pooled in pools))
    return Content(dataset, pools, statistics, targets, results.methods, baselines, trained, notes, lesions, paper)


def _baselines(selection: Selection, pools: Sequence[Pooled]) -> Baselines:
    """The same method for all rows if it was measured with clicks, else the prompted control for rows with clicks.

    Methods that were trained on all cases come before those that were trained on a part of them.
    """
    automatic = selection.baseline or _usual_baseline(selection)
    prompted = {pooled.method for pooled in pools if pooled.prompted}
    if automatic in prompted:
        return Baselines(automatic, automatic)
    facts, order = selection.results.methods, trainers_in(CONTROL)
    controls = [m for m in selection.methods if m in prompted and facts[m].get("trainer") in order]
    controls.sort(key=lambda m: (_trained_on_a_part(facts[m]), order.index(facts[m]["trainer"])))
    return Baselines(automatic, next(iter(controls), automatic))


def _usual_baseline(selection: Selection) -> str | None:
    facts = selection.results.methods
    automatic = [m for m in selection.methods if not selection.is_prompted(m)]
    automatic.sort(key=lambda m: _trained_on_a_part(facts[m]))
    # predictions from other programs have no trainer
    return next((m for m in automatic if (facts[m].get("trainer") or m).startswith(USUAL_BASELINE)), None)


def _trained_on_a_part(facts: dict[str, Any]) -> bool:
    """Whether a method has seen only some of the training cases of a fold."""
    return facts.get("training_cases") is not None
