"""Evaluation protocols: how many clicks a case gets, and where. Commands and folders of results use their names.

A new protocol needs an entry in `FAMILIES` and a function in `protocol_clicks.DRAWING` that draws its clicks. Commands,
captions, tables and figures take everything else from the entry.
"""

import re
from dataclasses import dataclass

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing


@dataclass(frozen=True)
class Family:
    """Protocols that place clicks in the same way and differ in how many they give.

    Attributes:
        name: the first word of the names of its protocols.
        sentence: what a case gets, for captions and help. "{clicks}" becomes "1 click", "3 clicks" and so on; "{count}"
            becomes the number alone.
        is_numbered: names end in a number of clicks, as in volume_3.
        is_drawn: all clicks are drawn from the truth before anything is predicted. They can be moved off target.
        is_iterated: each further click corrects the previous prediction.
        rounds: of a challenge: a first prediction from boxes, then so many rounds of clicks, which depend on the
            predictions alone. Such a protocol has scores of its own (scores.csv).
        is_plotted_against_clicks: these protocols make up the solid curves of the figure dice_against_clicks.
        is_click_position: these protocols stand in the figure click_position.
    """

    name: str
    sentence: str
    is_numbered: bool = True
    is_drawn: bool = True
    is_iterated: bool = False
    rounds: int = 0
    is_plotted_against_clicks: bool = False
    is_click_position: bool = False

    @property
    def form(self) -> str:
        """The names of its protocols, with N for the number of clicks."""
        return f"{self.name}_N" if self.is_numbered else self.name

    @property
    def help(self) -> str:
        """One line for the help of commands."""
        return f"{self.form}: {self.sentence.format(clicks='N clicks', count='N')}"


