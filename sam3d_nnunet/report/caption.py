"""The caption of a table: cases, folds, protocols, tests, and the rule for empty masks."""

from collections import Counter

import numpy as np
import pandas as pd

from sam3d_nnunet.evaluation.metrics import OWN_SCORES, RULE
from sam3d_nnunet.report.content import Content
from sam3d_nnunet.report.pooling import FOLDS
from sam3d_nnunet.report.published import paper_notes
from sam3d_nnunet.report.statistics import FEWEST_PAIRS, LEVEL, reference_of, smallest_p
from sam3d_nnunet.report.training import NEVER_AUTOMATIC, TITLE, never_without_clicks
from sam3d_nnunet.simulation.protocols import Protocol


def caption(content: Content) -> list[str]:
    """Sentences, the most important ones first."""
    return [
        "Means over cases [95 % bootstrap interval over cases]; Dice, NSD and lesion scores in per cent. The value of "
        "a case is its mean over trials of drawn clicks. Standard deviations over folds and trials are in table.csv.",
        *_runs(content),
        *_sources(content),
        f"Protocols: {'; '.join(_protocols(content))}.",
        *_areas(content),
        *_own_scores(content),
        RULE,
        *_empty(content),
        *_absent(content),
        "Bold: the best of several methods under the same protocol and on the same cases.",
        *_tests(content),
        *_costs(content),
        *_training(content),
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


def _runs(content: Content) -> list[str]:
    """Methods that were trained several times on the same fold."""
    runs: dict[str, set[int]] = {}
    for pooled in content.pools:
        runs.setdefault(pooled.name, set()).update(pooled.rows.groupby("case")["run"].nunique())
    return [
        f"{name} was trained {' or '.join(map(str, sorted(counts)))} times on each fold. The value of a case is its "
        "mean over these trainings. The standard deviation over trainings, on the cases that all of them have, is in "
        "table.csv. Tests compare cases, not trainings."
        for name, counts in runs.items()
        if max(counts) > 1
    ]


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


def _own_scores(content: Content) -> list[str]:
    """What the scores are that some protocols have of their own."""
    if not any(metric in OWN_SCORES for _, metric in content.columns):
        return []
    families = dict.fromkeys(pooled.protocol.family for pooled in content.pools)
    return [family.scores for family in families if family.scores]


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


def _absent(content: Content) -> list[str]:
    """What protocols with clicks give away where a class is absent."""
    pools = [p for p in content.pools if p.prompted and not p.area and not p.protocol.starts_without_prompts]
    rows = [p.rows[["case", "truth_voxels"]] for p in pools]
    truth = pd.concat(rows).groupby("case")["truth_voxels"].agg(["min", "max"]) if rows else pd.DataFrame()
    if truth.empty or truth["min"].min() > 0:
        return []
    sentence = "With clicks, a class gets clicks only where the truth has it."
    nothing = int((truth["max"] == 0).sum())
    if nothing:
        sentence += (
            f" {_cases(nothing)} without any class {'gets' if nothing == 1 else 'get'} none and count as background "
            "without a prediction: prompted rows can't err there (no false positives), automatic rows can."
        )
    others = int(((truth["min"] == 0) & (truth["max"] > 0)).sum())
    if others:
        sentence += (
            f" In {_cases(others)}, clicks on other classes alone tell prompted methods that a class is absent; "
            "automatic methods aren't told."
        )
    return [sentence]


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


def _tests(content: Content) -> list[str]:
    compared = [s for s in content.statistics.values() if s.comparison is not None]
    if not compared:
        return ["No test of significance: there is no baseline, or nothing to compare it with."]
    tested = Counter(metric for (*_, metric), s in content.statistics.items() if np.isfinite(s.p_holm))
    sentences = [_stars(content, max(tested.values())), *_too_few(content, tested)] if tested else []
    stand_ins = dict.fromkeys(s.baseline.name for p, s in _prompted(content) if p.prompted and not s.baseline.prompted)
    sentences += [
        f"Where {name} was not measured under a protocol with clicks, its automatic rows stand in."
        for name in stand_ins
    ]
    sentences += _untested(content)
    if any(0 < s.comparison.pairs < FEWEST_PAIRS for s in compared):
        sentences.append(f"Fewer than {FEWEST_PAIRS} cases in common are not tested: no difference could be shown.")
    return sentences


def _stars(content: Content, comparisons: int) -> str:
    """What the marks of significance compare."""
    kinds = {p.prompted: s.baseline.name for p, s in _prompted(content)}
    names = set(kinds.values())
    higher = (
        f"*↑ (*↓): higher (lower) than {names.pop() if len(names) == 1 else 'the baseline'} on the same cases, "
        f"Wilcoxon's paired signed-rank test, p < {LEVEL} after Holm's correction for all comparisons of a metric in "
        f"this table ({comparisons} at most)."
    )
    if names:
        higher += f" The baseline of automatic rows is {kinds[False]}, that of rows with clicks {kinds[True]}."
    return higher


def _too_few(content: Content, tested: Counter) -> list[str]:
    """That no difference could have got a mark, however large it is."""
    most: dict[str, int] = {}
    for (*_, metric), s in content.statistics.items():
        if np.isfinite(s.p_holm):
            most[metric] = max(most.get(metric, 0), s.comparison.pairs)
    if any(smallest_p(most[metric]) * comparisons < LEVEL for metric, comparisons in tested.items()):
        return []
    return [
        f"With {_cases(max(most.values()))} and so many comparisons, none can be significant: that there are no marks "
        "says nothing. The p-values before correction are in table.csv."
    ]


def _untested(content: Content) -> list[str]:
    """Rows that stay without a mark because their baseline was not measured as they were."""
    sentences = []
    alone = [
        p
        for p in content.pools
        if not p.area and p.method != content.baselines.of(p) and not reference_of(p, content.pools, content.baselines)
    ]
    for kind, left in (
        ("Automatic rows", [p for p in alone if not p.prompted]),
        ("Rows with clicks", [p for p in alone if p.prompted]),
    ):
        if not left:
            continue
        name = content.baselines.of(left[0])
        if name is None:
            sentences.append(f"{kind} are not tested: there is no baseline for them.")
        else:
            protocols = ", ".join(dict.fromkeys(p.protocol.name for p in left))
            shown = content.facts[name].get("name") or name
            sentences.append(f"{kind} under {protocols} are not tested, since {shown} was not measured there.")
    return sentences


def _prompted(content: Content) -> list[tuple]:
    return [(content.pools[place], s) for (place, *_), s in content.statistics.items() if s.comparison is not None]


def _training(content: Content) -> list[str]:
    """Where to read how the methods were trained, and which automatic rows that makes doubtful."""
    sentences = [f'The table "{TITLE}" gives patches, batch, mirroring, hours, seed and clicks of each training.']
    marked = [p.name for p in content.pools if p.without_clicks and never_without_clicks(content.facts[p.method])]
    if marked:
        names = "; ".join(dict.fromkeys(marked))
        sentences.append(f"{NEVER_AUTOMATIC}: trained with clicks on every patch, never without ({names}).")
    return sentences


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
