"""Evaluation protocols: how many clicks a case gets, and where. Commands and folders of results use their names.

A new protocol needs an entry in `FAMILIES` and a function in `protocol_clicks.DRAWING` that draws its clicks. Commands,
captions, tables and figures take everything else from the entry. The protocol of a challenge also needs its rules in
`evaluation.challenge_prediction.RULES`.
"""

import re
from dataclasses import dataclass, replace

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import listing


@dataclass(frozen=True)
class Challenge:
    """What the protocol of a challenge has beside its clicks.

    Attributes:
        rounds: of clicks, after a first prediction. None: as many as the name says.
        has_boxes: the first prediction is made from boxes, else from nothing.
        one_class: the rules know one class only.
    """

    rounds: int | None = None
    has_boxes: bool = False
    one_class: bool = False


@dataclass(frozen=True)
class Family:
    """Protocols that place clicks in the same way and differ in how many they give.

    Attributes:
        name: the first word of the names of its protocols.
        sentence: what a case gets, for captions and help. "{clicks}" becomes "1 click", "3 clicks" and so on; "{count}"
            becomes the number alone.
        is_numbered: names end in a number of clicks, as in volume_3.
        is_drawn: all clicks are drawn from the truth before anything is predicted. They can be moved off target.
        is_iterated: predictions follow one after another, each from more clicks than the one before.
        is_one_by_one: each lesion is predicted from its own clicks alone, one after the other.
        has_human: a person can give these clicks, so that names can end in _human.
        scores: a sentence that says what its own scores (scores.csv) are, for captions; None: it has none.
        challenge: whose rules these are; None: ours.
        is_plotted_against_clicks: these protocols make up the solid curves of the figure dice_against_clicks.
        is_click_position: these protocols stand in the figure click_position.
    """

    name: str
    sentence: str
    is_numbered: bool = True
    is_drawn: bool = True
    is_iterated: bool = False
    is_one_by_one: bool = False
    has_human: bool = False
    scores: str | None = None
    challenge: Challenge | None = None
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
        Family("volume", "{clicks} on each class of a volume", has_human=True, is_plotted_against_clicks=True),
        Family("lesion", "{clicks} on each lesion", has_human=True),
        Family(
            "each",
            "{clicks} on each lesion, which is predicted from these alone, one lesion after the other",
            is_one_by_one=True,
            has_human=True,
            scores="Under each_N, Dice of the clicked: that of the prediction from the clicks on one lesion with this "
            "lesion alone. Others marked: share of each other lesion that this prediction covers. Instance Dice: the "
            "same as the first, after voxels that several predictions claim went to the nearest click. Means over the "
            "lesions of a case (others marked: over all pairs; the lower, the better). The other columns are about all "
            "predictions together.",
        ),
        Family("slice", "{clicks} on each slice with the class", has_human=True),
        Family("center", "{clicks} in the inner third of the largest lesion", is_click_position=True),
        Family("surrounding", "{clicks} in the middle third of the largest lesion", is_click_position=True),
        Family("margin", "{clicks} in the outer third of the largest lesion", is_click_position=True),
        Family(
            "iterated",
            "one click on each class, then corrective clicks one after another, {count} steps in all",
            is_drawn=False,
            is_iterated=True,
            has_human=True,
        ),
        Family(
            "cvpr25",
            "a box around each class, then five rounds of one click on each class that is wrong, as in the CVPR 2025 "
            "challenge on interactive segmentation",
            is_numbered=False,
            is_drawn=False,
            is_iterated=True,
            has_human=True,
            scores="DSC and NSD (at 2 mm) of all classes under cvpr25 are those of the CVPR 2025 challenge: means over "
            "the classes of a case; the NSD is 0 where the DSC is at most 0.2. AUC: area under the five rounds of "
            "clicks by trapezoids, from 0 to 4. Final: after the last round, in per cent.",
            challenge=Challenge(rounds=5, has_boxes=True),
        ),
        Family(
            "autopet",
            "a prediction without clicks, then rounds of one click on a lesion and one on background that looks like "
            "one, {count} rounds in all, as in the autoPET IV challenge",
            is_drawn=False,
            is_iterated=True,
            has_human=True,
            scores="DSC, FPV and FNV under autopet_N are those of the autoPET IV challenge. FPV (FNV): volume in ml of "
            "the predicted (true) components that touch no true (predicted) voxel, 18 neighbours. AUC: area over "
            "rounds 0 to N by trapezoids, from 0 to N for the DSC and in ml x rounds for volumes. Final: after the "
            "last round, the DSC in per cent. A case without a lesion has volumes only.",
            challenge=Challenge(one_class=True),
        ),
    )
}
"""By name, in the order in which tables and figures show them."""

HUMAN = "_human"
_NAME = re.compile(
    r"(?P<family>[a-z]+[0-9]*)(?:_(?P<count>[1-9][0-9]{0,5}))?"
    r"(?:_off(?P<percent>[0-9.]+)_(?P<mm>[0-9.]+)mm|(?P<human>_human))?"
)


