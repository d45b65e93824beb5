"""Evaluation protocols: which clicks a case gets, by the names that commands and folders use."""

import re
from dataclasses import dataclass

from sam3d_nnunet.errors import SAM3DError

AUTOMATIC, ITERATED = "automatic", "iterated"
DRAWN = ("volume", "lesion", "slice", "center", "surrounding", "margin")
"""Kinds whose clicks are all drawn beforehand, from the truth alone."""
_NAME = re.compile(
    rf"(?:(?P<drawn>{'|'.join(DRAWN)})_(?P<count>[1-9][0-9]*)(?:_off(?P<percent>[0-9.]+)_(?P<mm>[0-9.]+)mm)?"
    rf"|{ITERATED}_(?P<most>[1-9][0-9]*))"
)


@dataclass(frozen=True)
class Protocol:
    """Which clicks a case gets.

    Attributes:
        kind: AUTOMATIC (none), ITERATED (one correction after the other), or one of DRAWN.
        clicks: how many on each class of a volume, on each lesion, and so on; for ITERATED, at most.
        off_share: share of the clicks that are moved off target.
        off_mm: how far.
    """

    kind: str
    clicks: int = 0
    off_share: float = 0.0
    off_mm: float = 0.0

    @classmethod
    def parse(cls, name: str) -> "Protocol":
        """The protocol of a name.

        Raises:
            SAM3DError: no protocol has it.
        """
        if name == AUTOMATIC:
            return cls(AUTOMATIC)
        match = _NAME.fullmatch(name)
        if match is None:
            raise _unknown(name)
        if match["most"]:
            return cls(ITERATED, int(match["most"]))
        try:
            percent, mm = float(match["percent"] or 0), float(match["mm"] or 0)
        except ValueError as e:  # several decimal points
            raise _unknown(name) from e
        if match["percent"] and not (0 < percent <= 100 and mm > 0):
            raise _unknown(name)
        return cls(match["drawn"], int(match["count"]), percent / 100, mm)

    @property
    def name(self) -> str:
        """As commands and folders use it."""
        if self.kind == AUTOMATIC:
            return AUTOMATIC
        off = f"_off{100 * self.off_share:g}_{self.off_mm:g}mm" if self.off_share else ""
        return f"{self.kind}_{self.clicks}{off}"


PAPER = (Protocol(AUTOMATIC), *(Protocol("volume", count) for count in (1, 3, 10)))
"""Those of the paper's tables."""


def _unknown(name: str) -> SAM3DError:
    kinds = ", ".join(f"{kind}_N" for kind in (*DRAWN, ITERATED))
    return SAM3DError(
        f"There is no protocol {name!r}. Give {AUTOMATIC} or one of {kinds} with a number of clicks N from 1 on, such "
        "as volume_3; all but iterated_N may end like _off20_5mm: 20 % of the clicks moved 5 mm off target."
    )
