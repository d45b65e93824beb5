"""Which methods and protocols of the results tables and figures show."""

from collections.abc import Sequence
from copy import copy

import pandas as pd

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.evaluation.results import KEYS, TEST, Results
from sam3d_nnunet.simulation.protocols import Protocol


class Selection:
    """Methods to show, what was measured of them, and the method that they are compared with.

    Attributes:
        results: the whole folder.
        methods: folder names of those that were measured.
        protocols: in `Protocol.order`.
        baseline: folder name of the method that the others are compared with; None without comparison. It is always
            shown, under all of its protocols.
        table: metrics of these methods under these protocols.
    """

    def __init__(
        self,
        results: Results,
        methods: Sequence[str] | None = None,
        protocols: Sequence[str] | None = None,
        baseline: str | None = None,
    ) -> None:
        """
        Args:
            methods: folder or display names; None: all.
            protocols: names; None: all.
            baseline: folder or display name.

        Raises:
            SAM3DError: there is no such method or protocol.
        """
        self.results = results
        table = results.metrics
        self.baseline = None if baseline is None else self._find(baseline)
        wanted = list(results.methods) if not methods else [self._find(name) for name in methods]
        known = _protocols_in(table)
        names = [protocol.name for protocol in known]
        for name in protocols or []:
            if name not in names:
                raise SAM3DError(f"{results.root} has no protocol {name!r}. Its protocols are {', '.join(names)}.")
        self.protocols = [protocol for protocol in known if not protocols or protocol.name in protocols]
        kept = table["protocol"].isin(protocols or names) | (table["method"] == self.baseline)
        self.table = table[kept & table["method"].isin([*wanted, self.baseline])]
        measured = set(self.table["method"])
        self.methods = [m for m in results.methods if m in measured]
        if self.baseline not in {None, *measured}:
            raise SAM3DError(f"{results.root} has no metrics of the baseline {self.baseline}. Evaluate it first.")
        if not self.methods:
            raise SAM3DError(f"{results.root} has no metrics of these methods under these protocols.")

    def name(self, method: str) -> str:
        """Display name."""
        return self.results.methods[method].get("name") or method

    def place(self, method: str) -> int:
        """Index among all methods of the results: a method keeps its colour whatever else is shown."""
        return list(self.results.methods).index(method)

    def is_prompted(self, method: str) -> bool:
        """Whether the method may be run with clicks."""
        return self.results.methods[method].get("kind") == "prompted"

    def protocols_of(self, method: str) -> list[Protocol]:
        """The protocols that the method was measured under, in `Protocol.order`."""
        return _protocols_in(self.table[self.table["method"] == method])

    def main_protocol(self, method: str) -> Protocol:
        """The first one with clicks if the method was measured under any, else the automatic one."""
        protocols = self.protocols_of(method)
        return next((p for p in protocols if not p.is_automatic), protocols[0])

    def baseline_protocol(self, protocol: Protocol) -> Protocol:
        """Under which to show the baseline beside a method: the same one, else automatic, else its first."""
        protocols = self.protocols_of(self.baseline)
        automatic = [p for p in protocols if p.is_automatic]
        return protocol if protocol in protocols else (automatic or protocols)[0]

    def rows(self, method: str, protocol: Protocol) -> pd.DataFrame:
        """What was measured; of an iterated protocol, after the last click."""
        rows = self.all_rows(method, protocol)
        last = rows.groupby(["run", "fold", "trial"])["clicks"].transform("max")
        return rows[rows["clicks"].isna() | (rows["clicks"] == last)]

    def all_rows(self, method: str, protocol: Protocol) -> pd.DataFrame:
        """What was measured; of an iterated protocol, after each click."""
        return self.table[(self.table["method"] == method) & (self.table["protocol"] == protocol.name)]

    def score_rows(self) -> pd.DataFrame | None:
        """Rows of scores.csv of the same methods, protocols and folds as in `table`; None if there are none."""
        scores = self.results.scores
        if scores is None:
            return None
        shown = self.table.set_index(KEYS).index
        return scores[scores.set_index(KEYS).index.isin(shown)]

    def by_source(self) -> dict[str, "Selection"]:
        """Folds and test set apart, since they are never pooled, by the suffix for the names of their figures.

        The suffix is empty for folds and "_test" for a test set; it is empty if only one of them was measured.
        """
        is_test = self.table["fold"] == TEST
        parts = {"": self._of(self.table[~is_test]), f"_{TEST}": self._of(self.table[is_test])}
        measured = {suffix: part for suffix, part in parts.items() if part.methods}
        return measured if len(measured) > 1 else dict.fromkeys([""], *measured.values())

    def _of(self, table: pd.DataFrame) -> "Selection":
        """The same with a part of the table."""
        part = copy(self)
        part.table, measured = table, set(table["method"])
        part.methods = [m for m in self.methods if m in measured]
        part.protocols = [p for p in self.protocols if p.name in set(table["protocol"])]
        part.baseline = self.baseline if self.baseline in measured else None
        return part

    def _find(self, name: str) -> str:
        """Folder name of the method with this folder or display name."""
        methods = self.results.methods
        found = [m for m in methods if name == m] or [m for m in methods if name == methods[m].get("name")]
        if len(found) != 1:
            what = "several methods" if found else "no method"
            raise SAM3DError(f"{self.results.root} has {what} {name!r}. Give one of these names: {', '.join(methods)}.")
        return found[0]


def _protocols_in(table: pd.DataFrame) -> list[Protocol]:
    """Sorted; results may hold names that are no protocols of ours."""
    protocols = (Protocol.parse_or_other(name) for name in table["protocol"].unique())
    return sorted(protocols, key=lambda protocol: protocol.order)