AUTOMATIC = "automatic"
"""Name of the one protocol without clicks."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(AUTOMATIC, "no clicks", is_numbered=False, is_drawn=False, is_plotted_against_clicks=True),
        Family("volume", "{clicks} on each class of a volume", is_plotted_against_clicks=True),
        Family("lesion", "{clicks} on each lesion"),
        Family("slice", "{clicks} on each slice with the class"),
        Family("center", "{clicks} in the inner third of the largest lesion", is_click_position=True),
        Family("surrounding", "{clicks} in the middle third of the largest lesion", is_click_position=True),
        Family("margin", "{clicks} in the outer third of the largest lesion", is_click_position=True),
        Family(
            "iterated",
            "one click on each class, then corrective clicks one after another, {count} steps in all",
            is_drawn=False,
            is_iterated=True,
        ),
        Family(
            "cvpr25",
            "a box around each class, then five rounds of one click on each class that is wrong, as in the CVPR 2025 "
            "challenge on interactive segmentation",
            is_numbered=False,
            is_drawn=False,
            is_iterated=True,
            rounds=5,
        ),
    )
}
"""By name, in the order in which tables and figures show them."""

_NAME = re.compile(r"(?P<family>[a-z]+)_(?P<count>[1-9][0-9]*)(?:_off(?P<percent>[0-9.]+)_(?P<mm>[0-9.]+)mm)?")


@dataclass(frozen=True)
class Protocol:
    """Which clicks a case gets.

    Attributes:
        family: how they are placed.
        clicks: how many on each class of a volume, on each lesion, and so on; at most that many if the family is
            iterated; 0 without clicks, and where the family has rounds.
        off_share: share of the clicks that are moved off target.
        off_mm: how far they are moved.
    """

    family: Family
    clicks: int = 0
    off_share: float = 0.0
    off_mm: float = 0.0

    @classmethod
    def parse(cls, name: str) -> "Protocol":
        """The protocol with a name.

        Raises:
            SAM3DError: there is none.
        """
        if name in FAMILIES and not FAMILIES[name].is_numbered:
            return cls(FAMILIES[name])
        match = _NAME.fullmatch(name)
        family = match and FAMILIES.get(match["family"])
        if not family or not family.is_numbered or (match["percent"] and not family.is_drawn):
            raise _unknown(name)
        try:
            percent, mm = float(match["percent"] or 0), float(match["mm"] or 0)
        except ValueError as e:  # several decimal points
            raise _unknown(name) from e
        if match["percent"] and not (0 < percent <= 100 and mm > 0):
            raise _unknown(name)
        return cls(family, int(match["count"]), percent / 100, mm)

    @classmethod
    def parse_or_other(cls, name: str) -> "Protocol":
        """The protocol with a name that a folder of results holds, which may come from another program.

        A name that is none of ours gets a family of its own: it was run with clicks, nobody knows which. If it looks
        like bbox_3, the number counts as its number of clicks.
        """
        try:
            protocol = cls.parse(name)
        except SAM3DError:
            protocol = None
        if protocol is not None and protocol.name == name:
            return protocol
        count = re.fullmatch("[a-z]+_([0-9]+)", name)
        return cls(Family(name, "drawn clicks", is_numbered=False, is_drawn=False), int(count[1]) if count else 0)

    @property
    def name(self) -> str:
        """As commands and folders use it."""
        off = f"_off{self._off_percent}_{self.off_mm:g}mm" if self.off_share else ""
        return f"{self.family.name}_{self.clicks}{off}" if self.family.is_numbered else self.family.name

    def __str__(self) -> str:
        return self.name

    @property
    def sentence(self) -> str:
        """What a case gets, as captions describe it."""
        clicks = "1 click" if self.clicks == 1 else f"{self.clicks} clicks"
        off = f", {self._off_percent} % of them moved {self.off_mm:g} mm off target" if self.off_share else ""
        return self.family.sentence.format(clicks=clicks, count=self.clicks) + off

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts protocols as `FAMILIES` does, few clicks first, and other programs' at the end."""
        names = list(FAMILIES)
        place = names.index(self.family.name) if self.family.name in names else len(names)
        return place, self.clicks, self.name

    @property
    def is_automatic(self) -> bool:
        """Nothing is clicked."""
        return self.family.name == AUTOMATIC

    @property
    def is_drawn(self) -> bool:
        """All clicks are drawn from the truth before anything is predicted."""
        return self.family.is_drawn

    @property
    def is_iterated(self) -> bool:
        """Each further click corrects the previous prediction."""
        return self.family.is_iterated

    @property
    def is_challenge(self) -> bool:
        """Boxes and rounds of clicks as in a challenge, which has scores of its own."""
        return self.family.rounds > 0

    @property
    def has_trials(self) -> bool:
        """Whether clicks are drawn at random, so that they differ from trial to trial."""
        return not (self.is_automatic or self.is_challenge)

    @property
    def steps(self) -> range:
        """After which numbers of clicks, or rounds from 0 on, an iterated protocol is measured; empty for others."""
        if self.is_challenge:
            return range(self.family.rounds + 1)
        return range(1, self.clicks + 1) if self.is_iterated else range(0)

    @property
    def is_plotted_against_clicks(self) -> bool:
        """Whether it stands on the solid curve of the figure dice_against_clicks, at `clicks`."""
        return self.family.is_plotted_against_clicks and not self.off_share

    @property
    def gives_one_click(self) -> bool:
        """One click on each class, lesion or slice, and on target."""
        return self.clicks == 1 and not self.off_share

    @property
    def _off_percent(self) -> str:
        return f"{100 * self.off_share:g}"


PAPER = (Protocol(FAMILIES[AUTOMATIC]), *(Protocol(FAMILIES["volume"], count) for count in (1, 3, 10)))
"""Those of the paper's tables."""


def protocol_help() -> str:
    """All protocols, for the help of commands that take their names."""
    return f"{'; '.join(family.help for family in FAMILIES.values())}. {_off_target_help()}"


def _off_target_help() -> str:
    fixed = listing(family.form for family in FAMILIES.values() if not family.is_drawn)
    return f"All but {fixed} can end in, for example, _off20_5mm: 20 % of the clicks are moved 5 mm off target."


def _unknown(name: str) -> SAM3DError:
    forms = ", ".join(family.form for family in FAMILIES.values())
    return SAM3DError(
        f"There is no protocol {name!r}. Give one of {forms}, where N is a number of clicks from 1 on, such as "
        f"volume_3. {_off_target_help()}"
    )
