"""The caption of a table: cases, folds, protocols, tests, and the rule for empty masks."""

from collections import Counter

import numpy as np

from sam3d_nnunet.evaluation.metrics import CHALLENGE_SCORES, RULE
from sam3d_nnunet.report.content import Content
from sam3d_nnunet.report.pooling import FOLDS
from sam3d_nnunet.report.published import paper_notes
from sam3d_nnunet.report.statistics import FEWEST_PAIRS, LEVEL
from sam3d_nnunet.simulation.protocols import Protocol


def caption(content: Content) -> list[str]:
    """Sentences, the most important ones first."""
    return [
        "Means over cases [95 % bootstrap interval over cases]; Dice, NSD and lesion scores in per cent. The value of "
        "a case is its mean over trials of drawn clicks. Standard deviations over folds and trials are in table.csv.",
        *_sources(content),
        f"Protocols: {'; '.join(_protocols(content))}.",
        *_areas(content),
        *_challenges(content),
        RULE,
        *_empty(content),
        "Bold: the best of several methods under the same protocol and on the same cases.",
        *_tests(content),
        *_costs(content),
        *content.notes,
        *(paper_notes(content.paper) if content.paper else []),
    ]


def _sources(content: Content) -> list[str]:
    """Cases and folds."""
    sentences = []
    for source in dict.fromkeys(pooled.source for pooled in content.pools):
        pools = [pooled for pooled in content.pools if pooled.source == source]
        count = len(set().union(*(pooled.cases for pooled in pools)))
        folds = sorted(set().union(*(pooled.folds for pooled in pools)), key=lambda fold: (len(fold), fold))
        if source == FOLDS:
            many = f"folds {', '.join(folds)} pooled" if len(folds) > 1 else f"fold {folds[0]} alone"
            sentences.append(f"Validation cases of cross-validation: {count}, each counted once; {many}.")
        else:
            sentences.append(f"Separate test set: {count} {'case' if count == 1 else 'cases'}.")
    return sentences


def _protocols(content: Content) -> list[str]:
    """What each protocol gives, and how many times its clicks were drawn."""
    trials: dict[Protocol, set[int]] = {}
    for pooled in content.pools:
        trials.setdefault(pooled.protocol, set()).add(pooled.trials)
    return [
        f"{protocol.name}: {protocol.sentence}{_trials(sorted(counts)) if protocol.has_trials else ''}"
        for protocol, counts in trials.items()
    ]


def _trials(counts: list[int]) -> str:
    return f" ({' or '.join(map(str, counts))} {'trial' if counts == [1] else 'trials'})"


def _areas(content: Content) -> list[str]:
    if not any(pooled.area for pooled in content.pools):
        return []
    return [
        "Area: that under the curve of a score against the steps, by trapezoids, divided by the distance between the "
        "first and the last step."
    ]


def _challenges(content: Content) -> list[str]:
    """What the scores of a challenge are."""
    if not any(metric in CHALLENGE_SCORES for _, metric in content.columns):
        return []
    return [
        "DSC and NSD (at 2 mm) of all classes are those of the CVPR 2025 challenge: means over the classes of a case; "
        "the NSD is 0 where the DSC is at most 0.2. AUC: area under the five rounds of clicks by trapezoids, from 0 to "
        "4. Final: after the last round, in per cent."
    ]


def _empty(content: Content) -> list[str]:
    """How many cases have an empty truth, for each target."""
    sentences = []
    for target in content.targets:
        rows = [p.rows[p.rows["target"] == target] for p in content.pools if not p.area]
        empty = set().union(*(r.loc[r["truth_voxels"] == 0, "case"] for r in rows))
        if empty:
            sentences.append(f"The truth of {target} is empty in {len(empty)} of {len(_all(rows))} cases.")
    return sentences


def _all(rows: list) -> set[str]:
    return set().union(*(r["case"] for r in rows))


def _tests(content: Content) -> list[str]:
    compared = [s for s in content.statistics.values() if s.comparison is not None]
    if not compared:
        return ["No test of significance: there is no baseline, or nothing to compare it with."]
    name = compared[0].baseline.name
    tested = Counter(metric for (*_, metric), s in content.statistics.items() if np.isfinite(s.p_holm))
    sentences = []
    if tested:
        sentences.append(
            f"*↑ (*↓): higher (lower) than {name} on the same cases, Wilcoxon's paired signed-rank test, p < {LEVEL} "
            f"after Holm's correction for all comparisons of a metric in this table ({max(tested.values())} at most)."
        )
    if any(p.prompted and not s.baseline.prompted for p, s in _prompted(content)):
        sentences.append(f"Where {name} was not measured under a protocol with clicks, its automatic rows stand in.")
    if any(0 < s.comparison.pairs < FEWEST_PAIRS for s in compared):
        sentences.append(f"Fewer than {FEWEST_PAIRS} cases in common are not tested: no difference could be shown.")
    return sentences


def _prompted(content: Content) -> list[tuple]:
    return [(content.pools[place], s) for (place, *_), s in content.statistics.items() if s.comparison is not None]


def _costs(content: Content) -> list[str]:
    """The devices on which times were measured."""
    devices: dict[str, list[str]] = {}
    for pooled in content.pools:
        device = content.facts[pooled.method].get("device")
        if device and pooled.name not in devices.setdefault(device, []):
            devices[device].append(pooled.name)
    where = "; ".join(f"{device} ({', '.join(names)})" for device, names in devices.items())
    sentences = [f"Seconds (median) and peak memory (of GPUs) are those of prediction, on {where}."] if where else []
    if any(content.facts[pooled.method].get("training_hours") is not None for pooled in content.pools):
        sentences.append("Training hours are those of one fold.")
    return sentences
