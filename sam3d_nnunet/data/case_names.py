"""The same case under two names: `volume-8`, `volume_008` and `Volume8`."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from sam3d_nnunet.data.listing import some
from sam3d_nnunet.errors import SAM3DError


@dataclass(frozen=True)
class NameMatch:
    """Which names mean the same case.

    Attributes:
        found: name wanted -> name there.
        missing: names wanted that nothing there matches.
        surplus: names there that nothing wanted matches.
    """

    found: dict[str, str]
    missing: list[str]
    surplus: list[str]


def match_names(wanted: Collection[str], there: Collection[str]) -> NameMatch:
    """Match names that are equal, else those that differ in case, separators (- _ . space) or leading zeros only.

    Raises:
        SAM3DError: several names are candidates for the same case.
    """
    found = {name: name for name in set(wanted) & set(there)}
    left = set(wanted) - found.keys()
    theirs, ours = _by_key(left), _by_key(set(there) - found.keys())
    for key, names in theirs.items():
        candidates = ours.get(key, [])
        if candidates and len(names) + len(candidates) > 2:
            raise SAM3DError(
                f"It can't be told which case is which: {some(names)} could be {some(candidates)}. "
                "Rename the cases of the data set like those of the folds."
            )
        found |= dict(zip(names, candidates))
    taken = set(found.values())
    return NameMatch(found, sorted(left - found.keys()), sorted(set(there) - taken))


def _by_key(names: Collection[str]) -> dict[tuple[str, ...], list[str]]:
    keys = defaultdict(list)
    for name in sorted(names):
        words = re.findall(r"[0-9]+|[^0-9\-_. ]+", name.casefold())
        key = tuple((word.lstrip("0") or "0") if word.isdecimal() else word for word in words)
        keys[key].append(name)
    keys.pop((), None)  # of names that are nothing but separators
    return keys
