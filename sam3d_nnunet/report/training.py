"""The second table: how the methods were trained, as far as method.json and the settings of predictions tell."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sam3d_nnunet.evaluation.results import Results

UNKNOWN = "–"
TITLE = "How the methods were trained"
NEVER_AUTOMATIC = "†"
"""Mark of automatic rows of methods that were never trained without clicks."""
AXES = "dhw"
Facts = dict[str, Any]
"""The content of method.json."""


@dataclass(frozen=True)
class Training:
    """What is known of the training of a method.

    Attributes:
        name: display name.
        facts: method.json.
        mirrored: whether the shown predictions are averaged over mirrored images, by settings.json; both if only some
            are, empty if it is not known.
    """

    name: str
    facts: Facts
    mirrored: frozenset[bool]

    @property
    def cells(self) -> list[str]:
        """One for each of COLUMNS."""
        return [UNKNOWN if (text := column.text(self)) is None else text for column in COLUMNS]

    @property
    def is_not_noted(self) -> bool:
        """The model was evaluated before method.json told how it was trained."""
        return self.facts.get("trainer") is not None and "patch_size" not in self.facts


@dataclass(frozen=True)
class _Column:
    heading: str
    text: Callable[[Training], str | None]
    is_number: bool = False


def trainings(results: Results, protocols: Iterable[tuple[str, str]]) -> list[Training]:
    """What is known of the methods of a table, in the order of the results.

    Args:
        results: the folder of results.
        protocols: method and protocol of each row of the table.
    """
    shown, mirrored = set(protocols), {}
    for folder in results.folders:
        if (folder.method, folder.protocol) in shown:
            known = folder.settings.get("mirroring")
            mirrored.setdefault(folder.method, set()).update([] if known is None else [known])
    return [
        Training(results.methods[method].get("name") or method, results.methods[method], frozenset(mirrored[method]))
        for method in results.methods
        if method in mirrored
    ]


def never_without_clicks(facts: Facts) -> bool:
    """Whether training showed clicks on every patch, so that automatic prediction is something it never trained."""
    return facts.get("no_click_share") == 0


def notes(shown: list[Training]) -> list[str]:
    """Sentences below the table."""
    sentences = [
        "Patch: voxels (d, h, w). Batch: patches of a step, over all GPUs. Patches seen: steps of the optimiser times "
        "batch. They and the hours are those of one fold, up to the checkpoint that was evaluated.",
        "Mirroring: axes along which training mirrors patches at random / over which predictions are averaged.",
        f"Seed: no means that nothing was seeded, so that the same training gives other weights each time. {UNKNOWN}: "
        "not known.",
    ]
    networks = [f"{training.name} ({_arguments(network)})" for training in shown if (network := _network(training))]
    if networks:
        sentences.append(f"Arguments of the networks: {'; '.join(networks)}.")
    if any("neck" in _network(training) for training in shown):
        sentences.append("Neck: sam is SAM's single 2-D neck, slice by slice; 3d is a tuned 3-D neck for each level.")
    missing = [training.name for training in shown if training.is_not_noted]
    if missing:
        sentences.append(f"Run sam3d evaluate again to note how these were trained: {'; '.join(missing)}.")
    return sentences


def _network(training: Training) -> dict[str, Any]:
    """The arguments of a baseline's network; ours have none of their own."""
    return training.facts.get("network") or {}


def _arguments(network: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in network.items() if value is not None)


def _clicks(training: Training) -> str | None:
    """On how many of the patches there were clicks."""
    facts = training.facts
    if facts.get("kind") == "automatic" and facts.get("trainer") is not None:
        return "none"
    if facts.get("no_click_share") is None:
        return None
    return "all patches" if never_without_clicks(facts) else f"{100 * (1 - facts['no_click_share']):g} % of patches"


def _mirroring(training: Training) -> str | None:
    axes = [training.facts.get(key) for key in ("mirroring_axes", "test_mirroring_axes")]
    if axes == [None, None]:
        return None
    in_training, at_test = (UNKNOWN if a is None else "".join(AXES[axis] for axis in a) or "no" for a in axes)
    if axes[1] and training.mirrored != {True}:
        at_test = {frozenset(): UNKNOWN, frozenset([False]): "no"}.get(training.mirrored, f"{at_test} in part")
    return f"{in_training} / {at_test}"


def _seed(training: Training) -> str | None:
    seed = training.facts.get("seed")
    return "no" if seed == "none" else seed if seed is None else str(seed)


def _cases(training: Training) -> str | None:
    """How many of a fold's training cases were used, where it is not all of them."""
    few = training.facts.get("training_cases")
    return None if "patch_size" not in training.facts else "all" if few is None else str(few)


def _fact(key: str, text: Callable[[Any], str] = str) -> Callable[[Training], str | None]:
    return lambda training: None if (value := training.facts.get(key)) is None else text(value)


COLUMNS = (
    _Column("method", lambda training: training.name),
    _Column("trainer", _fact("trainer")),
    _Column("plans", _fact("plans")),
    _Column("clicks in training", _clicks),
    _Column("mirroring: training / test", _mirroring),
    _Column("seed", _seed),
    _Column("cases", _cases),
    _Column("patch", _fact("patch_size", lambda size: " x ".join(map(str, size)))),
    _Column("batch", _fact("batch_size"), is_number=True),
    _Column("patches seen", _fact("patches", lambda patches: f"{patches:,}"), is_number=True),
    _Column("training (h)", _fact("training_hours", lambda hours: f"{hours:.1f}"), is_number=True),
)