@dataclass(frozen=True)
class Protocol:
    """Which clicks a case gets.

    Attributes:
        family: how they are placed.
        clicks: how many on each class of a volume, on each lesion, and so on; at most that many if the family is
            iterated; rounds of a challenge; 0 where names have no number.
        off_share: share of the clicks that are moved off target.
        off_mm: how far they are moved.
        human: clicks lie where a person might put them, see `simulation.human`.
    """

    family: Family
    clicks: int = 0
    off_share: float = 0.0
    off_mm: float = 0.0
    human: bool = False

    @classmethod
    def parse(cls, name: str) -> "Protocol":
        """The protocol with a name.

        Raises:
            SAM3DError: there is none.
        """
        match = _NAME.fullmatch(name)
        family = match and FAMILIES.get(match["family"])
        if not family or family.is_numbered != bool(match["count"]):
            raise _unknown(name)
        if (match["percent"] and not family.is_drawn) or (match["human"] and not family.has_human):
            raise _unknown(name)
        try:
            percent, mm = float(match["percent"] or 0), float(match["mm"] or 0)
        except ValueError as e:  # several decimal points
            raise _unknown(name) from e
        if match["percent"] and not (0 < percent <= 100 and mm > 0):
            raise _unknown(name)
        return cls(family, int(match["count"] or 0), percent / 100, mm, bool(match["human"]))

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
        count = re.fullmatch("[a-z]+_([0-9]{1,6})", name)
        return cls(Family(name, "drawn clicks", is_numbered=False, is_drawn=False), int(count[1]) if count else 0)

    @property
    def name(self) -> str:
        """As commands and folders use it."""
        count = f"_{self.clicks}" if self.family.is_numbered else ""
        off = f"_off{self._off_percent}_{self.off_mm:g}mm" if self.off_share else ""
        return f"{self.family.name}{count}{off}{HUMAN if self.human else ''}"

    def __str__(self) -> str:
        return self.name

    @property
    def sentence(self) -> str:
        """What a case gets, as captions describe it."""
        clicks = "1 click" if self.clicks == 1 else f"{self.clicks} clicks"
        off = f", {self._off_percent} % of them moved {self.off_mm:g} mm off target" if self.off_share else ""
        human = ", placed as by a person" if self.human else ""
        return self.family.sentence.format(clicks=clicks, count=self.clicks) + off + human

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
    def starts_without_prompts(self) -> bool:
        """The first of several predictions is automatic; later prompts may lie on background alone."""
        return self.is_challenge and not self.family.challenge.has_boxes

    @property
    def is_drawn(self) -> bool:
        """All clicks are drawn from the truth before anything is predicted."""
        return self.family.is_drawn

    @property
    def is_iterated(self) -> bool:
        """Predictions follow one after another, each from more clicks than the one before."""
        return self.family.is_iterated

    @property
    def asks_repeatedly(self) -> bool:
        """A model is asked several times about a case: for corrections, in rounds, or about one lesion at a time."""
        return self.family.is_iterated or self.family.is_one_by_one

    @property
    def is_challenge(self) -> bool:
        """Rounds of clicks as in a challenge."""
        return self.family.challenge is not None

    @property
    def has_trials(self) -> bool:
        """Whether clicks are drawn at random, so that they differ from trial to trial."""
        return self.human or not (self.is_automatic or self.is_challenge)

    @property
    def ideal(self) -> "Protocol":
        """The same with all clicks where the robot puts them."""
        return replace(self, off_share=0.0, off_mm=0.0, human=False)

    @property
    def steps(self) -> range:
        """After which numbers of clicks, or rounds from 0 on, an iterated protocol is measured; empty for others."""
        if self.is_challenge:
            return range((self.family.challenge.rounds or self.clicks) + 1)
        return range(1, self.clicks + 1) if self.is_iterated else range(0)

    @property
    def is_plotted_against_clicks(self) -> bool:
        """Whether it stands on the solid curve of the figure dice_against_clicks, at `clicks`."""
        return self.family.is_plotted_against_clicks and self == self.ideal

    @property
    def gives_one_click(self) -> bool:
        """One click on each class, lesion or slice, and on target."""
        return self.clicks == 1 and self == self.ideal

    @property
    def _off_percent(self) -> str:
        return f"{100 * self.off_share:g}"


PAPER = (Protocol(FAMILIES[AUTOMATIC]), *(Protocol(FAMILIES["volume"], count) for count in (1, 3, 10)))
"""Those of the paper's tables."""


def protocol_help() -> str:
    """All protocols, for the help of commands that take their names."""
    return f"{'; '.join(family.help for family in FAMILIES.values())}. {_endings_help()}"


def _endings_help() -> str:
    fixed = listing(family.form for family in FAMILIES.values() if not family.is_drawn)
    human = listing(family.form for family in FAMILIES.values() if family.has_human)
    return (
        f"All but {fixed} can end in, for example, _off20_5mm: 20 % of the clicks are moved 5 mm off target. {human} "
        "can end in _human: clicks lie where a person might put them."
    )


def _unknown(name: str) -> SAM3DError:
    forms = ", ".join(family.form for family in FAMILIES.values())
    return SAM3DError(
        f"There is no protocol {name!r}. Give one of {forms}, where N is a number of clicks or rounds from 1 on, such "
        f"as volume_3. {_endings_help()}"
    )
